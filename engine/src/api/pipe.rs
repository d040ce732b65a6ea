//! The two directions between a connection's shard and its handle.
//!
//! Either side changes the state under the lock and tells the other after it: the shard is told
//! by one message, of which no second is under way, to look at everything that has changed; tasks
//! are woken by the shard once a turn, after everything that the turn brought.

use super::buffers::{Buffers, SIZE};
use super::pieces::{JOINED, Pieces};
use super::waiters::{Waiters, wake_all};
use crate::files::FilePart;
use bytes::Bytes;
use flock_transport::CloseReason;
use std::io::IoSlice;
use std::sync::Arc;
use std::task::Waker;
use sync::{Mutex, MutexGuard};

#[cfg(not(loom))]
mod sync {
    pub(super) use std::sync::{Mutex, MutexGuard};
}
#[cfg(loom)]
mod sync {
    pub(super) use loom::sync::{Mutex, MutexGuard};
}

/// Bytes on their way to the shard before a sender waits.
const OUT_LIMIT: usize = 256 * 1024;

/// What is sent at once, if there is room for any of it. More goes in parts.
pub(super) const PIECE: usize = SIZE;

/// What may be in a send queue above its high-water mark: what was under way when the mark was
/// passed.
pub(super) const ABOVE_HIGH_MAX: usize = OUT_LIMIT + PIECE;

/// One connection, between its shard and its handle.
pub(super) struct Pipe {
    state: Mutex<State>,
    /// Bytes received and not taken before the peer is held back.
    recv_limit: usize,
    /// Memory for copies, shared with other connections of the shard.
    buffers: Arc<Buffers>,
}

#[derive(Default)]
struct State {
    incoming: Pieces,
    paused: bool,
    ended: bool,
    closed: Option<CloseReason>,
    outgoing: Pieces,
    /// Bytes in `outgoing`, and those the shard has taken and not queued yet.
    out_bytes: usize,
    /// The shard's send queue is above its high-water mark.
    blocked: bool,
    /// A part of a file, behind what is in `outgoing`.
    file: Option<FilePart>,
    /// A file is not queued in whole yet: nothing may follow it.
    filing: bool,
    /// What the shard is to do after sending.
    asked: Asked,
    /// What the handle has asked for in all.
    ever: Asked,
    /// Whether the shard has been told to look.
    told: bool,
    /// Whether the application has accepted the connection.
    taken: bool,
    readers: Waiters,
    writers: Waiters,
}

/// What a handle asks of the shard, beside sending.
#[derive(Clone, Copy, Default)]
pub(super) struct Asked {
    pub(super) resume: bool,
    pub(super) end: bool,
    pub(super) close: bool,
    pub(super) abort: bool,
}

/// What a read found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    Data(Bytes),
    End,
    Closed(CloseReason),
    Nothing,
}

/// What became of a write.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Write {
    /// So many bytes were taken, not all perhaps.
    Taken(usize),
    Closed(CloseReason),
    Full,
}

/// Whether the shard is to be told to look.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tell(pub(super) bool);

/// The handle's side.
impl Pipe {
    pub(super) fn new(recv_limit: usize, buffers: Arc<Buffers>) -> Self {
        Self {
            state: Mutex::new(State::default()),
            recv_limit,
            buffers,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        match self.state.lock() {
            Ok(state) => state,
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    /// Takes at most `max` received bytes, which must not be 0; `waker` is called when there is
    /// something to see.
    pub(super) fn read(&self, max: usize, waker: &Waker) -> (Read, Tell) {
        let mut state = self.lock();
        if let Some(data) = state.incoming.pop(max) {
            if state.paused && state.incoming.len() <= self.recv_limit / 2 {
                state.paused = false;
                state.asked.resume = true;
                return (Read::Data(data), state.tell());
            }
            return (Read::Data(data), Tell(false));
        }
        let read = match state.closed {
            _ if state.ended || state.ever.close || state.ever.abort => Read::End,
            Some(CloseReason::Local | CloseReason::PeerClosed) => Read::End,
            Some(reason) => Read::Closed(reason),
            None => {
                let mut crowd = state.readers.add(waker);
                drop(state);
                wake_all(&mut crowd);
                Read::Nothing
            }
        };
        (read, Tell(false))
    }

    /// Takes what there is room for off the front of `data`; `waker` is called when there is more.
    pub(super) fn write(&self, data: &mut Bytes, waker: &Waker) -> (Write, Tell) {
        let mut state = self.lock();
        let room = match state.room() {
            Ok(0) => return (Self::wait(state, waker), Tell(false)),
            Ok(room) => room,
            Err(reason) => return (Write::Closed(reason), Tell(false)),
        };
        let part = if data.len() <= room.max(PIECE) {
            std::mem::take(data)
        } else {
            data.split_to(room)
        };
        let len = part.len();
        state.outgoing.push(part);
        (Write::Taken(len), state.sent(len))
    }

    /// As [`write`](Self::write), copying from `parts`.
    pub(super) fn write_copy(&self, parts: &[IoSlice<'_>], waker: &Waker) -> (Write, Tell) {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        if total > JOINED {
            // Copied before the lock is taken, for as much as there was room just now.
            let state = self.lock();
            let room = match state.room() {
                Ok(0) => return (Self::wait(state, waker), Tell(false)),
                Ok(room) => room.min(PIECE).min(total),
                Err(reason) => return (Write::Closed(reason), Tell(false)),
            };
            drop(state);
            let mut copy = self.buffers.make(room, |copy| {
                for part in parts {
                    let left = room - copy.len();
                    copy.extend_from_slice(part.get(..left).unwrap_or(part));
                }
            });
            return self.write(&mut copy, waker);
        }
        let mut state = self.lock();
        match state.room() {
            Ok(0) => (Self::wait(state, waker), Tell(false)),
            Ok(_) => {
                for part in parts {
                    state.outgoing.push_copy(part);
                }
                (Write::Taken(total), state.sent(total))
            }
            Err(reason) => (Write::Closed(reason), Tell(false)),
        }
    }

    /// Hands over a part of a file, once nothing is in its way.
    pub(super) fn write_file(&self, part: &FilePart, waker: &Waker) -> (Write, Tell) {
        let mut state = self.lock();
        match state.room() {
            Ok(0) => (Self::wait(state, waker), Tell(false)),
            Ok(_) => {
                state.file = Some(part.clone());
                state.filing = true;
                (Write::Taken(0), state.tell())
            }
            Err(reason) => (Write::Closed(reason), Tell(false)),
        }
    }

    /// Whether the file handed over is queued in whole; `waker` is called when it is.
    pub(super) fn is_file_queued(&self, waker: &Waker) -> Write {
        let state = self.lock();
        match state.closed {
            _ if !state.filing => Write::Taken(0),
            Some(reason) => Write::Closed(reason),
            None => Self::wait(state, waker),
        }
    }

    fn wait(mut state: MutexGuard<'_, State>, waker: &Waker) -> Write {
        let mut crowd = state.writers.add(waker);
        drop(state);
        wake_all(&mut crowd);
        Write::Full
    }

    /// Asks the shard to end, close or abort, each once; a reset still follows a graceful close.
    pub(super) fn ask(&self, what: fn(&mut Asked) -> &mut bool) -> Tell {
        let mut state = self.lock();
        if std::mem::replace(what(&mut state.ever), true) || state.closed.is_some() {
            return Tell(false);
        }
        *what(&mut state.asked) = true;
        let mut woken = Vec::new();
        state.writers.take(&mut woken);
        if state.ever.close || state.ever.abort {
            state.readers.take(&mut woken);
        }
        let tell = state.tell();
        drop(state);
        wake_all(&mut woken);
        tell
    }

    pub(super) fn take(&self) {
        self.lock().taken = true;
    }

    pub(super) fn closed(&self) -> Option<CloseReason> {
        self.lock().closed
    }

    /// Whether the peer has ended its direction, or the connection is closed.
    pub(super) fn peer_is_gone(&self) -> bool {
        let state = self.lock();
        state.ended || state.closed.is_some()
    }

    /// Bytes received and not read, and bytes written that the shard has not queued.
    pub(super) fn held(&self) -> (usize, usize) {
        let state = self.lock();
        (state.incoming.len(), state.out_bytes)
    }
}

/// The shard's side. It collects who is to be woken.
impl Pipe {
    /// Adds received bytes; whether the peer is to be held back from now on.
    pub(super) fn receive(&self, data: &[u8], woken: &mut Vec<Waker>) -> bool {
        let copy = |into: &mut Vec<u8>| into.extend_from_slice(data);
        let large = (data.len() > JOINED).then(|| self.buffers.make(data.len(), copy));
        let mut state = self.lock();
        match large {
            Some(large) => state.incoming.push(large),
            None => state.incoming.push_copy(data),
        }
        let hold = !state.paused && state.incoming.len() >= self.recv_limit;
        state.paused |= hold;
        state.readers.take(woken);
        hold
    }

    /// The peer ended its direction; whether the application has accepted the connection.
    pub(super) fn peer_ended(&self, woken: &mut Vec<Waker>) -> bool {
        let mut state = self.lock();
        state.ended = true;
        state.readers.take(woken);
        state.taken
    }

    pub(super) fn is_taken(&self) -> bool {
        self.lock().taken
    }

    /// The connection is over. What was received can still be read.
    pub(super) fn close(&self, reason: CloseReason, woken: &mut Vec<Waker>) {
        let mut state = self.lock();
        state.closed.get_or_insert(reason);
        state.outgoing = Pieces::default();
        state.readers.take(woken);
        state.writers.take(woken);
    }

    /// Looks at what the handle wants: what it sends goes to the end of `out`. To be followed by
    /// [`queued`](Self::queued).
    pub(super) fn look(&self, out: &mut Vec<Bytes>) -> Asked {
        let mut state = self.lock();
        state.told = false;
        state.outgoing.take(out);
        let mut asked = std::mem::take(&mut state.asked);
        // More may have come since that was asked.
        asked.resume &= !state.paused;
        asked
    }

    /// The part of a file that follows what was looked at, if one does.
    pub(super) fn take_file(&self) -> Option<FilePart> {
        self.lock().file.take()
    }

    /// `bytes` that were looked at are in the send queue, which is above its high-water mark or not.
    pub(super) fn queued(&self, bytes: usize, above_high: bool, woken: &mut Vec<Waker>) {
        let mut state = self.lock();
        state.out_bytes -= bytes;
        state.blocked |= above_high;
        state.wake_writers(woken);
    }

    /// The send queue is below its low-water mark.
    pub(super) fn writable(&self, woken: &mut Vec<Waker>) {
        let mut state = self.lock();
        state.blocked = false;
        // One that was not taken yet is behind what this is about.
        state.filing = state.file.is_some();
        state.wake_writers(woken);
    }
}

impl State {
    /// Bytes that may be written now.
    fn room(&self) -> Result<usize, CloseReason> {
        if let Some(reason) = self.closed {
            return Err(reason);
        }
        if self.ever.end || self.ever.close || self.ever.abort {
            return Err(CloseReason::Local);
        }
        if self.blocked || self.filing {
            return Ok(0);
        }
        Ok(OUT_LIMIT.saturating_sub(self.out_bytes))
    }

    fn sent(&mut self, len: usize) -> Tell {
        self.out_bytes += len;
        self.tell()
    }

    fn tell(&mut self) -> Tell {
        Tell(!std::mem::replace(&mut self.told, true))
    }

    fn wake_writers(&mut self, woken: &mut Vec<Waker>) {
        if !self.blocked && !self.filing && self.out_bytes < OUT_LIMIT {
            self.writers.take(woken);
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;
