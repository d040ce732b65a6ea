//! All connections of one UDP socket.

mod connections;
mod cookie;
mod counters;
mod deadlines;
mod half_open;
mod ids;
mod incoming;
mod network;
mod outgoing;
mod ring;

use crate::config::Config;
use crate::connection::Connection;
use crate::path::MtuCache;
use crate::wire::Seq;
use ahash::RandomState;
use bytes::Bytes;
use connections::Connections;
pub use counters::Counters;
use deadlines::Deadlines;
use flock_transport::{CloseReason, Instant, Queued, SendRefused, canonical};
use half_open::HalfOpen;
use ids::LateIds;
use network::{Bucket, Buckets};
use outgoing::{Replies, Trains};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ring::{Flow, Ring};
use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;

#[cfg(test)]
mod tests;

/// Names a connection of one endpoint; stale once the connection is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Where the connection is; below the number of connections there ever were at once.
    pub slot: u32,
    /// Which of those that were there.
    pub generation: u32,
}

/// What happened to a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The peer answered our dial.
    Connected {
        /// The connection.
        key: Key,
    },
    /// A peer dialled us and proved that it receives what we send to its address.
    Accepted {
        /// The connection.
        key: Key,
        /// The peer.
        from: SocketAddr,
    },
    /// The next bytes of the stream.
    Data {
        /// The connection.
        key: Key,
        /// Where they are in the datagrams just handed to [`Endpoint::handle`].
        range: Range<usize>,
    },
    /// The next bytes of the stream, which had waited for earlier ones or for
    /// [`Endpoint::resume`].
    Buffered {
        /// The connection.
        key: Key,
        /// The bytes.
        bytes: Bytes,
    },
    /// The peer ended its direction.
    Eof {
        /// The connection.
        key: Key,
    },
    /// All that was sent before [`Endpoint::close`] and our end behind it have been acknowledged,
    /// and the peer has not ended yet.
    Delivered {
        /// The connection.
        key: Key,
    },
    /// The send queue fell below its low-water mark after having been above the high one.
    Writable {
        /// The connection.
        key: Key,
    },
    /// A RESET that ended nothing here. Some stacks send back our own id instead of theirs, and it
    /// may be for a connection of another shard: the owners of the ids beside it, which
    /// [`reset_owners`](crate::reset_owners) names, may be handed it. Only where there are several
    /// shards, and at most as many a second as RESETs are sent.
    StrayReset {
        /// Who sent it.
        from: SocketAddr,
        /// Where it is in the datagrams just handed to [`Endpoint::handle`].
        range: Range<usize>,
    },
    /// The connection is gone; the last event with this key.
    Closed {
        /// The connection.
        key: Key,
        /// Why.
        reason: CloseReason,
        /// Payload bytes that the peer had acknowledged.
        acked: u64,
    },
}

/// Why a dial was not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectRefused {
    /// [`Config::connections_max`] is reached.
    TooManyConnections,
    /// No connection id towards this address is free.
    NoFreeId,
    /// Nobody can be at such an address.
    BadAddress,
}

#[cfg(test)]
impl Event {
    /// Which connection is gone, and why.
    fn closed(&self) -> Option<(Key, CloseReason)> {
        match self {
            Self::Closed { key, reason, .. } => Some((*key, *reason)),
            _ => None,
        }
    }
}

impl fmt::Display for ConnectRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooManyConnections => "too many connections",
            Self::NoFreeId => "no connection id is free towards this address",
            Self::BadAddress => "no address of a peer",
        })
    }
}

impl std::error::Error for ConnectRefused {}

/// All uTP connections of one UDP socket, as a pure machine.
///
/// After every [`handle`](Self::handle) the events are to be taken with
/// [`poll_event`](Self::poll_event); after every batch of them, [`end_batch`](Self::end_batch) and
/// then [`poll_transmit`](Self::poll_transmit) are called, and again after any other call that may
/// give something to send. Every train is answered with [`sent`](Self::sent) or
/// [`refused`](Self::refused).
pub struct Endpoint {
    config: Config,
    shard: u16,
    shards: u16,
    rng: StdRng,
    connections: Connections,
    half_open: HalfOpen,
    tombstones: Ring<Tombstone>,
    deadlines: Deadlines,
    late_ids: LateIds,
    /// Connections that may have something to send.
    ready: VecDeque<u32>,
    /// Connections that received something in this batch.
    touched: Vec<u32>,
    events: VecDeque<Event>,
    replies: Replies,
    trains: Trains,
    resets: Bucket,
    /// RESETs that other shards are asked about.
    stray_resets: Bucket,
    network_resets: Buckets,
    /// What paths were found to carry.
    mtus: MtuCache,
    /// Cost of what all connections keep for their applications.
    held: u64,
    /// SYNs are ignored.
    held_back: bool,
    counters: Counters,
}

/// Deadlines served in one call: some tenths of a millisecond.
const DUE_AT_ONCE: u32 = 1024;

/// Networks whose path MTU is remembered.
const MTUS_MAX: usize = 16 * 1024;

/// What remains of a connection that both sides have ended.
#[derive(Clone, Copy)]
struct Tombstone {
    send_id: u16,
    seq: u16,
    ack: u16,
}

impl Endpoint {
    /// An endpoint of shard `shard` out of `shards`: the ids in packets to it are congruent to
    /// `shard`. All chance comes from `seed`, which peers must not be able to guess.
    ///
    /// # Panics
    /// If `shard` is not below `shards`.
    #[must_use]
    pub fn new(config: Config, shard: u16, shards: u16, seed: [u8; 32]) -> Self {
        assert!(shard < shards, "a shard of those there are");
        let mut rng = StdRng::from_seed(seed);
        let [a, b, c, d] = rng.random();
        let hash = RandomState::with_seeds(a, b, c, d);
        Self {
            shard,
            shards,
            connections: Connections::new(&config, hash.clone()),
            half_open: HalfOpen::new(&config, &hash, &mut rng),
            tombstones: Ring::new(config.tombstones_max, config.tombstone_life, hash.clone()),
            deadlines: Deadlines::default(),
            late_ids: LateIds::default(),
            ready: VecDeque::new(),
            touched: Vec::new(),
            events: VecDeque::new(),
            replies: Replies::default(),
            trains: Trains::default(),
            resets: Bucket::default(),
            stray_resets: Bucket::default(),
            network_resets: Buckets::new(hash.clone()),
            mtus: MtuCache::new(MTUS_MAX, hash),
            held: 0,
            held_back: false,
            counters: Counters::default(),
            rng,
            config,
        }
    }

    /// Dials. The SYN goes out with the next [`poll_transmit`](Self::poll_transmit);
    /// [`Event::Connected`] or [`Event::Closed`] follows.
    ///
    /// # Errors
    /// No connection can be made; nothing follows.
    pub fn connect(&mut self, now: Instant, to: SocketAddr) -> Result<Key, ConnectRefused> {
        self.dial(now, to, false)
    }

    /// Dials, and sends nothing but SYNs until [`release`](Self::release): so that a dial can be
    /// given up for another one without the peer having seen more than a handshake.
    ///
    /// # Errors
    /// As for [`connect`](Self::connect).
    pub fn connect_quiet(&mut self, now: Instant, to: SocketAddr) -> Result<Key, ConnectRefused> {
        self.dial(now, to, true)
    }

    fn dial(&mut self, now: Instant, to: SocketAddr, quiet: bool) -> Result<Key, ConnectRefused> {
        let to = canonical(to);
        if to.port() == 0 || to.ip().is_unspecified() || to.ip().is_multicast() {
            return Err(ConnectRefused::BadAddress);
        }
        if self.connections.is_full() {
            return Err(ConnectRefused::TooManyConnections);
        }
        let id = self.free_id(&to).ok_or(ConnectRefused::NoFreeId)?;
        let syn = Seq::new(self.rng.random());
        let mut connection = Connection::dialled(&self.config, now, to, id, syn, quiet);
        if let Some(known) = self.mtus.get(to) {
            connection.set_mtu(&self.config, known);
        }
        let key = self.connections.insert(connection);
        self.list(key.slot);
        self.arm(key.slot);
        Ok(key)
    }

    /// An id for packets from `to` that lands on this shard and that nobody uses, and if possible
    /// none that was given lately.
    fn free_id(&mut self, to: &SocketAddr) -> Option<u16> {
        const TRIES: u32 = 64;
        let groups = u16::MAX / self.shards;
        let found = (0..TRIES).find_map(|attempt| {
            let group = self.rng.random_range(0..=groups);
            let id = group.checked_mul(self.shards)?.checked_add(self.shard)?;
            let late = attempt < TRIES / 2 && self.late_ids.has(id);
            // With the last id, the other direction's would overflow in some stacks.
            let usable = id != u16::MAX && !late && self.connections.find(to, id).is_none();
            usable.then_some(id)
        });
        if let Some(id) = found {
            self.late_ids.give(id, u32::from(groups) + 1);
        }
        found
    }

    /// The address of a connection's peer; `None`: the connection is gone.
    #[must_use]
    pub fn peer(&self, key: Key) -> Option<SocketAddr> {
        self.connections.get(key).map(Connection::peer)
    }

    /// Whether to ignore SYNs for a while, as if they had been lost. Handshakes that have begun go
    /// on.
    pub fn hold(&mut self, hold: bool) {
        self.held_back = hold;
    }

    /// Queues `data` by reference. Empty data does nothing. Before [`Event::Connected`] it waits.
    ///
    /// # Errors
    /// The queue would exceed its hard limit, or nothing may be sent any more.
    pub fn send(&mut self, key: Key, data: Bytes) -> Result<Queued, SendRefused> {
        let Some(connection) = self.connections.get_mut(key) else {
            return Err(SendRefused::Closed(data));
        };
        let queued = connection.send(data)?;
        self.list(key.slot);
        Ok(queued)
    }

    /// Bytes that the peer has not acknowledged.
    #[must_use]
    pub fn queued(&self, key: Key) -> u64 {
        self.connections.get(key).map_or(0, Connection::queued)
    }

    /// Payload bytes that the peer has acknowledged.
    #[must_use]
    pub fn acked(&self, key: Key) -> u64 {
        self.connections.get(key).map_or(0, Connection::acked)
    }

    /// Whether our direction has ended and the peer has acknowledged all of it.
    #[must_use]
    pub fn delivered(&self, key: Key) -> bool {
        self.connections.get(key).is_some_and(Connection::delivered)
    }

    /// Ends our direction after what is queued; receiving goes on.
    pub fn end(&mut self, key: Key) {
        if let Some(connection) = self.connections.get_mut(key) {
            connection.end();
            self.list(key.slot);
        }
    }

    /// Closes after what is queued: ends our direction and waits for the peer's end. Nothing is
    /// delivered any more but [`Event::Delivered`] and [`Event::Closed`]. A dial without an answer is given up.
    pub fn close(&mut self, now: Instant, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if connection.is_dialling() {
            return self.abort(now, key);
        }
        let before = connection.held();
        connection.close(now, &self.config);
        connection.release();
        let after = connection.held();
        self.account(before, after);
        self.settle(now, key.slot);
    }

    /// Resets the connection; what is queued is lost. [`Event::Closed`] follows at once.
    pub fn abort(&mut self, now: Instant, key: Key) {
        if self.connections.get(key).is_some() {
            self.drop_connection(now, key.slot, CloseReason::Local, true);
        }
    }

    /// Lets a quiet connection send.
    pub fn release(&mut self, key: Key) {
        if let Some(connection) = self.connections.get_mut(key) {
            connection.release();
            self.list(key.slot);
            self.arm(key.slot);
        }
    }

    /// Delivers no more; what comes is kept, within the window.
    pub fn pause(&mut self, key: Key) {
        if let Some(connection) = self.connections.get_mut(key) {
            connection.pause();
        }
    }

    /// Delivers again, what was kept first: as events, before this returns.
    pub fn resume(&mut self, now: Instant, key: Key) {
        self.resume_for(now, key, u64::MAX);
    }

    /// Delivers `most` bytes, to the packet, of what was kept. If that was all,
    /// [`pause`](Self::pause) is over, as after [`resume`](Self::resume); else it goes on.
    pub fn resume_for(&mut self, now: Instant, key: Key, most: u64) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let before = connection.held();
        connection.resume(most, key, &mut self.events);
        let after = connection.held();
        self.account(before, after);
        self.settle(now, key.slot);
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`on_deadline`](Self::on_deadline) is to be called.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first()
    }

    /// Looks after connections whose deadline has come;
    /// [`poll_transmit`](Self::poll_transmit) follows. It does not take long: where many are due,
    /// [`next_deadline`](Self::next_deadline) stays in the past, for another call.
    pub fn on_deadline(&mut self, now: Instant) {
        for _ in 0..DUE_AT_ONCE {
            let Some(slot) = self.deadlines.pop_due(now) else {
                return;
            };
            let Some(connection) = self.connections.at_mut(slot) else {
                continue;
            };
            connection.armed = Instant::FAR_FUTURE;
            if let Err(reason) = connection.on_deadline(now, &self.config) {
                let tell_peer = !connection.is_dialling();
                self.drop_connection(now, slot, reason, tell_peer);
                continue;
            }
            // Armed again when it was asked for what it has to send: until then its deadline
            // may lie in the past.
            self.list(slot);
        }
    }

    /// Connections there are, dials included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// Whether there is no connection.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Handshakes that peers began and have not confirmed, those not remembered apart.
    #[must_use]
    pub fn half_open(&self) -> usize {
        self.half_open.len()
    }

    /// Counts since the endpoint was made.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let half_open = self.half_open.counts;
        Counters {
            cookies: half_open.cookies,
            syn_replayed: half_open.replayed,
            syn_ignored: half_open.ignored,
            wrong_confirmations: half_open.wrong,
            half_open_expired: half_open.expired,
            replies_dropped: self.replies.dropped,
            ..self.counters
        }
    }

    /// What all connections together may still keep for their applications.
    fn room(&self) -> u64 {
        self.config.receive_total.saturating_sub(self.held)
    }

    fn account(&mut self, before: u32, after: u32) {
        self.held = self.held + u64::from(after) - u64::from(before);
    }

    /// After an input: ends the connection if it is finished, and otherwise sees to it that it
    /// sends and wakes.
    fn settle(&mut self, now: Instant, slot: u32) {
        let Some(connection) = self.connections.at_mut(slot) else {
            return;
        };
        if let Some(reason) = connection.finished() {
            self.drop_connection(now, slot, reason, false);
            return;
        }
        self.list(slot);
        self.arm(slot);
    }

    /// Puts a connection into the list of those that may have something to send.
    fn list(&mut self, slot: u32) {
        if let Some(connection) = self.connections.at_mut(slot)
            && !connection.listed
        {
            connection.listed = true;
            self.ready.push_back(slot);
        }
    }

    /// Arms the deadline of a connection. An earlier one stays, which is cheaper than moving it
    /// with every packet.
    fn arm(&mut self, slot: u32) {
        let Some(connection) = self.connections.at_mut(slot) else {
            return;
        };
        let Some(at) = connection.deadline(&self.config) else {
            return;
        };
        if at < connection.armed {
            connection.armed = at;
            self.deadlines.set(slot, Some(at));
        }
    }

    /// Removes a connection. A finished one is remembered for a while; one that ends otherwise
    /// is reset if the peer is to be told.
    fn drop_connection(&mut self, now: Instant, slot: u32, reason: CloseReason, tell_peer: bool) {
        let Some((key, connection)) = self.connections.remove(slot) else {
            return;
        };
        self.deadlines.set(slot, None);
        self.account(connection.held(), 0);
        if let Some(size) = connection.mtu() {
            self.mtus.put(connection.peer(), size);
        }
        let finished = connection.finished().is_some();
        if finished {
            if connection.owes() {
                self.replies
                    .push(connection.peer(), connection.last_header(now));
            }
            let flow = Flow::new(&connection.peer(), connection.recv_id());
            let tombstone = Tombstone {
                send_id: connection.send_id(),
                seq: connection.next_seq().get(),
                ack: connection.receiver_ack().get(),
            };
            self.tombstones.expire(now, |_, _| {});
            if self.tombstones.get_mut(&flow).is_none() {
                self.tombstones.insert(now, flow, tombstone);
            }
        } else if tell_peer && !connection.is_dialling() {
            self.replies
                .push(connection.peer(), connection.reset_header(now));
        }
        let acked = connection.acked();
        self.events.push_back(Event::Closed { key, reason, acked });
    }
}
