//! The sending half of a connection.

use crate::wire::{HEADER, Header, Kind, Packet, Seq};
use bytes::Bytes;
use flock_transport::{Instant, Queued, SendLimits, SendRefused, Train};
use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

/// Payload bytes of a packet: with all headers it fits the smallest MTU that IPv6 allows.
const PAYLOAD: usize = 1232 - HEADER;

const PAYLOAD_BYTES: u32 = 1232 - 20;

/// Packets beyond a missing one that prove it lost.
const THRESHOLD: usize = 3;

/// Numbers on their way at the most: what the smallest reorder buffer among the stacks in use
/// holds.
const SPAN: usize = 700;

const RTO_MIN: Duration = Duration::from_millis(250);
const RTO_FIRST: Duration = Duration::from_secs(1);
const RTO_MAX: Duration = Duration::from_secs(60);
const TIMEOUTS_MAX: u8 = 7;

/// The numbers that a train carried, to be told when it was refused.
#[derive(Debug)]
pub(crate) struct Flight {
    numbers: Range<u16>,
}

/// The peer did not answer for too long.
#[derive(Debug)]
pub(crate) struct GaveUp;

#[derive(Debug)]
struct Sent {
    data: Bytes,
    at: Instant,
    sends: u8,
    waiting: bool,
    sacked: bool,
}

/// What is queued, what is on its way, and when it is lost. What is on its way is kept apart,
/// only while there is something.
#[derive(Debug)]
pub(crate) struct Sender {
    active: Option<Box<Active>>,
    limits: SendLimits,
    /// The oldest number that is not acknowledged.
    oldest: Seq,
    peer_window: u32,
    window: u32,
    threshold: u32,
    round_trip: Duration,
    variation: Duration,
    above_high: bool,
    ending: bool,
    fin_sent: bool,
    fin_acked: bool,
}

#[derive(Debug, Default)]
struct Active {
    queue: VecDeque<Bytes>,
    queued: u64,
    sent: VecDeque<Sent>,
    in_flight: u64,
    timer: Option<Instant>,
    /// Timeouts since something was acknowledged.
    timeouts: u8,
    /// Timeouts since anything came.
    silent: u8,
    recover: Option<Seq>,
}

impl Active {
    /// Everything that the peer is not known to have is to be sent again.
    fn send_again(&mut self) {
        for sent in self.sent.iter_mut().filter(|s| !s.sacked && !s.waiting) {
            sent.waiting = true;
            self.in_flight -= sent.data.len() as u64;
        }
    }
}

impl Sender {
    pub(crate) fn new(first: Seq, limits: SendLimits) -> Self {
        Self {
            active: None,
            limits,
            oldest: first,
            peer_window: 1 << 20,
            window: 10 * 1232,
            threshold: u32::MAX,
            round_trip: Duration::ZERO,
            variation: Duration::ZERO,
            above_high: false,
            ending: false,
            fin_sent: false,
            fin_acked: false,
        }
    }

    pub(crate) fn on_connected(&mut self, _now: Instant, window: u32, took: Option<Duration>) {
        self.peer_window = window;
        if let Some(took) = took {
            self.sample(took);
        }
    }

    pub(crate) fn push(&mut self, data: Bytes) -> Result<Queued, SendRefused> {
        if self.ending {
            return Err(SendRefused::Closed(data));
        }
        let queued = self.queued();
        if queued > 0 && queued + data.len() as u64 > u64::from(self.limits.max) {
            return Err(SendRefused::Full(data));
        }
        if !data.is_empty() {
            let active = self.active.get_or_insert_default();
            active.queued += data.len() as u64;
            active.queue.push_back(data);
        }
        self.above_high |= self.queued() >= u64::from(self.limits.high).max(1);
        Ok(if self.above_high {
            Queued::AboveHigh
        } else {
            Queued::Ok
        })
    }

    pub(crate) fn queued(&self) -> u64 {
        self.active.as_ref().map_or(0, |active| active.queued)
    }

    pub(crate) fn is_above_high(&self) -> bool {
        self.above_high
    }

    pub(crate) fn end(&mut self) {
        if !self.ending {
            self.ending = true;
            self.active.get_or_insert_default();
        }
    }

    /// Whether the peer has everything, our FIN included.
    pub(crate) fn ended(&self) -> bool {
        self.fin_acked
    }

    pub(crate) fn oldest(&self) -> Seq {
        self.oldest
    }

    pub(crate) fn next_seq(&self) -> Seq {
        let sent = self.active.as_ref().map_or(0, |active| active.sent.len());
        self.number(sent)
    }

    fn number(&self, index: usize) -> Seq {
        let index = u16::try_from(index).unwrap_or(u16::MAX);
        Seq::new(self.oldest.get().wrapping_add(index))
    }

    pub(crate) fn on_ack(&mut self, now: Instant, packet: &Packet<'_>) {
        let opened = self.peer_window < PAYLOAD_BYTES && packet.header.window >= PAYLOAD_BYTES;
        self.peer_window = packet.header.window;
        let Some(mut active) = self.active.take() else {
            return;
        };
        active.silent = 0;
        if opened {
            // What was sent into a closed window was not kept.
            active.send_again();
        }
        let acked = self.oldest.distance_to(packet.header.ack) + 1;
        let acked = usize::try_from(acked).unwrap_or(0).min(active.sent.len());
        let mut bytes = 0;
        for _ in 0..acked {
            let Some(sent) = active.sent.pop_front() else {
                break;
            };
            if !sent.sacked && !sent.waiting {
                active.in_flight -= sent.data.len() as u64;
            }
            if sent.sends == 1 && !sent.sacked {
                self.sample(now.since(sent.at));
            }
            bytes += sent.data.len();
            active.queued -= sent.data.len() as u64;
            self.oldest = self.oldest.next();
            if sent.data.is_empty() {
                self.fin_acked = true;
            }
        }
        if acked > 0 {
            active.timeouts = 0;
            self.grow(bytes);
            active.timer = (!active.sent.is_empty()).then(|| now + self.rto(0));
        }
        if let Some(bits) = packet.sack {
            self.on_selective(&mut active, packet.header.ack, bits);
        }
        if self.above_high && active.queued <= u64::from(self.limits.low) {
            self.above_high = false;
        }
        let idle = active.sent.is_empty() && active.queue.is_empty();
        if !idle || (self.ending && !self.fin_acked) {
            self.active = Some(active);
        }
    }

    fn on_selective(&mut self, active: &mut Active, ack: Seq, bits: &[u8]) {
        // Bit 0 is the second number after the acknowledged one, which may be an old one.
        let base = i64::from(self.oldest.distance_to(ack.next().next()));
        let mut highest = 0;
        for (byte, value) in bits.iter().enumerate() {
            for bit in (0..8).filter(|bit| value >> bit & 1 == 1) {
                let index = usize::try_from(base + i64::try_from(byte * 8 + bit).unwrap_or(0)).ok();
                let Some(index) = index.filter(|&index| index < active.sent.len()) else {
                    continue;
                };
                let sent = &mut active.sent[index];
                highest = highest.max(index);
                if !sent.sacked {
                    if !sent.waiting {
                        active.in_flight -= sent.data.len() as u64;
                    }
                    (sent.sacked, sent.waiting) = (true, false);
                }
            }
        }
        let mut beyond = 0;
        let mut lost = false;
        for index in (0..=highest.min(active.sent.len().saturating_sub(1))).rev() {
            let Some(sent) = active.sent.get_mut(index) else {
                continue;
            };
            if sent.sacked {
                beyond += 1;
            } else if beyond >= THRESHOLD && !sent.waiting && sent.sends == 1 {
                sent.waiting = true;
                active.in_flight -= sent.data.len() as u64;
                lost = true;
            }
        }
        let recovering = active
            .recover
            .is_some_and(|until| self.oldest.distance_to(until) > 0);
        if lost && !recovering {
            let next = self
                .oldest
                .get()
                .wrapping_add(u16::try_from(active.sent.len()).unwrap_or(u16::MAX));
            active.recover = Some(Seq::new(next));
            self.window = (self.window / 2).max(2 * 1232);
            self.threshold = self.window;
        }
    }

    fn grow(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let more = if self.window < self.threshold {
            bytes
        } else {
            let share = u64::from(bytes) * 1232 / u64::from(self.window);
            u32::try_from(share).unwrap_or(0)
        };
        self.window = self.window.saturating_add(more).min(64 << 20);
    }

    fn sample(&mut self, took: Duration) {
        if self.round_trip.is_zero() {
            self.round_trip = took;
            self.variation = took / 2;
        } else {
            let off = self.round_trip.abs_diff(took);
            self.variation = (self.variation * 3 + off) / 4;
            self.round_trip = (self.round_trip * 7 + took) / 8;
        }
    }

    fn rto(&self, timeouts: u8) -> Duration {
        let base = if self.round_trip.is_zero() {
            RTO_FIRST
        } else {
            (self.round_trip + self.variation * 4).max(RTO_MIN)
        };
        (base * (1 << timeouts.min(10))).min(RTO_MAX)
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.active.as_ref()?.timer
    }

    pub(crate) fn on_deadline(&mut self, now: Instant) -> Result<(), GaveUp> {
        let Some(active) = &mut self.active else {
            return Ok(());
        };
        if active.timer.is_none_or(|at| at > now) {
            return Ok(());
        }
        active.timer = None;
        if active.sent.is_empty() {
            return Ok(());
        }
        active.timeouts = active.timeouts.saturating_add(1);
        active.silent += 1;
        if active.silent > TIMEOUTS_MAX {
            return Err(GaveUp);
        }
        active.send_again();
        active.recover = None;
        self.threshold = (self.window / 2).max(2 * 1232);
        self.window = 1232;
        Ok(())
    }

    /// Whether [`fill`](Self::fill) would give something.
    pub(crate) fn wants_to_send(&self, _now: Instant) -> bool {
        let Some(active) = &self.active else {
            return false;
        };
        if active.sent.iter().any(|sent| sent.waiting) {
            return self.may_send(active, PAYLOAD);
        }
        let fin = self.ending && !self.fin_sent && active.queue.is_empty();
        fin || active
            .queue
            .front()
            .is_some_and(|data| self.may_send(active, data.len().min(PAYLOAD)))
    }

    fn may_send(&self, active: &Active, len: usize) -> bool {
        let window = self.window.min(self.peer_window);
        let fits = active.in_flight + len as u64 <= u64::from(window);
        (fits || active.in_flight == 0) && active.sent.len() < SPAN
    }

    /// Fills the train; all its packets have the header given, but for kind and number.
    pub(crate) fn fill(
        &mut self,
        now: Instant,
        header: &Header,
        train: &mut Train,
    ) -> Option<Flight> {
        let mut active = self.active.take()?;
        let flight = self
            .fill_again(&mut active, now, header, train)
            .or_else(|| self.fill_new(&mut active, now, header, train));
        if flight.is_some() && active.timer.is_none() {
            active.timer = Some(now + self.rto(active.timeouts));
        }
        self.active = Some(active);
        flight
    }

    fn fill_again(
        &self,
        active: &mut Active,
        now: Instant,
        header: &Header,
        train: &mut Train,
    ) -> Option<Flight> {
        let first = active.sent.iter().position(|sent| sent.waiting)?;
        let mut index = first;
        while let Some(sent) = active.sent.get(index).filter(|sent| sent.waiting) {
            let len = sent.data.len();
            if !train.fits(HEADER + len, 2) || !self.may_send_again(active, len) {
                break;
            }
            push(train, header, self.number(index), &sent.data);
            active.in_flight += len as u64;
            let sent = &mut active.sent[index];
            (sent.waiting, sent.at) = (false, now);
            sent.sends = sent.sends.saturating_add(1);
            index += 1;
        }
        (index > first).then(|| self.flight(first..index))
    }

    fn may_send_again(&self, active: &Active, len: usize) -> bool {
        let fits = active.in_flight + len as u64 <= u64::from(self.window);
        fits || active.in_flight == 0
    }

    fn fill_new(
        &mut self,
        active: &mut Active,
        now: Instant,
        header: &Header,
        train: &mut Train,
    ) -> Option<Flight> {
        let first = active.sent.len();
        while let Some(front) = active.queue.front_mut() {
            let len = front.len().min(PAYLOAD);
            if !train.fits(HEADER + len, 2) || !self.may_send(active, len) {
                break;
            }
            let Some(front) = active.queue.front_mut() else {
                break;
            };
            let data = front.split_to(len);
            if front.is_empty() {
                active.queue.pop_front();
            }
            self.give(active, now, header, train, data);
        }
        let fin = self.ending && !self.fin_sent && active.queue.is_empty();
        if fin && train.fits(HEADER, 1) {
            self.fin_sent = true;
            self.give(active, now, header, train, Bytes::new());
        }
        (active.sent.len() > first).then(|| self.flight(first..active.sent.len()))
    }

    fn give(
        &self,
        active: &mut Active,
        now: Instant,
        header: &Header,
        train: &mut Train,
        data: Bytes,
    ) {
        push(train, header, self.number(active.sent.len()), &data);
        active.in_flight += data.len() as u64;
        active.sent.push_back(Sent {
            data,
            at: now,
            sends: 1,
            waiting: false,
            sacked: false,
        });
    }

    fn flight(&self, indexes: Range<usize>) -> Flight {
        Flight {
            numbers: self.number(indexes.start).get()..self.number(indexes.end).get(),
        }
    }

    /// The train with this flight was not taken.
    pub(crate) fn refused(&mut self, _now: Instant, flight: &Flight) {
        let Some(active) = &mut self.active else {
            return;
        };
        let count = flight.numbers.end.wrapping_sub(flight.numbers.start);
        for offset in 0..count {
            let seq = Seq::new(flight.numbers.start.wrapping_add(offset));
            let index = usize::try_from(self.oldest.distance_to(seq)).ok();
            if let Some(sent) = index.and_then(|index| active.sent.get_mut(index))
                && !sent.waiting
                && !sent.sacked
            {
                sent.waiting = true;
                sent.sends -= 1;
                active.in_flight -= sent.data.len() as u64;
            }
        }
    }
}

fn push(train: &mut Train, header: &Header, seq: Seq, data: &Bytes) {
    let kind = if data.is_empty() {
        Kind::Fin
    } else {
        Kind::Data
    };
    let header = Header {
        kind,
        seq,
        ..*header
    };
    train.push_datagram(HEADER + data.len(), &header.encode(0));
    train.push_payload(data, 0..data.len());
}
