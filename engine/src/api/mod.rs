//! What embedders use: [`Flock`] and its builder, the shard-local [`Handler`] level, and the
//! [`Connection`] level on top of it.

mod bandwidth;
mod batch;
mod buffers;
mod builder;
mod channel;
mod connection;
mod deploy;
mod exchange;
mod flock;
mod handler;
mod joined;
mod listening;
mod pieces;
mod pipe;
mod readwrite;
mod reports;
mod start;
mod streams;
pub(crate) mod waiters;

pub use builder::{Assembled, Builder, FlockError, IdChoice};
pub(crate) use channel::Pending;
pub use channel::{Channel, Flushed};
pub use connection::{Connection, Reader, RecvError, SendError, Writer};
pub use flock::{Ban, BanTarget, ChannelStatus, Flock, JoinOptions, Stats};
pub use handler::{Handler, Ignore};
pub use streams::{StreamConn, StreamMessage, Streams};
