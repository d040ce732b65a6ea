use super::digest::Digest;
use super::link::{Change, Fate, HELD_MAX, Link, LinkConfig, LinkReport, Spoil};
use super::node::{Host, Node};
use super::pcap::{Capture, headers};
use super::queue::Waiting;
use flock_transport::{Instant, Train};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use slab::Slab;
use std::any::Any;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;
use std::time::Duration;

/// A node of a [`Network`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeId(usize);

/// A link of a [`Network`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkId(usize);

/// Bytes that one node's receive buffer holds while its batch gathers.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Trains one node may send in one turn; a shard of a real machine sends fewer.
const TRAINS_MAX: usize = 100_000;
/// Deadlines one node may serve at one moment before it counts as spinning.
const TURNS_AT_ONCE_MAX: u32 = 10_000;
/// How long a node whose train was refused waits.
const REFUSED_FOR: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The packet on the link's wire has left it.
    Left(usize),
    /// A packet reaches the end of the link it was on.
    Arrived(usize),
    /// Packets of the link were held back for long enough.
    Overdue(usize),
    /// A change of the link by its configuration.
    Changed(usize, usize),
    /// The node's batch has gathered.
    Gathered(usize),
    /// The node's deadline.
    Deadline(usize),
    /// The node may send again.
    Writable(usize),
}

#[derive(Debug)]
struct Packet {
    from: usize,
    to: usize,
    hop: usize,
    dont_fragment: bool,
    bytes: Vec<u8>,
}

struct Slot {
    node: Box<dyn Node>,
    address: SocketAddr,
    host: Host,
    rng: SmallRng,
    inbox: Vec<(SocketAddr, Instant, Vec<u8>)>,
    inbox_bytes: usize,
    armed: Option<Instant>,
    turns: (Instant, u32),
    blocked: bool,
    capture: Option<Capture>,
    counts: NodeCounts,
}

/// What one node's packets came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeCounts {
    /// Datagrams it sent.
    pub sent: u64,
    /// Trains it sent them in.
    pub trains: u64,
    /// Trains that were refused.
    pub refused: u64,
    /// Datagrams it received.
    pub received: u64,
    /// Datagrams for which its receive buffer had no room.
    pub overflowed: u64,
    /// Datagrams to an address to which nothing leads.
    pub unroutable: u64,
}

/// Nodes, links and what moves between them.
pub struct Network {
    seed: u64,
    now: Instant,
    order: u64,
    events: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    packets: Slab<Packet>,
    spare: Vec<Vec<u8>>,
    links: Vec<Link>,
    nodes: Vec<Slot>,
    routes: BTreeMap<(usize, usize), Vec<usize>>,
    addresses: BTreeMap<SocketAddr, usize>,
    train: Train,
    batch: Vec<u8>,
    trace: Digest,
}

impl Network {
    /// An empty network in which `seed` decides all chance.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            now: Instant::ZERO,
            order: 0,
            events: BinaryHeap::new(),
            packets: Slab::new(),
            spare: Vec::new(),
            links: Vec::new(),
            nodes: Vec::new(),
            routes: BTreeMap::new(),
            addresses: BTreeMap::new(),
            train: Train::default(),
            batch: Vec::new(),
            trace: Digest::default(),
        }
    }

    /// Adds a node that sends from `address` and receives what is sent there.
    pub fn add_node(&mut self, address: SocketAddr, host: Host, node: impl Node) -> NodeId {
        let index = self.nodes.len();
        self.addresses.insert(address, index);
        self.nodes.push(Slot {
            node: Box::new(node),
            address,
            host,
            rng: SmallRng::seed_from_u64(Digest::fork(self.seed, "node", index)),
            inbox: Vec::new(),
            inbox_bytes: 0,
            armed: None,
            turns: (Instant::ZERO, 0),
            blocked: false,
            capture: None,
            counts: NodeCounts::default(),
        });
        NodeId(index)
    }

    /// Adds a link; it leads nowhere before it is part of a [`route`](Self::route).
    pub fn add_link(&mut self, config: LinkConfig) -> LinkId {
        let index = self.links.len();
        let link = Link::new(config, self.seed, index);
        for (change, (at, _)) in link.changes().iter().enumerate() {
            self.order += 1;
            let event = Event::Changed(index, change);
            self.events.push(Reverse((*at, self.order, event)));
        }
        self.links.push(link);
        LinkId(index)
    }

    /// Leads what `from` sends to `to` over these links. Without any it arrives at once.
    pub fn route(&mut self, from: NodeId, to: NodeId, links: &[LinkId]) {
        let links = links.iter().map(|link| link.0).collect();
        self.routes.insert((from.0, to.0), links);
    }

    /// Writes what the node sends and receives from now on to `capture`.
    pub fn capture(&mut self, node: NodeId, capture: Capture) {
        self.nodes[node.0].capture = Some(capture);
    }

    /// True time.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Time as the node sees it.
    #[must_use]
    pub fn now_at(&self, node: NodeId) -> Instant {
        self.nodes[node.0].host.clock.show(self.now)
    }

    /// Hash of every packet delivered so far: when, from whom, to whom and what.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.trace.value()
    }

    /// Packets that are under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.packets.len()
    }

    /// What became of a link's packets.
    #[must_use]
    pub fn report(&self, link: LinkId) -> &LinkReport {
        &self.links[link.0].report
    }

    /// Starts a link's report anew.
    pub fn forget(&mut self, link: LinkId) {
        self.links[link.0].forget();
    }

    /// What a node sent and received.
    #[must_use]
    pub fn counts(&self, node: NodeId) -> NodeCounts {
        self.nodes[node.0].counts
    }

    /// The node, which is a `T`.
    ///
    /// # Panics
    /// If it is none.
    #[must_use]
    pub fn node<T: Node>(&self, node: NodeId) -> &T {
        let any: &dyn Any = &*self.nodes[node.0].node;
        any.downcast_ref().expect("the node is of the asked type")
    }

    /// Lets the user of a node, which is a `T`, act on it now; then the node sends what follows.
    ///
    /// # Panics
    /// If it is none.
    pub fn act<T: Node, R>(&mut self, node: NodeId, act: impl FnOnce(&mut T, Instant) -> R) -> R {
        let local = self.now_at(node);
        let any: &mut dyn Any = &mut *self.nodes[node.0].node;
        let node_itself = any.downcast_mut().expect("the node is of the asked type");
        let result = act(node_itself, local);
        self.pump(node.0);
        result
    }

    /// Handles the next event, if there is one not after `until`. True time moves to it, else to
    /// `until`.
    pub fn step(&mut self, until: Instant) -> bool {
        match self.events.peek() {
            Some(Reverse((at, _, _))) if *at <= until => {}
            _ => {
                self.now = self.now.max(until);
                return false;
            }
        }
        let Some(Reverse((at, _, event))) = self.events.pop() else {
            return false;
        };
        debug_assert!(at >= self.now, "time does not go back");
        self.now = at;
        self.dispatch(event);
        true
    }

    /// Goes on until true time is `until`.
    pub fn run_until(&mut self, until: Instant) {
        while self.step(until) {}
    }

    /// Goes on until `done`, asked after every event, says so, or true time is `until`; returns
    /// whether it is done.
    pub fn run_to(&mut self, until: Instant, mut done: impl FnMut(&Self) -> bool) -> bool {
        while !done(self) {
            if !self.step(until) {
                return done(self);
            }
        }
        true
    }

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::Left(link) => self.leave(link),
            Event::Arrived(packet) => self.arrive(packet),
            Event::Overdue(link) => self.release(link, false),
            Event::Changed(link, change) => self.change(link, change),
            Event::Gathered(node) => self.hand_over(node),
            Event::Deadline(node) => self.serve_deadline(node),
            Event::Writable(node) => {
                self.nodes[node].blocked = false;
                self.pump(node);
            }
        }
    }

    fn schedule(&mut self, at: Instant, event: Event) {
        self.order += 1;
        self.events.push(Reverse((at, self.order, event)));
    }

    fn change(&mut self, link: usize, change: usize) {
        let (_, what): (Instant, Change) = self.links[link].changes()[change];
        let seed = Digest::fork(self.seed, "change", link << 16 | change);
        self.links[link].apply(what, seed);
    }

    // Packets on links.

    fn forward(&mut self, key: usize) {
        let packet = &self.packets[key];
        let route = self.routes.get(&(packet.from, packet.to));
        let Some(&index) = route.and_then(|links| links.get(packet.hop)) else {
            self.deliver(key);
            return;
        };
        let size = packet.bytes.len() + headers(self.nodes[packet.to].address.ip());
        let dont_fragment = packet.dont_fragment;
        let flow = (packet.from, packet.to);
        let link = &mut self.links[index];
        if !link.admits(self.now, size, dont_fragment) {
            self.discard(key);
            return;
        }
        let out = link.enqueue(Waiting {
            packet: key,
            size,
            since: self.now,
            flow,
        });
        if let Some(out) = out {
            self.discard(out);
        }
        self.start(index);
    }

    fn start(&mut self, index: usize) {
        let mut dropped = Vec::new();
        let left = self.links[index].start(self.now, &mut dropped);
        if let Some(at) = left {
            self.schedule(at, Event::Left(index));
        }
        for key in dropped {
            self.discard(key);
        }
    }

    fn leave(&mut self, index: usize) {
        let link = &mut self.links[index];
        let Some(key) = link.finish() else {
            debug_assert!(false, "an event for each packet on the wire");
            return;
        };
        let mut spoil = None;
        let fate = link.fate(self.now, key, &mut spoil);
        if let Some(spoil) = spoil {
            self.spoil(key, spoil);
        }
        match fate {
            Fate::Lost => self.discard(key),
            Fate::Held => self.schedule(self.now + HELD_MAX, Event::Overdue(index)),
            Fate::Arrives(at) => self.pass(index, key, at),
            Fate::Twice(first, second) => {
                let twin = self.copy(key);
                self.pass(index, key, first);
                self.pass(index, twin, second);
            }
        }
        if fate != Fate::Held {
            self.release(index, true);
        }
        self.start(index);
    }

    fn pass(&mut self, index: usize, key: usize, at: Instant) {
        let packet = &mut self.packets[key];
        packet.hop += 1;
        let size = packet.bytes.len() + headers(self.nodes[packet.to].address.ip());
        let report = &mut self.links[index].report;
        report.passed += 1;
        report.passed_bytes += size as u64;
        self.schedule(at, Event::Arrived(key));
    }

    fn release(&mut self, index: usize, overtaken: bool) {
        let mut released = Vec::new();
        let now = self.now;
        self.links[index].release(now, overtaken, |key, at| released.push((key, at)));
        for (key, at) in released {
            self.pass(index, key, at);
        }
    }

    fn arrive(&mut self, key: usize) {
        self.forward(key);
    }

    fn spoil(&mut self, key: usize, spoil: Spoil) {
        let bytes = &mut self.packets[key].bytes;
        match spoil {
            Spoil::Cut(len) => bytes.truncate(len),
            Spoil::Replace(seed) => {
                let mut rng = SmallRng::seed_from_u64(seed);
                bytes.resize(rng.random_range(1..1_400), 0);
                rng.fill(bytes.as_mut_slice());
            }
        }
    }

    fn copy(&mut self, key: usize) -> usize {
        let mut bytes = self.spare.pop().unwrap_or_default();
        let packet = &self.packets[key];
        bytes.extend_from_slice(&packet.bytes);
        let twin = Packet { bytes, ..*packet };
        self.packets.insert(twin)
    }

    fn discard(&mut self, key: usize) {
        let mut bytes = self.packets.remove(key).bytes;
        bytes.clear();
        self.spare.push(bytes);
    }

    // Packets at nodes.

    fn deliver(&mut self, key: usize) {
        let Packet {
            from, to, bytes, ..
        } = self.packets.remove(key);
        self.trace.number(self.now.as_nanos());
        self.trace.number((from as u64) << 32 | to as u64);
        self.trace.bytes(&bytes);
        let source = self.nodes[from].address;
        let now = self.now;
        let slot = &mut self.nodes[to];
        slot.counts.received += 1;
        if let Some(capture) = &mut slot.capture {
            capture
                .datagram(now, source, slot.address, &bytes)
                .expect("the capture file can be written");
        }
        if slot.inbox_bytes + bytes.len() > RECEIVE_BUFFER {
            slot.counts.overflowed += 1;
            self.spare.push(bytes);
            return;
        }
        slot.inbox_bytes += bytes.len();
        slot.inbox.push((source, slot.host.clock.show(now), bytes));
        let gather = slot.host.gather;
        if slot.inbox.len() > 1 {
            return;
        }
        if gather.is_zero() {
            self.hand_over(to);
        } else {
            self.schedule(now + gather, Event::Gathered(to));
        }
    }

    /// Hands over what came to the node, neighbours of one sender and length together, as
    /// `UDP_GRO` does.
    fn hand_over(&mut self, index: usize) {
        let slot = &mut self.nodes[index];
        let local = slot.host.clock.show(self.now);
        let mut first: Option<(SocketAddr, Instant, usize)> = None;
        let mut short = false;
        self.batch.clear();
        for (from, at, mut bytes) in slot.inbox.drain(..) {
            let joins = first.is_some_and(|(source, _, segment)| {
                source == from
                    && !short
                    && bytes.len() <= segment
                    && self.batch.len() + bytes.len() <= flock_transport::TRAIN_BYTES_MAX
            });
            if !joins {
                if let Some((source, when, segment)) = first {
                    slot.node.handle(local, source, when, segment, &self.batch);
                }
                self.batch.clear();
                first = Some((from, at, bytes.len()));
                short = bytes.is_empty();
            }
            short |= first.is_some_and(|(_, _, segment)| bytes.len() < segment);
            self.batch.extend_from_slice(&bytes);
            bytes.clear();
            self.spare.push(bytes);
        }
        slot.inbox_bytes = 0;
        if let Some((source, when, segment)) = first {
            slot.node.handle(local, source, when, segment, &self.batch);
        }
        slot.node.end_batch(local);
        self.pump(index);
    }

    fn serve_deadline(&mut self, index: usize) {
        let slot = &mut self.nodes[index];
        if slot.armed != Some(self.now) {
            return;
        }
        slot.armed = None;
        let local = slot.host.clock.show(self.now);
        if slot.node.next_deadline().is_none_or(|at| at > local) {
            self.arm(index);
            return;
        }
        slot.turns.1 = if slot.turns.0 == self.now {
            slot.turns.1 + 1
        } else {
            0
        };
        slot.turns.0 = self.now;
        assert!(
            slot.turns.1 < TURNS_AT_ONCE_MAX,
            "{}: the deadline at {local:?} is served again and again",
            slot.address
        );
        slot.node.on_deadline(local);
        self.pump(index);
    }

    fn arm(&mut self, index: usize) {
        let now = self.now;
        let slot = &mut self.nodes[index];
        let Some(deadline) = slot.node.next_deadline() else {
            return;
        };
        let at = slot.host.clock.when(deadline).max(now) + slot.host.lateness;
        if at < Instant::FAR_FUTURE && slot.armed.is_none_or(|armed| armed > at) {
            slot.armed = Some(at);
            self.schedule(at, Event::Deadline(index));
        }
    }

    /// Sends what the node has to send, and asks for its deadline.
    fn pump(&mut self, index: usize) {
        let mut train = std::mem::take(&mut self.train);
        let mut trains = 0;
        while !self.nodes[index].blocked {
            let slot = &mut self.nodes[index];
            let local = slot.host.clock.show(self.now);
            if !slot.node.poll_transmit(local, &mut train) {
                break;
            }
            trains += 1;
            assert!(trains < TRAINS_MAX, "{} sends without end", slot.address);
            if slot.host.refuse > 0.0 && slot.rng.random_bool(slot.host.refuse) {
                slot.counts.refused += 1;
                slot.node.refused(local, train.tag);
                slot.blocked = true;
                self.schedule(self.now + REFUSED_FOR, Event::Writable(index));
                break;
            }
            slot.counts.trains += 1;
            slot.counts.sent += train.datagrams() as u64;
            slot.node.sent(local, train.tag);
            self.send(index, &train);
        }
        self.train = train;
        self.arm(index);
    }

    fn send(&mut self, from: usize, train: &Train) {
        let Some(&to) = self.addresses.get(&train.to()) else {
            self.nodes[from].counts.unroutable += train.datagrams() as u64;
            return;
        };
        let mut parts = train.parts();
        let mut part: &[u8] = &[];
        let mut left = train.len();
        for _ in 0..train.datagrams() {
            let size = left.min(train.segment());
            left -= size;
            let mut bytes = self.spare.pop().unwrap_or_default();
            while bytes.len() < size {
                if part.is_empty() {
                    part = parts.next().expect("the parts are as long as the train");
                }
                let (now, later) = part.split_at(part.len().min(size - bytes.len()));
                bytes.extend_from_slice(now);
                part = later;
            }
            self.emit(from, to, train.dont_fragment, bytes);
        }
    }

    fn emit(&mut self, from: usize, to: usize, dont_fragment: bool, bytes: Vec<u8>) {
        let destination = self.nodes[to].address;
        let slot = &mut self.nodes[from];
        if let Some(capture) = &mut slot.capture {
            capture
                .datagram(self.now, slot.address, destination, &bytes)
                .expect("the capture file can be written");
        }
        if !self.routes.contains_key(&(from, to)) {
            slot.counts.unroutable += 1;
            return;
        }
        let key = self.packets.insert(Packet {
            from,
            to,
            hop: 0,
            dont_fragment,
            bytes,
        });
        self.forward(key);
    }
}
