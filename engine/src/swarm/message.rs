//! What the swarms of different shards say to each other, and which shard to say it to.

use super::counts::Place;
use crate::names::{ChannelKey, ConnId, PeerId};
use flock_transport::{CloseReason, Transport};
use std::hash::Hash;
use std::net::SocketAddr;

/// Which shard is home to what. The same on every shard of an engine.
#[derive(Clone, Debug)]
pub(crate) struct Homes {
    hasher: ahash::RandomState,
    shards: u16,
}

impl Homes {
    /// `seed` keys the hash, so that a remote cannot choose the shard it lands on.
    pub(crate) fn new(seed: u64, shards: u16) -> Self {
        let hasher = ahash::RandomState::with_seeds(seed, !seed, seed.rotate_left(23), 1);
        Self { hasher, shards }
    }

    /// The shard that dials an address.
    pub(crate) fn of_addr(&self, addr: SocketAddr) -> u16 {
        self.of(addr)
    }

    /// The shard that decides which connection to a peer stays. All of the id is hashed: ids
    /// share prefixes.
    pub(crate) fn of_peer(&self, peer: &PeerId) -> u16 {
        self.of(peer)
    }

    fn of(&self, what: impl Hash) -> u16 {
        if self.shards == 1 {
            return 0;
        }
        let shard = self.hasher.hash_one(what) % u64::from(self.shards);
        u16::try_from(shard).expect("below the number of shards")
    }
}

/// One connection, as its peer's home shard sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Contender {
    pub(crate) conn: ConnId,
    pub(crate) initiator: bool,
    pub(crate) transport: Transport,
    /// Whether its candidate has a reserved place.
    pub(crate) reserved: bool,
}

impl Contender {
    /// What it counts as once it is admitted.
    pub(super) fn place(self) -> Place {
        Place {
            initiator: self.initiator,
            reserved: self.reserved,
        }
    }
}

/// A message between swarms. Those of one sender arrive in order.
#[derive(Clone, Debug)]
pub(crate) enum PeerMessage {
    /// To the home: this connection's handshake is done; may it be the peer's?
    Claim { peer: PeerId, contender: Contender },
    /// To the home: a connection that claimed is over.
    Release { peer: PeerId, conn: ConnId },
    /// From the home: the connection is admitted.
    Granted { conn: ConnId },
    /// From the home: it is not.
    Refused { conn: ConnId, reason: CloseReason },
    /// From the home: end this connection, another takes its place. `Release` answers it.
    Yield { conn: ConnId },
    /// From the home, to shards with candidates linked to the peer: it is connected no more.
    PeerGone { peer: PeerId },
    /// To the home: an address that leads to the peer was found for these channels.
    Known {
        peer: PeerId,
        channels: Vec<ChannelKey>,
    },
    /// From the home, to the shard of the peer's connection.
    KnownFor {
        conn: ConnId,
        channels: Vec<ChannelKey>,
    },
    /// There may be room for a dial. Handed on at most `hops` times by shards with none to make.
    Refill { hops: u16 },
}
