use super::streams::{PIECE, Read, Stream, Write};
use crate::event::ConnectionInfo;
use crate::names::ConnId;
use bytes::{Buf, Bytes};
use flock_transport::{Blame, CloseReason};
use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// A connection to a peer, usable from any thread and any async runtime, or none.
///
/// Its futures are cancellation-safe: `recv` loses no bytes; `send` tells through
/// [`SendError::unsent`] and, when dropped, may have sent a first part, in pieces of 64 KiB.
/// Dropping the connection closes it after what was sent has gone out.
pub struct Connection {
    stream: Arc<Stream>,
    /// Whether dropping it closes it.
    owned: bool,
}

/// The connection ended before everything was handed over.
#[derive(Clone, Debug)]
pub struct SendError {
    /// What was not sent.
    pub unsent: Bytes,
    /// Why the connection ended; `None` when only time ran out.
    pub reason: Option<CloseReason>,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason {
            Some(reason) => write!(f, "connection closed: {reason}"),
            None => f.write_str("timed out"),
        }
    }
}

impl std::error::Error for SendError {}

/// Nothing could be received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecvError {
    /// The connection broke, or was closed by this engine.
    Closed(CloseReason),
    /// Nothing came in time (blocking calls only).
    TimedOut,
}

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(reason) => write!(f, "connection closed: {reason}"),
            Self::TimedOut => f.write_str("timed out"),
        }
    }
}

impl std::error::Error for RecvError {}

impl Connection {
    pub(crate) fn new(stream: Arc<Stream>) -> Self {
        Self {
            stream,
            owned: true,
        }
    }

    /// Whether the peer is gone or going.
    pub(super) fn is_over(&self) -> bool {
        self.stream.peer_is_gone()
    }

    /// Now with the application.
    pub(super) fn taken(self) -> Self {
        self.stream.take();
        self
    }

    /// Forgets the connection without closing it.
    pub(super) fn disown(mut self) {
        self.owned = false;
    }

    /// What is known about the connection and its peer.
    #[must_use]
    pub fn info(&self) -> &ConnectionInfo {
        &self.stream.info
    }

    /// The connection's name.
    #[must_use]
    pub fn id(&self) -> ConnId {
        self.stream.info.conn
    }

    /// Whether the connection is over. Bytes received before may still be there.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.stream.closed().is_some()
    }

    /// Hands `data` to the engine, by reference, and waits while its send queue is above the
    /// high-water mark. Done means queued, not arrived.
    ///
    /// # Errors
    /// The connection ended, or this side ended or closed it; what was not handed over comes back.
    pub async fn send(&self, data: impl Into<Bytes>) -> Result<(), SendError> {
        let mut data = data.into();
        poll_fn(|cx| self.hand_over(&mut data, cx.waker())).await
    }

    /// As [`send`](Self::send), blocking this thread at most for `timeout`.
    ///
    /// # Errors
    /// As [`send`](Self::send), or time ran out.
    pub fn send_timeout(&self, data: impl Into<Bytes>, timeout: Duration) -> Result<(), SendError> {
        let deadline = deadline(timeout);
        let mut data = data.into();
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        loop {
            if let Poll::Ready(result) = self.hand_over(&mut data, &waker) {
                return result;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(SendError {
                    unsent: data,
                    reason: None,
                });
            }
            thread::park_timeout(left);
        }
    }

    /// Hands over what there is room for, and takes it off `data`.
    fn hand_over(&self, data: &mut Bytes, waker: &Waker) -> Poll<Result<(), SendError>> {
        while !data.is_empty() {
            let piece = data.slice(..data.len().min(PIECE));
            match self.stream.write(&piece, waker) {
                Write::Taken => data.advance(piece.len()),
                Write::Full => return Poll::Pending,
                Write::Closed(reason) => {
                    return Poll::Ready(Err(SendError {
                        unsent: data.clone(),
                        reason: Some(reason),
                    }));
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The next bytes received, or `None` once the peer has ended its direction (or the
    /// connection was closed in good order).
    ///
    /// # Errors
    /// The connection broke.
    pub async fn recv(&self) -> Result<Option<Bytes>, RecvError> {
        poll_fn(|cx| match self.take(Some(cx.waker())) {
            Some(result) => Poll::Ready(result),
            None => Poll::Pending,
        })
        .await
    }

    /// As [`recv`](Self::recv), blocking this thread at most for `timeout`.
    ///
    /// # Errors
    /// The connection broke, or nothing came in time.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Option<Bytes>, RecvError> {
        let deadline = deadline(timeout);
        loop {
            if let Some(result) = self.take(None) {
                return result;
            }
            if !self.stream.wait_readable(deadline) {
                return Err(RecvError::TimedOut);
            }
        }
    }

    fn take(&self, waker: Option<&Waker>) -> Option<Result<Option<Bytes>, RecvError>> {
        match self.stream.read(waker) {
            Read::Data(data) => Some(Ok(Some(data))),
            Read::End => Some(Ok(None)),
            Read::Closed(CloseReason::PeerClosed) => Some(Ok(None)),
            Read::Closed(reason) if reason.blame() == Blame::Application => Some(Ok(None)),
            Read::Closed(reason) => Some(Err(RecvError::Closed(reason))),
            Read::Nothing => None,
        }
    }

    /// Ends our direction after what was sent (half-close); receiving goes on. Nothing can be sent
    /// after it. When the peer has ended its direction, too, the connection is over; what it sent
    /// can still be received.
    pub fn end(&self) {
        self.stream.end();
    }

    /// Closes after what was sent has gone out.
    pub fn close(&self) {
        self.stream.close(false);
    }

    /// Resets the connection; what has not gone out is lost.
    pub fn abort(&self) {
        self.stream.close(true);
    }
}

/// `timeout` from now; one beyond what a clock can say is as good as for ever.
pub(crate) fn deadline(timeout: Duration) -> Instant {
    const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    let now = Instant::now();
    now.checked_add(timeout).unwrap_or(now + FOR_EVER)
}

/// Wakes a blocked thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.owned && !self.is_closed() {
            self.close();
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("info", self.info())
            .finish_non_exhaustive()
    }
}
