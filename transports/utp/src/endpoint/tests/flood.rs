//! A flood of SYNs at a stated rate of virtual time, and peers that join meanwhile.

use super::scripted::packet;
use crate::wire::Kind;
use crate::{Config, Endpoint, Event};
use flock_transport::{Instant, Train};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

/// SYNs a second, for two seconds.
const RATE: u32 = 100_000;
const SYNS: u32 = 2 * RATE;
const EVERY: Duration = Duration::from_micros(10);

/// Addresses that flood: four networks, each beyond what one may have in the table.
const FLOODING: u32 = 1024;

/// Peers that dial in turn, 20 ms away, and what each may take: two round trips and a half.
const PEERS: u32 = 38;
const DIAL_EVERY: Duration = Duration::from_millis(50);
const DELAY: Duration = Duration::from_millis(10);
const IN_TIME: Duration = Duration::from_millis(50);

/// What passed between the target and one address.
#[derive(Clone, Copy, Debug, Default)]
struct Ledger {
    packets: [u64; 2],
    bytes: [u64; 2],
    verified: bool,
}

const IN: usize = 0;
const OUT: usize = 1;

impl Ledger {
    fn note(&mut self, direction: usize, bytes: usize) {
        self.packets[direction] += 1;
        self.bytes[direction] += bytes as u64;
    }

    fn is_fair(&self) -> bool {
        self.verified
            || (self.packets[OUT] <= self.packets[IN] && self.bytes[OUT] <= self.bytes[IN])
    }
}

struct Target {
    endpoint: Endpoint,
    ledgers: HashMap<SocketAddr, Ledger>,
    train: Train,
}

impl Target {
    /// Hands it a datagram; answers go to `answer`. All that it ever sends is looked at.
    fn give(
        &mut self,
        now: Instant,
        from: SocketAddr,
        bytes: &[u8],
        answer: impl FnMut(SocketAddr, &[u8]),
    ) {
        self.ledgers.entry(from).or_default().note(IN, bytes.len());
        self.endpoint.handle(now, from, now, bytes.len(), bytes);
        while let Some(event) = self.endpoint.poll_event() {
            if let Event::Accepted { from, .. } = event {
                self.ledgers.entry(from).or_default().verified = true;
            }
        }
        self.endpoint.end_batch(now);
        self.transmit(now, answer);
    }

    fn transmit(&mut self, now: Instant, mut answer: impl FnMut(SocketAddr, &[u8])) {
        while self.endpoint.poll_transmit(now, &mut self.train) {
            self.endpoint.sent(self.train.tag, now);
            let to = self.train.to();
            let bytes: Vec<u8> = self.train.parts().flatten().copied().collect();
            for datagram in bytes.chunks(self.train.segment()) {
                let ledger = self.ledgers.entry(to).or_default();
                ledger.note(OUT, datagram.len());
                assert!(ledger.is_fair(), "{to} at {now:?}: {ledger:?}");
                answer(to, datagram);
            }
        }
    }

    fn is_verified(&self, addr: SocketAddr) -> bool {
        self.ledgers.get(&addr).is_some_and(|it| it.verified)
    }
}

struct Peer {
    endpoint: Endpoint,
    addr: SocketAddr,
    dialled_at: Instant,
    met: bool,
}

/// A datagram on its way, to the target or from it.
struct Flying {
    at: Instant,
    to_target: bool,
    peer: SocketAddr,
    bytes: Vec<u8>,
}

fn target() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 4000))
}

/// SYN `n` of the flood: one in four repeats the one before it.
fn syn(n: u32) -> (SocketAddr, [u8; 20]) {
    let n = if n % 4 == 3 { n - 1 } else { n };
    let host = (0xc612_0000 + n % FLOODING).to_be_bytes();
    let [_, _, high, low] = n.to_be_bytes();
    let header = packet(Kind::Syn, u16::from_be_bytes([high, low]), 100, 0);
    (SocketAddr::from((host, 6881)), header.encode(0))
}

/// What the peers say, and hear when it comes.
fn serve(now: Instant, peers: &mut [Peer], flying: &mut VecDeque<Flying>) {
    let mut train = Train::default();
    for peer in peers {
        if peer.endpoint.next_deadline().is_some_and(|at| at <= now) {
            peer.endpoint.on_deadline(now);
        }
        peer.endpoint.end_batch(now);
        while peer.endpoint.poll_event().is_some() {}
        while peer.endpoint.poll_transmit(now, &mut train) {
            peer.endpoint.sent(train.tag, now);
            flying.push_back(Flying {
                at: now + DELAY,
                to_target: true,
                peer: peer.addr,
                bytes: train.parts().flatten().copied().collect(),
            });
        }
    }
}

fn dial(number: u32, now: Instant) -> Peer {
    let [.., host] = number.to_be_bytes();
    let addr = SocketAddr::from(([10, 9, 0, host], 4000));
    let mut endpoint = Endpoint::new(Config::default(), 0, 1, [host; 32]);
    let key = endpoint.connect(now, target()).unwrap();
    endpoint.send(key, "hello".into()).unwrap();
    Peer {
        endpoint,
        addr,
        dialled_at: now,
        met: false,
    }
}

fn deliver(now: Instant, it: &mut Target, peers: &mut [Peer], flying: &mut VecDeque<Flying>) {
    while flying.front().is_some_and(|flight| flight.at <= now) {
        let flight = flying.pop_front().expect("there is one");
        let mut answers = Vec::new();
        if flight.to_target {
            it.give(now, flight.peer, &flight.bytes, |peer, bytes| {
                answers.push((peer, bytes.to_vec()));
            });
        } else if let Some(peer) = peers.iter_mut().find(|peer| peer.addr == flight.peer) {
            let bytes = &flight.bytes;
            peer.endpoint.handle(now, target(), now, bytes.len(), bytes);
        }
        flying.extend(answers.into_iter().map(|(peer, bytes)| Flying {
            at: now + DELAY,
            to_target: false,
            peer,
            bytes,
        }));
    }
}

#[test]
fn a_flood_is_not_amplified_and_peers_join_in_time() {
    let start = Instant::ZERO + Duration::from_secs(50);
    let mut it = Target {
        endpoint: Endpoint::new(Config::default(), 0, 1, [9; 32]),
        ledgers: HashMap::new(),
        train: Train::default(),
    };
    let (mut peers, mut flying) = (Vec::new(), VecDeque::new());
    let mut now = start;
    for n in 0..SYNS {
        now = start + EVERY * n;
        let (from, bytes) = syn(n);
        it.give(now, from, &bytes, |_, _| {});
        let dialled = u32::try_from(peers.len()).unwrap();
        if dialled < PEERS && now >= start + DIAL_EVERY * dialled {
            peers.push(dial(dialled + 1, now));
        }
        deliver(now, &mut it, &mut peers, &mut flying);
        if n % 100 == 0 {
            serve(now, &mut peers, &mut flying);
            for peer in peers.iter_mut().filter(|peer| !peer.met) {
                peer.met = it.is_verified(peer.addr);
                let took = now.since(peer.dialled_at);
                assert!(took <= IN_TIME, "{} takes {took:?}", peer.addr);
            }
        }
    }
    assert_eq!(peers.iter().filter(|peer| peer.met).count(), PEERS as usize);
    let counted = it.endpoint.counters();
    assert!(counted.cookies > 0, "the table never filled: {counted:?}");
    assert_eq!(counted.accepted, PEERS.into());
    // Nor is anything sent later to those that never confirmed.
    let end = now + Duration::from_secs(30);
    while let Some(at) = it.endpoint.next_deadline().filter(|&at| at <= end) {
        now = now.max(at);
        it.endpoint.on_deadline(now);
        it.transmit(now, |_, _| {});
    }
}
