//! Words that both transports and the engine use: time, addresses, what is sent, why a connection ended.
//!
//! Nothing here opens a socket, starts a thread or reads a clock.

mod addr;
mod close;
mod counters;
mod send;
mod time;
mod train;

pub use addr::{Transport, canonical};
pub use close::{Blame, CloseReason, Errno, HandshakeError};
pub use counters::Counter;
pub use send::{CHUNKS_MAX, Chunks, CloseHow, Queued, SendLimits, SendRefused};
pub use time::Instant;
pub use train::{TRAIN_BYTES_MAX, TRAIN_DATAGRAMS_MAX, TRAIN_PARTS_MAX, Train};
