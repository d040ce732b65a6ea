//! Where connections wait to be accepted.

use super::connection::Connection;
use super::streams::StreamMessage;
use super::waiters::{Waiters, wake_all};
use crate::shard::Mail;
use crate::shard::mailbox::Sender;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::Duration;

/// What all streams of an engine share. It knows no stream, so that streams may know it.
pub(crate) struct Wires {
    senders: OnceLock<Vec<Sender<Mail<StreamMessage>>>>,
    /// Bytes received and not yet taken by the application before a peer is held back.
    pub(super) recv_limit: usize,
    /// How long a connection whose peer has ended its direction waits to be accepted.
    pub(super) grace: Duration,
}

impl Wires {
    /// The way to a shard.
    pub(super) fn shard(&self, shard: usize) -> Option<&Sender<Mail<StreamMessage>>> {
        self.senders.get()?.get(shard)
    }
}

/// The connections of an engine that nobody has accepted yet.
pub(crate) struct Exchange {
    pub(super) wires: Arc<Wires>,
    backlog: Mutex<Backlog>,
    /// Connections that wait at a time.
    limit: usize,
}

#[derive(Default)]
struct Backlog {
    waiting: VecDeque<Connection>,
    waiters: Waiters,
    missed: u64,
    over: bool,
}

/// No connection will come any more: the engine was shut down.
#[derive(Debug)]
pub(crate) struct Over;

impl Exchange {
    pub(crate) fn new(recv_limit: usize, limit: usize, grace: Duration) -> Arc<Self> {
        Arc::new(Self {
            wires: Arc::new(Wires {
                senders: OnceLock::new(),
                recv_limit,
                grace,
            }),
            backlog: Mutex::default(),
            limit,
        })
    }

    /// Called once, when the shards' mailboxes exist and before any shard runs.
    pub(crate) fn wire(&self, senders: Vec<Sender<Mail<StreamMessage>>>) {
        let first = self.wires.senders.set(senders).is_ok();
        debug_assert!(first, "an engine is wired once");
    }

    fn lock(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection. When there is no room, one that has ended makes room; when none has, the
    /// connection comes back.
    pub(super) fn offer(&self, connection: Connection) -> Result<(), Connection> {
        let mut backlog = self.lock();
        let mut forgotten = None;
        if backlog.waiting.len() >= self.limit {
            backlog.missed += 1;
            let Some(at) = backlog.waiting.iter().position(Connection::is_over) else {
                return Err(connection);
            };
            forgotten = backlog.waiting.remove(at);
        }
        backlog.waiting.push_back(connection);
        let mut woken = Vec::new();
        backlog.waiters.take(&mut woken);
        drop(backlog);
        // Closes it, which takes locks of its own.
        drop(forgotten);
        wake_all(&mut woken);
        Ok(())
    }

    /// The next connection; none yet (then `waker` is called), or none ever again (`Err`).
    pub(super) fn poll(&self, waker: &Waker) -> Result<Option<Connection>, Over> {
        let mut backlog = self.lock();
        if let Some(connection) = backlog.waiting.pop_front() {
            return Ok(Some(connection.taken()));
        }
        if backlog.over {
            return Err(Over);
        }
        let mut crowd = backlog.waiters.add(waker);
        drop(backlog);
        wake_all(&mut crowd);
        Ok(None)
    }

    /// Connections forgotten or turned away because the backlog was full.
    pub(super) fn missed(&self) -> u64 {
        self.lock().missed
    }

    /// Lets accepts return what is left, and then the end.
    pub(super) fn close(&self) {
        let mut backlog = self.lock();
        backlog.over = true;
        let mut woken = Vec::new();
        backlog.waiters.take(&mut woken);
        drop(backlog);
        wake_all(&mut woken);
    }
}
