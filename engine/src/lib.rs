//! Flock Revelation: a thread-per-core peer-swarm engine on io_uring, with an epoll fallback.
//!
//! A program joins *channels*, is told of peers or finds them, and gets one connection to each.
//! There are two levels:
//!
//! * [`Flock::accept`] hands out [`Connection`]s, usable from any thread and any async runtime,
//!   or none ([`Builder::start`]).
//! * A [`Handler`] runs on the shards themselves, on borrowed slices, without a hop
//!   ([`Builder::start_with`]).
//!
//! The wire is that of npm `discovery-swarm` 6.1.0.

mod bandwidth;
pub mod event;
mod files;
mod hub;
pub mod io;
#[cfg(feature = "prometheus")]
mod metrics;
mod names;
mod pages;

mod api;
pub mod session;
mod shard;
mod sources;
mod swarm;
mod table;
mod trace;
mod wheel;

pub use api::{
    Assembled, Ban, BanTarget, Builder, Channel, ChannelStatus, Connection, Flock, FlockError,
    Flushed, Handler, IdChoice, Ignore, JoinOptions, Reader, RecvError, SendError, Stats,
    StreamConn, StreamMessage, Streams, Writer,
};
pub use bandwidth::{Bandwidth, MinRate};
pub use event::{ConnectionInfo, ConnectionReport, Event, Peer, ShardFailure};
pub use flock_tcp as tcp;
pub use flock_tcp::{
    Congestion, Keepalive, ListenOptions, Queued, SendLimits, SendRefused, StreamOptions,
};
pub use flock_transport::{Blame, CloseReason, Counter, Errno, HandshakeError, Instant, Transport};
pub use flock_utp as utp;
pub use hub::{BlockingEvents, Events};
#[cfg(feature = "prometheus")]
pub use metrics::Metrics;
pub use names::{ChannelKey, ConnId, PeerId};
pub use shard::{ConnCx, FileRefused, Shard, ShardCounters, ShardCx, ShardStats, Step};
pub use swarm::{Approach, SwarmCounters};

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
