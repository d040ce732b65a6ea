//! What a handler may do from inside a call.

use super::files::FileRefused;
use super::link::{Links, Phase, Timer};
use crate::files::FilePart;
use crate::names::ConnId;
use crate::table::Key;
use bytes::Bytes;
use flock_tcp::{Queued, SendRefused};
use flock_transport::{CloseReason, Instant};
use std::fs::File;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// A handler's access to the connection it is called for.
pub struct ConnCx<'a> {
    pub(crate) links: &'a mut Links,
    pub(crate) key: Key,
}

impl ConnCx<'_> {
    /// The connection's name, good for [`ShardCx::send`] and from other threads.
    #[must_use]
    pub fn id(&self) -> ConnId {
        self.links.conn_id(self.key)
    }

    /// The time as of this turn.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.links.now
    }

    /// The remote address.
    #[must_use]
    pub fn addr(&self) -> Option<SocketAddr> {
        self.links.table.get(self.key).map(|link| link.addr)
    }

    /// Bytes queued and not gone for good: with TCP when the kernel has them, with uTP when the
    /// peer has acknowledged them.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.links.queued(self.key)
    }

    /// Queues `data` by reference; it is freed when the kernel has taken it, over uTP when
    /// the peer has acknowledged it. Above the
    /// high-water mark it still is queued, and `on_writable` tells when there is room again.
    ///
    /// # Errors
    /// The queue is at its hard limit, or the connection is closing; the bytes come back.
    pub fn send(&mut self, data: Bytes) -> Result<Queued, SendRefused> {
        self.links.send(self.key, data)
    }

    /// Queues a part of a file behind what was sent before. It is read as fast as the peer takes it,
    /// 256 KiB ahead, by this shard where it is in memory and by a thread where it is not. 64 files
    /// may wait. `on_writable` tells when all of it, and what was sent behind it, is queued.
    ///
    /// A file that is too short, or cannot be read, ends the connection with
    /// [`CloseReason::FileFailed`]: the peer was promised the rest.
    ///
    /// # Errors
    /// The connection is closing, or too many files wait.
    pub fn send_file(&mut self, file: Arc<File>, range: Range<u64>) -> Result<(), FileRefused> {
        let part = FilePart {
            file,
            at: range.start,
            end: range.end,
        };
        self.links.send_file(self.key, part)
    }

    /// Ends our direction after what is queued (half-close); receiving goes on. When the peer has
    /// ended its direction, too, the connection is over.
    pub fn end(&mut self) {
        self.links.end(self.key);
    }

    /// Closes after what is queued has gone out. Nothing is delivered any more.
    pub fn close(&mut self) {
        let reason = match self.links.table.get(self.key) {
            Some(link) if link.stream.peer_ended() => CloseReason::PeerClosed,
            _ => CloseReason::Local,
        };
        self.links.close(self.key, reason);
    }

    /// Resets the connection; what is queued is lost.
    pub fn abort(&mut self) {
        self.links.abort(self.key, CloseReason::Local);
    }

    /// Stops receiving, so that the kernel holds the peer back. Bytes that were already on their
    /// way into this turn may still be delivered. While paused the peer's end or reset goes
    /// unnoticed, unless a send meets it.
    pub fn pause(&mut self) {
        self.links.held_back += 1;
        self.links.pause(self.key);
    }

    /// Receives again.
    pub fn resume(&mut self) {
        self.links.resume(self.key);
    }

    /// Calls `on_timer` after `after`, once, in place of a timer set before.
    pub fn set_timer(&mut self, after: Duration) {
        self.clear_timer();
        let at = self.links.now + after;
        let timer = self.links.wheel.insert(Timer::User(self.key), at);
        if let Some(link) = self.links.table.get_mut(self.key) {
            link.user_timer = timer;
        }
    }

    /// Forgets the timer.
    pub fn clear_timer(&mut self) {
        let timer = self
            .links
            .table
            .get_mut(self.key)
            .and_then(|link| link.user_timer.take());
        if let Some(timer) = timer {
            self.links.wheel.cancel(timer);
        }
    }

    /// Access to the shard's other connections.
    pub fn shard(&mut self) -> ShardCx<'_> {
        ShardCx { links: self.links }
    }
}

/// A handler's access to all connections of its shard.
pub struct ShardCx<'a> {
    pub(crate) links: &'a mut Links,
}

impl ShardCx<'_> {
    /// The number of this shard.
    #[must_use]
    pub fn shard(&self) -> usize {
        usize::from(self.links.shard)
    }

    /// The time as of this turn.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.links.now
    }

    /// As [`ConnCx::send`], for any connection of this shard.
    ///
    /// # Errors
    /// As [`ConnCx::send`]; also when the connection is gone or lives on another shard.
    pub fn send(&mut self, conn: ConnId, data: Bytes) -> Result<Queued, SendRefused> {
        if conn.shard != self.links.shard {
            return Err(SendRefused::Closed(data));
        }
        self.links.send(Links::key(conn), data)
    }

    /// Resets a connection of this shard for a reason of the engine's own.
    pub(crate) fn give_up(&mut self, conn: ConnId, reason: CloseReason) {
        if conn.shard == self.links.shard {
            self.links.abort(Links::key(conn), reason);
        }
    }

    /// Queues `data` on every admitted connection of this shard and returns how many took it.
    /// Those whose queue is full are left out: look at the difference.
    pub fn broadcast(&mut self, data: &Bytes) -> usize {
        let keys: Vec<Key> = self
            .links
            .table
            .iter()
            .filter(|(_, link)| matches!(link.phase, Phase::Open))
            .map(|(key, _)| key)
            .collect();
        keys.into_iter()
            .filter(|key| self.links.send(*key, data.clone()).is_ok())
            .count()
    }

    /// The context of one connection of this shard, if it is there and open.
    pub fn conn(&mut self, conn: ConnId) -> Option<ConnCx<'_>> {
        let key = Links::key(conn);
        let link = self.links.table.get(key)?;
        (conn.shard == self.links.shard && matches!(link.phase, Phase::Open)).then_some(ConnCx {
            links: self.links,
            key,
        })
    }
}
