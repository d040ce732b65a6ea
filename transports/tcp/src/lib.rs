//! TCP connections as a pure machine over completion verbs, and the socket options they run with.
//!
//! Nothing here opens a socket, starts a thread or reads a clock.

mod options;

pub use options::{Congestion, Keepalive, ListenOptions, StreamOptions};
