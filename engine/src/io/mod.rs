//! The seam between the engine and the operating system: one completion-shaped [`Driver`].
//!
//! Three drivers implement it: `uring` (io_uring), `poll` (epoll, emulating completions) and
//! `sim` (a seeded network in virtual time). One conformance suite holds all three to the
//! contract written on each item here.

mod completion;
mod config;
mod datagrams;
mod op;
mod poll;
mod probe;
pub mod sim;
#[expect(unsafe_code, reason = "system calls")]
mod sys;
#[expect(unsafe_code, reason = "shared memory and entries the kernel reads")]
mod uring;

pub use completion::{Completion, Completions, LoanId, Outcome};
pub use config::{Backend, Clock, Drained, DriverConfig, DriverCounters, Wake, Waker};
pub use datagrams::{BoundDatagrams, CappedBuffer, DatagramOptions};
pub use op::{ConnectOptions, Op, OpKey, QueueFull, SocketId, Token, Verb};
pub use poll::PollDriver;
pub use probe::{Reason, Selected, Unavailable, probe, select};
pub(crate) use sys::{Inherited, InheritedKind};
pub use sys::{Limits, OpenFiles, raise_open_files};
pub use uring::UringDriver;

// Words of the seam that come from below, so that its users need no other crate.
pub use flock_tcp::{ListenOptions, StreamOptions};
pub use flock_transport::{Chunks, CloseHow, Errno, HandshakeError, Instant, Train};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// The most trains of one datagram socket under way.
pub const TRAINS_MAX: usize = 128;

/// Completion-shaped access to sockets and to time, for one thread.
///
/// Operations are queued by [`submit`](Self::submit) and carried out in [`turn`](Self::turn),
/// which also is the only source of time: swapping the driver swaps clock and network together.
///
/// Rules every driver keeps:
///
/// * An accepted operation gets exactly one *final* completion (see [`Outcome`]), also when it
///   is cancelled; multishot operations ([`Op::Accept`], [`Op::Recv`]) deliver any number of
///   non-final ones before it.
/// * After [`Op::Close`] the only completion that still comes for that socket is
///   [`Outcome::Closed`], and it is the last to name that [`SocketId`]. Completions of a socket
///   that has been closed are swallowed by the driver, and what they carry (descriptors, loans)
///   is given back.
/// * At most one `Recv` and one `Send` are outstanding per socket (a second one is a bug of the
///   caller and panics); trains apart.
/// * Lack of receive buffers parks a receive; it never fails one. Nor does what the network says
///   of a single datagram: such errors are counted. Lack of descriptors pauses
///   accepting, and resumes by itself; it never harms live connections.
pub trait Driver {
    /// Binds and listens at `addr` and returns the socket with the address really bound. Accepting
    /// starts with [`Op::Accept`]. Errors are the system's (`AddrInUse`, `PermissionDenied`, …).
    fn listen(
        &mut self,
        addr: SocketAddr,
        options: &ListenOptions,
        token: Token,
    ) -> io::Result<(SocketId, SocketAddr)>;

    /// Binds a datagram socket at `addr`. Receiving starts with [`Op::Recv`]; datagrams go out by
    /// [`send_train`](Self::send_train). Errors are the system's, as for [`listen`](Self::listen).
    fn bind_datagrams(
        &mut self,
        addr: SocketAddr,
        options: &DatagramOptions,
        token: Token,
    ) -> io::Result<BoundDatagrams>;

    /// As [`listen`](Self::listen), with a listener that somebody else made. Of `options` only
    /// what accepted connections inherit, and when they are accepted, is set on it. Closing it
    /// closes the descriptor; the listener, and who waits in its backlog, stays for others that
    /// hold it. Errors are the system's, or `Unsupported` where there are no descriptors.
    fn adopt_listener(
        &mut self,
        _listener: OwnedFd,
        _options: &ListenOptions,
        _token: Token,
    ) -> io::Result<(SocketId, SocketAddr)> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// As [`bind_datagrams`](Self::bind_datagrams), with a bound socket that somebody else made.
    /// Its buffers are enlarged to those of `options`, never made smaller. Others may hold it,
    /// too: each datagram reaches one of all who receive. Errors as for
    /// [`adopt_listener`](Self::adopt_listener).
    fn adopt_datagrams(
        &mut self,
        _socket: OwnedFd,
        _options: &DatagramOptions,
        _token: Token,
    ) -> io::Result<BoundDatagrams> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Makes the sockets that share the address of `socket` receive by uTP connection id, for
    /// `shards` sockets bound in the order of their shards, once, after the last of them:
    /// [`flock_utp::steer`] says which gets what. Errors are those of
    /// `SO_ATTACH_REUSEPORT_CBPF` (socket(7)); the kernel then spreads datagrams by address.
    fn steer(&mut self, socket: SocketId, shards: u16) -> io::Result<()>;

    /// Queues a train of datagrams, in order with other trains of the socket, and leaves an empty
    /// one in its place. [`Outcome::TrainSent`] or [`Outcome::TrainRefused`] follows; trains of a
    /// socket that is closed meanwhile end without either. On a stale socket the train is
    /// dropped.
    ///
    /// A train may go to the kernel at once, but is reported in a later turn only. At most
    /// [`TRAINS_MAX`] trains of a socket are under way; one more is refused, and stays the
    /// caller's.
    fn send_train(&mut self, socket: SocketId, train: &mut Train) -> Result<(), QueueFull>;

    /// Sets the token that completions of `socket` carry. Accepted sockets start with the
    /// listener's token. A stale `socket` is ignored.
    fn assign(&mut self, socket: SocketId, token: Token);

    /// Queues `op`. Only [`Op::Connect`] can be refused, when the socket table is full. An
    /// operation on a stale name is dropped without a completion, since the last completion of
    /// that socket has been delivered or is on its way.
    fn submit(&mut self, op: Op) -> Result<OpKey, QueueFull>;

    /// Asks that an operation end soon. Its final completion still comes, exactly once: the
    /// natural one if that was faster, else [`Outcome::RecvEnded`], [`Outcome::AcceptEnded`],
    /// [`Outcome::SendFailed`] or [`Outcome::ConnectFailed`] with `ECANCELED`. A key that is no
    /// longer outstanding is ignored.
    fn cancel(&mut self, key: OpKey);

    /// Hands queued operations to the system, waits until there is a completion, the deadline
    /// passes (`None`: no deadline) or the [`Waker`] is used, then replaces the contents of `out`
    /// with what completed, and returns the time after the wait. Loans of the previous turn are
    /// recycled first. Errors are only those the driver cannot go on after.
    fn turn(&mut self, deadline: Option<Instant>, out: &mut Completions) -> io::Result<Instant>;

    /// The bytes behind a loan of the latest turn. Panics for a loan of an earlier one.
    fn bytes(&self, loan: LoanId) -> &[u8];

    /// The handle other threads use to end a wait in [`turn`](Self::turn) early.
    fn waker(&self) -> Waker;

    /// The time as of the latest turn.
    fn now(&self) -> Instant;

    /// Counters since the start.
    fn counters(&self) -> DriverCounters;

    /// Closes every socket, cancels every operation and waits at most `grace` until the kernel
    /// holds none of this driver's memory; what it still holds then is leaked and counted, never
    /// freed under it. Dropping a driver does the same with a grace of one second.
    fn shutdown(&mut self, grace: Duration) -> Drained;
}
