//! Sockets that somebody else made.
//!
//! They may have `O_NONBLOCK`, or get it at any time from whoever shares them. The ring waits all
//! the same: it polls for readiness before it tries again.

use super::slots::State;
use super::{UringDriver, reap};
use crate::io::sys::{self, Blocking};
use crate::io::{BoundDatagrams, DatagramOptions, SocketId, Token};
use flock_tcp::ListenOptions;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{IntoRawFd, OwnedFd};

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
}
