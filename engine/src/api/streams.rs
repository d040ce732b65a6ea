//! The handler behind the [`Connection`] level: it moves bytes between shards and handles.

use super::batch::{Batch, MOMENT};
use super::buffers::Buffers;
use super::connection::Connection;
use super::exchange::{Exchange, Wires};
use super::pipe::{Asked, Pipe, Read, Tell, Write};
use super::waiters::wake_all;
use crate::api::Handler;
use crate::event::ConnectionInfo;
use crate::files::FilePart;
use crate::names::ConnId;
use crate::shard::{ConnCx, FileRefused, Mail, ShardCx};
use bytes::Bytes;
use flock_tcp::{Queued, SendRefused};
use flock_transport::CloseReason;
use std::io::IoSlice;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

/// Tells a shard to look at what the handle of a connection wants.
pub struct StreamMessage(Arc<Stream>);

/// One connection, as seen from both sides.
pub(super) struct Stream {
    pub(super) info: ConnectionInfo,
    wires: Arc<Wires>,
    pub(super) pipe: Pipe,
    /// Who else has something to do since the turn that woke this one's task.
    batch: Arc<Batch>,
}

/// What its handle does: each change that concerns the shard is told to it.
impl Stream {
    pub(super) fn read(self: &Arc<Self>, max: usize, waker: &Waker) -> Read {
        let (read, tell) = self.pipe.read(max, waker);
        self.tell(tell);
        self.batch.wake_rest();
        read
    }

    pub(super) fn write(self: &Arc<Self>, data: &mut Bytes, waker: &Waker) -> Write {
        let (write, tell) = self.pipe.write(data, waker);
        self.tell(tell);
        self.batch.wake_rest();
        write
    }

    pub(super) fn write_copy(self: &Arc<Self>, parts: &[IoSlice<'_>], waker: &Waker) -> Write {
        let (write, tell) = self.pipe.write_copy(parts, waker);
        self.tell(tell);
        self.batch.wake_rest();
        write
    }

    pub(super) fn write_file(self: &Arc<Self>, part: &FilePart, waker: &Waker) -> Write {
        let (write, tell) = self.pipe.write_file(part, waker);
        self.tell(tell);
        self.batch.wake_rest();
        write
    }

    pub(super) fn ask(self: &Arc<Self>, what: fn(&mut Asked) -> &mut bool) {
        self.tell(self.pipe.ask(what));
    }

    fn tell(self: &Arc<Self>, tell: Tell) {
        if tell.0
            && let Some(shard) = self.wires.shard(self.info.conn.shard())
        {
            shard.send_only_one(Mail::User(StreamMessage(self.clone())));
        }
    }
}

/// A connection's state on its shard.
pub struct StreamConn(Arc<Stream>);

impl Drop for StreamConn {
    /// A shard that died closes nothing itself.
    fn drop(&mut self) {
        let mut woken = Vec::new();
        self.0.pipe.close(CloseReason::Shutdown, &mut woken);
        wake_all(&mut woken);
    }
}

/// The handler of engines made by [`Builder::start`](crate::Builder::start).
pub struct Streams {
    exchange: Arc<Exchange>,
    /// Tasks to wake when the turn is over.
    woken: Vec<Waker>,
    /// Bytes on their way from a handle into a send queue; empty between calls.
    out: Vec<Bytes>,
    buffers: Arc<Buffers>,
    batch: Arc<Batch>,
}

impl Streams {
    pub(super) fn new(exchange: Arc<Exchange>) -> Self {
        Self {
            exchange,
            woken: Vec::new(),
            out: Vec::new(),
            buffers: Arc::default(),
            batch: Arc::default(),
        }
    }

    /// Queues what a handle has sent; whether the queue is above its high-water mark.
    fn send(&mut self, cx: &mut ShardCx<'_>, conn: ConnId) -> bool {
        let mut above_high = false;
        for data in self.out.drain(..) {
            match cx.send(conn, data) {
                Ok(queued) => above_high |= queued == Queued::AboveHigh,
                // The limits are checked against each other, so that this cannot be; but a stream
                // with a hole in it must not go on.
                Err(SendRefused::Full(_)) => cx.give_up(conn, CloseReason::SendQueueFull),
                // Which is learnt by other means.
                Err(SendRefused::Closed(_)) => {}
            }
        }
        above_high
    }
}

impl Drop for Streams {
    /// An engine with a shard less takes no more connections.
    fn drop(&mut self) {
        self.batch.wake(&mut self.woken);
        self.batch.wake_rest();
        self.exchange.close();
    }
}

impl Handler for Streams {
    type Conn = StreamConn;
    type Msg = StreamMessage;

    fn on_connection(&mut self, cx: &mut ConnCx<'_>, info: &ConnectionInfo) -> Self::Conn {
        let wires = self.exchange.wires.clone();
        let stream = Arc::new(Stream {
            info: info.clone(),
            pipe: Pipe::new(wires.recv_limit, self.buffers.clone()),
            batch: self.batch.clone(),
            wires,
        });
        if let Err(refused) = self.exchange.offer(Connection::new(stream.clone())) {
            refused.disown();
            cx.abort();
        }
        StreamConn(stream)
    }

    fn on_data(&mut self, cx: &mut ConnCx<'_>, conn: &mut Self::Conn, data: &[u8]) {
        if conn.0.pipe.receive(data, &mut self.woken) {
            cx.pause();
        }
    }

    fn on_end(&mut self, cx: &mut ConnCx<'_>, conn: &mut Self::Conn) {
        if !conn.0.pipe.peer_ended(&mut self.woken) {
            cx.set_timer(conn.0.wires.grace);
        }
    }

    fn on_timer(&mut self, cx: &mut ConnCx<'_>, conn: &mut Self::Conn) {
        // Most peers that end their direction have left. What it sent can still be read.
        if !conn.0.pipe.is_taken() {
            cx.close();
        }
    }

    fn on_writable(&mut self, _: &mut ConnCx<'_>, conn: &mut Self::Conn) {
        conn.0.pipe.writable(&mut self.woken);
    }

    fn on_closed(&mut self, _: &mut ShardCx<'_>, _: ConnId, conn: Self::Conn, reason: CloseReason) {
        conn.0.pipe.close(reason, &mut self.woken);
    }

    fn on_message(&mut self, cx: &mut ShardCx<'_>, message: StreamMessage) {
        let stream = message.0;
        let conn = stream.info.conn;
        let asked = stream.pipe.look(&mut self.out);
        let bytes = self.out.iter().map(Bytes::len).sum();
        let above_high = self.send(cx, conn);
        stream.pipe.queued(bytes, above_high, &mut self.woken);
        let file = stream.pipe.take_file();
        let Some(mut cx) = cx.conn(conn) else { return };
        if let Some(part) = file
            && let Err(FileRefused::TooMany) = cx.links.send_file(cx.key, part)
        {
            // It is one at a time, so that this cannot be; but a stream with a hole must not go on.
            cx.abort();
        }
        if asked.abort {
            return cx.abort();
        }
        if asked.resume {
            cx.resume();
        }
        if asked.close {
            cx.close();
        } else if asked.end {
            cx.end();
        }
    }

    fn on_turn_end(&mut self) -> Option<Duration> {
        self.batch.wake(&mut self.woken).then_some(MOMENT)
    }
}
