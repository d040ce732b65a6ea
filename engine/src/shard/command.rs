//! What reaches a shard through its mailbox.

use super::Scope;
use crate::api::{Ban, BanTarget, Pending};
use crate::event::{ConnectionInfo, ConnectionReport};
use crate::files::Fetched;
use crate::io::Inherited;
use crate::names::{ChannelKey, ConnId};
use crate::swarm::{ChannelQuota, ChannelStatus, PeerMessage};
use bytes::Bytes;
use flock_tcp::ListenOptions;
use flock_transport::Instant;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

/// One message to a shard.
pub(crate) enum Mail<M> {
    /// From another shard's swarm.
    Peer(PeerMessage),
    /// From the API.
    Command(Command),
    /// From the embedder to its handler.
    User(M),
    /// From a shard that received it in our stead.
    Datagram(Forwarded),
}

/// A datagram on its way to the shard whose connection it is for.
pub(crate) struct Forwarded {
    /// Whose sockets.
    pub(crate) group: Option<u64>,
    pub(crate) from: SocketAddr,
    pub(crate) received_at: Instant,
    pub(crate) bytes: Bytes,
    /// Whether it is a RESET that another shard did not know, so that no other is asked again.
    pub(crate) stray: bool,
}

/// Where an answer goes. An asker that has gone is no error.
pub(crate) type Reply<T> = SyncSender<T>;

/// A request of the API.
pub(crate) enum Command {
    Listen {
        addr: SocketAddr,
        options: ListenOptions,
        /// Names the call, for `Unlisten`.
        group: u64,
        reply: Reply<io::Result<SocketAddr>>,
    },
    /// Serve a socket that somebody else made.
    Adopt(Adoption),
    Unlisten {
        group: u64,
    },
    Leave {
        channel: ChannelKey,
    },
    AddPeer {
        channel: ChannelKey,
        addr: SocketAddr,
        /// Whether it has a reserved place.
        reserved: bool,
    },
    Ban {
        target: BanTarget,
        channel: Option<ChannelKey>,
        expires_after: Option<Duration>,
    },
    Unban {
        target: BanTarget,
    },
    Conn {
        conn: ConnId,
        what: ConnCommand,
    },
    Connections {
        reply: Reply<Vec<ConnectionInfo>>,
    },
    /// What each admitted connection has done.
    Reports {
        reply: Reply<Vec<ConnectionReport>>,
    },
    ChannelStatus {
        channel: ChannelKey,
        reply: Reply<ChannelStatus>,
    },
    /// The admitted connections known for a channel.
    ChannelConnections {
        channel: ChannelKey,
        reply: Reply<Vec<ConnectionInfo>>,
    },
    /// Limit the peers dialled for a channel, or no longer.
    LimitChannel {
        channel: ChannelKey,
        quota: Option<Arc<ChannelQuota>>,
    },
    /// Settle `pending` when the candidates of the channel have been tried.
    Flush {
        channel: ChannelKey,
        pending: Pending,
    },
    /// Send to every peer known for the channel.
    Broadcast {
        channel: ChannelKey,
        data: Bytes,
    },
    Bans {
        reply: Reply<Vec<Ban>>,
    },
    /// Start nothing new, or again.
    Suspend(bool),
    /// Start nothing new for good, and say when nothing is left.
    Drain {
        reply: Reply<()>,
    },
    Bandwidth(Scope),
    /// A thread read a part of a file.
    Fetched {
        conn: ConnId,
        fetched: Fetched,
    },
    Shutdown {
        within: Duration,
    },
}

/// A socket to serve that somebody else made.
pub(crate) struct Adoption {
    pub(crate) socket: Inherited,
    /// Sockets of its kind at its address.
    pub(crate) siblings: usize,
    pub(crate) options: ListenOptions,
    /// Names what stands and falls with it, for `Unlisten`.
    pub(crate) group: u64,
    pub(crate) reply: Reply<io::Result<()>>,
}

/// A request that concerns one connection; ignored when that has gone.
pub(crate) enum ConnCommand {
    Send(Bytes),
    Close,
    /// It makes room for others.
    Evict,
}
