use arrayvec::ArrayVec;
use bytes::Bytes;

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
