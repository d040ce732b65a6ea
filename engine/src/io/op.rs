use flock_tcp::StreamOptions;
use flock_transport::{Chunks, CloseHow};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Names a socket of one driver: a slot and the slot's generation, so that a name outliving its
/// socket is recognised as stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketId {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

/// What the caller wants completions of a socket to carry; the driver never looks inside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

/// Options of one dial.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConnectOptions {
    /// Options of the socket.
    pub stream: StreamOptions,
    /// Source address; the port is chosen by the kernel at connect (`IP_BIND_ADDRESS_NO_PORT`),
    /// so that ports are limited per destination, not per source address.
    pub source: Option<IpAddr>,
}

/// An operation. It owns whatever the kernel may still look at until it completes.
#[derive(Debug)]
pub enum Op {
    /// Accept on a listener until cancelled: [`Outcome::Accepted`](super::Outcome::Accepted) for
    /// each connection.
    Accept {
        /// The listener.
        listener: SocketId,
    },
    /// Make a socket and connect it. The key's socket is the new one. There is no deadline:
    /// close or cancel it.
    Connect {
        /// Where to.
        to: SocketAddr,
        /// Socket options and source address.
        options: ConnectOptions,
        /// The token of the new socket.
        token: Token,
    },
    /// Receive until end of stream, error or cancel: [`Outcome::Data`](super::Outcome::Data) each
    /// time something arrived, [`Outcome::Datagrams`](super::Outcome::Datagrams) on a datagram
    /// socket.
    Recv {
        /// The stream or datagram socket.
        socket: SocketId,
    },
    /// Receive once on a stream: [`Outcome::Data`](super::Outcome::Data) at the most one time, no
    /// longer than a buffer, and then the end as if it had been cancelled. A [`Op::Recv`] would
    /// deliver all that the kernel has before its cancel takes effect, which is too much for a
    /// stream whose bytes are counted out. The key's verb is [`Verb::Recv`].
    RecvOnce {
        /// The stream.
        socket: SocketId,
    },
    /// Send all chunks, in order. Completes once, when the kernel has taken every byte or
    /// refused; the driver continues after short sends. No chunks, or only empty ones, is a bug
    /// of the caller.
    Send {
        /// The stream.
        socket: SocketId,
        /// What to send.
        chunks: Chunks,
    },
    /// Say that no more will be sent (`shutdown(SHUT_WR)`). Carried out at once, without
    /// completion; the caller waits for its sends first. A failure means the stream is broken
    /// and shows in `Recv`.
    ShutdownWrite {
        /// The stream.
        socket: SocketId,
    },
    /// Cancel what is outstanding on the socket and close it. Valid for every socket, also one
    /// that is still connecting, and for listeners. Final: the name is stale afterwards.
    Close {
        /// The socket.
        socket: SocketId,
        /// With FIN or RST; ignored for listeners.
        how: CloseHow,
    },
}

/// The kinds of operation, as part of an [`OpKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// [`Op::Accept`]
    Accept,
    /// [`Op::Connect`]
    Connect,
    /// [`Op::Recv`] or [`Op::RecvOnce`]
    Recv,
    /// [`Op::Send`]
    Send,
    /// [`Op::ShutdownWrite`]; never outstanding.
    ShutdownWrite,
    /// [`Op::Close`]
    Close,
}

/// Names an operation: a socket has at most one outstanding of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OpKey {
    /// The socket it works on.
    pub socket: SocketId,
    /// What it does.
    pub verb: Verb,
}

/// The driver has no room for another socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFull;

impl fmt::Display for QueueFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the driver's socket table is full")
    }
}

impl std::error::Error for QueueFull {}
