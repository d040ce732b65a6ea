use super::node::Node;
use bytes::Bytes;
use flock_transport::{Instant, Train};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

/// Sends every datagram back to where it came from.
#[derive(Debug, Default)]
pub struct Echo {
    waiting: VecDeque<(SocketAddr, Bytes)>,
}

impl Node for Echo {
    fn handle(
        &mut self,
        _now: Instant,
        from: SocketAddr,
        _received_at: Instant,
        segment: usize,
        datagrams: &[u8],
    ) {
        let all = Bytes::copy_from_slice(datagrams);
        for start in (0..all.len()).step_by(segment.max(1)) {
            let end = all.len().min(start + segment);
            self.waiting.push_back((from, all.slice(start..end)));
        }
    }

    fn poll_transmit(&mut self, _now: Instant, train: &mut Train) -> bool {
        let Some((to, datagram)) = self.waiting.pop_front() else {
            return false;
        };
        train.reset(to);
        train.push_datagram(datagram.len(), &[]);
        train.push_payload(&datagram, 0..datagram.len());
        true
    }

    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    fn on_deadline(&mut self, _now: Instant) {}
}

/// Sends numbered, stamped datagrams at an even pace, and keeps what comes back.
#[derive(Debug)]
pub struct Steady {
    to: SocketAddr,
    size: usize,
    every: Duration,
    burst: usize,
    left: u64,
    number: u64,
    due: Instant,
    /// The numbers that came, in the order in which they came, and the time from stamp to arrival.
    pub came: Vec<(u64, Duration)>,
    /// Datagrams that carried no number of ours.
    pub strange: u64,
    /// Trains that were refused.
    pub refused: u64,
}

/// Bytes of a number and a stamp.
const MARK: usize = 16;

impl Steady {
    /// Sends `count` datagrams of `size` bytes, at least 16, to `to`, `burst` of them `every` so
    /// often; without any it only keeps what it receives.
    #[must_use]
    pub fn new(to: SocketAddr, size: usize, every: Duration, burst: usize, count: u64) -> Self {
        Self {
            to,
            size: size.max(MARK),
            every,
            burst: burst.max(1),
            left: count,
            number: 0,
            due: Instant::ZERO,
            came: Vec::new(),
            strange: 0,
            refused: 0,
        }
    }

    /// Keeps what it receives.
    #[must_use]
    pub fn sink() -> Self {
        Self::new(
            SocketAddr::from(([0, 0, 0, 0], 0)),
            MARK,
            Duration::ZERO,
            1,
            0,
        )
    }
}

impl Node for Steady {
    fn handle(
        &mut self,
        _now: Instant,
        _from: SocketAddr,
        received_at: Instant,
        segment: usize,
        datagrams: &[u8],
    ) {
        for datagram in datagrams.chunks(segment.max(1)) {
            let (words, _) = datagram.as_chunks::<8>();
            let [number, stamp, rest @ ..] = words else {
                self.strange += 1;
                continue;
            };
            if rest.iter().any(|word| *word != [0; 8]) {
                self.strange += 1;
                continue;
            }
            let stamp = Instant::from_nanos(u64::from_be_bytes(*stamp));
            let number = u64::from_be_bytes(*number);
            self.came.push((number, received_at.since(stamp)));
        }
    }

    fn poll_transmit(&mut self, now: Instant, train: &mut Train) -> bool {
        if self.left == 0 || now < self.due {
            return false;
        }
        self.due = self.due.max(now) + self.every;
        train.reset(self.to);
        let mut datagram = vec![0; self.size];
        for _ in 0..self.burst {
            if self.left == 0 || !train.fits(self.size, 1) {
                break;
            }
            datagram[..8].copy_from_slice(&self.number.to_be_bytes());
            datagram[8..MARK].copy_from_slice(&now.as_nanos().to_be_bytes());
            train.push_datagram(self.size, &datagram);
            self.number += 1;
            self.left -= 1;
        }
        true
    }

    fn refused(&mut self, _now: Instant, _tag: u64) {
        self.refused += 1;
    }

    fn next_deadline(&self) -> Option<Instant> {
        (self.left > 0).then_some(self.due)
    }

    fn on_deadline(&mut self, _now: Instant) {}
}
