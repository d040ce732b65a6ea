//! What a stream is asked for, and what both kinds of socket share.

use super::slots::{NO_CARGO, Ops, State};
use super::{UringDriver, buffers, reap};
use crate::io::{SocketId, sys};
use flock_transport::Chunks;
use io_uring::{opcode, squeue, types};
use std::os::fd::BorrowedFd;

impl UringDriver {
    /// Whether the name is in use; panics when it is not that of a stream.
    pub(super) fn is_open(&mut self, id: SocketId) -> bool {
        let Some(slot) = self.slots.live(id) else {
            return false;
        };
        assert_eq!(slot.state, State::Open, "only a connected stream does that");
        true
    }

    /// The receive that suits the socket.
    pub(super) fn receive_of(&mut self, id: SocketId) -> Ops {
        match self.slots.live(id).map(|slot| slot.state) {
            Some(State::Datagrams) => Ops::RECVMSG,
            _ => Ops::RECV,
        }
    }

    pub(super) fn start_receive(&mut self, id: SocketId, once: bool) {
        let op = self.receive_of(id);
        if op == Ops::RECVMSG || self.is_open(id) {
            let slot = self.slots.find(id).expect("it is open");
            slot.wanted.remove(Ops::ONCE);
            if once {
                slot.wanted.add(Ops::ONCE);
            }
            self.want(id, op);
        }
    }

    /// The entry that receives on a stream.
    pub(super) fn receive_entry(&self, fd: types::Fd, once: bool) -> squeue::Entry {
        if !once {
            return opcode::RecvMulti::new(fd, buffers::STREAMS).build();
        }
        // A length of 0 is that of the buffer the kernel selects (io_uring_prep_recv(3)).
        opcode::Recv::new(fd, std::ptr::null_mut(), 0)
            .buf_group(buffers::STREAMS)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT)
    }

    /// Ends all loans. Returns how many more buffers streams were offered.
    pub(super) fn recycle_buffers(&mut self) -> usize {
        if let Some(memory) = &mut *self.memory {
            memory.buffers_mut().recycle();
        }
        self.buffers.recycle()
    }

    pub(super) fn publish_buffers(&mut self) {
        if let Some(memory) = &mut *self.memory {
            memory.buffers_mut().publish();
        }
        self.buffers.publish();
    }

    /// Asks the kernel to end every train of the socket.
    pub(super) fn cancel_trains(&mut self, id: SocketId) {
        let slot = self.slots.find(id).expect("a closing socket has a slot");
        let of_socket = types::CancelBuilder::fd(types::Fd(slot.fd)).all();
        let entry = opcode::AsyncCancel2::new(of_socket)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS);
        // SAFETY: a cancel points to nothing; the descriptor is closed after it was submitted.
        unsafe { self.push(entry, reap::IGNORED) };
    }

    pub(super) fn start_send(&mut self, id: SocketId, chunks: Chunks) {
        let slot = self.slots.live(id).expect("checked by the caller");
        assert!(slot.cargo == NO_CARGO, "one send at a time");
        slot.cargo = self.cargo.load_send(chunks);
        self.want(id, Ops::SEND);
    }

    pub(super) fn shutdown_write(&mut self, id: SocketId) {
        let slot = self.slots.live(id).expect("checked by the caller");
        // SAFETY: the slot owns the descriptor, which is open.
        let fd = unsafe { BorrowedFd::borrow_raw(slot.fd) };
        if sys::shutdown_write(fd).is_err() {
            self.counters.soft_errors += 1;
        }
    }
}
