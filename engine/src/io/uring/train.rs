use crate::io::SocketId;
use crate::io::sys::{SEGMENT_CONTROL_BYTES, destination, segment_control};
use flock_transport::Train;
use io_uring::{opcode, squeue, types};
use socket2::SockAddr;
use std::mem;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::RawFd;

/// What the kernel looks at while it sends a train: the pieces it gathers, and beside them the
/// control message, which it reads anew whenever it has to try again (io_uring_prep_sendmsg(3)).
pub(super) struct TrainCargo {
    pub(super) train: Train,
    pub(super) socket: SocketId,
    pieces: Vec<libc::iovec>,
    name: SockAddr,
    control: [u8; SEGMENT_CONTROL_BYTES],
    message: libc::msghdr,
}

// SAFETY: the raw pointers inside point into the value itself and into the train, which it owns
// and which is `Send`; they are only read by the kernel.
unsafe impl Send for TrainCargo {}

impl TrainCargo {
    pub(super) fn new() -> Self {
        let nowhere = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
        Self {
            train: Train::default(),
            socket: SocketId {
                slot: u32::MAX,
                generation: 0,
            },
            pieces: Vec::new(),
            name: nowhere.into(),
            control: [0; SEGMENT_CONTROL_BYTES],
            // SAFETY: a msghdr is plain old data and valid when zero.
            message: unsafe { mem::zeroed() },
        }
    }

    /// Takes over a train that goes out of `socket`, bound at `local`, and leaves an empty one.
    pub(super) fn load(&mut self, socket: SocketId, local: SocketAddr, train: &mut Train) {
        mem::swap(&mut self.train, train);
        self.socket = socket;
        self.name = destination(local, self.train.to());
        self.control = segment_control(self.train.segment());
        self.pieces.clear();
        self.pieces
            .extend(self.train.parts().map(|part| libc::iovec {
                iov_base: part.as_ptr().cast_mut().cast(),
                iov_len: part.len(),
            }));
    }

    /// Lets go of what was sent.
    pub(super) fn unload(&mut self) {
        self.pieces.clear();
        self.train.reset(self.train.to());
    }

    /// The submission. The cargo must stay loaded, and where it is, until its completion.
    pub(super) fn entry(&mut self, fd: RawFd) -> squeue::Entry {
        self.message.msg_name = self.name.as_ptr().cast_mut().cast();
        self.message.msg_namelen = self.name.len();
        self.message.msg_iov = self.pieces.as_mut_ptr();
        self.message.msg_iovlen = self.pieces.len();
        if self.train.datagrams() > 1 {
            self.message.msg_control = self.control.as_mut_ptr().cast();
            self.message.msg_controllen = self.control.len();
        } else {
            self.message.msg_control = std::ptr::null_mut();
            self.message.msg_controllen = 0;
        }
        opcode::SendMsg::new(types::Fd(fd), &raw const self.message)
            .flags(libc::MSG_NOSIGNAL.cast_unsigned())
            .build()
    }
}
