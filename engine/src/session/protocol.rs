//! Handshakes of the embedder's own, in place of the exchange of ids.

use super::{Handshake, Progress};
use crate::event::ConnectionInfo;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// One connection's handshake, without I/O: bytes in, bytes out.
///
/// It ends with the peer's id, whatever that is in this protocol; duplicates, bans and the firewall
/// go by it. Nothing but the handshake is the protocol's: bytes behind it are the application's.
/// It runs on the shards, between packets, and must not block. One that panics loses its
/// connection ([`CloseReason::HandlerPanicked`](crate::CloseReason::HandlerPanicked)).
///
/// The original's uTP says nothing to whoever dials it before it has heard something: over uTP the
/// side that dials should begin.
pub trait Protocol: Send {
    /// The connection is up: what is put into `out` is sent.
    fn start(&mut self, out: &mut Vec<u8>);

    /// The peer's next bytes, cut anywhere and never empty; what is put into `out` is sent, whatever
    /// they amount to. Not called again after [`Progress::Done`] or [`Progress::Reject`].
    fn handshake(&mut self, input: &[u8], out: &mut Vec<u8>) -> Progress;
}

type Make = dyn Fn(&ConnectionInfo) -> Box<dyn Protocol> + Send + Sync;

/// Makes the protocol of each connection.
#[derive(Clone)]
pub(crate) struct Factory(Arc<Make>);

impl Factory {
    pub(crate) fn new(
        make: impl Fn(&ConnectionInfo) -> Box<dyn Protocol> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(make))
    }

    /// The session of a connection, and what it says first. `None`: the embedder panicked.
    pub(crate) fn start(&self, info: &ConnectionInfo) -> Option<(Session, Vec<u8>)> {
        let start = || {
            let mut out = Vec::new();
            let mut protocol = (self.0)(info);
            protocol.start(&mut out);
            (protocol, out)
        };
        let (protocol, out) = catch_unwind(AssertUnwindSafe(start)).ok()?;
        let begun = false;
        Some((Session::Own { protocol, begun }, out))
    }
}

impl fmt::Debug for Factory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Factory")
    }
}

/// The handshake of a connection.
pub(crate) enum Session {
    Ids(Handshake),
    Own {
        protocol: Box<dyn Protocol>,
        /// The peer has said something.
        begun: bool,
    },
}

impl Default for Session {
    fn default() -> Self {
        Self::Ids(Handshake::default())
    }
}

impl Session {
    /// Takes the peer's next bytes, and leaves in `out` what to answer. `None`: the embedder's
    /// protocol panicked, or says to have read more than there was.
    pub(crate) fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> Option<Progress> {
        let (protocol, begun) = match self {
            Self::Ids(handshake) => return Some(handshake.feed(input)),
            Self::Own { protocol, begun } => (protocol, begun),
        };
        *begun = true;
        let feed = AssertUnwindSafe(|| protocol.handshake(input, out));
        let progress = catch_unwind(feed).ok()?;
        let possible = match &progress {
            Progress::Done { consumed, .. } => *consumed <= input.len(),
            _ => true,
        };
        possible.then_some(progress)
    }

    /// Whether the peer has said anything: an end is a truncated handshake then.
    pub(crate) fn has_begun(&self) -> bool {
        match self {
            Self::Ids(handshake) => handshake.has_begun(),
            Self::Own { begun, .. } => *begun,
        }
    }
}
