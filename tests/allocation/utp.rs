//! What a uTP connection holds while nothing happens, and that no packet of an established one
//! allocates.

use super::counter::{allocations, live};
use bytes::Bytes;
use flock_transport::{Instant, Train};
use flock_utp::{Config, Endpoint, Event, Key};
use std::net::SocketAddr;
use std::time::Duration;

/// An endpoint, and the bytes and allocations its calls are answerable for.
struct Side {
    endpoint: Endpoint,
    addr: SocketAddr,
    live: i64,
    allocations: u64,
    keys: Vec<Key>,
    received: u64,
}

impl Side {
    fn new(last: u8, config: Config, seed: u8) -> Self {
        let before = live();
        let endpoint = Endpoint::new(config, 0, 1, [seed; 32]);
        Self {
            endpoint,
            addr: SocketAddr::from(([10, 0, 0, last], 4000)),
            live: live() - before,
            allocations: 0,
            keys: Vec::new(),
            received: 0,
        }
    }

    fn counted<T>(&mut self, call: impl FnOnce(&mut Endpoint) -> T) -> T {
        let (bytes, count) = (live(), allocations());
        let result = call(&mut self.endpoint);
        self.live += live() - bytes;
        self.allocations += allocations() - count;
        result
    }

    fn take_events(&mut self) {
        while let Some(event) = self.counted(Endpoint::poll_event) {
            match event {
                Event::Data { range, .. } => self.received += range.len() as u64,
                Event::Connected { key } | Event::Accepted { key, .. } => self.keys.push(key),
                Event::Writable { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Two endpoints with nothing between them.
struct Wire {
    now: Instant,
    sides: [Side; 2],
    train: Train,
    bytes: Vec<u8>,
}

impl Wire {
    fn new(config: &Config) -> Self {
        let side = |last| Side::new(last, config.clone(), last);
        Self {
            now: Instant::ZERO + Duration::from_secs(100),
            sides: [side(1), side(2)],
            train: Train::default(),
            bytes: Vec::new(),
        }
    }

    /// Passes on what there is to send until there is nothing.
    fn settle(&mut self) {
        let mut quiet = false;
        while !quiet {
            quiet = true;
            self.now = self.now + Duration::from_micros(500);
            for from in 0..2 {
                quiet &= !self.pass(from);
            }
        }
    }

    fn pass(&mut self, from: usize) -> bool {
        let (now, train) = (self.now, &mut self.train);
        let [one, two] = &mut self.sides;
        let (from, to) = if from == 0 { (one, two) } else { (two, one) };
        let mut any = false;
        while from.counted(|endpoint| endpoint.poll_transmit(now, train)) {
            any = true;
            from.counted(|endpoint| endpoint.sent(train.tag, now));
            self.bytes.clear();
            train
                .parts()
                .for_each(|part| self.bytes.extend_from_slice(part));
            let (bytes, segment) = (&self.bytes, train.segment());
            to.counted(|endpoint| endpoint.handle(now, from.addr, now, segment, bytes));
            to.take_events();
        }
        to.counted(|endpoint| endpoint.end_batch(now));
        any
    }

    /// Lets time pass in which nobody sends anything on his own account.
    fn wait(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let next = self
                .sides
                .iter()
                .filter_map(|side| side.endpoint.next_deadline())
                .min();
            let Some(next) = next.filter(|&next| next <= end) else {
                break;
            };
            self.now = self.now.max(next);
            let now = self.now;
            for side in &mut self.sides {
                side.counted(|endpoint| endpoint.on_deadline(now));
            }
            self.settle();
        }
        self.now = end;
    }

    /// Connects the first side with the second, with the frame that confirms.
    fn connect(&mut self, frame: &'static [u8]) -> [Key; 2] {
        let (now, to) = (self.now, self.sides[1].addr);
        let dialled = self.sides[0].counted(|endpoint| endpoint.connect(now, to));
        let dialled = dialled.expect("room");
        self.send(0, dialled, frame);
        self.settle();
        let accepted = *self.sides[1].keys.last().expect("it was accepted");
        [dialled, accepted]
    }

    fn send(&mut self, from: usize, key: Key, data: &'static [u8]) {
        let side = &mut self.sides[from];
        side.counted(|endpoint| endpoint.send(key, Bytes::from_static(data)))
            .expect("there is room");
    }
}

/// What an end of an idle connection may hold, with its share of all tables.
const IDLE_MAX: i64 = 350;

#[test]
fn an_idle_connection_holds_little() {
    const FRAME: &[u8] = &[32; 33];
    // Tables that double have just done so, which is when a connection's share is largest.
    const COUNT: usize = (1 << 14) + 100;
    let mut wire = Wire::new(&Config::default());
    let empty = wire.sides.each_ref().map(|side| side.live);
    while wire.sides[1].keys.len() < COUNT {
        let keys = wire.connect(FRAME);
        wire.send(1, keys[1], FRAME);
        wire.settle();
    }
    let due = 33 * COUNT as u64;
    assert_eq!(wire.sides.each_ref().map(|side| side.received), [due, due]);
    // Longer than a connection keeps what it may soon need again.
    wire.wait(Duration::from_secs(5));
    for (side, empty) in wire.sides.iter().zip(empty) {
        let each = (side.live - empty) / i64::try_from(COUNT).expect("few");
        assert!(each <= IDLE_MAX, "{each} bytes for each of {COUNT}");
        println!("{each} bytes for each of {COUNT} idle connections");
    }
}

/// Bytes of a packet, more or less.
const BLOCK: &[u8] = &[9; 1_000];

#[test]
fn small_messages_both_ways_cost_no_allocation() {
    let mut wire = Wire::new(&Config::default());
    let keys = wire.connect(BLOCK);
    let mut rounds = |count: u32| {
        let before = wire.sides.each_ref().map(|side| side.allocations);
        for _ in 0..count {
            for (side, key) in keys.iter().enumerate() {
                wire.send(side, *key, &BLOCK[..33]);
                wire.settle();
            }
            wire.wait(Duration::from_millis(20));
        }
        let after = wire.sides.each_ref().map(|side| side.allocations);
        [after[0] - before[0], after[1] - before[1]]
    };
    rounds(100);
    assert_eq!(rounds(2_000), [0, 0]);
}

#[test]
fn a_long_transfer_costs_no_allocation() {
    const AT_ONCE: u64 = 300_000;
    const COUNTED: u64 = 20_000_000;
    let mut wire = Wire::new(&Config::default());
    let [key, _] = wire.connect(BLOCK);
    let mut until = |received: u64| {
        while wire.sides[1].received < received {
            while wire.sides[0].endpoint.queued(key) < AT_ONCE {
                wire.send(0, key, BLOCK);
            }
            wire.settle();
            wire.wait(Duration::from_millis(1));
        }
        wire.sides.each_ref().map(|side| side.allocations)
    };
    let before = until(COUNTED);
    assert_eq!(until(2 * COUNTED), before, "in {COUNTED} bytes");
}
