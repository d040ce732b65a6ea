//! A plain model of a TCP flow with CUBIC, the neighbour that uTP must give way to: one
//! acknowledgement per packet, losses found by time (RFC 8985), window by RFC 9438 with the delay
//! part of HyStart. It carries no data, only its length.

use super::cubic::Cubic;
use super::meter::Meter;
use super::node::Node;
use bytes::Bytes;
use flock_transport::{Instant, Train};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

/// Payload of a segment, without 32 bytes of TCP header and time stamps.
const PAYLOAD: usize = 1_448;
/// Bytes of a segment after an IP header of 20 bytes; the UDP header is the network's own.
const SEGMENT: usize = PAYLOAD + 32 - 8;
const ACK: usize = 32 - 8;
/// Segments a receiver looks ahead; beyond it lies only garbage.
const SPAN_MAX: usize = 1 << 17;
const RTO_MIN: Duration = Duration::from_millis(200);
const RTO_MAX: Duration = Duration::from_secs(60);

static ZEROS: [u8; SEGMENT] = [0; SEGMENT];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Flying,
    Lost,
    Delivered,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    state: State,
    sent_at: Instant,
    again: bool,
}

/// Sends as much as it can, for as long as it is told to.
#[derive(Debug)]
pub struct TcpSender {
    to: SocketAddr,
    active: Range<Instant>,
    window_max: usize,
    cubic: Cubic,
    segments: VecDeque<Segment>,
    first: u64,
    /// Transmissions in their order, the oldest first: number and time.
    order: VecDeque<(u64, Instant)>,
    lost: VecDeque<u64>,
    flying: usize,
    recover: u64,
    newest_delivered: Instant,
    smoothed: Option<(Duration, Duration)>,
    backoff: u32,
    timer: Option<Instant>,
    zeros: Bytes,
    /// Segments sent again.
    pub resent: u64,
    /// Times the retransmission timer ran out.
    pub timeouts: u64,
}

impl TcpSender {
    /// Sends to `to` while its clock is within `active`, with at most `window_max` bytes in
    /// flight: the peer's window.
    #[must_use]
    pub fn new(to: SocketAddr, active: Range<Instant>, window_max: usize) -> Self {
        Self {
            to,
            active,
            window_max: (window_max / PAYLOAD).max(1),
            cubic: Cubic::default(),
            segments: VecDeque::new(),
            first: 0,
            order: VecDeque::new(),
            lost: VecDeque::new(),
            flying: 0,
            recover: 0,
            newest_delivered: Instant::ZERO,
            smoothed: None,
            backoff: 0,
            timer: None,
            zeros: Bytes::from_static(&ZEROS),
            resent: 0,
            timeouts: 0,
        }
    }

    fn index(&self, number: u64) -> Option<usize> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        (index < self.segments.len()).then_some(index)
    }

    fn rto(&self) -> Duration {
        let plain = match self.smoothed {
            None => Duration::from_secs(1),
            Some((mean, deviation)) => (mean + deviation * 4).max(RTO_MIN),
        };
        (plain * (1 << self.backoff.min(10))).min(RTO_MAX)
    }

    fn sample(&mut self, rtt: Duration) {
        self.smoothed = Some(match self.smoothed {
            None => (rtt, rtt / 2),
            Some((mean, deviation)) => (
                (mean * 7 + rtt) / 8,
                (deviation * 3 + mean.abs_diff(rtt)) / 4,
            ),
        });
        self.cubic
            .on_rtt(rtt, self.first, self.first + self.segments.len() as u64);
    }

    fn deliver(&mut self, now: Instant, number: u64) -> bool {
        let Some(index) = self.index(number) else {
            return false;
        };
        let segment = &mut self.segments[index];
        let before = std::mem::replace(&mut segment.state, State::Delivered);
        let segment = *segment;
        match before {
            State::Delivered => return false,
            State::Flying => self.flying -= 1,
            State::Lost => {}
        }
        self.newest_delivered = self.newest_delivered.max(segment.sent_at);
        if !segment.again {
            self.sample(now.since(segment.sent_at));
        }
        true
    }

    fn on_ack(&mut self, now: Instant, next: u64, one: u64) {
        let full = self.flying + 1 >= self.cubic.window();
        let mut delivered = usize::from(self.deliver(now, one));
        while self.first < next && !self.segments.is_empty() {
            delivered += usize::from(self.deliver(now, self.first));
            self.segments.pop_front();
            self.first += 1;
        }
        if delivered == 0 {
            return;
        }
        self.backoff = 0;
        let (mean, _) = self.smoothed.unwrap_or_default();
        if self.first >= self.recover && full {
            self.cubic.on_delivered(now, delivered, mean);
        }
        self.find_losses(mean / 4);
        self.timer = (self.flying > 0).then(|| now + self.rto());
    }

    fn find_losses(&mut self, patience: Duration) {
        let mut found = false;
        while let Some(&(number, at)) = self.order.front() {
            let Some(index) = self.index(number) else {
                self.order.pop_front();
                continue;
            };
            let segment = &mut self.segments[index];
            let current = segment.state == State::Flying && segment.sent_at == at;
            if current {
                if at + patience >= self.newest_delivered {
                    break;
                }
                segment.state = State::Lost;
                self.flying -= 1;
                self.lost.push_back(number);
                found = true;
            }
            self.order.pop_front();
        }
        if found && self.first >= self.recover {
            self.recover = self.first + self.segments.len() as u64;
            self.cubic.on_loss();
        }
    }

    fn on_timeout(&mut self, now: Instant) {
        self.timeouts += 1;
        self.backoff += 1;
        self.cubic.on_timeout();
        self.order.clear();
        self.lost.clear();
        for (index, segment) in self.segments.iter_mut().enumerate() {
            if segment.state != State::Delivered {
                segment.state = State::Lost;
                self.lost.push_back(self.first + index as u64);
            }
        }
        self.flying = 0;
        self.recover = self.first + self.segments.len() as u64;
        self.timer = (!self.lost.is_empty()).then(|| now + self.rto());
    }

    fn next_number(&mut self, now: Instant) -> Option<u64> {
        if self.flying >= self.cubic.window() {
            return None;
        }
        while let Some(number) = self.lost.pop_front() {
            let lost = |index: &usize| self.segments[*index].state == State::Lost;
            if self.index(number).filter(lost).is_some() {
                self.resent += 1;
                return Some(number);
            }
        }
        let open = self.segments.len() < self.window_max;
        (open && self.active.contains(&now)).then_some(self.first + self.segments.len() as u64)
    }
}

impl Node for TcpSender {
    fn handle(
        &mut self,
        now: Instant,
        _from: SocketAddr,
        _received_at: Instant,
        segment: usize,
        datagrams: &[u8],
    ) {
        for datagram in datagrams.chunks(segment.max(1)) {
            if datagram.len() == ACK
                && let ([next, one, ..], _) = datagram.as_chunks::<8>()
            {
                self.on_ack(now, u64::from_be_bytes(*next), u64::from_be_bytes(*one));
            }
        }
    }

    fn poll_transmit(&mut self, now: Instant, train: &mut Train) -> bool {
        let Some(number) = self.next_number(now) else {
            return false;
        };
        let again = self.index(number).is_some();
        let segment = Segment {
            state: State::Flying,
            sent_at: now,
            again,
        };
        match self.index(number) {
            Some(index) => self.segments[index] = segment,
            None => self.segments.push_back(segment),
        }
        self.order.push_back((number, now));
        self.flying += 1;
        let rto = self.rto();
        self.timer.get_or_insert(now + rto);
        train.reset(self.to);
        train.push_datagram(SEGMENT, &number.to_be_bytes());
        train.push_payload(&self.zeros, 8..SEGMENT);
        true
    }

    fn next_deadline(&self) -> Option<Instant> {
        let begins = (self.first == 0 && self.segments.is_empty()).then_some(self.active.start);
        self.timer.or(begins)
    }

    fn on_deadline(&mut self, now: Instant) {
        if self.timer.is_some_and(|at| at <= now) {
            self.on_timeout(now);
        }
    }
}

/// Acknowledges every segment and measures what came.
#[derive(Debug, Default)]
pub struct TcpReceiver {
    next: u64,
    /// Numbers past a gap that came, by their distance from `next`.
    beyond: VecDeque<bool>,
    waiting: VecDeque<(SocketAddr, u64)>,
    /// Payload that came for the first time.
    pub received: Meter,
}

impl Node for TcpReceiver {
    fn handle(
        &mut self,
        now: Instant,
        from: SocketAddr,
        _received_at: Instant,
        segment: usize,
        datagrams: &[u8],
    ) {
        for datagram in datagrams.chunks(segment.max(1)) {
            let ([number, ..], _) = datagram.as_chunks::<8>() else {
                continue;
            };
            let number = u64::from_be_bytes(*number);
            if datagram.len() != SEGMENT {
                continue;
            }
            self.waiting.push_back((from, number));
            let Some(ahead) = number.checked_sub(self.next) else {
                continue;
            };
            let ahead = usize::try_from(ahead).unwrap_or(usize::MAX);
            if ahead > SPAN_MAX {
                continue;
            }
            if ahead >= self.beyond.len() {
                self.beyond.resize(ahead + 1, false);
            }
            if !std::mem::replace(&mut self.beyond[ahead], true) {
                self.received.add(now, PAYLOAD as u64);
            }
            while self.beyond.front() == Some(&true) {
                self.beyond.pop_front();
                self.next += 1;
            }
        }
    }

    fn poll_transmit(&mut self, _now: Instant, train: &mut Train) -> bool {
        let Some((to, number)) = self.waiting.pop_front() else {
            return false;
        };
        let mut ack = [0; ACK];
        ack[..8].copy_from_slice(&self.next.to_be_bytes());
        ack[8..16].copy_from_slice(&number.to_be_bytes());
        train.reset(to);
        train.push_datagram(ACK, &ack);
        true
    }

    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    fn on_deadline(&mut self, _now: Instant) {}
}
