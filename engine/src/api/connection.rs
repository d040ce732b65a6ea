use super::pipe::{PIECE, Read, Write};
use super::streams::Stream;
use super::waiters::{block_until, deadline};
use crate::event::ConnectionInfo;
use crate::files::FilePart;
use crate::names::ConnId;
use bytes::Bytes;
use flock_transport::CloseReason;
use std::fmt;
use std::fs::File;
use std::future::poll_fn;
use std::ops::{Deref, Range};
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// A connection to a peer, usable from any thread and any async runtime, or none.
///
/// It sends and receives shared [`Bytes`], and is an `AsyncRead` and an `AsyncWrite`, of the crate
/// `futures-io` and, with the feature `tokio`, of tokio. Several tasks may use it at a time, through
/// references or as [`split`](Self::split) halves.
///
/// What is held is bounded: bytes received and not taken by [`Builder::recv_limit`], beyond which
/// the peer is held back, and bytes sent by the marks of [`Builder::send_limits`], beyond which
/// senders wait. A peer held back may still add what was on its way in the turn that reached the limit,
/// which the driver's receive buffers bound, and over uTP, when it is let go, what waited in the window
/// meanwhile (`receive_window` of [`utp::Config`](crate::utp::Config)).
///
/// Its futures do nothing before they are polled, and are cancellation-safe as each of them says.
/// Dropping the connection closes it after what was sent has gone out.
///
/// [`Builder::recv_limit`]: crate::Builder::recv_limit
/// [`Builder::send_limits`]: crate::Builder::send_limits
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
    pub(super) fn new(stream: Arc<Stream>) -> Self {
        Self {
            stream,
            owned: true,
        }
    }

    pub(super) fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    /// Whether the peer is gone or going.
    pub(super) fn is_over(&self) -> bool {
        self.stream.pipe.peer_is_gone()
    }

    /// Now with the application.
    pub(super) fn taken(self) -> Self {
        self.stream.pipe.take();
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
        self.stream.pipe.closed().is_some()
    }

    /// Why the connection is over, once it is.
    #[must_use]
    pub fn closed(&self) -> Option<CloseReason> {
        self.stream.pipe.closed()
    }

    /// Bytes received that nobody has taken yet.
    #[must_use]
    pub fn unread(&self) -> usize {
        self.stream.pipe.held().0
    }

    /// Bytes sent that are not in the shard's send queue yet.
    #[must_use]
    pub fn unqueued(&self) -> usize {
        self.stream.pipe.held().1
    }

    /// Hands `data` to the engine, by reference unless it is short, and waits while the send queue is
    /// above its high-water mark. Done means queued, not arrived.
    ///
    /// Cancellation: up to 64 KiB go as a whole or, if the future is dropped first, not at all. More
    /// goes in parts, and a dropped future may have sent some of them; [`send_all`](Self::send_all)
    /// says how many.
    ///
    /// # Errors
    /// The connection ended, or this side ended or closed it; what was not handed over comes back.
    pub async fn send(&self, data: impl Into<Bytes>) -> Result<(), SendError> {
        let mut data = data.into();
        self.send_all(&mut data).await
    }

    /// As [`send`](Self::send), taking what was handed over off the front of `data`.
    ///
    /// Cancellation-safe: when the future is dropped, `data` is what was not sent.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn send_all(&self, data: &mut Bytes) -> Result<(), SendError> {
        poll_fn(|cx| self.hand_over(data, cx.waker())).await
    }

    /// As [`send`](Self::send), blocking this thread at most for `timeout`.
    ///
    /// # Errors
    /// As [`send`](Self::send), or time ran out.
    pub fn send_timeout(&self, data: impl Into<Bytes>, timeout: Duration) -> Result<(), SendError> {
        let mut data = data.into();
        let poll = |waker: &Waker| self.hand_over(&mut data, waker);
        match block_until(deadline(timeout), poll) {
            Some(result) => result,
            None => Err(SendError {
                unsent: data,
                reason: None,
            }),
        }
    }

    /// Hands over what there is room for, and takes it off `data`.
    fn hand_over(&self, data: &mut Bytes, waker: &Waker) -> Poll<Result<(), SendError>> {
        while !data.is_empty() {
            match self.stream.write(data, waker) {
                Write::Taken(_) => {}
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

    /// Sends a part of a file behind what was sent before, read 256 KiB ahead of what the peer takes, and
    /// without making a shard wait for the disk. Done means queued in whole; until then nothing else can
    /// be sent.
    ///
    /// Cancellation: the file is handed over as a whole or, if the future is dropped before that, not at
    /// all. Dropping it later stops nothing.
    ///
    /// # Errors
    /// The connection ended, or this side ended or closed it. A file that is too short or cannot be read
    /// ends it with [`CloseReason::FileFailed`].
    pub async fn send_file(&self, file: Arc<File>, range: Range<u64>) -> Result<(), RecvError> {
        let part = FilePart {
            file,
            at: range.start,
            end: range.end,
        };
        if part.left() == 0 {
            return Ok(());
        }
        let poll = |write| match write {
            Write::Taken(_) => Poll::Ready(Ok(())),
            Write::Full => Poll::Pending,
            Write::Closed(reason) => Poll::Ready(Err(RecvError::Closed(reason))),
        };
        poll_fn(|cx| poll(self.stream.write_file(&part, cx.waker()))).await?;
        poll_fn(|cx| poll(self.stream.pipe.is_file_queued(cx.waker()))).await
    }

    /// The next bytes received, at most 64 KiB, or `None` once the peer has ended its direction or the
    /// connection was closed by this side or in good order.
    ///
    /// Cancellation-safe: bytes are either returned or still there.
    ///
    /// # Errors
    /// The connection broke, or the engine was shut down.
    pub async fn recv(&self) -> Result<Option<Bytes>, RecvError> {
        poll_fn(|cx| self.take(PIECE, cx.waker())).await
    }

    /// As [`recv`](Self::recv), blocking this thread at most for `timeout`.
    ///
    /// # Errors
    /// As [`recv`](Self::recv), or nothing came in time.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Option<Bytes>, RecvError> {
        block_until(deadline(timeout), |waker| self.take(PIECE, waker))
            .unwrap_or(Err(RecvError::TimedOut))
    }

    /// Takes at most `max` bytes.
    pub(super) fn take(&self, max: usize, waker: &Waker) -> Poll<Result<Option<Bytes>, RecvError>> {
        match self.stream.read(max, waker) {
            Read::Data(data) => Poll::Ready(Ok(Some(data))),
            Read::End => Poll::Ready(Ok(None)),
            Read::Closed(reason) => Poll::Ready(Err(RecvError::Closed(reason))),
            Read::Nothing => Poll::Pending,
        }
    }

    /// Ends our direction after what was sent (half-close); receiving goes on. Nothing can be sent
    /// after it. When the peer has ended its direction, too, the connection is over; what it sent
    /// can still be received.
    pub fn end(&self) {
        self.stream.ask(|asked| &mut asked.end);
    }

    /// Closes after what was sent has gone out. What was received can still be taken, and nothing
    /// more comes.
    pub fn close(&self) {
        self.stream.ask(|asked| &mut asked.close);
    }

    /// Resets the connection; what has not gone out is lost.
    pub fn abort(&self) {
        self.stream.ask(|asked| &mut asked.abort);
    }

    /// Two halves, for two tasks. See [`Reader`] and [`Writer`] for what dropping them does.
    #[must_use]
    pub fn split(self) -> (Reader, Writer) {
        let shared = Arc::new(self);
        (Reader(shared.clone()), Writer(shared))
    }
}

/// The receiving half of a [`Connection`], which it gives access to. When both halves are dropped
/// the connection closes.
#[derive(Debug)]
pub struct Reader(Arc<Connection>);

/// The sending half of a [`Connection`], which it gives access to. Dropping it ends our direction
/// after what was sent; when both halves are dropped the connection closes.
#[derive(Debug)]
pub struct Writer(Arc<Connection>);

impl Deref for Reader {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.0
    }
}

impl Deref for Writer {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.0
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.owned {
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
