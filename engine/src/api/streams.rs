//! The handler behind the [`Connection`] level: it moves bytes between shards and handles.

use super::connection::Connection;
use crate::api::Handler;
use crate::event::ConnectionInfo;
use crate::names::ConnId;
use crate::shard::{ConnCommand, ConnCx, Mail, ShardCx, mailbox::Sender};
use bytes::Bytes;
use flock_tcp::Queued;
use flock_transport::CloseReason;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;

/// Bytes to send on a connection of a shard.
pub struct StreamMessage {
    stream: Arc<Stream>,
    data: Bytes,
}

/// What all streams of an engine share.
pub(crate) struct Exchange {
    senders: OnceLock<Vec<Sender<Mail<StreamMessage>>>>,
    backlog: Mutex<Backlog>,
    arrived: Condvar,
    /// Bytes received and not yet taken by the application before a peer is held back.
    recv_limit: usize,
}

#[derive(Default)]
struct Backlog {
    waiting: VecDeque<Connection>,
    waker: Option<Waker>,
    missed: u64,
    over: bool,
}

/// Closed connections that nobody accepted are forgotten beyond this many.
const BACKLOG_CLOSED_MAX: usize = 1024;

/// Bytes on their way to the shard before a sender waits.
const MAIL_LIMIT: usize = 256 * 1024;

impl Exchange {
    pub(crate) fn new(recv_limit: usize) -> Arc<Self> {
        Arc::new(Self {
            senders: OnceLock::new(),
            backlog: Mutex::default(),
            arrived: Condvar::new(),
            recv_limit,
        })
    }

    /// Called once, when the shards' mailboxes exist and before any shard runs.
    pub(crate) fn wire(&self, senders: Vec<Sender<Mail<StreamMessage>>>) {
        let first = self.senders.set(senders).is_ok();
        debug_assert!(first, "an engine is wired once");
    }

    fn lock(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn offer(&self, connection: Connection) {
        let mut backlog = self.lock();
        if backlog.waiting.len() >= BACKLOG_CLOSED_MAX
            && backlog.waiting.front().is_some_and(Connection::is_closed)
        {
            backlog.waiting.pop_front();
            backlog.missed += 1;
        }
        backlog.waiting.push_back(connection);
        let waker = backlog.waker.take();
        drop(backlog);
        self.arrived.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The next connection; none yet (then `waker` is called), or none ever again (`Err`).
    pub(crate) fn poll(&self, waker: Option<&Waker>) -> Result<Option<Connection>, Over> {
        let mut backlog = self.lock();
        match backlog.waiting.pop_front() {
            Some(connection) => Ok(Some(connection.taken())),
            None if backlog.over => Err(Over),
            None => {
                if let Some(waker) = waker {
                    backlog.waker = Some(waker.clone());
                }
                Ok(None)
            }
        }
    }

    /// Waits on this thread for the next connection until `deadline`.
    pub(crate) fn wait(&self, deadline: std::time::Instant) -> Option<Connection> {
        let mut backlog = self.lock();
        loop {
            if let Some(connection) = backlog.waiting.pop_front() {
                return Some(connection.taken());
            }
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() || backlog.over {
                return None;
            }
            let waited = self.arrived.wait_timeout(backlog, left);
            backlog = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Connections that closed before anybody accepted them, and were forgotten.
    pub(crate) fn missed(&self) -> u64 {
        self.lock().missed
    }

    pub(crate) fn close(&self) {
        let mut backlog = self.lock();
        backlog.over = true;
        let waker = backlog.waker.take();
        drop(backlog);
        self.arrived.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn mail(&self, shard: usize, mail: Mail<StreamMessage>) -> bool {
        self.senders
            .get()
            .and_then(|all| all.get(shard))
            .is_some_and(|to| to.send(mail).is_ok())
    }
}

/// No connection will come any more: the engine was shut down.
#[derive(Debug)]
pub(crate) struct Over;

/// One connection, as seen from both sides.
pub(crate) struct Stream {
    pub(crate) info: ConnectionInfo,
    exchange: Arc<Exchange>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
pub(crate) struct State {
    incoming: VecDeque<Bytes>,
    incoming_bytes: usize,
    paused: bool,
    ended: bool,
    pub(crate) closed: Option<CloseReason>,
    /// The shard's send queue is above its high-water mark.
    blocked: bool,
    /// Bytes mailed to the shard and not yet in its send queue.
    in_mail: usize,
    /// Whether the application has accepted the connection.
    taken: bool,
    end_sent: bool,
    close_sent: bool,
    abort_sent: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
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
        if let Some(data) = state.incoming.pop_front() {
            state.incoming_bytes -= data.len();
            if state.paused && state.incoming_bytes <= self.exchange.recv_limit / 2 {
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
                    state.reader = Some(waker.clone());
                }
                Read::Nothing
            }
        }
    }

    /// Hands `data` to the shard if there is room for it; `waker` is called when there is.
    pub(crate) fn write(self: &Arc<Self>, data: &Bytes, waker: Option<&Waker>) -> Write {
        let mut state = self.lock();
        if let Some(reason) = state.closed {
            return Write::Closed(reason);
        }
        if !state.blocked && state.in_mail < MAIL_LIMIT {
            let message = StreamMessage {
                stream: self.clone(),
                data: data.clone(),
            };
            if self
                .exchange
                .mail(self.info.conn.shard(), Mail::User(message))
            {
                state.in_mail += data.len();
                return Write::Taken;
            }
            // The mailbox is full of others' mail, and its emptying is not our event.
            if let Some(waker) = waker {
                waker.wake_by_ref();
            }
            return Write::Full;
        }
        if let Some(waker) = waker {
            state.writer = Some(waker.clone());
        }
        Write::Full
    }

    /// Blocks this thread until something changed, at most until `deadline`; whether time is left.
    pub(crate) fn wait(
        &self,
        deadline: std::time::Instant,
        ready: impl Fn(&State) -> bool,
    ) -> bool {
        let mut state = self.lock();
        while !ready(&state) {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
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

    pub(crate) fn take(&self) {
        self.lock().taken = true;
    }

    /// Half-closes, once.
    pub(crate) fn end(&self) {
        if !std::mem::replace(&mut self.lock().end_sent, true) {
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
        let mail = Mail::Command(crate::shard::Command::Conn { conn, what });
        if let Some(to) = self
            .exchange
            .senders
            .get()
            .and_then(|all| all.get(conn.shard()))
        {
            to.send_protocol(mail);
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let readable = !state.incoming.is_empty() || state.ended || state.closed.is_some();
        let writable = state.writable() || state.closed.is_some();
        let reader = if readable { state.reader.take() } else { None };
        let writer = if writable { state.writer.take() } else { None };
        drop(state);
        self.changed.notify_all();
        for waker in [reader, writer].into_iter().flatten() {
            waker.wake();
        }
    }
}

impl State {
    pub(crate) fn readable(&self) -> bool {
        !self.incoming.is_empty() || self.ended || self.closed.is_some()
    }

    pub(crate) fn writable(&self) -> bool {
        !self.blocked && self.in_mail < MAIL_LIMIT
    }
}

/// A connection's state on its shard.
pub struct StreamConn(Arc<Stream>);

/// The handler of engines made by [`Builder::start`](crate::Builder::start).
pub struct Streams {
    exchange: Arc<Exchange>,
}

impl Streams {
    pub(crate) fn new(exchange: Arc<Exchange>) -> Self {
        Self { exchange }
    }
}

impl Handler for Streams {
    type Conn = StreamConn;
    type Msg = StreamMessage;

    fn on_connection(&mut self, _: &mut ConnCx<'_>, info: &ConnectionInfo) -> Self::Conn {
        let stream = Arc::new(Stream {
            info: info.clone(),
            exchange: self.exchange.clone(),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        self.exchange.offer(Connection::new(stream.clone()));
        StreamConn(stream)
    }

    fn on_data(&mut self, cx: &mut ConnCx<'_>, stream: &mut Self::Conn, data: &[u8]) {
        let mut full = false;
        let limit = stream.0.exchange.recv_limit;
        stream.0.change(|state| {
            state.incoming.push_back(Bytes::copy_from_slice(data));
            state.incoming_bytes += data.len();
            full = state.incoming_bytes >= limit;
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
        // Nobody has accepted it, and the peer is leaving: what it sent can still be read.
        if !taken {
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
        let len = data.len();
        // A refusal means that the connection is closing, which the handle learns by itself: the
        // mail limit keeps what is queued below the queue's own.
        let blocked = matches!(cx.send(stream.info.conn, data), Ok(Queued::AboveHigh));
        stream.change(|state| {
            state.in_mail -= len;
            state.blocked |= blocked;
        });
    }
}
