//! The state behind a [`SimWorld`](super::SimWorld): clock, event queue, scheduler, trace.

use super::datagrams::{Datagrams, Flight};
use super::faults::Faults;
use super::net::{Link, Listener, Node};
use super::stream::Stream;
use super::table::Station;
use crate::io::{Completion, Outcome, SocketId};
use flock_transport::{Errno, Instant};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

/// What the network does at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum NetEvent {
    /// The first packet of a dial reaches its destination.
    Syn { stream: u64, attempt: u32 },
    /// A dial fails at the dialler.
    DialFails { stream: u64, errno: i32 },
    /// The oldest segment that `side` sent arrives.
    Segment { stream: u64, side: usize },
    /// A closed side has waited long enough for the other's FIN.
    Reap { stream: u64, side: usize },
    /// A datagram arrives.
    Datagram { flight: u64 },
    /// Something about a socket may be ready now.
    Look {
        station: usize,
        slot: u32,
        generation: u32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Scheduled {
    at: Instant,
    /// Orders events of the same instant by the seed.
    tie: u32,
    serial: u64,
    event: NetEvent,
}

/// A network, its nodes and their drivers' kernel side.
pub(super) struct World {
    pub(super) now: Instant,
    pub(super) rng: SmallRng,
    pub(super) faults: Faults,
    events: BinaryHeap<Reverse<Scheduled>>,
    serial: u64,
    pub(super) nodes: Vec<Node>,
    pub(super) links: BTreeMap<(usize, usize), Link>,
    pub(super) streams: BTreeMap<u64, Stream>,
    pub(super) listeners: BTreeMap<u64, Listener>,
    pub(super) datagrams: BTreeMap<u64, Datagrams>,
    pub(super) flights: BTreeMap<u64, Flight>,
    pub(super) stations: Vec<Station>,
    /// Address pairs in use, from the dialler's view.
    pub(super) pairs: BTreeSet<(SocketAddr, SocketAddr)>,
    pub(super) probes: BTreeMap<&'static str, u64>,
    pub(super) self_driving: bool,
    trace: u64,
    delivered: u64,
    /// The latest completions, at most as many as asked for.
    log: VecDeque<Delivered>,
    pub(super) log_limit: usize,
}

/// A line of the log.
#[derive(Clone, Copy, Debug)]
struct Delivered {
    at: Instant,
    station: usize,
    completion: Completion,
    bytes: usize,
}

impl World {
    pub(super) fn new(seed: u64, faults: Faults) -> Self {
        Self {
            // One second in, as on the engine's own clock, so that zero is always in the past.
            now: Instant::from_nanos(1_000_000_000),
            rng: SmallRng::seed_from_u64(seed),
            faults,
            events: BinaryHeap::new(),
            serial: 0,
            nodes: Vec::new(),
            links: BTreeMap::new(),
            streams: BTreeMap::new(),
            listeners: BTreeMap::new(),
            datagrams: BTreeMap::new(),
            flights: BTreeMap::new(),
            stations: Vec::new(),
            pairs: BTreeSet::new(),
            probes: BTreeMap::new(),
            self_driving: false,
            trace: 0xcbf2_9ce4_8422_2325,
            delivered: 0,
            log: VecDeque::new(),
            log_limit: 0,
        }
    }

    pub(super) fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.rng.random_bool(probability.min(1.0))
    }

    pub(super) fn up_to(&mut self, most: Duration) -> Duration {
        let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.rng.random_range(0..=nanos))
    }

    /// Counts that a rare branch was reached.
    pub(super) fn probe(&mut self, name: &'static str) {
        *self.probes.entry(name).or_default() += 1;
    }

    pub(super) fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    pub(super) fn schedule(&mut self, at: Instant, event: NetEvent) {
        let (tie, serial) = (self.rng.random(), self.next_serial());
        self.events.push(Reverse(Scheduled {
            at,
            tie,
            serial,
            event,
        }));
    }

    /// Lets everything happen that is due.
    pub(super) fn run_due(&mut self) {
        while let Some(Reverse(next)) = self.events.peek().copied() {
            if next.at > self.now {
                break;
            }
            self.events.pop();
            match next.event {
                NetEvent::Syn { stream, attempt } => self.syn_arrives(stream, attempt),
                NetEvent::DialFails { stream, errno } => self.dial_fails(stream, Errno(errno)),
                NetEvent::Segment { stream, side } => self.segment_arrives(stream, side),
                NetEvent::Reap { stream, side } => self.reap(stream, side),
                NetEvent::Datagram { flight } => self.datagram_arrives(flight),
                NetEvent::Look {
                    station,
                    slot,
                    generation,
                } => self.look_at(station, SocketId { slot, generation }),
            }
        }
    }

    pub(super) fn next_event(&self) -> Option<Instant> {
        self.events.peek().map(|Reverse(next)| next.at)
    }

    /// The next driver to take a turn, chosen by the seed among those with something to do; the
    /// clock jumps when there is none. `None` when nothing happens any more, or not before `limit`.
    pub(super) fn next(&mut self, limit: Instant) -> Option<usize> {
        loop {
            self.run_due();
            let now = self.now;
            let runnable = self.stations.iter().filter(|s| s.runnable(now)).count();
            if runnable > 0 {
                let pick = self.rng.random_range(0..runnable);
                let cost = Duration::from_nanos(self.rng.random_range(100..5_000));
                self.now = self.now + cost;
                let mut ready = self.stations.iter().enumerate();
                return ready
                    .by_ref()
                    .filter(|(_, station)| station.runnable(now))
                    .nth(pick)
                    .map(|(index, _)| index);
            }
            let deadlines = self.stations.iter().filter_map(Station::wakes_at);
            let next = deadlines.chain(self.next_event()).min()?;
            if next > limit {
                self.now = self.now.max(limit);
                return None;
            }
            self.now = self.now.max(next);
        }
    }

    pub(super) fn trace(&self) -> (u64, u64) {
        (self.trace, self.delivered)
    }

    pub(super) fn log(&self) -> Vec<String> {
        let line = |line: &Delivered| {
            let micros = line.at.as_nanos() / 1_000;
            let (socket, token) = (line.completion.socket, line.completion.token);
            format!(
                "{micros} us driver {} socket {}.{} token {:x}: {:?} {} bytes",
                line.station,
                socket.slot,
                socket.generation,
                token.0,
                line.completion.outcome,
                line.bytes
            )
        };
        self.log.iter().map(line).collect()
    }

    /// Folds a delivered completion into the trace (FNV-1a over its words and bytes).
    pub(super) fn note(&mut self, station: usize, completion: &Completion, data: &[u8]) {
        let (kind, detail) = match completion.outcome {
            Outcome::Accepted { socket, peer } => {
                (0, u64::from(socket.slot) << 16 | u64::from(peer.port()))
            }
            Outcome::AcceptEnded(errno) => (1, u64::from(errno.0.unsigned_abs())),
            Outcome::Connected => (2, 0),
            Outcome::ConnectFailed(errno) => (3, u64::from(errno.0.unsigned_abs())),
            Outcome::Data(_) => (4, data.len() as u64),
            Outcome::Eof => (5, 0),
            Outcome::RecvEnded(errno) => (6, u64::from(errno.0.unsigned_abs())),
            Outcome::Sent { bytes } => (7, bytes),
            Outcome::SendFailed(errno) => (8, u64::from(errno.0.unsigned_abs())),
            Outcome::Closed => (9, 0),
            Outcome::Datagrams { from, segment, .. } => {
                (10, u64::from(from.port()) << 16 | u64::from(segment))
            }
            Outcome::TrainSent { tag } => (11, tag),
            Outcome::TrainRefused { tag, errno } => (12, tag ^ u64::from(errno.0.unsigned_abs())),
        };
        let words = [
            self.now.as_nanos(),
            station as u64,
            completion.token.0,
            u64::from(completion.socket.slot) << 32 | u64::from(completion.socket.generation),
            kind,
            detail,
        ];
        for word in words {
            self.trace = (self.trace ^ word).wrapping_mul(0x0100_0000_01b3);
            self.trace ^= self.trace >> 29;
        }
        for &byte in data {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.delivered += 1;
        if self.log_limit == 0 {
            return;
        }
        if self.log.len() == self.log_limit {
            self.log.pop_front();
        }
        self.log.push_back(Delivered {
            at: self.now,
            station,
            completion: *completion,
            bytes: data.len(),
        });
    }
}
