//! Many datagrams a call: recvmmsg(2) and sendmmsg(2).

use super::datagrams::{
    CONTROL_BYTES, NAME_BYTES, PAYLOAD_BYTES, SEGMENT_CONTROL_BYTES, destination, segment_control,
};
use arrayvec::ArrayVec;
use flock_transport::Train;
use libc::{iovec, mmsghdr};
use socket2::SockAddr;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::{mem, ptr};

/// Datagrams, or trains of them, that one call receives at the most.
const RECEIVED: usize = 64;
/// Trains that one call sends at the most.
const SENT: usize = 16;
/// Pieces of memory of those trains together; one more train than fits waits for the next call.
const PIECES: usize = 1024;

/// Where received datagrams lie. Pages of it that no datagram reached cost nothing.
#[derive(Debug)]
pub(crate) struct Inbox {
    payloads: Box<[u8]>,
    beside: Box<[Beside; RECEIVED]>,
}

/// What the kernel writes beside a payload.
#[derive(Clone, Copy, Debug)]
#[repr(align(8))]
struct Beside {
    control: [u8; CONTROL_BYTES],
    name: [u8; NAME_BYTES],
    name_len: usize,
    control_len: usize,
    len: usize,
}

/// One message of an [`Inbox`].
pub(crate) struct Message<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) control: &'a [u8],
    pub(crate) payload: &'a [u8],
}

fn no_message() -> mmsghdr {
    // SAFETY: plain data, for which zeroes are valid: null pointers of length zero.
    unsafe { mem::zeroed() }
}

impl Inbox {
    /// The most messages of one call.
    pub(crate) const MESSAGES: usize = RECEIVED;

    pub(crate) fn new() -> Self {
        let nothing = Beside {
            control: [0; CONTROL_BYTES],
            name: [0; NAME_BYTES],
            name_len: 0,
            control_len: 0,
            len: 0,
        };
        Self {
            payloads: vec![0; RECEIVED * PAYLOAD_BYTES].into_boxed_slice(),
            beside: Box::new([nothing; RECEIVED]),
        }
    }

    /// Receives up to `most` messages behind the first `kept`, without waiting, and returns how
    /// many.
    pub(crate) fn receive(
        &mut self,
        fd: BorrowedFd<'_>,
        kept: usize,
        most: usize,
    ) -> io::Result<usize> {
        let places = self.payloads.chunks_exact_mut(PAYLOAD_BYTES);
        let places = places.zip(self.beside.iter_mut()).skip(kept).take(most);
        let mut pieces = ArrayVec::<iovec, RECEIVED>::new();
        let mut messages = ArrayVec::<mmsghdr, RECEIVED>::new();
        for (payload, beside) in places {
            pieces.push(iovec {
                iov_base: payload.as_mut_ptr().cast(),
                iov_len: payload.len(),
            });
            let mut message = no_message();
            message.msg_hdr.msg_name = beside.name.as_mut_ptr().cast();
            message.msg_hdr.msg_namelen = u32::try_from(NAME_BYTES).expect("small");
            message.msg_hdr.msg_control = beside.control.as_mut_ptr().cast();
            message.msg_hdr.msg_controllen = CONTROL_BYTES;
            messages.push(message);
        }
        for (message, piece) in messages.iter_mut().zip(&mut pieces) {
            message.msg_hdr.msg_iov = piece;
            message.msg_hdr.msg_iovlen = 1;
        }
        let count = u32::try_from(messages.len()).expect("at most 64");
        let no_timeout = ptr::null_mut();
        let flags = libc::MSG_DONTWAIT;
        // SAFETY: every pointer in `messages` is to memory of the given length in `self` or in
        // `pieces`, which nothing else uses during the call.
        let received = unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                messages.as_mut_ptr(),
                count,
                flags,
                no_timeout,
            )
        };
        let Ok(received) = usize::try_from(received) else {
            return Err(io::Error::last_os_error());
        };
        let told = messages.iter().take(received);
        for (message, beside) in told.zip(self.beside.iter_mut().skip(kept)) {
            beside.len = message.msg_len as usize;
            beside.name_len = (message.msg_hdr.msg_namelen as usize).min(NAME_BYTES);
            beside.control_len = message.msg_hdr.msg_controllen.min(CONTROL_BYTES);
        }
        Ok(received)
    }

    /// A message that was received.
    pub(crate) fn message(&self, index: usize) -> Message<'_> {
        let beside = &self.beside[index];
        let start = index * PAYLOAD_BYTES;
        Message {
            name: &beside.name[..beside.name_len],
            control: &beside.control[..beside.control_len],
            payload: &self.payloads[start..start + beside.len],
        }
    }
}

/// What a call that sends needs; empty between calls.
#[derive(Default)]
pub(crate) struct Outbox {
    pieces: Vec<iovec>,
}

// SAFETY: the pointers inside are those of a call in progress, which borrows the box mutably.
unsafe impl Send for Outbox {}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Outbox")
    }
}

impl Outbox {
    /// Offers the kernel trains of a socket bound at `local`, without waiting, and returns how
    /// many it took, all if there were at most 16 and it had room. The error is that of the first.
    pub(crate) fn send<'a>(
        &mut self,
        fd: BorrowedFd<'_>,
        local: SocketAddr,
        trains: impl Iterator<Item = &'a Train>,
    ) -> io::Result<usize> {
        self.pieces.clear();
        let mut parcels = ArrayVec::<Parcel, SENT>::new();
        for train in trains.take(SENT) {
            let pieces = train.parts().len();
            if !self.pieces.is_empty() && self.pieces.len() + pieces > PIECES {
                break;
            }
            self.pieces.extend(train.parts().map(|part| iovec {
                iov_base: part.as_ptr().cast_mut().cast(),
                iov_len: part.len(),
            }));
            parcels.push(Parcel {
                name: destination(local, train.to()),
                control: segment_control(train.segment()),
                cut: train.datagrams() > 1,
                pieces,
            });
        }
        let mut messages = ArrayVec::<mmsghdr, SENT>::new();
        let mut rest = self.pieces.as_mut_slice();
        for parcel in &mut parcels {
            let (own, others) = rest.split_at_mut(parcel.pieces);
            rest = others;
            messages.push(parcel.message(own));
        }
        let count = u32::try_from(messages.len()).expect("at most 16");
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: every pointer in `messages` is to memory of the given length, in the trains, in
        // `self.pieces` or on this stack, that lives longer than the call, which only reads it.
        let sent = unsafe { libc::sendmmsg(fd.as_raw_fd(), messages.as_mut_ptr(), count, flags) };
        let result = usize::try_from(sent).map_err(|_| io::Error::last_os_error());
        self.pieces.clear();
        result
    }
}

/// What a train needs beside its pieces while it is offered.
struct Parcel {
    name: SockAddr,
    control: [u8; SEGMENT_CONTROL_BYTES],
    /// Whether there is anything to cut.
    cut: bool,
    pieces: usize,
}

impl Parcel {
    fn message(&mut self, pieces: &mut [iovec]) -> mmsghdr {
        let mut message = no_message();
        let header = &mut message.msg_hdr;
        header.msg_name = self.name.as_ptr().cast_mut().cast();
        header.msg_namelen = self.name.len();
        header.msg_iov = pieces.as_mut_ptr();
        header.msg_iovlen = pieces.len();
        if self.cut {
            header.msg_control = self.control.as_mut_ptr().cast();
            header.msg_controllen = self.control.len();
        }
        message
    }
}
