use super::op::{SocketId, Token};
use flock_transport::{Errno, Instant};
use std::net::SocketAddr;

/// Names received bytes that the driver lends until the next turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LoanId(pub(crate) u32);

/// What became of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The token of the socket.
    pub token: Token,
    /// The socket the operation works on (for [`Outcome::Accepted`], the listener).
    pub socket: SocketId,
    /// What happened.
    pub outcome: Outcome,
}

/// What happened to an operation. *Final* ones are the last of their operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// `Accept`: a connection. The new socket is the receiver's to use and to close.
    Accepted {
        /// The new stream; it carries the listener's token until `assign`.
        socket: SocketId,
        /// The remote address, v4-mapped addresses as IPv4.
        peer: SocketAddr,
    },
    /// `Accept`, final: cancelled (`ECANCELED`), or the listener is broken.
    AcceptEnded(Errno),
    /// `Connect`, final: established.
    Connected,
    /// `Connect`, final. The socket has been closed by the driver and its name is stale; no
    /// `Closed` follows.
    ConnectFailed(Errno),
    /// `Recv`: bytes arrived; never empty.
    Data(LoanId),
    /// `Recv` on a datagram socket: datagrams arrived, one after another in the loan, from one
    /// address; never empty.
    Datagrams {
        /// Where they come from, v4-mapped addresses as IPv4.
        from: SocketAddr,
        /// When the kernel received the first of them.
        received_at: Instant,
        /// Bytes of each but the last, which may be shorter (`UDP_GRO`, udp(7)).
        segment: u16,
        /// The bytes.
        loan: LoanId,
    },
    /// `Recv`, final: the peer ended its direction.
    Eof,
    /// `Recv`, final: cancelled (`ECANCELED`; nothing is lost, a new `Recv` goes on) or the
    /// stream is broken.
    RecvEnded(Errno),
    /// `Send`, final: the kernel has taken all bytes.
    Sent {
        /// How many that were.
        bytes: u64,
    },
    /// `Send`, final: cancelled, or the stream is broken; an unknown part was sent.
    SendFailed(Errno),
    /// A train went out, as far as the kernel is concerned.
    TrainSent {
        /// That of the train.
        tag: u64,
    },
    /// The kernel took no datagram of a train.
    TrainRefused {
        /// That of the train.
        tag: u64,
        /// Why; `EMSGSIZE`: too long to be sent without fragmentation.
        errno: Errno,
    },
    /// `Close`, final, and the last completion with this socket.
    Closed,
}

/// Completions of one turn; the memory is reused from turn to turn.
pub type Completions = Vec<Completion>;
