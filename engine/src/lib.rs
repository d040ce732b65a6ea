//! Flock Revelation: a thread-per-core peer-swarm engine on io_uring, with an epoll fallback.

pub mod event;
pub mod io;
mod names;

pub use event::{ConnectionInfo, Event, Peer};
pub use names::{ChannelKey, ConnId, PeerId};
