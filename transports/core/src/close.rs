use std::fmt;
use std::io;

/// An error number of the operating system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

impl Errno {
    /// The operation was cancelled (`ECANCELED` on Linux).
    pub const CANCELED: Self = Self(125);

    /// The number inside `error`, or `EIO` (5) when it carries none.
    #[must_use]
    pub fn from_io(error: &io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(5))
    }

    /// The portable kind, for matching.
    #[must_use]
    pub fn kind(self) -> io::ErrorKind {
        io::Error::from(self).kind()
    }
}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> Self {
        Self::from_raw_os_error(errno.0)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from(*self).fmt(f)
    }
}

/// Why the bytes a peer sent are no handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The announced id is empty.
    EmptyId,
    /// The announced id is longer than the limit of this engine.
    IdTooLong {
        /// Bytes announced, at the least; no more than this type holds.
        announced: u32,
        /// Bytes allowed.
        limit: u16,
    },
    /// The length prefix does not end within five bytes.
    LengthTooLong,
    /// The stream ended inside the handshake.
    Truncated,
    /// The embedder's own protocol refused the peer.
    Refused,
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptyId => f.write_str("empty id"),
            Self::IdTooLong { announced, limit } => {
                write!(f, "id of {announced} bytes, limit {limit}")
            }
            Self::LengthTooLong => f.write_str("length prefix longer than five bytes"),
            Self::Truncated => f.write_str("stream ended inside the handshake"),
            Self::Refused => f.write_str("refused by the protocol"),
        }
    }
}

/// Who caused a connection to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blame {
    /// The program that embeds the engine asked for it.
    Application,
    /// A rule or limit of this engine.
    Policy,
    /// The remote peer.
    Peer,
    /// The network or the operating system.
    Network,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The application closed it.
    Local,
    /// The engine was shut down.
    Shutdown,
    /// The application's handler panicked; only this connection was given up.
    HandlerPanicked,
    /// The application sent more than the send queue may hold.
    SendQueueFull,
    /// A file that was being sent is shorter than was said, or could not be read.
    FileFailed(Errno),
    /// What the peer sent made no sense to the application's connector.
    ConnectorRefused,
    /// The application's connector put out more than one call may.
    ConnectorOverflow,
    /// Another connection to the same peer was kept.
    Redundant,
    /// The remote peer has our own id.
    DetectedSelf,
    /// The peer, or its address, is banned.
    Banned,
    /// `max_connections` is reached.
    TooManyConnections,
    /// `max_inbound` is reached.
    TooManyInbound,
    /// The firewall refused the peer by its id.
    Firewall,
    /// The peer was slow to state its id while many others waited to state theirs.
    TooManyHandshakes,
    /// Nothing was sent or received for longer than the idle timeout.
    IdleTimeout,
    /// Fewer bytes were sent and received than `min_rate` asks for.
    TooSlow,
    /// The application evicted it in favour of others.
    Evicted,
    /// The peer did not finish its handshake in time.
    HandshakeTimeout,
    /// What the peer sent is no handshake.
    Handshake(HandshakeError),
    /// The peer ended the stream.
    PeerClosed,
    /// The peer reset the stream.
    PeerReset,
    /// The connect deadline passed.
    ConnectTimeout,
    /// The operating system reported an error.
    Io(Errno),
}

impl CloseReason {
    /// Who caused it.
    #[must_use]
    pub fn blame(self) -> Blame {
        match self {
            Self::Local
            | Self::Shutdown
            | Self::HandlerPanicked
            | Self::SendQueueFull
            | Self::FileFailed(_) => Blame::Application,
            Self::ConnectorOverflow
            | Self::Redundant
            | Self::DetectedSelf
            | Self::Banned
            | Self::TooManyConnections
            | Self::TooManyInbound
            | Self::Firewall
            | Self::TooManyHandshakes
            | Self::IdleTimeout
            | Self::TooSlow
            | Self::Evicted => Blame::Policy,
            Self::ConnectorRefused
            | Self::HandshakeTimeout
            | Self::Handshake(_)
            | Self::PeerClosed
            | Self::PeerReset => Blame::Peer,
            Self::ConnectTimeout | Self::Io(_) => Blame::Network,
        }
    }

    /// The short name used in events and counters.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Shutdown => "shutdown",
            Self::HandlerPanicked => "handler-panicked",
            Self::SendQueueFull => "send-queue-full",
            Self::FileFailed(_) => "file-failed",
            Self::ConnectorRefused => "connector-refused",
            Self::ConnectorOverflow => "connector-overflow",
            Self::Redundant => "redundant",
            Self::DetectedSelf => "detected-self",
            Self::Banned => "banned",
            Self::TooManyConnections => "too-many-connections",
            Self::TooManyInbound => "too-many-inbound",
            Self::Firewall => "firewall",
            Self::TooManyHandshakes => "too-many-handshakes",
            Self::IdleTimeout => "idle-timeout",
            Self::TooSlow => "too-slow",
            Self::Evicted => "evicted",
            Self::HandshakeTimeout => "handshake-timeout",
            Self::Handshake(_) => "bad-handshake",
            Self::PeerClosed => "peer-closed",
            Self::PeerReset => "peer-reset",
            Self::ConnectTimeout => "connect-timeout",
            Self::Io(_) => "io-error",
        }
    }

    /// The reason behind an error that the operating system reported for a stream.
    #[must_use]
    pub fn from_errno(errno: Errno) -> Self {
        match errno.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::PeerReset,
            _ => Self::Io(errno),
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Handshake(error) => write!(f, "bad handshake: {error}"),
            Self::Io(errno) => write!(f, "i/o error: {errno}"),
            Self::FileFailed(errno) => write!(f, "file failed: {errno}"),
            other => f.write_str(other.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_small_since_every_connection_may_have_one() {
        assert!(size_of::<Option<CloseReason>>() <= 8);
    }
}
