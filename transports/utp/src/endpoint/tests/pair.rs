use crate::{Config, Endpoint, Event, Key};
use flock_transport::{Instant, Train};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::net::SocketAddr;
use std::time::Duration;

/// An endpoint, what it said, and the stream of bytes it delivered.
pub(super) struct Side {
    pub(super) endpoint: Endpoint,
    pub(super) addr: SocketAddr,
    pub(super) events: Vec<Event>,
    pub(super) stream: Vec<u8>,
}

impl Side {
    pub(super) fn new(config: Config, addr: SocketAddr, seed: u8) -> Self {
        Self {
            endpoint: Endpoint::new(config, 0, 1, [seed; 32]),
            addr,
            events: Vec::new(),
            stream: Vec::new(),
        }
    }

    pub(super) fn take_events(&mut self, datagrams: &[u8]) {
        while let Some(event) = self.endpoint.poll_event() {
            match &event {
                Event::Data { range, .. } => {
                    self.stream.extend_from_slice(&datagrams[range.clone()]);
                }
                Event::Buffered { bytes, .. } => self.stream.extend_from_slice(bytes),
                _ => self.events.push(event),
            }
        }
    }

    pub(super) fn key(&self) -> Option<Key> {
        self.events.iter().find_map(|event| match event {
            Event::Connected { key } | Event::Accepted { key, .. } => Some(*key),
            _ => None,
        })
    }
}

struct Flying {
    at: Instant,
    to: usize,
    bytes: Vec<u8>,
}

/// Two endpoints and what lies between them, in virtual time.
pub(super) struct Pair {
    pub(super) now: Instant,
    pub(super) sides: [Side; 2],
    flying: Vec<Flying>,
    rng: SmallRng,
    pub(super) loss: f64,
    pub(super) refuse: f64,
    pub(super) jitter: Duration,
    pub(super) delay: Duration,
    /// Every datagram that was sent, with its sender.
    pub(super) sent: Vec<(usize, Vec<u8>)>,
}

impl Pair {
    pub(super) fn new(seed: u64) -> Self {
        Self::with(Config::default(), Config::default(), seed)
    }

    pub(super) fn with(first: Config, second: Config, seed: u64) -> Self {
        let addr = |last| SocketAddr::from(([10, 0, 0, last], 4000));
        Self {
            now: Instant::ZERO + Duration::from_secs(100),
            sides: [Side::new(first, addr(1), 1), Side::new(second, addr(2), 2)],
            flying: Vec::new(),
            rng: SmallRng::seed_from_u64(seed),
            loss: 0.0,
            refuse: 0.0,
            jitter: Duration::ZERO,
            delay: Duration::from_millis(10),
            sent: Vec::new(),
        }
    }

    pub(super) fn dial(&mut self) -> Key {
        let to = self.sides[1].addr;
        self.sides[0].endpoint.connect(self.now, to).unwrap()
    }

    /// Gives everything that is to be sent to the wire.
    pub(super) fn transmit(&mut self) {
        let mut train = Train::default();
        for from in 0..2 {
            while self.sides[from]
                .endpoint
                .poll_transmit(self.now, &mut train)
            {
                assert_eq!(train.to(), self.sides[1 - from].addr);
                if self.rng.random_bool(self.refuse) {
                    self.sides[from].endpoint.refused(train.tag, self.now);
                    break;
                }
                self.sides[from].endpoint.sent(train.tag, self.now);
                let bytes: Vec<u8> = train.parts().flatten().copied().collect();
                for datagram in bytes.chunks(train.segment()) {
                    self.sent.push((from, datagram.to_vec()));
                    if self.rng.random_bool(self.loss) {
                        continue;
                    }
                    let jitter = self.jitter.mul_f64(self.rng.random());
                    self.flying.push(Flying {
                        at: self.now + self.delay + jitter,
                        to: 1 - from,
                        bytes: datagram.to_vec(),
                    });
                }
            }
            self.sides[from].take_events(&[]);
        }
    }

    /// Moves to the next thing that happens; false: nothing will.
    pub(super) fn step(&mut self) -> bool {
        self.transmit();
        let arrival = self.flying.iter().map(|f| f.at).min();
        let deadlines = self.sides.iter().map(|s| s.endpoint.next_deadline());
        let refused = (self.refuse > 0.0).then(|| self.now + Duration::from_millis(1));
        let next = deadlines.chain([arrival, refused]).flatten().min();
        let Some(next) = next else {
            return false;
        };
        self.now = self.now.max(next);
        let now = self.now;
        for to in 0..2 {
            let mut due: Vec<Flying> = Vec::new();
            for flying in std::mem::take(&mut self.flying) {
                if flying.to == to && flying.at <= now {
                    due.push(flying);
                } else {
                    self.flying.push(flying);
                }
            }
            due.sort_by_key(|flying| flying.at);
            let from = self.sides[1 - to].addr;
            let side = &mut self.sides[to];
            for flying in due {
                let segment = flying.bytes.len();
                side.endpoint.handle(now, from, now, segment, &flying.bytes);
                side.take_events(&flying.bytes);
            }
            side.endpoint.end_batch(now);
            if side.endpoint.next_deadline().is_some_and(|at| at <= now) {
                side.endpoint.on_deadline(now);
            }
            side.take_events(&[]);
        }
        true
    }

    pub(super) fn run_until(&mut self, mut done: impl FnMut(&Self) -> bool) {
        let start = self.now;
        while !done(self) {
            assert!(
                self.step(),
                "nothing happens any more: {:?}",
                self.sides
                    .each_ref()
                    .map(|side| (&side.events, side.endpoint.counters()))
            );
            let events = [&self.sides[0].events, &self.sides[1].events];
            let spent = self.now.since(start);
            assert!(spent < Duration::from_secs(600), "{events:?}");
        }
    }

    pub(super) fn run_for(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            self.transmit();
            let arrival = self.flying.iter().map(|f| f.at).min();
            let deadlines = self.sides.iter().map(|s| s.endpoint.next_deadline());
            match deadlines.chain([arrival]).flatten().min() {
                Some(next) if next <= end => self.step(),
                _ => break,
            };
        }
        self.now = end;
    }

    /// Connects and lets the first byte through, which confirms.
    pub(super) fn establish(&mut self) -> [Key; 2] {
        let first = self.dial();
        self.sides[0].endpoint.send(first, "!".into()).unwrap();
        self.run_until(|pair| pair.sides[1].stream == b"!");
        self.sides[1].stream.clear();
        [first, self.sides[1].key().unwrap()]
    }
}
