//! Connections of one shard, as far as handlers may reach them: records, timers, and the list of
//! those with operations to hand to the driver.

use super::bandwidth::{Limits, Shaping};
use super::joints::Joints;
use super::stream::Stream;
use super::utp::Utp;
use crate::io::{SocketId, Token};
use crate::names::ConnId;
use crate::session::Session;
use crate::swarm::CandidateId;
use crate::table::{Key, Table};
use crate::wheel::{TimerId, Wheel};
use flock_tcp::{Connection, SendLimits};
use flock_transport::{CloseReason, Instant};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

/// A connection with at least so many bytes to send waits for those with less.
const BULK: usize = 64 << 10;

/// Bytes that such connections hand to the driver in a turn, and at the most one operation more: what
/// everybody else waits for. Half of it costs bulk a tenth of its rate, twice as much newcomers twice
/// the wait.
const BULK_TURN: usize = 2 << 20;

/// Where a connection stands.
pub(crate) enum Phase {
    /// Waiting for the transport.
    Dialling,
    /// Waiting for the peer's id.
    Handshaking(Session),
    /// The id is known; its home shard has not admitted it yet. Application bytes that came
    /// with the id wait here.
    Claiming(Vec<u8>),
    /// With the handler.
    Open,
    /// Reported as closed; the transport is still ending.
    Ending,
}

/// One connection, from the start of its dial or accept until its socket is closed.
pub(crate) struct Link {
    pub(crate) stream: Stream,
    pub(crate) phase: Phase,
    pub(crate) addr: SocketAddr,
    pub(crate) candidate: Option<CandidateId>,
    /// Connect, handshake, idle or linger deadline: never two of them at a time.
    pub(crate) stage_timer: Option<TimerId>,
    pub(crate) user_timer: Option<TimerId>,
    /// Why it is ending, once that is decided.
    pub(crate) reason: Option<CloseReason>,
    /// Kept while its bandwidth is limited.
    pub(crate) shaping: Option<Box<Shaping>>,
    /// Bytes moved when it was last looked at, the low half: what counts is whether there are more.
    pub(crate) seen: u32,
    /// Looks in a row that saw no more.
    pub(crate) still: u8,
    dirty: bool,
}

/// What a deadline of a connection means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    Handshake(Key),
    Idle(Key),
    Linger(Key),
    User(Key),
}

/// All links of a shard.
pub(crate) struct Links {
    pub(crate) table: Table<Link>,
    pub(crate) utp: Utp,
    pub(crate) wheel: Wheel<Timer>,
    pub(crate) now: Instant,
    pub(crate) shard: u16,
    pub(crate) send_limits: SendLimits,
    pub(crate) linger: Duration,
    /// The shard shuts down: who has everything is not waited for as long as others.
    pub(crate) parting: bool,
    pub(crate) limits: Limits,
    pub(super) joints: Joints,
    /// Times that the application held a peer back.
    pub(crate) held_back: u64,
    /// Links that were reported as closed and are still here.
    ending: u32,
    dirty: Vec<Key>,
    /// Those of them that have much to send, in turn.
    bulk: VecDeque<Key>,
    /// Bytes that bulk may still hand to the driver in this turn.
    bulk_left: usize,
}

impl Links {
    pub(crate) fn new(
        shard: u16,
        limit: u32,
        send_limits: SendLimits,
        linger: Duration,
        utp: Utp,
        limits: Limits,
        joints: Joints,
    ) -> Self {
        Self {
            table: Table::new(limit),
            utp,
            wheel: Wheel::new(Instant::ZERO, limit.saturating_mul(2)),
            now: Instant::ZERO,
            shard,
            send_limits,
            linger,
            parting: false,
            limits,
            joints,
            held_back: 0,
            ending: 0,
            dirty: Vec::new(),
            bulk: VecDeque::new(),
            bulk_left: 0,
        }
    }

    /// A TCP stream on `socket`.
    pub(crate) fn tcp(&self, socket: SocketId) -> Stream {
        Stream::Tcp {
            machine: Connection::new(self.joints.below(self.send_limits)),
            socket,
        }
    }

    /// Adds a link; `None` when the table is full.
    pub(crate) fn insert(
        &mut self,
        stream: Stream,
        addr: SocketAddr,
        phase: Phase,
        candidate: Option<CandidateId>,
    ) -> Option<Key> {
        self.table.insert(Link {
            stream,
            phase,
            addr,
            candidate,
            stage_timer: None,
            user_timer: None,
            reason: None,
            shaping: None,
            seen: 0,
            still: 0,
            dirty: false,
        })
    }

    pub(crate) fn conn_id(&self, key: Key) -> ConnId {
        ConnId {
            shard: self.shard,
            slot: key.slot,
            generation: key.generation,
        }
    }

    /// The key behind a connection's name; whether it is still there shows at its use.
    pub(crate) fn key(conn: ConnId) -> Key {
        Key {
            slot: conn.slot,
            generation: conn.generation,
        }
    }

    /// Notes that the link has operations to hand over.
    pub(crate) fn touch(&mut self, key: Key) {
        if let Some(link) = self.table.get_mut(key)
            && !link.dirty
        {
            link.dirty = true;
            self.dirty.push(key);
        }
    }

    /// The next link noted by [`Self::touch`].
    pub(crate) fn next_dirty(&mut self) -> Option<Key> {
        while let Some(key) = self.dirty.pop() {
            if let Some(link) = self.table.get_mut(key) {
                link.dirty = false;
                return Some(key);
            }
        }
        None
    }

    /// Has a link with much to send wait for its turn: the kernel carries megabytes for as long as a
    /// handshake may take. Whether it is one.
    pub(crate) fn defer_bulk(&mut self, key: Key) -> bool {
        let Some(link) = self.table.get_mut(key) else {
            return false;
        };
        let Stream::Tcp { machine, .. } = &link.stream else {
            return false;
        };
        if machine.ready_to_send() < BULK {
            return false;
        }
        // It is not noted again meanwhile.
        link.dirty = true;
        self.bulk.push_back(key);
        true
    }

    /// A turn begins.
    pub(crate) fn grant_bulk(&mut self) {
        self.bulk_left = BULK_TURN;
    }

    /// The next of those with much to send, as long as this turn has room for it. What others send is not
    /// counted: they go first, and many of them would leave nothing to bulk, turn after turn.
    pub(crate) fn next_bulk(&mut self) -> Option<Key> {
        while self.bulk_left > 0 {
            let key = self.bulk.pop_front()?;
            if let Some(link) = self.table.get_mut(key) {
                link.dirty = false;
                if let Stream::Tcp { machine, .. } = &link.stream {
                    self.bulk_left = self.bulk_left.saturating_sub(machine.ready_to_send());
                }
                return Some(key);
            }
        }
        None
    }

    /// Whether some are left for the next turn.
    pub(crate) fn has_bulk(&self) -> bool {
        !self.bulk.is_empty()
    }

    /// Links that were reported as closed and whose transport is still ending.
    pub(crate) fn ending(&self) -> u32 {
        self.ending
    }

    /// Puts the link into its last phase and returns the one it was in.
    pub(crate) fn begin_ending(&mut self, key: Key) -> Option<Phase> {
        let link = self.table.get_mut(key)?;
        let was = std::mem::replace(&mut link.phase, Phase::Ending);
        self.ending += u32::from(!matches!(was, Phase::Ending));
        Some(was)
    }

    /// Takes the link out of use; its timers with it.
    pub(crate) fn remove(&mut self, key: Key) -> Option<Link> {
        let link = self.table.remove(key)?;
        self.joints.detach(key);
        self.ending -= u32::from(matches!(link.phase, Phase::Ending));
        for timer in [link.stage_timer, link.user_timer].into_iter().flatten() {
            self.wheel.cancel(timer);
        }
        Some(link)
    }

    /// Arms the link's stage timer in place of the one before.
    pub(crate) fn set_stage_timer(&mut self, timer: Timer, after: Duration) {
        let (Timer::Handshake(key) | Timer::Idle(key) | Timer::Linger(key) | Timer::User(key)) =
            timer;
        let at = self.now + after;
        if let Some(link) = self.table.get_mut(key) {
            if let Some(old) = link.stage_timer.take() {
                self.wheel.cancel(old);
            }
            link.stage_timer = self.wheel.insert(timer, at);
        }
    }

    pub(crate) fn clear_stage_timer(&mut self, key: Key) {
        if let Some(old) = self
            .table
            .get_mut(key)
            .and_then(|link| link.stage_timer.take())
        {
            self.wheel.cancel(old);
        }
    }

    /// Whether a timer that has just expired was cleared or armed anew since; if not, it is
    /// taken out of its link.
    pub(crate) fn is_rearmed(&mut self, timer: Timer) -> bool {
        let (Timer::Handshake(key) | Timer::Idle(key) | Timer::Linger(key) | Timer::User(key)) =
            timer;
        let Some(link) = self.table.get_mut(key) else {
            return true;
        };
        let slot = match timer {
            Timer::User(_) => &mut link.user_timer,
            Timer::Handshake(_) | Timer::Idle(_) | Timer::Linger(_) => &mut link.stage_timer,
        };
        match *slot {
            Some(armed) if !self.wheel.is_armed(armed) => {
                *slot = None;
                false
            }
            _ => true,
        }
    }

    /// A closing link moved on: the wait for its end begins again.
    pub(crate) fn extend_linger(&mut self, key: Key) {
        let closing = |link: &Link| link.reason.is_some() && link.stage_timer.is_some();
        if self.table.get(key).is_some_and(closing) {
            self.set_stage_timer(Timer::Linger(key), self.linger);
        }
    }
}

/// Tokens carry the key of a link, or say what else a socket is.
pub(crate) enum TokenKind {
    Link(Key),
    Listener,
    Datagrams,
}

// No link has such a key: slots are limited to fewer.
const LISTENER: u64 = u64::MAX;
const DATAGRAMS: u64 = u64::MAX - 1;

pub(crate) fn link_token(key: Key) -> Token {
    Token(u64::from(key.generation) << 32 | u64::from(key.slot))
}

pub(crate) fn listener_token() -> Token {
    Token(LISTENER)
}

pub(crate) fn datagram_token() -> Token {
    Token(DATAGRAMS)
}

pub(crate) fn token_kind(token: Token) -> TokenKind {
    match token.0 {
        LISTENER => return TokenKind::Listener,
        DATAGRAMS => return TokenKind::Datagrams,
        _ => {}
    }
    let [g3, g2, g1, g0, s3, s2, s1, s0] = token.0.to_be_bytes();
    TokenKind::Link(Key {
        generation: u32::from_be_bytes([g3, g2, g1, g0]),
        slot: u32::from_be_bytes([s3, s2, s1, s0]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_small_since_every_idle_connection_has_one() {
        let size = size_of::<Link>();
        assert!(size <= 232, "{size}");
    }
}
