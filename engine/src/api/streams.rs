//! The handler behind the [`Connection`] level: it moves bytes between shards and handles.

use super::connection::Connection;
use super::exchange::{Exchange, Wires};
use super::incoming::Incoming;
use crate::api::Handler;
use crate::event::ConnectionInfo;
use crate::names::ConnId;
use crate::shard::mailbox::{SendError, remember};
use crate::shard::{Command, ConnCommand, ConnCx, Mail, ShardCx};
use bytes::Bytes;
use flock_tcp::{Queued, SendRefused};
use flock_transport::CloseReason;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Instant;

/// Bytes to send on a connection of a shard.
pub struct StreamMessage {
    stream: Arc<Stream>,
    data: Bytes,
}

/// Bytes on their way to the shard before a sender waits.
const MAIL_LIMIT: usize = 256 * 1024;

/// Sends are handed to the shard in pieces of this size, so that one large send does not fill
/// the queue at a stroke.
pub(super) const PIECE: usize = 64 * 1024;

/// What may be in a send queue above its high-water mark: what was in the mail when the mark was
/// passed.
pub(super) const ABOVE_HIGH_MAX: usize = MAIL_LIMIT + PIECE;

/// One connection, as seen from both sides.
pub(crate) struct Stream {
    pub(crate) info: ConnectionInfo,
    wires: Arc<Wires>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
pub(crate) struct State {
    incoming: Incoming,
    paused: bool,
    ended: bool,
    closed: Option<CloseReason>,
    /// The shard's send queue is above its high-water mark.
    blocked: bool,
    /// Bytes mailed to the shard and not yet in its send queue.
    in_mail: usize,
    /// Whether the application has accepted the connection.
    taken: bool,
    end_sent: bool,
    close_sent: bool,
    abort_sent: bool,
    readers: Vec<Waker>,
    writers: Vec<Waker>,
}

/// What a read found.
pub(crate) enum Read {
    Data(Bytes),
    End,
    Closed(CloseReason),
    Nothing,
}

/// Whether a piece was handed over.
pub(crate) enum Write {
    Taken,
    Closed(CloseReason),
    Full,
}

impl Stream {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes received bytes; `waker` is called when there is something to see.
    pub(crate) fn read(&self, waker: Option<&Waker>) -> Read {
        let mut state = self.lock();
        if let Some(data) = state.incoming.pop() {
            if state.paused && state.incoming.len() <= self.wires.recv_limit / 2 {
                state.paused = false;
                self.command(ConnCommand::Resume);
            }
            return Read::Data(data);
        }
        match state.closed {
            Some(reason) => Read::Closed(reason),
            None if state.ended => Read::End,
            None => {
                if let Some(waker) = waker {
                    let woken = remember(&mut state.readers, waker);
                    drop(state);
                    wake(woken);
                }
                Read::Nothing
            }
        }
    }

    /// Hands `data` to the shard if there is room for it; `waker` is called when there is.
    pub(crate) fn write(self: &Arc<Self>, data: &Bytes, waker: &Waker) -> Write {
        let mut state = self.lock();
        if let Some(reason) = state.closed {
            return Write::Closed(reason);
        }
        if state.end_sent || state.close_sent || state.abort_sent {
            return Write::Closed(CloseReason::Local);
        }
        if state.blocked || state.in_mail >= MAIL_LIMIT {
            let woken = remember(&mut state.writers, waker);
            drop(state);
            wake(woken);
            return Write::Full;
        }
        let Some(shard) = self.wires.shard(self.info.conn.shard()) else {
            return Write::Closed(CloseReason::Shutdown);
        };
        let message = StreamMessage {
            stream: self.clone(),
            data: data.clone(),
        };
        match shard.send_or_wait(Mail::User(message), Some(waker)) {
            Ok(()) => {
                state.in_mail += data.len();
                Write::Taken
            }
            Err(SendError::Full(_)) => Write::Full,
            Err(SendError::Closed(_)) => Write::Closed(CloseReason::Shutdown),
        }
    }

    /// Blocks this thread until something can be read, at most until `deadline`; whether it can.
    pub(crate) fn wait_readable(&self, deadline: Instant) -> bool {
        let mut state = self.lock();
        while !state.readable() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    pub(crate) fn closed(&self) -> Option<CloseReason> {
        self.lock().closed
    }

    /// Whether the peer has ended its direction, or the connection is closed.
    pub(crate) fn peer_is_gone(&self) -> bool {
        let state = self.lock();
        state.ended || state.closed.is_some()
    }

    pub(super) fn take(&self) {
        self.lock().taken = true;
    }

    /// Half-closes, once.
    pub(crate) fn end(&self) {
        let mut state = self.lock();
        if !std::mem::replace(&mut state.end_sent, true) && state.closed.is_none() {
            self.command(ConnCommand::End);
        }
    }

    /// Closes, once; a reset still follows a graceful close.
    pub(crate) fn close(&self, abort: bool) {
        let mut state = self.lock();
        let sent = if abort {
            &mut state.abort_sent
        } else {
            &mut state.close_sent
        };
        if !std::mem::replace(sent, true) && state.closed.is_none() {
            self.command(if abort {
                ConnCommand::Abort
            } else {
                ConnCommand::Close
            });
        }
    }

    /// Mails a request that each connection makes a bounded number of times, so it has room in
    /// the mailbox whatever else is there.
    fn command(&self, what: ConnCommand) {
        let conn = self.info.conn;
        if let Some(shard) = self.wires.shard(conn.shard()) {
            shard.send_protocol(Mail::Command(Command::Conn { conn, what }));
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let mut woken = Vec::new();
        if state.readable() {
            woken.append(&mut state.readers);
        }
        if state.writable() {
            woken.append(&mut state.writers);
        }
        drop(state);
        self.changed.notify_all();
        wake(woken);
    }
}

impl State {
    fn readable(&self) -> bool {
        !self.incoming.is_empty() || self.ended || self.closed.is_some()
    }

    fn writable(&self) -> bool {
        self.closed.is_some() || (!self.blocked && self.in_mail < MAIL_LIMIT)
    }
}

fn wake(wakers: Vec<Waker>) {
    for waker in wakers {
        waker.wake();
    }
}

/// A connection's state on its shard.
pub struct StreamConn(Arc<Stream>);

impl Drop for StreamConn {
    /// A shard that died closes nothing itself.
    fn drop(&mut self) {
        self.0.change(|state| {
            state.closed.get_or_insert(CloseReason::Shutdown);
        });
    }
}

/// The handler of engines made by [`Builder::start`](crate::Builder::start).
pub struct Streams {
    exchange: Arc<Exchange>,
}

impl Streams {
    pub(crate) fn new(exchange: Arc<Exchange>) -> Self {
        Self { exchange }
    }
}

impl Drop for Streams {
    /// An engine with a shard less takes no more connections.
    fn drop(&mut self) {
        self.exchange.close();
    }
}

impl Handler for Streams {
    type Conn = StreamConn;
    type Msg = StreamMessage;

    fn on_connection(&mut self, cx: &mut ConnCx<'_>, info: &ConnectionInfo) -> Self::Conn {
        let stream = Arc::new(Stream {
            info: info.clone(),
            wires: self.exchange.wires.clone(),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        if let Err(refused) = self.exchange.offer(Connection::new(stream.clone())) {
            refused.disown();
            cx.abort();
        }
        StreamConn(stream)
    }

    fn on_data(&mut self, cx: &mut ConnCx<'_>, stream: &mut Self::Conn, data: &[u8]) {
        let mut full = false;
        let limit = stream.0.wires.recv_limit;
        stream.0.change(|state| {
            state.incoming.push(data);
            full = state.incoming.len() >= limit;
            state.paused |= full;
        });
        if full {
            cx.pause();
        }
    }

    fn on_end(&mut self, cx: &mut ConnCx<'_>, stream: &mut Self::Conn) {
        let mut taken = false;
        stream.0.change(|state| {
            state.ended = true;
            taken = state.taken;
        });
        if !taken {
            cx.set_timer(stream.0.wires.grace);
        }
    }

    fn on_timer(&mut self, cx: &mut ConnCx<'_>, stream: &mut Self::Conn) {
        // Most peers that end their direction have left. What it sent can still be read.
        if !stream.0.lock().taken {
            cx.close();
        }
    }

    fn on_writable(&mut self, _: &mut ConnCx<'_>, stream: &mut Self::Conn) {
        stream.0.change(|state| state.blocked = false);
    }

    fn on_closed(
        &mut self,
        _: &mut ShardCx<'_>,
        _: ConnId,
        stream: Self::Conn,
        reason: CloseReason,
    ) {
        stream.0.change(|state| state.closed = Some(reason));
    }

    fn on_message(&mut self, cx: &mut ShardCx<'_>, message: StreamMessage) {
        let StreamMessage { stream, data } = message;
        let (conn, len) = (stream.info.conn, data.len());
        let sent = cx.send(conn, data);
        if let Err(SendRefused::Full(_)) = &sent {
            // The limits are checked against each other, so that this cannot be; but a stream with
            // a hole in it must not go on.
            cx.give_up(conn, CloseReason::SendQueueFull);
        }
        // A closed connection is learnt by other means.
        let blocked = matches!(sent, Ok(Queued::AboveHigh));
        stream.change(|state| {
            state.in_mail -= len;
            state.blocked |= blocked;
        });
    }
}
