//! Dialling.

use super::PollDriver;
use super::slots::Source;
use super::wait::poll_token;
use crate::io::sys::{Blocking, dial_socket};
use crate::io::{ConnectOptions, Outcome, QueueFull, SocketId, Token};
use flock_transport::Errno;
use mio::Interest;
use mio::net::TcpStream;
use socket2::SockRef;
use std::io;
use std::net::{self, SocketAddr};

impl PollDriver {
    /// Starts a dial. Its failures, also those known at once, are completions.
    pub(super) fn begin_connect(
        &mut self,
        to: SocketAddr,
        options: &ConnectOptions,
        token: Token,
    ) -> Result<SocketId, QueueFull> {
        let socket = self.slots.insert(Source::Gone, token).ok_or(QueueFull)?;
        let index = socket.slot;
        match self.dial(to, options, socket) {
            Ok((stream, established)) => {
                let slot = self.slots.at_mut(index);
                slot.source = Source::Stream(stream);
                slot.watches_writable = true;
                slot.writable = established;
                slot.connecting = !established;
                if established {
                    self.complete(index, Outcome::Connected);
                }
            }
            Err(error) => self.complete(index, Outcome::ConnectFailed(Errno::from_io(&error))),
        }
        Ok(socket)
    }

    /// A socket on its way to `to`, and whether it is there already: on loopback the kernel may
    /// finish the handshake inside the call.
    fn dial(
        &mut self,
        to: SocketAddr,
        options: &ConnectOptions,
        socket: SocketId,
    ) -> io::Result<(TcpStream, bool)> {
        let soft_errors = &mut self.counters.soft_errors;
        let fd = dial_socket(to, options, Blocking::No, soft_errors)?;
        let established = match SockRef::from(&fd).connect(&to.into()) {
            Ok(()) => true,
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => false,
            Err(error) => return Err(error),
        };
        let mut stream = TcpStream::from_std(net::TcpStream::from(fd));
        let both = Interest::READABLE | Interest::WRITABLE;
        self.waiter
            .registry()
            .register(&mut stream, poll_token(socket), both)?;
        Ok((stream, established))
    }

    /// The stream of a dial became writable: it is established, or the kernel holds an error.
    pub(super) fn finish_connect(&mut self, index: u32) {
        let slot = self.slots.at_mut(index);
        let error = match &slot.source {
            Source::Stream(stream) if slot.failed => stream.take_error().unwrap_or_else(Some),
            _ => None,
        };
        match error {
            Some(error) => self.fail_connect(index, Errno::from_io(&error)),
            None => {
                slot.connecting = false;
                self.complete(index, Outcome::Connected);
            }
        }
    }

    /// Closes the socket of a dial; the slot stays until the completion is delivered.
    pub(super) fn fail_connect(&mut self, index: u32, errno: Errno) {
        self.drop_send(index);
        let slot = self.slots.at_mut(index);
        slot.connecting = false;
        slot.receiving = false;
        slot.source = Source::Gone;
        self.complete(index, Outcome::ConnectFailed(errno));
        self.resume_accepts();
    }
}
