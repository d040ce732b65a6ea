use super::train::TrainCargo;
use crate::io::SocketId;
use flock_transport::{CHUNKS_MAX, Chunks, Train};
use io_uring::{opcode, squeue, types};
use socket2::SockAddr;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::ptr;

/// Unused pieces of a kind that are kept for the next operation; more are freed.
const SPARES: usize = 1024;

/// Memory that the kernel looks at while an operation runs.
#[derive(Default)]
pub(super) struct Cargo {
    sends: Pool<SendCargo>,
    addresses: Pool<SockAddr>,
    trains: Pool<TrainCargo>,
}

impl Cargo {
    /// Takes over what a send carries.
    pub(super) fn load_send(&mut self, chunks: Chunks) -> u32 {
        let (index, cargo) = self.sends.take(SendCargo::new);
        cargo.load(chunks);
        index
    }

    pub(super) fn send(&mut self, index: u32) -> &mut SendCargo {
        self.sends.at(index)
    }

    /// Drops what the send carried.
    pub(super) fn unload_send(&mut self, index: u32) {
        self.sends.at(index).chunks.clear();
        self.sends.give(index);
    }

    /// Takes over a train that goes out of `socket`, bound at `local`.
    pub(super) fn load_train(
        &mut self,
        socket: SocketId,
        local: SocketAddr,
        train: &mut Train,
    ) -> u32 {
        let (index, cargo) = self.trains.take(TrainCargo::new);
        cargo.load(socket, local, train);
        index
    }

    pub(super) fn train(&mut self, index: u32) -> &mut TrainCargo {
        self.trains.at(index)
    }

    /// Drops what the train carried.
    pub(super) fn unload_train(&mut self, index: u32) {
        self.trains.at(index).unload();
        self.trains.give(index);
    }

    /// Keeps the address of a connect.
    pub(super) fn load_address(&mut self, to: SocketAddr) -> u32 {
        let (index, address) = self.addresses.take(|| SockAddr::from(to));
        *address = SockAddr::from(to);
        index
    }

    pub(super) fn address(&mut self, index: u32) -> &SockAddr {
        self.addresses.at(index)
    }

    pub(super) fn unload_address(&mut self, index: u32) {
        self.addresses.give(index);
    }
}

/// Pieces of memory by number. Each has a box of its own, so that its address holds while the
/// pool grows.
struct Pool<T> {
    boxes: Vec<Option<Box<T>>>,
    /// Unused, with a box.
    spare: Vec<u32>,
    /// Unused, the box freed.
    bare: Vec<u32>,
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self {
            boxes: Vec::new(),
            spare: Vec::new(),
            bare: Vec::new(),
        }
    }
}

impl<T> Pool<T> {
    /// A piece, made by `make` or left by an earlier use.
    fn take(&mut self, make: impl FnOnce() -> T) -> (u32, &mut T) {
        let unused = self.spare.pop().or_else(|| self.bare.pop());
        let index = unused.unwrap_or_else(|| {
            self.boxes.push(None);
            u32::try_from(self.boxes.len() - 1).expect("fewer operations than sockets")
        });
        let place = &mut self.boxes[index as usize];
        (index, place.get_or_insert_with(|| Box::new(make())))
    }

    fn at(&mut self, index: u32) -> &mut T {
        self.boxes[index as usize].as_mut().expect("taken before")
    }

    fn give(&mut self, index: u32) {
        if self.spare.len() < SPARES {
            self.spare.push(index);
        } else {
            self.boxes[index as usize] = None;
            self.bare.push(index);
        }
    }
}

/// What one send carries and how far it is.
pub(super) struct SendCargo {
    chunks: Chunks,
    /// The chunk to go on with, and how much of it is sent.
    chunk: usize,
    offset: usize,
    sent: u64,
    total: u64,
    pieces: [libc::iovec; CHUNKS_MAX],
    message: libc::msghdr,
}

// SAFETY: the raw pointers inside point into the value itself and into `chunks`, which it owns
// and which is `Send`; they are only read by the kernel.
unsafe impl Send for SendCargo {}

impl SendCargo {
    fn new() -> Self {
        let piece = libc::iovec {
            iov_base: ptr::null_mut(),
            iov_len: 0,
        };
        // SAFETY: a msghdr is plain old data and valid when zero.
        let message = unsafe { mem::zeroed() };
        Self {
            chunks: Chunks::new(),
            chunk: 0,
            offset: 0,
            sent: 0,
            total: 0,
            pieces: [piece; CHUNKS_MAX],
            message,
        }
    }

    fn load(&mut self, chunks: Chunks) {
        self.total = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        assert!(self.total > 0, "a send carries something");
        self.chunks = chunks;
        self.chunk = 0;
        self.offset = 0;
        self.sent = 0;
        self.skip_finished();
    }

    /// How many bytes the kernel has taken.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    pub(super) fn is_done(&self) -> bool {
        self.sent == self.total
    }

    /// Notes that the kernel took `bytes` more.
    pub(super) fn advance(&mut self, bytes: u32) {
        self.sent += u64::from(bytes);
        assert!(self.sent <= self.total, "the kernel takes what it is given");
        let mut left = bytes as usize;
        while left > 0 {
            let rest = self.chunks[self.chunk].len() - self.offset;
            let step = rest.min(left);
            self.offset += step;
            left -= step;
            self.skip_finished();
        }
    }

    fn skip_finished(&mut self) {
        while self.chunk < self.chunks.len() && self.offset == self.chunks[self.chunk].len() {
            self.chunk += 1;
            self.offset = 0;
        }
    }

    /// The submission for what is left. The cargo must stay loaded until its completion.
    pub(super) fn entry(&mut self, fd: RawFd) -> squeue::Entry {
        // With MSG_WAITALL the kernel itself goes on after a short send (io_uring_enter(2)).
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let mut used = 0;
        let mut skip = self.offset;
        for chunk in &self.chunks[self.chunk..] {
            let rest = &chunk[skip..];
            skip = 0;
            if !rest.is_empty() {
                self.pieces[used] = libc::iovec {
                    iov_base: rest.as_ptr().cast_mut().cast(),
                    iov_len: rest.len(),
                };
                used += 1;
            }
        }
        if used == 1 {
            let piece = self.pieces[0];
            let length = u32::try_from(piece.iov_len).unwrap_or(u32::MAX);
            return opcode::Send::new(types::Fd(fd), piece.iov_base.cast_const().cast(), length)
                .flags(flags)
                .build();
        }
        self.message.msg_iov = self.pieces.as_mut_ptr();
        self.message.msg_iovlen = used;
        opcode::SendMsg::new(types::Fd(fd), &raw const self.message)
            .flags(flags.cast_unsigned())
            .build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn cargo(parts: &[&'static [u8]]) -> SendCargo {
        let mut cargo = SendCargo::new();
        cargo.load(parts.iter().map(|part| Bytes::from_static(part)).collect());
        cargo
    }

    #[test]
    fn short_sends_go_on_inside_and_across_chunks() {
        let mut cargo = cargo(&[b"", b"abc", b"", b"defg"]);
        cargo.advance(2);
        let _ = cargo.entry(0);
        assert_eq!(cargo.message.msg_iovlen, 2);
        assert_eq!(cargo.pieces[0].iov_len, 1);
        cargo.advance(2);
        assert!(!cargo.is_done());
        let _ = cargo.entry(0);
        assert_eq!(cargo.pieces[0].iov_len, 3);
        cargo.advance(3);
        assert!(cargo.is_done());
        assert_eq!(cargo.sent(), 7);
    }

    #[test]
    #[should_panic(expected = "carries something")]
    fn an_empty_send_is_a_bug() {
        let _ = cargo(&[b"", b""]);
    }

    #[test]
    fn pieces_are_reused_and_a_burst_is_freed() {
        let mut pool = Pool::default();
        let taken: Vec<u32> = (0..SPARES + 5).map(|_| pool.take(|| 7_u8).0).collect();
        for index in taken {
            pool.give(index);
        }
        assert_eq!(pool.boxes.iter().flatten().count(), SPARES);
        for _ in 0..SPARES + 5 {
            assert_eq!(*pool.take(|| 7).1, 7);
        }
        assert_eq!(pool.boxes.len(), SPARES + 5);
    }
}
