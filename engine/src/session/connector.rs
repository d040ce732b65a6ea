//! What the embedder puts between the network and everything else of a connection.

use crate::event::ConnectionInfo;
use bytes::Bytes;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

#[cfg(test)]
mod tests;

/// What lies between the network and handshake and application of one connection, without I/O: it
/// encrypts, compresses, counts. Bytes come in on either side, and what is to go on is put out on the
/// other.
///
/// Cuts mean nothing: of the peer's bytes and of ours some may wait in it for others. What does wait is
/// its own to bound, and no part of [`ConnCx::queued`](crate::ConnCx::queued).
///
/// It runs on the shards, between packets, and must not block. One that panics loses its connection
/// ([`CloseReason::HandlerPanicked`](crate::CloseReason::HandlerPanicked)), and so does one that fails:
/// such a connection is reset, and what was put out in that call is dropped.
pub trait Connector: Send {
    /// The connection is up, before anything else of it is sent.
    ///
    /// # Errors
    /// Ends the connection; so it is with the other methods.
    fn start(&mut self, peer: &mut ToPeer<'_>) -> Result<(), ConnectorError> {
        let _nothing_to_say = peer;
        Ok(())
    }

    /// Bytes of ours, never empty: first the handshake's, then the application's.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    fn outgoing(&mut self, bytes: Bytes, peer: &mut ToPeer<'_>) -> Result<(), ConnectorError>;

    /// Our direction ends behind what is put out here. Nothing can be sent any more. It is not called
    /// where a connection is reset.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    fn outgoing_ended(&mut self, peer: &mut ToPeer<'_>) -> Result<(), ConnectorError> {
        let _nothing_left = peer;
        Ok(())
    }

    /// The peer's next bytes, cut anywhere and never empty. What is put out to the peer goes before
    /// what is sent in answer to them; behind the end of our direction it is dropped.
    ///
    /// # Errors
    /// [`ConnectorError::Refused`] when the peer's bytes make no sense.
    fn incoming(
        &mut self,
        bytes: &[u8],
        local: &mut ToLocal<'_>,
        peer: &mut ToPeer<'_>,
    ) -> Result<(), ConnectorError>;

    /// The peer ended its direction, which to us ends behind what is put out here.
    ///
    /// # Errors
    /// [`ConnectorError::Refused`] when there should have been more: an end may be forged.
    fn incoming_ended(
        &mut self,
        local: &mut ToLocal<'_>,
        peer: &mut ToPeer<'_>,
    ) -> Result<(), ConnectorError> {
        let _nothing_left = (local, peer);
        Ok(())
    }
}

/// Why a connector cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectorError {
    /// What the peer sent makes no sense, or ended too early
    /// ([`CloseReason::ConnectorRefused`](crate::CloseReason::ConnectorRefused)).
    Refused,
    /// It put out more than one call may
    /// ([`CloseReason::ConnectorOverflow`](crate::CloseReason::ConnectorOverflow)).
    Overflow,
}

impl fmt::Display for ConnectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "refused by the connector",
            Self::Overflow => "the connector puts out too much",
        })
    }
}

impl std::error::Error for ConnectorError {}

/// What a call may put out to one side beyond twice the bytes it was given.
const GROWTH: usize = 1 << 20;

/// Memory for what is put out locally that is kept for the next call.
const LOCAL_KEPT: usize = 256 << 10;

/// What a call put out, in memory that is used again.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pub(crate) peer: Vec<Bytes>,
    pub(crate) local: Vec<u8>,
    /// The input itself is what goes on locally, without a copy.
    pub(crate) passed: bool,
}

impl Output {
    fn clear(&mut self) {
        self.peer.clear();
        self.local.clear();
        self.local.shrink_to(LOCAL_KEPT);
        self.passed = false;
    }
}

/// Where to put what the peer is to get.
///
/// A call may put out twice as many bytes as it was given, and 1 MiB more.
#[derive(Debug)]
pub struct ToPeer<'a> {
    pieces: &'a mut Vec<Bytes>,
    room: Option<usize>,
}

impl ToPeer<'_> {
    /// Sends `bytes`, by reference.
    ///
    /// # Errors
    /// [`ConnectorError::Overflow`]: it is more than a call may put out.
    pub fn put(&mut self, bytes: impl Into<Bytes>) -> Result<(), ConnectorError> {
        let bytes = bytes.into();
        take(&mut self.room, bytes.len())?;
        if !bytes.is_empty() {
            self.pieces.push(bytes);
        }
        Ok(())
    }
}

/// Where to put what handshake and application are to get.
///
/// A call may put out twice as many bytes as it was given, and 1 MiB more.
#[derive(Debug)]
pub struct ToLocal<'a> {
    input: &'a [u8],
    bytes: &'a mut Vec<u8>,
    passed: &'a mut bool,
    room: Option<usize>,
}

impl ToLocal<'_> {
    /// Hands on a copy of `bytes`, and returns it to be changed in place.
    ///
    /// # Errors
    /// [`ConnectorError::Overflow`]: it is more than a call may put out.
    pub fn put(&mut self, bytes: &[u8]) -> Result<&mut [u8], ConnectorError> {
        take(&mut self.room, bytes.len())?;
        if std::mem::take(self.passed) {
            self.bytes.extend_from_slice(self.input);
        }
        let at = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        Ok(&mut self.bytes[at..])
    }

    /// Hands on all that came in, as it is; where nothing else is put out, without a copy.
    ///
    /// # Errors
    /// [`ConnectorError::Overflow`]: it is more than a call may put out.
    pub fn pass(&mut self) -> Result<(), ConnectorError> {
        if !self.bytes.is_empty() || *self.passed {
            return self.put(self.input).map(|_| ());
        }
        take(&mut self.room, self.input.len())?;
        *self.passed = !self.input.is_empty();
        Ok(())
    }
}

/// Takes `len` bytes of what room is left; none is left once that was too much.
fn take(room: &mut Option<usize>, len: usize) -> Result<(), ConnectorError> {
    *room = room.and_then(|room| room.checked_sub(len));
    room.map(|_| ()).ok_or(ConnectorError::Overflow)
}

/// Why a call came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failed {
    Panicked,
    Connector(ConnectorError),
}

type Make = dyn Fn(&ConnectionInfo) -> Box<dyn Connector> + Send + Sync;

/// Makes the connector of each connection.
#[derive(Clone)]
pub(crate) struct Connectors(Arc<Make>);

impl Connectors {
    pub(crate) fn new(
        make: impl Fn(&ConnectionInfo) -> Box<dyn Connector> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(make))
    }

    /// The connector of a connection. `None`: the embedder panicked.
    pub(crate) fn make(&self, info: &ConnectionInfo) -> Option<Joint> {
        let connector = catch_unwind(AssertUnwindSafe(|| (self.0)(info))).ok()?;
        let ended = false;
        Some(Joint { connector, ended })
    }
}

impl fmt::Debug for Connectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connectors")
    }
}

/// A connection's connector in its place.
pub(crate) struct Joint {
    connector: Box<dyn Connector>,
    /// It was told that our direction ends.
    ended: bool,
}

impl Joint {
    pub(crate) fn start(&mut self, out: &mut Output) -> Result<(), Failed> {
        run(0, &[], out, |_, peer| self.connector.start(peer))
    }

    pub(crate) fn outgoing(&mut self, bytes: Bytes, out: &mut Output) -> Result<(), Failed> {
        debug_assert!(!self.ended, "nothing is sent behind the end");
        let len = bytes.len();
        run(len, &[], out, |_, peer| {
            self.connector.outgoing(bytes, peer)
        })
    }

    /// The end of our direction, told once.
    pub(crate) fn outgoing_ended(&mut self, out: &mut Output) -> Result<(), Failed> {
        if std::mem::replace(&mut self.ended, true) {
            out.clear();
            return Ok(());
        }
        run(0, &[], out, |_, peer| self.connector.outgoing_ended(peer))
    }

    pub(crate) fn incoming(&mut self, input: &[u8], out: &mut Output) -> Result<(), Failed> {
        run(input.len(), input, out, |local, peer| {
            self.connector.incoming(input, local, peer)
        })
    }

    pub(crate) fn incoming_ended(&mut self, out: &mut Output) -> Result<(), Failed> {
        run(0, &[], out, |local, peer| {
            self.connector.incoming_ended(local, peer)
        })
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }
}

/// One call, which was given `len` bytes. What it put out is in `out`; nothing where it failed.
fn run(
    len: usize,
    input: &[u8],
    out: &mut Output,
    call: impl FnOnce(&mut ToLocal<'_>, &mut ToPeer<'_>) -> Result<(), ConnectorError>,
) -> Result<(), Failed> {
    out.clear();
    let room = Some(len.saturating_mul(2).saturating_add(GROWTH));
    let Output {
        peer: pieces,
        local: bytes,
        passed,
    } = out;
    let mut local = ToLocal {
        input,
        bytes,
        passed,
        room,
    };
    let mut peer = ToPeer { pieces, room };
    let result = match catch_unwind(AssertUnwindSafe(|| call(&mut local, &mut peer))) {
        Err(_) => Err(Failed::Panicked),
        // Whatever it made of the refusal.
        Ok(_) if local.room.is_none() || peer.room.is_none() => {
            Err(Failed::Connector(ConnectorError::Overflow))
        }
        Ok(result) => result.map_err(Failed::Connector),
    };
    if result.is_err() {
        out.clear();
    }
    result
}
