//! TCP connections as a pure machine over completion verbs, and the socket options they run with.
//!
//! Nothing here opens a socket, starts a thread or reads a clock.

mod connection;
mod options;
mod queue;

pub use connection::{Connection, Event, Verb};
pub use flock_transport::{Queued, SendLimits, SendRefused};
pub use options::{Congestion, Keepalive, ListenOptions, StreamOptions};
