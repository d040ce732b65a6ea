//! Sockets that somebody else made, and may have made nonblocking.
//!
//! On a socket with `O_NONBLOCK` the kernel does not wait for an operation but fails it with
//! `EAGAIN` (io_uring_enter(2)), and the flag may be set at any time by whoever shares the socket.
//! An accept or a receive that ended so is begun again when the socket has something.

use super::slots::{Ops, State};
use super::{UringDriver, reap};
use crate::io::sys::{self, Blocking};
use crate::io::{BoundDatagrams, DatagramOptions, SocketId, Token};
use flock_tcp::ListenOptions;
use io_uring::{opcode, squeue, types};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{IntoRawFd, OwnedFd, RawFd};

impl UringDriver {
    pub(super) fn take_listener(
        &mut self,
        listener: OwnedFd,
        options: &ListenOptions,
        token: Token,
    ) -> io::Result<(SocketId, SocketAddr)> {
        if self.down {
            return Err(io::Error::from_raw_os_error(libc::ESHUTDOWN));
        }
        let (fd, bound) = sys::adopt_listener(listener, options, Blocking::Yes)?;
        Ok((self.own_socket(fd, token, State::Listening)?, bound))
    }

    pub(super) fn take_datagrams(
        &mut self,
        socket: OwnedFd,
        options: &DatagramOptions,
        token: Token,
    ) -> io::Result<BoundDatagrams> {
        self.prepare_datagrams()?;
        let made = sys::adopt_datagrams(socket, options)?;
        self.own_datagrams(made, token)
    }

    /// Gives a socket a slot; without one it is closed.
    pub(super) fn own_socket(
        &mut self,
        fd: OwnedFd,
        token: Token,
        state: State,
    ) -> io::Result<SocketId> {
        let fd = fd.into_raw_fd();
        self.slots.insert(fd, token, state).ok_or_else(|| {
            drop(reap::own(fd));
            io::Error::from_raw_os_error(libc::ENFILE)
        })
    }

    /// Waits until a listener or a datagram socket has something. Waiting twice does nothing.
    pub(super) fn wait_until_ready(&mut self, id: SocketId) {
        let slot = self.slots.find(id).expect("reported just now");
        if !slot.held.has(Ops::READY) {
            self.arm(id, Ops::READY);
        }
    }

    pub(super) fn on_ready(&mut self, id: SocketId) {
        for op in [Ops::ACCEPT, Ops::RECVMSG] {
            self.resume_one(id, op);
        }
    }
}

/// A wait for something to accept or to receive.
pub(super) fn readiness(fd: RawFd) -> squeue::Entry {
    let events = u32::from(libc::POLLIN.cast_unsigned());
    opcode::PollAdd::new(types::Fd(fd), events).build()
}
