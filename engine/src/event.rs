//! What an engine reports: the events of the seed, with its fields.

use crate::names::{ChannelKey, ConnId, PeerId};
use flock_transport::{CloseReason, Errno, Transport};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// A discovered peer, before anything is known about it but its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The channel it was first found for.
    pub channel: ChannelKey,
    /// Its address.
    pub addr: SocketAddr,
    /// How often a dial was retried.
    pub retries: u32,
}

impl Peer {
    /// The seed's `id` of a candidate: `host:port@channel`, IPv6 hosts in brackets, the channel
    /// in hex.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}@{}", self.addr, self.channel)
    }
}

/// What is known about a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// The connection.
    pub conn: ConnId,
    /// TCP or uTP.
    pub transport: Transport,
    /// Whether this side dialled.
    pub initiator: bool,
    /// The channel it was dialled for; none for inbound connections.
    pub channel: Option<ChannelKey>,
    /// The remote address.
    pub addr: SocketAddr,
    /// The remote peer's id, once the handshake told it.
    pub peer_id: Option<PeerId>,
}

/// What a connection has done since it was admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionReport {
    /// What is known about it.
    pub info: ConnectionInfo,
    /// The channels it is known for: those its address was found for, and those of other addresses
    /// that turned out to lead to the same peer. None for a peer that dialled us and was not found.
    pub channels: Vec<ChannelKey>,
    /// Bytes received from the network, handshake included.
    pub bytes_in: u64,
    /// Bytes sent to the network, handshake included.
    pub bytes_out: u64,
    /// Bytes that wait to be sent, or for their acknowledgement.
    pub queued: u64,
    /// How long ago it was admitted, to the second.
    pub age: Duration,
}

/// Why a candidate is refused for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BanReason {
    /// The application banned it (`ban`, `remove_peer`).
    Application,
    /// It turned out to be ourselves.
    DetectedSelf,
}

/// Why a candidate is refused now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RejectReason {
    /// It is known already, or connected.
    Duplicate,
    /// It is banned.
    Banned,
    /// The whitelist does not name it.
    Whitelist,
    /// The candidate table is full.
    TooManyCandidates,
    /// The denylist names it.
    Denied,
    /// The firewall refused it.
    Firewall,
}

/// Why an inbound connection was refused before its handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefuseReason {
    /// The address is banned.
    Banned,
    /// The whitelist does not name the address.
    Whitelist,
    /// `max_connections` is reached.
    TooManyConnections,
    /// Too many inbound handshakes are unfinished.
    TooManyHandshakes,
    /// The engine's connection table is full.
    TableFull,
    /// The denylist names the address.
    Denied,
    /// The firewall refused the address.
    Firewall,
    /// `max_inbound` is reached.
    TooManyInbound,
    /// There are `max_per_ip` connections with the address.
    TooManyFromIp,
    /// There are `max_per_subnet` connections with the network.
    TooManyFromSubnet,
    /// Connections come faster than `accept_rate`.
    AcceptRate,
    /// More waits to be sent than `memory_watermark`.
    Memory,
}

/// Something that happened. The names are the seed's; `PeerDropped` is its `drop`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A peer was discovered.
    Peer(Peer),
    /// A candidate was banned.
    PeerBanned {
        /// The candidate.
        peer: Peer,
        /// Why.
        reason: BanReason,
    },
    /// A candidate was rejected.
    PeerRejected {
        /// The candidate.
        peer: Peer,
        /// Why.
        reason: RejectReason,
    },
    /// A candidate is no longer tracked: too many failed dials.
    PeerDropped(Peer),
    /// A dial starts.
    Connecting(Peer),
    /// A dial failed.
    ConnectFailed {
        /// The candidate.
        peer: Peer,
        /// Whether it was the connect deadline.
        timed_out: bool,
    },
    /// A connection is established and its handshake begins.
    Handshaking(ConnectionInfo),
    /// The handshake did not end in time.
    HandshakeTimeout(ConnectionInfo),
    /// A peer is connected: its handshake is done and it was admitted.
    Connection(ConnectionInfo),
    /// A connection ended. Follows every `Handshaking`, exactly once.
    ConnectionClosed {
        /// The connection.
        info: ConnectionInfo,
        /// Why.
        reason: CloseReason,
        /// Bytes received from the network, handshake included.
        bytes_in: u64,
        /// Bytes sent to the network, handshake included.
        bytes_out: u64,
    },
    /// One of several connections to the same peer is about to be closed: this one.
    RedundantConnection(ConnectionInfo),
    /// An inbound connection was refused before its handshake.
    ConnectionRefused {
        /// The remote address.
        addr: SocketAddr,
        /// TCP or uTP.
        transport: Transport,
        /// Why.
        reason: RefuseReason,
    },
    /// The system gave a UDP socket a smaller buffer than was asked for, so that bursts of many
    /// peers are lost more often than they need be. At most once an engine for each setting.
    BuffersCapped {
        /// Bytes asked for.
        wanted: u32,
        /// Bytes given.
        got: u32,
        /// The setting that caps it: `net.core.rmem_max` or `net.core.wmem_max` (see socket(7)).
        sysctl: &'static str,
    },
    /// A shard cannot go on, and with it the engine: the other shards shut down. A bug of the
    /// engine, or a system that withdrew what it had granted.
    ShardFailed {
        /// Its number.
        shard: usize,
        /// What happened.
        reason: ShardFailure,
    },
}

/// Why a shard cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShardFailure {
    /// Its thread panicked outside of any handler; the panic's message went where panics go.
    Panicked,
    /// Its driver failed.
    Driver(Errno),
}

impl Event {
    /// The event's name in the JSON interface.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Peer(_) => "peer",
            Self::PeerBanned { .. } => "peer-banned",
            Self::PeerRejected { .. } => "peer-rejected",
            Self::PeerDropped(_) => "drop",
            Self::Connecting(_) => "connecting",
            Self::ConnectFailed { .. } => "connect-failed",
            Self::Handshaking(_) => "handshaking",
            Self::HandshakeTimeout(_) => "handshake-timeout",
            Self::Connection(_) => "connection",
            Self::ConnectionClosed { .. } => "connection-closed",
            Self::RedundantConnection(_) => "redundant-connection",
            Self::ConnectionRefused { .. } => "connection-refused",
            Self::BuffersCapped { .. } => "buffers-capped",
            Self::ShardFailed { .. } => "shard-failed",
        }
    }
}

impl fmt::Display for ShardFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panicked => f.write_str("panicked"),
            Self::Driver(errno) => write!(f, "driver: {errno}"),
        }
    }
}

impl fmt::Display for BanReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Application => "application",
            Self::DetectedSelf => "detected-self",
        })
    }
}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Duplicate => "duplicate",
            Self::Banned => "banned",
            Self::Whitelist => "whitelist",
            Self::TooManyCandidates => "too-many-candidates",
            Self::Denied => "denied",
            Self::Firewall => "firewall",
        })
    }
}

impl fmt::Display for RefuseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Banned => "banned",
            Self::Whitelist => "whitelist",
            Self::TooManyConnections => "too-many-connections",
            Self::TooManyHandshakes => "too-many-handshakes",
            Self::TableFull => "table-full",
            Self::Denied => "denied",
            Self::Firewall => "firewall",
            Self::TooManyInbound => "too-many-inbound",
            Self::TooManyFromIp => "too-many-from-ip",
            Self::TooManyFromSubnet => "too-many-from-subnet",
            Self::AcceptRate => "accept-rate",
            Self::Memory => "memory",
        })
    }
}
