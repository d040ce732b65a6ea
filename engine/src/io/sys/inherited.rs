//! Sockets that somebody else made.

use super::datagrams::{DatagramSocket, set_datagram_options};
use super::socket::{Blocking, ip_address, set_listener_options};
use crate::io::DatagramOptions;
use flock_tcp::ListenOptions;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};

/// What a descriptor is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InheritedKind {
    /// A TCP socket that listens.
    Listener,
    /// A UDP socket that is bound, and open to everybody.
    Datagrams,
}

/// A duplicate of a descriptor that the engine can use.
#[derive(Debug)]
pub(crate) struct Inherited {
    pub(crate) fd: OwnedFd,
    pub(crate) kind: InheritedKind,
    /// Where it is bound.
    pub(crate) addr: SocketAddr,
}

impl Inherited {
    /// Looks at a descriptor, changes nothing about it and duplicates it. Errors say what is wrong
    /// with it, or are those of dup(2).
    pub(crate) fn of(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let (kind, addr) = inspect(fd)?;
        let fd = fd.try_clone_to_owned()?;
        Ok(Self { fd, kind, addr })
    }

    /// Another duplicate.
    pub(crate) fn duplicate(&self) -> io::Result<Self> {
        Ok(Self {
            fd: self.fd.try_clone()?,
            ..*self
        })
    }
}

fn inspect(fd: BorrowedFd<'_>) -> io::Result<(InheritedKind, SocketAddr)> {
    let wrong = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    let socket = SockRef::from(&fd);
    let Ok(domain) = socket.domain() else {
        return wrong("not a socket");
    };
    if domain != Domain::IPV4 && domain != Domain::IPV6 {
        return wrong("a socket of neither IPv4 nor IPv6");
    }
    let kind = match (socket.r#type()?, socket.protocol()?) {
        (Type::STREAM, Some(Protocol::TCP)) if socket.is_listener()? => InheritedKind::Listener,
        (Type::STREAM, Some(Protocol::TCP)) => return wrong("a TCP socket that does not listen"),
        (Type::DGRAM, Some(Protocol::UDP)) if socket.peer_addr().is_ok() => {
            return wrong("a UDP socket that is connected to one peer");
        }
        (Type::DGRAM, Some(Protocol::UDP)) => InheritedKind::Datagrams,
        _ => return wrong("a socket of neither TCP nor UDP"),
    };
    let addr = ip_address(&socket.local_addr()?)?;
    if addr.port() == 0 {
        return wrong("a UDP socket that is not bound");
    }
    Ok((kind, addr))
}

/// Makes an inherited listener fit for a driver.
///
/// Its `O_NONBLOCK` is shared with everybody who holds it (fcntl(2)). A driver that polls needs it
/// set; none needs it clear, so it never is cleared under somebody else who polls.
pub(crate) fn adopt_listener(
    fd: OwnedFd,
    options: &ListenOptions,
    blocking: Blocking,
) -> io::Result<(OwnedFd, SocketAddr)> {
    let socket = Socket::from(fd);
    set_listener_options(&socket, options)?;
    if blocking == Blocking::No {
        socket.set_nonblocking(true)?;
    }
    let addr = ip_address(&socket.local_addr()?)?;
    Ok((socket.into(), addr))
}

/// Makes an inherited datagram socket fit for a driver. Its `O_NONBLOCK` stays: the calls of the
/// driver that polls carry `MSG_DONTWAIT`.
pub(crate) fn adopt_datagrams(
    fd: OwnedFd,
    options: &DatagramOptions,
) -> io::Result<DatagramSocket> {
    let socket = Socket::from(fd);
    let local = ip_address(&socket.local_addr()?)?;
    set_datagram_options(&socket, local, options)?;
    DatagramSocket::of(socket)
}
