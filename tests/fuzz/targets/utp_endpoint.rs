//! A uTP endpoint with live connections, whose peers send anything at any time: nothing panics,
//! every call ends, deadlines are served, and what is delivered is what was sent.
#![no_main]

use flock_transport::{Instant, Train};
use flock_utp::{Config, Endpoint, Event, Key};
use libfuzzer_sys::fuzz_target;
use std::net::SocketAddr;
use std::time::Duration;

/// What the fuzzer says, byte by byte; zeros at the end.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// A number that is mostly near zero.
    fn offset(&mut self) -> u16 {
        match self.byte() {
            255 => self.word(),
            near => i16::from(near.cast_signed()).cast_unsigned(),
        }
    }
}

/// A peer: what it saw of us last.
struct Peer {
    addr: SocketAddr,
    id: u16,
    seq: u16,
    ack: u16,
    key: Option<Key>,
}

/// The payload of the packet with this number, so that order can be checked.
fn payload(seq: u16) -> Vec<u8> {
    let [high, low] = seq.to_be_bytes();
    vec![low ^ high.rotate_left(3); usize::from(seq % 5) + 1]
}

/// The number of the first packet that the checked peer sends.
const FIRST: u16 = 65_530;
const CALLS_MAX: u32 = 10_000;

struct World {
    now: Instant,
    endpoint: Endpoint,
    peers: [Peer; 3],
    train: Train,
    /// What the first peer's stream must go on with: the packet, and how much of it came.
    expected: (u16, usize),
}

impl World {
    fn new() -> Self {
        let config = Config {
            receive_window: 20_000,
            receive_total: 30_000,
            half_open_max: 8,
            tombstones_max: 8,
            ..Config::default()
        };
        let peer = |last| Peer {
            addr: SocketAddr::from(([10, 0, 0, last], 77)),
            id: 40,
            seq: 0,
            ack: 0,
            key: None,
        };
        let mut world = Self {
            now: Instant::ZERO + Duration::from_secs(1000),
            endpoint: Endpoint::new(config, 0, 1, [3; 32]),
            peers: [peer(1), peer(2), peer(3)],
            train: Train::default(),
            expected: (FIRST, 0),
        };
        for index in 0..2 {
            world.give(index, &header(4, 40, FIRST.wrapping_sub(1), 0));
            let isn = world.peers[index].seq;
            world.give(index, &header(2, 41, FIRST, isn.wrapping_sub(1)));
            assert!(world.peers[index].key.is_some(), "a live connection");
        }
        world
    }

    fn give(&mut self, index: usize, bytes: &[u8]) {
        let (now, from) = (self.now, self.peers[index].addr);
        self.endpoint.handle(now, from, now, bytes.len(), bytes);
        self.take_events(bytes);
        self.endpoint.end_batch(now);
        self.drain();
    }

    fn drain(&mut self) {
        self.take_events(&[]);
        for calls in 0.. {
            assert!(calls < CALLS_MAX, "there is always more to send");
            if !self.endpoint.poll_transmit(self.now, &mut self.train) {
                break;
            }
            let bytes: Vec<u8> = self.train.parts().flatten().copied().collect();
            for datagram in bytes.chunks(self.train.segment()) {
                self.see(datagram);
            }
            self.endpoint.sent(self.train.tag, self.now);
        }
        self.take_events(&[]);
    }

    /// What a peer sees of us.
    fn see(&mut self, datagram: &[u8]) {
        let half = |at: usize| u16::from_be_bytes([datagram[at], datagram[at + 1]]);
        let to = self.train.to();
        let peer = self.peers.iter_mut().find(|peer| peer.addr == to);
        let peer = peer.expect("nobody else is spoken to");
        (peer.id, peer.seq, peer.ack) = (half(2), half(16), half(18));
    }

    fn take_events(&mut self, datagrams: &[u8]) {
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::Data { key, range } => self.check(key, &datagrams[range]),
                Event::Buffered { key, bytes } => self.check(key, &bytes),
                Event::Accepted { key, from } => {
                    let peer = self.peers.iter_mut().find(|peer| peer.addr == from);
                    // What is checked is the first connection of the first peer.
                    peer.expect("a peer").key.get_or_insert(key);
                }
                _ => {}
            }
        }
    }

    /// The first peer's stream comes in order and complete.
    fn check(&mut self, key: Key, bytes: &[u8]) {
        if self.peers[0].key != Some(key) {
            return;
        }
        for &byte in bytes {
            let (seq, at) = &mut self.expected;
            let packet = payload(*seq);
            assert_eq!(byte, packet[*at], "of packet {seq}");
            *at += 1;
            if *at == packet.len() {
                (*seq, *at) = (seq.wrapping_add(1), 0);
            }
        }
    }

    fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        for calls in 0.. {
            assert!(calls < CALLS_MAX, "a deadline is never over");
            let Some(at) = self.endpoint.next_deadline().filter(|&at| at <= end) else {
                break;
            };
            self.now = self.now.max(at);
            self.endpoint.on_deadline(self.now);
            self.drain();
        }
        self.now = end;
    }

    /// A packet that is nearly right.
    fn packet(&mut self, input: &mut Input<'_>) {
        let shape = input.byte();
        let index = usize::from(shape >> 6).min(2);
        let peer = &self.peers[index];
        let id = peer.id.wrapping_add(u16::from(shape >> 4 & 3)).wrapping_sub(1);
        let seq = peer.ack.wrapping_add(1).wrapping_add(input.offset());
        let ack = peer.seq.wrapping_add(input.offset());
        let kind = shape & 7;
        let mut bytes = header(kind, id, seq, ack);
        if shape & 8 > 0 {
            bytes[1] = 1;
            let len = input.byte();
            bytes.extend([0, len]);
            bytes.extend((0..len).map(|_| input.byte()));
            bytes[12..14].copy_from_slice(&input.word().to_be_bytes());
        }
        if kind == 0 {
            bytes.extend(payload(seq));
        }
        self.give(index, &bytes);
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let (what, now) = (input.byte(), self.now);
        let key = self.peers[usize::from(what >> 4 & 1)].key;
        match (what & 15, key) {
            (0..6, _) => self.packet(input),
            (6, _) => {
                let len = usize::from(input.byte());
                let bytes: Vec<u8> = (0..len).map(|_| input.byte()).collect();
                // Not the first: its stream is checked.
                self.give(1, &bytes);
            }
            (7, _) => self.pass(Duration::from_micros(1 << (input.byte() % 25))),
            (8, _) if self.endpoint.len() < 6 => {
                let to = self.peers[2].addr;
                self.peers[2].key = self.endpoint.connect(now, to).ok();
            }
            (9, Some(key)) => {
                let data = vec![1; usize::from(input.word())];
                let _ = self.endpoint.send(key, data.into());
            }
            (10, Some(key)) => self.endpoint.pause(key),
            (11, Some(key)) => self.endpoint.resume(now, key),
            (12, Some(key)) => self.endpoint.end(key),
            (13, Some(key)) => self.endpoint.close(now, key),
            (14, Some(key)) if input.byte() == 0 => self.endpoint.abort(now, key),
            _ => {}
        }
        self.drain();
    }
}

fn header(kind: u8, id: u16, seq: u16, ack: u16) -> Vec<u8> {
    let mut bytes = vec![kind << 4 | 1, 0];
    bytes.extend(id.to_be_bytes());
    bytes.extend([0, 0, 0, 9, 0, 0, 0, 9, 0, 1, 0, 0]);
    bytes.extend(seq.to_be_bytes());
    bytes.extend(ack.to_be_bytes());
    bytes
}

fuzz_target!(|input: &[u8]| {
    let mut world = World::new();
    let mut input = Input(input);
    while !input.0.is_empty() {
        world.step(&mut input);
    }
    // Whatever was said, silence ends it: everybody is given up or closed in time.
    let keys: Vec<Key> = world.peers.iter().filter_map(|peer| peer.key).collect();
    for key in keys {
        let now = world.now;
        world.endpoint.close(now, key);
    }
    world.drain();
    world.pass(Duration::from_secs(120));
});
