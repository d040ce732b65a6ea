use arrayvec::ArrayVec;
use bytes::Bytes;
use std::fmt;

/// The most pieces one send operation carries.
pub const CHUNKS_MAX: usize = 8;

/// What one send operation carries, in order. The operation owns the pieces until it completes;
/// sharing a piece between connections costs a reference count, never a copy.
pub type Chunks = ArrayVec<Bytes, CHUNKS_MAX>;

/// How a stream is given back to the operating system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseHow {
    /// `close(2)`: the kernel sends FIN after what it still holds.
    Fin,
    /// `SO_LINGER {1, 0}` and `close(2)`: the kernel drops what it holds and sends RST.
    Rst,
}

/// Marks of a send queue, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendLimits {
    /// Above it the sender is told to wait.
    pub high: u32,
    /// Below it, after having been above `high`, the sender is told to go on.
    pub low: u32,
    /// Beyond it nothing more is taken. A send to an empty queue is taken whatever its size, since
    /// it is held by reference.
    pub max: u32,
}

impl Default for SendLimits {
    fn default() -> Self {
        Self {
            high: 256 << 10,
            low: 64 << 10,
            max: 64 << 20,
        }
    }
}

/// How full the queue is after a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queued {
    /// Below the high-water mark.
    Ok,
    /// At or above it: wait until told that there is room.
    AboveHigh,
}

/// A send that was not taken; the bytes come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendRefused {
    /// The queue would exceed its hard limit.
    Full(Bytes),
    /// The connection is closing or gone, or its sending direction was ended.
    Closed(Bytes),
}

impl fmt::Display for SendRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "the send queue is full",
            Self::Closed(_) => "the connection is closing",
        })
    }
}

impl std::error::Error for SendRefused {}
