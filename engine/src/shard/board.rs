//! Where shards put their numbers for others to read.

use crate::swarm::{self, SwarmCounters};
use flock_transport::CloseReason;
use std::sync::{Mutex, PoisonError};

/// What a shard counted since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardCounters {
    /// What the swarm decided.
    pub swarm: SwarmCounters,
    /// What the uTP endpoints counted.
    pub utp: flock_utp::Counters,
    /// Connections admitted.
    pub admitted: u64,
    /// Inbound connections turned away before their handshake: limits, lists, bans.
    pub inbound_refused: u64,
    /// Peers whose handshake was not one.
    pub bad_handshakes: u64,
    /// Peers whose handshake did not end in time.
    pub handshake_timeouts: u64,
    /// Connections that peers ended in good order.
    pub peer_ends: u64,
    /// Connections that peers reset.
    pub peer_resets: u64,
    /// Connections closed in favour of another one to the same peer.
    pub redundant: u64,
    /// Refused connections that were reset because as many as may were still ending.
    pub endings_reset: u64,
    /// Dials that found no room in the connection or socket table.
    pub dials_refused: u64,
    /// Handler calls that panicked.
    pub handler_panics: u64,
    /// Listeners that broke.
    pub accept_failures: u64,
    /// Times that receiving datagrams broke.
    pub datagram_failures: u64,
    /// Groups of datagram sockets that the kernel would not steer connections to
    /// (`SO_ATTACH_REUSEPORT_CBPF`); shards then hand on what is not theirs.
    pub steering_failures: u64,
    /// Datagram sockets with smaller buffers than were asked for (`net.core.rmem_max`,
    /// `net.core.wmem_max`).
    pub datagram_buffers_capped: u64,
    /// Datagrams handed on to the shard whose connection they are for.
    pub datagrams_forwarded: u64,
    /// Datagrams for another shard that its mailbox had no room for.
    pub datagrams_dropped: u64,
    /// Trains that the kernel had no room for; they were sent later.
    pub trains_refused: u64,
    /// Trains that the kernel had no way for.
    pub trains_lost: u64,
    /// Messages to other shards' swarms.
    pub messages_sent: u64,
    /// Connections given up because another thread sent more than the send queue may hold.
    pub sends_overflowed: u64,
    /// Requests for connections that had gone.
    pub stale_commands: u64,
    /// Requests of the API that the mailbox had no room for.
    pub mail_refused: u64,
    /// Timers that the wheel had no room for.
    pub timers_refused: u64,
    /// Times the driver could not go on.
    pub driver_failures: u64,
    /// Operations whose memory was leaked at the end because the kernel still held it.
    pub operations_leaked: u64,
}

impl ShardCounters {
    pub(super) fn count_closed(&mut self, reason: CloseReason) {
        match reason {
            CloseReason::HandshakeTimeout => self.handshake_timeouts += 1,
            CloseReason::Handshake(_) => self.bad_handshakes += 1,
            CloseReason::PeerClosed => self.peer_ends += 1,
            CloseReason::PeerReset => self.peer_resets += 1,
            CloseReason::Redundant => self.redundant += 1,
            _ => {}
        }
    }

    /// Adds another shard's counters to these.
    pub fn add(&mut self, other: &Self) {
        self.swarm.add(&other.swarm);
        self.utp.add(&other.utp);
        self.admitted += other.admitted;
        self.inbound_refused += other.inbound_refused;
        self.handshake_timeouts += other.handshake_timeouts;
        self.peer_ends += other.peer_ends;
        self.peer_resets += other.peer_resets;
        self.redundant += other.redundant;
        self.bad_handshakes += other.bad_handshakes;
        self.endings_reset += other.endings_reset;
        self.dials_refused += other.dials_refused;
        self.handler_panics += other.handler_panics;
        self.accept_failures += other.accept_failures;
        self.datagram_failures += other.datagram_failures;
        self.steering_failures += other.steering_failures;
        self.datagram_buffers_capped += other.datagram_buffers_capped;
        self.datagrams_forwarded += other.datagrams_forwarded;
        self.datagrams_dropped += other.datagrams_dropped;
        self.trains_refused += other.trains_refused;
        self.trains_lost += other.trains_lost;
        self.messages_sent += other.messages_sent;
        self.sends_overflowed += other.sends_overflowed;
        self.stale_commands += other.stale_commands;
        self.mail_refused += other.mail_refused;
        self.timers_refused += other.timers_refused;
        self.driver_failures += other.driver_failures;
        self.operations_leaked += other.operations_leaked;
    }
}

/// One shard's numbers as of the end of its latest turn.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShardStats {
    /// The seed's three counters.
    pub peers: swarm::Stats,
    /// Everything else.
    pub counters: ShardCounters,
}

/// One place per shard, so that shards never wait for each other, only for a reader.
#[derive(Debug)]
pub(crate) struct Board {
    shards: Vec<Mutex<ShardStats>>,
}

impl Board {
    pub(crate) fn new(shards: usize) -> Self {
        Self {
            shards: (0..shards).map(|_| Mutex::default()).collect(),
        }
    }

    pub(crate) fn publish(&self, shard: usize, peers: swarm::Stats, counters: &ShardCounters) {
        let mut place = self.shards[shard]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *place = ShardStats {
            peers,
            counters: *counters,
        };
    }

    /// The sum over all shards.
    pub(crate) fn sum(&self) -> ShardStats {
        let mut sum = ShardStats::default();
        for place in &self.shards {
            let stats = *place.lock().unwrap_or_else(PoisonError::into_inner);
            sum.peers.connecting += stats.peers.connecting;
            sum.peers.queued += stats.peers.queued;
            sum.peers.connected += stats.peers.connected;
            sum.counters.add(&stats.counters);
        }
        sum
    }
}
