//! Connections as byte streams of the async ecosystem: `futures-io`, and tokio by a feature.
//!
//! One poll of either direction is one operation: bytes are copied out of what was received, or
//! into what is to be sent, if it is ready, and otherwise nothing has happened. That makes reads and
//! writes cancellation-safe. Flushing has nothing to do, since whatever is written goes out without
//! it; closing a writer ends our direction.

use super::connection::{Connection, Reader, RecvError, Writer};
use super::pipe::{PIECE, Write};
use flock_transport::CloseReason;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

impl Connection {
    /// Reads at most `buf.len()` bytes; 0 is the end.
    fn read_into(&self, waker: &Waker, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let max = buf.len().min(PIECE);
        self.take(max, waker).map(|taken| {
            let data = taken?.unwrap_or_default();
            buf[..data.len()].copy_from_slice(&data);
            Ok(data.len())
        })
    }

    fn write_from(&self, waker: &Waker, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if parts.iter().all(|part| part.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        match self.stream().write_copy(parts, waker) {
            Write::Taken(len) => Poll::Ready(Ok(len)),
            Write::Full => Poll::Pending,
            Write::Closed(reason) => Poll::Ready(Err(broken_pipe(reason))),
        }
    }
}

/// The error of a write to what is closed.
fn broken_pipe(reason: CloseReason) -> io::Error {
    let kind = match reason {
        CloseReason::Local | CloseReason::PeerClosed => ErrorKind::BrokenPipe,
        other => kind(other),
    };
    io::Error::new(kind, RecvError::Closed(reason))
}

fn kind(reason: CloseReason) -> ErrorKind {
    match reason {
        CloseReason::PeerReset => ErrorKind::ConnectionReset,
        CloseReason::IdleTimeout | CloseReason::TooSlow | CloseReason::ConnectTimeout => {
            ErrorKind::TimedOut
        }
        CloseReason::Io(errno) => errno.kind(),
        _ => ErrorKind::ConnectionAborted,
    }
}

/// The kind says what `std::net` would; the [`CloseReason`] is inside.
impl From<RecvError> for io::Error {
    fn from(error: RecvError) -> Self {
        let kind = match error {
            RecvError::Closed(reason) => kind(reason),
            RecvError::TimedOut => ErrorKind::TimedOut,
        };
        Self::new(kind, error)
    }
}

macro_rules! async_read {
    ($($half:ty),*) => { $(
        impl futures_io::AsyncRead for $half {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut [u8],
            ) -> Poll<io::Result<usize>> {
                self.read_into(cx.waker(), buf)
            }
        }

        #[cfg(feature = "tokio")]
        impl tokio::io::AsyncRead for $half {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut tokio::io::ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                let read = self.read_into(cx.waker(), buf.initialize_unfilled());
                read.map_ok(|len| buf.advance(len))
            }
        }
    )* };
}

macro_rules! async_write {
    ($($half:ty),*) => { $(
        impl futures_io::AsyncWrite for $half {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &[u8],
            ) -> Poll<io::Result<usize>> {
                self.write_from(cx.waker(), &[IoSlice::new(buf)])
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                self.write_from(cx.waker(), bufs)
            }

            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }

            fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.end();
                Poll::Ready(Ok(()))
            }
        }

        #[cfg(feature = "tokio")]
        impl tokio::io::AsyncWrite for $half {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &[u8],
            ) -> Poll<io::Result<usize>> {
                self.write_from(cx.waker(), &[IoSlice::new(buf)])
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                self.write_from(cx.waker(), bufs)
            }

            fn is_write_vectored(&self) -> bool {
                true
            }

            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }

            fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.end();
                Poll::Ready(Ok(()))
            }
        }
    )* };
}

async_read!(Connection, &Connection, Reader);
async_write!(Connection, &Connection, Writer);
