//! Where shards put their numbers for others to read.

use crate::io::DriverCounters;
use crate::swarm::{self, SwarmCounters};
use flock_transport::CloseReason;
use std::sync::{Mutex, PoisonError};

flock_transport::counters! {
    /// What a shard counted since its start.
    pub struct ShardCounters {
        /// Connections admitted.
        admitted,
        /// Inbound connections turned away before their handshake: limits, lists, bans.
        inbound_refused,
        /// Peers whose handshake was not one.
        bad_handshakes,
        /// Peers whose handshake did not end in time.
        handshake_timeouts,
        /// Connections that peers ended in good order.
        peer_ends,
        /// Connections that peers reset.
        peer_resets,
        /// Connections closed in favour of another one to the same peer.
        redundant,
        /// Refused connections that were reset because as many as may were still ending.
        endings_reset,
        /// Dials that found no room in the connection or socket table.
        dials_refused,
        /// Calls of handlers, protocols and connectors that panicked.
        handler_panics,
        /// Listeners that broke.
        accept_failures,
        /// Times that receiving datagrams broke.
        datagram_failures,
        /// Groups of datagram sockets that the kernel would not steer connections to
        /// (`SO_ATTACH_REUSEPORT_CBPF`); shards then hand on what is not theirs.
        steering_failures,
        /// Datagram sockets with smaller buffers than were asked for (`net.core.rmem_max`,
        /// `net.core.wmem_max`).
        datagram_buffers_capped,
        /// Datagrams handed on to the shard whose connection they are for.
        datagrams_forwarded,
        /// Datagrams for another shard that its mailbox had no room for.
        datagrams_dropped,
        /// Trains that the kernel had no room for; they were sent later.
        trains_refused,
        /// Trains that the kernel had no way for.
        trains_lost,
        /// Messages to other shards' swarms.
        messages_sent,
        /// Times that a peer was held back because its bytes were not taken.
        peers_held_back,
        /// Connections given up because another thread sent more than the send queue may hold.
        sends_overflowed,
        /// Files that were shorter than was said, or could not be read; their connections were reset.
        files_failed,
        /// Connections reset because the connector could make nothing of what the peer sent.
        connectors_refused,
        /// Connections reset because the connector put out more than one call may.
        connectors_overflowed,
        /// Requests for connections that had gone.
        stale_commands,
        /// Requests of the API that the mailbox had no room for.
        mail_refused,
        /// Timers that the wheel had no room for.
        timers_refused,
        /// Times the driver could not go on.
        driver_failures,
        /// Operations whose memory was leaked at the end because the kernel still held it.
        operations_leaked,
        ;
        /// What the swarm decided.
        swarm: SwarmCounters,
        /// What the uTP endpoints counted.
        utp: flock_utp::Counters,
        /// What the driver counted.
        driver: DriverCounters,
    }
}

impl ShardCounters {
    pub(super) fn count_closed(&mut self, reason: CloseReason) {
        match reason {
            CloseReason::HandshakeTimeout => self.handshake_timeouts += 1,
            CloseReason::Handshake(_) => self.bad_handshakes += 1,
            CloseReason::PeerClosed => self.peer_ends += 1,
            CloseReason::PeerReset => self.peer_resets += 1,
            CloseReason::Redundant => self.redundant += 1,
            CloseReason::ConnectorRefused => self.connectors_refused += 1,
            CloseReason::ConnectorOverflow => self.connectors_overflowed += 1,
            _ => {}
        }
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
