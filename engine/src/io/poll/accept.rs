//! Listening, accepting, and the pause when descriptors or memory lack.

use super::PollDriver;
use super::slots::Source;
use super::wait::poll_token;
use crate::io::sys::{Blocking, adopt_listener, listen_socket};
use crate::io::{Outcome, QueueFull, SocketId, Token};
use flock_tcp::ListenOptions;
use flock_transport::{Errno, Instant, canonical};
use mio::Interest;
use mio::net::{TcpListener, TcpStream};
use std::io;
use std::net::{self, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// What one listener may accept in one turn.
const ACCEPTS: usize = 256;
/// How long accepting pauses if nothing of ours is closed before.
const PAUSE: Duration = Duration::from_millis(100);

/// Listeners that wait for descriptors or memory.
#[derive(Debug, Default)]
pub(super) struct Pause {
    listeners: Vec<u32>,
    until: Instant,
}

impl Pause {
    /// When to try again.
    pub(super) fn until(&self) -> Option<Instant> {
        (!self.listeners.is_empty()).then_some(self.until)
    }
}

/// What an error of accept4(2) asks for.
enum Trouble {
    /// That connection is gone; the next one may be well.
    Aborted,
    /// The backlog is empty.
    Drained,
    /// Too few descriptors or too little memory.
    Lack,
    /// The listener is broken.
    Broken,
}

impl Trouble {
    fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EAGAIN) => Self::Drained,
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => Self::Lack,
            Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EFAULT) | None => Self::Broken,
            // Linux passes on errors already pending on the new socket (accept(2)).
            Some(_) => Self::Aborted,
        }
    }
}

impl PollDriver {
    pub(super) fn open_listener(
        &mut self,
        addr: SocketAddr,
        options: &ListenOptions,
        token: Token,
    ) -> io::Result<(SocketId, SocketAddr)> {
        if self.slots.full() {
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, QueueFull));
        }
        let made = listen_socket(addr, options, Blocking::No)?;
        self.watch_listener(made, token)
    }

    /// As `open_listener`, with a listener that somebody else made.
    pub(super) fn take_listener(
        &mut self,
        listener: OwnedFd,
        options: &ListenOptions,
        token: Token,
    ) -> io::Result<(SocketId, SocketAddr)> {
        if self.slots.full() {
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, QueueFull));
        }
        let made = adopt_listener(listener, options, Blocking::No)?;
        self.watch_listener(made, token)
    }

    fn watch_listener(
        &mut self,
        (fd, bound): (OwnedFd, SocketAddr),
        token: Token,
    ) -> io::Result<(SocketId, SocketAddr)> {
        let listener = TcpListener::from_std(net::TcpListener::from(fd));
        let socket = self
            .slots
            .insert(Source::Listener(listener), token)
            .expect("the table was not full");
        let slot = self.slots.at_mut(socket.slot);
        if let Source::Listener(listener) = &mut slot.source
            && let Err(error) =
                self.waiter
                    .registry()
                    .register(listener, poll_token(socket), Interest::READABLE)
        {
            self.slots.remove(socket.slot);
            return Err(error);
        }
        Ok((socket, bound))
    }

    /// Accepts until the backlog is empty or the budget or the batch is used up.
    pub(super) fn accept_some(&mut self, index: u32) {
        for _ in 0..ACCEPTS {
            if self.full() {
                return;
            }
            let Source::Listener(listener) = &self.slots.at(index).source else {
                return;
            };
            let (stream, peer) = match listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => match Trouble::of(&error) {
                    Trouble::Aborted => {
                        self.counters.accepts_aborted += 1;
                        continue;
                    }
                    Trouble::Drained => {
                        self.slots.at_mut(index).readable = false;
                        return;
                    }
                    Trouble::Lack => return self.pause_accept(index),
                    Trouble::Broken => {
                        self.slots.at_mut(index).receiving = false;
                        let errno = Errno::from_io(&error);
                        return self.complete(index, Outcome::AcceptEnded(errno));
                    }
                },
            };
            match self.adopt(index, stream) {
                Ok(socket) => {
                    let peer = canonical(peer);
                    self.complete(index, Outcome::Accepted { socket, peer });
                }
                Err(Refusal::TableFull) => self.counters.accepts_refused += 1,
                Err(Refusal::Unwatched) => {
                    self.counters.accepts_refused += 1;
                    return self.pause_accept(index);
                }
            }
        }
    }

    /// Gives an accepted stream a slot; a refused one is closed.
    fn adopt(&mut self, listener: u32, stream: TcpStream) -> Result<SocketId, Refusal> {
        let token = self.slots.at(listener).token;
        let source = Source::Stream(stream);
        let socket = self.slots.insert(source, token).ok_or(Refusal::TableFull)?;
        let slot = self.slots.at_mut(socket.slot);
        slot.writable = true;
        let Source::Stream(stream) = &mut slot.source else {
            return Err(Refusal::Unwatched);
        };
        let registry = self.waiter.registry();
        if registry
            .register(stream, poll_token(socket), Interest::READABLE)
            .is_err()
        {
            self.slots.remove(socket.slot);
            return Err(Refusal::Unwatched);
        }
        Ok(socket)
    }

    fn pause_accept(&mut self, index: u32) {
        self.slots.at_mut(index).parked = true;
        self.counters.accepts_paused += 1;
        self.pause.listeners.push(index);
        self.pause.until = self.now + PAUSE;
    }

    /// Lets paused listeners try again: time has passed, or a descriptor was closed.
    pub(super) fn resume_accepts(&mut self) {
        while let Some(index) = self.pause.listeners.pop() {
            self.slots.at_mut(index).parked = false;
            self.wake_slot(index);
        }
    }
}

enum Refusal {
    /// No slot is free.
    TableFull,
    /// The epoll set takes no more (`ENOMEM`, `ENOSPC`).
    Unwatched,
}
