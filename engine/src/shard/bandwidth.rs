//! Connections whose bytes have to wait for their turn: because bandwidth is limited, or because they
//! come from a file.
//!
//! What is sent waits in front of the transport, and what is received is paid for afterwards: a
//! connection that has had more than it was granted receives no more until it has its next turn. The
//! transports know nothing of it, so that both are limited alike.

use super::Shard;
use super::backlog::{Backlog, Taken};
use super::link::{Link, Links, Phase};
use super::stream::Stream;
use crate::api::Handler;
use crate::bandwidth::{BURST, Bandwidth, OWN_BURST, Rates, SharedRates, Turns, Way};
use crate::files::FilePart;
use crate::io::Driver;
use crate::names::{ChannelKey, ConnId};
use crate::table::Key;
use bytes::Bytes;
use flock_tcp::{Queued, SendRefused};
use flock_transport::Instant;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Granted at a time: as much as the slowest limit lets through in ten milliseconds, or since the last
/// time if nobody else is under that limit, within these bounds, bytes.
pub(super) const QUANTUM: std::ops::RangeInclusive<u64> = 1_460..=256 << 10;
const QUANTA_PER_SECOND: u64 = 100;
/// In each direction a turn of the shard gives turns to one in so many of the completions it takes. Gave
/// it more, the completions of those would pile up in the driver, and everything else behind them.
const BATCH_PER_TURN: usize = 4;

/// What a limit is for.
#[derive(Clone, Debug)]
pub(crate) enum Scope {
    /// Everything together; the rates are shared and set already.
    All,
    /// Each connection that has none of its own.
    Peers(Bandwidth),
    Conn(ConnId, Bandwidth),
    /// All connections of a channel together; none: it is limited no longer.
    Channel(ChannelKey, Option<Arc<Rates>>),
}

/// A limited connection.
#[derive(Debug, Default)]
pub(crate) struct Shaping {
    pub(super) backlog: Backlog,
    /// The sender was told to wait.
    pub(super) above_high: bool,
    /// The transport takes no more for now.
    blocked: bool,
    /// What comes after the backlog.
    pub(super) then: Then,
    /// Bytes that may still be received; below zero it is a debt.
    grant: i64,
    /// Receives nothing until it has its turn.
    held: bool,
    /// Receives nothing because its owner wants that.
    paused: bool,
    /// Among those that wait, per direction.
    waits: [bool; 2],
    own: Rates,
    /// Its rates were set for it alone.
    apart: bool,
    channel: Option<Arc<Rates>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Then {
    #[default]
    More,
    End,
    Close,
}

/// What limits there are, and who waits for them.
pub(crate) struct Limits {
    shared: Arc<SharedRates>,
    peers: Bandwidth,
    channels: BTreeMap<ChannelKey, Arc<Rates>>,
    turns: [Turns; 2],
    /// Turns given, in each direction, before the shard looks after other things.
    turns_max: usize,
    /// Parts of files that a thread has to read.
    pub(super) cold: Vec<(Key, FilePart)>,
    pub(super) files_failed: u64,
}

impl Limits {
    /// For a driver that delivers `batch` completions a turn.
    pub(crate) fn new(shared: Arc<SharedRates>, peers: Bandwidth, batch: usize) -> Self {
        Self {
            turns_max: (batch / BATCH_PER_TURN).max(1),
            shared,
            peers,
            channels: BTreeMap::new(),
            turns: Way::BOTH.map(Turns::new),
            cold: Vec::new(),
            files_failed: 0,
        }
    }

    fn turns(&mut self, way: Way) -> &mut Turns {
        &mut self.turns[usize::from(way == Way::Down)]
    }

    /// Files that were shorter than was said, or could not be read.
    pub(crate) fn files_failed(&self) -> u64 {
        self.files_failed
    }

    /// When somebody's turn comes.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let deadlines = self.turns.iter();
        deadlines
            .filter_map(|turns| turns.deadline(&self.shared))
            .min()
    }

    fn apply(&self, channel: Option<&ChannelKey>) -> Option<Box<Shaping>> {
        let channel = channel.and_then(|key| self.channels.get(key)).cloned();
        let limited =
            self.shared.all.is_limited() || self.peers != Bandwidth::UNLIMITED || channel.is_some();
        limited.then(|| {
            Box::new(Shaping {
                own: Rates::new(self.peers),
                channel,
                ..Shaping::default()
            })
        })
    }
}

impl Drop for Limits {
    fn drop(&mut self) {
        for turns in &mut self.turns {
            turns.retain(&self.shared, |_| false);
        }
    }
}

impl Shaping {
    /// The tokens it needs beside those of all, and when there are some.
    fn buckets(&self, way: Way) -> impl Iterator<Item = &crate::bandwidth::Bucket> {
        let channel = self.channel.as_ref().map(|rates| rates.bucket(way));
        channel.into_iter().chain([self.own.bucket(way)])
    }

    fn spend(&self, now: Instant, way: Way, bytes: u64) {
        if let Some(rates) = &self.channel {
            rates.bucket(way).spend(now, bytes, BURST);
        }
        self.own.bucket(way).spend(now, bytes, OWN_BURST);
    }

    fn ready_at(&self, way: Way) -> Instant {
        let ready = self.buckets(way).map(crate::bandwidth::Bucket::ready_at);
        ready.max().unwrap_or(Instant::ZERO)
    }

    fn quantum(&self, now: Instant, way: Way, shared: &SharedRates) -> u64 {
        let all = [shared.all.bucket(way)];
        let rates = self
            .buckets(way)
            .chain(all)
            .filter_map(|bucket| bucket.rate());
        let slowest = rates.min().map_or(u64::MAX, std::num::NonZeroU64::get);
        let own = self.own.bucket(way);
        let alone = own.rate().is_some_and(|rate| rate.get() == slowest);
        // A shard with more to do than it can comes to each later, and then has more for it: what
        // a turn costs hardly grows with it.
        let tokens = if alone { own.tokens(now, OWN_BURST) } else { 0 };
        let quantum = tokens.max(slowest / QUANTA_PER_SECOND);
        quantum.clamp(*QUANTUM.start(), *QUANTUM.end())
    }

    /// Whether any limit holds for it.
    fn is_limited(&self, way: Way, shared: &SharedRates) -> bool {
        let all = [shared.all.bucket(way)];
        self.buckets(way)
            .chain(all)
            .any(|bucket| bucket.rate().is_some())
    }

    fn waits(&mut self, way: Way) -> &mut bool {
        &mut self.waits[usize::from(way == Way::Down)]
    }

    /// Whether its next turn would bring something on.
    fn can_send(&self) -> bool {
        !self.backlog.is_empty() && !self.blocked && !self.backlog.is_fetching()
    }

    /// Bytes that wait in front of the transport.
    pub(crate) fn backlog(&self) -> usize {
        usize::try_from(self.backlog.bytes()).unwrap_or(usize::MAX)
    }
}

impl Links {
    /// Puts a connection under the limits there are; it was just admitted.
    pub(crate) fn limit(&mut self, key: Key, channel: Option<&ChannelKey>) {
        let shaping = self.limits.apply(channel);
        if let Some(link) = self.table.get_mut(key) {
            link.shaping = shaping;
        }
        self.meter(key);
    }

    /// Has a stream whose bytes are counted out receive a little at a time.
    fn meter(&mut self, key: Key) {
        let shared = &self.limits.shared;
        let Some(link) = self.table.get_mut(key) else {
            return;
        };
        let shaping = link.shaping.as_deref();
        let metered = shaping.is_some_and(|shaping| shaping.is_limited(Way::Down, shared));
        if let Stream::Tcp { machine, .. } = &mut link.stream
            && machine.meter_recv(metered)
        {
            self.touch(key);
        }
    }

    /// Queues `data` of a limited connection.
    pub(super) fn send_limited(&mut self, key: Key, data: Bytes) -> Result<Queued, SendRefused> {
        let queued = self.queued(key) as u64;
        let limits = self.send_limits;
        let shared = self.limits.shared.clone();
        let Some(shaping) = self.shaping(key) else {
            return Err(SendRefused::Closed(data));
        };
        if shaping.backlog.is_empty() && !shaping.is_limited(Way::Up, &shared) {
            let queued = self.send_raw(key, data)?;
            if let (Queued::AboveHigh, Some(shaping)) = (queued, self.shaping(key)) {
                shaping.above_high = true;
                shaping.blocked = true;
            }
            return Ok(queued);
        }
        if shaping.then != Then::More {
            return Err(SendRefused::Closed(data));
        }
        let after = queued + data.len() as u64;
        if queued > 0 && after > u64::from(limits.max) {
            return Err(SendRefused::Full(data));
        }
        shaping.backlog.push(data);
        shaping.above_high |= after >= u64::from(limits.high).max(1);
        let above_high = shaping.above_high;
        self.wait(Way::Up, key);
        Ok(if above_high {
            Queued::AboveHigh
        } else {
            Queued::Ok
        })
    }

    pub(super) fn shaping(&mut self, key: Key) -> Option<&mut Shaping> {
        self.table.get_mut(key)?.shaping.as_deref_mut()
    }

    /// Whether what is queued has to leave before the transport may be told to end.
    pub(super) fn end_after_backlog(&mut self, key: Key, close: bool) -> bool {
        let Some(shaping) = self
            .shaping(key)
            .filter(|shaping| !shaping.backlog.is_empty())
        else {
            return false;
        };
        shaping.then = if close { Then::Close } else { Then::End };
        true
    }

    /// Forgets what waits: the connection is reset.
    pub(super) fn drop_backlog(&mut self, key: Key) {
        if let Some(shaping) = self.shaping(key) {
            shaping.backlog.clear();
        }
    }

    /// Notes the owner's wish; whether receiving is to change.
    pub(super) fn note_pause(&mut self, key: Key, paused: bool) -> bool {
        match self.shaping(key) {
            Some(shaping) => {
                shaping.paused = paused;
                !shaping.held
            }
            None => true,
        }
    }

    /// Bytes were received. Who has had more than it was granted is held back.
    pub(crate) fn note_received(&mut self, key: Key, len: usize) {
        let Some(link) = self.table.get_mut(key) else {
            return;
        };
        let Some(shaping) = link.shaping.as_deref_mut() else {
            return;
        };
        if !shaping.is_limited(Way::Down, &self.limits.shared) {
            return;
        }
        shaping.grant = shaping.grant.saturating_sub_unsigned(len as u64);
        if shaping.grant <= 0 && !shaping.held && link.reason.is_none() {
            self.hold(key);
        }
    }

    /// Receives nothing before its turn.
    pub(super) fn hold(&mut self, key: Key) {
        if let Some(shaping) = self.shaping(key) {
            shaping.held = true;
            self.stop_receiving(key);
            self.wait(Way::Down, key);
        }
    }

    /// Adds the connection to those that wait, unless it is among them.
    pub(super) fn wait(&mut self, way: Way, key: Key) {
        let Some(shaping) = self
            .table
            .get_mut(key)
            .and_then(|link| link.shaping.as_deref_mut())
        else {
            return;
        };
        let idle = way == Way::Up && !shaping.can_send();
        if idle || std::mem::replace(shaping.waits(way), true) {
            return;
        }
        let connections = self.table.len() as usize;
        let limits = &mut self.limits;
        let shared = limits.shared.clone();
        let turns = limits.turns(way);
        if turns.len() > 2 * connections + 16 {
            // Those that have gone; each connection waits once.
            turns.retain(&shared, |key| self.table.get(key).is_some());
        }
        turns.wait(&shared, key);
    }

    /// Gives one connection its turn; none: nobody's has come. With what it got.
    fn next_turn(&mut self, now: Instant, way: Way) -> Option<Key> {
        let shared = self.limits.shared.clone();
        loop {
            let key = self.limits.turns(way).next(now, &shared)?;
            let Some(shaping) = self
                .table
                .get_mut(key)
                .and_then(|link| link.shaping.as_deref_mut())
            else {
                continue;
            };
            let at = shaping.ready_at(way);
            if at > now {
                self.limits.turns(way).wait_until(at, key);
                continue;
            }
            *shaping.waits(way) = false;
            let quantum = shaping.quantum(now, way, &shared);
            let got = match way {
                Way::Up => self.release(key, quantum),
                Way::Down => self.grant(key, quantum),
            };
            if let Some(shaping) = self.shaping(key) {
                shaping.spend(now, way, got);
            }
            self.limits.turns(way).spent(now, &shared, got);
            if way == Way::Up || self.shaping(key).is_some_and(|shaping| shaping.held) {
                self.wait(way, key);
            }
            return Some(key);
        }
    }

    /// Whether something still waits for bandwidth, rather than for the peer.
    pub(super) fn waits_to_send(&mut self, key: Key) -> bool {
        let shaping = self.shaping(key);
        shaping.is_some_and(|shaping| !shaping.backlog.is_empty() && !shaping.blocked)
    }

    /// Hands up to `quantum` bytes of the backlog to the transport; how many it took.
    fn release(&mut self, key: Key, quantum: u64) -> u64 {
        let mut sent = 0;
        while sent < quantum
            && let Some(shaping) = self.shaping(key)
            && !shaping.blocked
        {
            let most = quantum - sent;
            match shaping.backlog.take(most) {
                Taken::Bytes(piece) => match self.release_piece(key, piece) {
                    Some(len) => sent += len,
                    None => break,
                },
                Taken::Cold(part) => {
                    self.limits.cold.push((key, part));
                    break;
                }
                Taken::Failed(error) => {
                    self.file_failed(key, &error);
                    break;
                }
                Taken::Nothing => break,
            }
        }
        self.extend_linger(key);
        self.finish_backlog(key);
        sent
    }

    /// Hands a piece to the transport. None: it takes no more for now.
    fn release_piece(&mut self, key: Key, piece: Bytes) -> Option<u64> {
        let (len, before) = (piece.len(), self.queued_wire(key));
        let result = self.send_raw(key, piece);
        // A connector may have made more of it.
        let len = len.max(self.queued_wire(key).saturating_sub(before)) as u64;
        let shaping = self.shaping(key)?;
        match result {
            Ok(Queued::Ok) => Some(len),
            Ok(Queued::AboveHigh) => {
                // It ends this turn, and counts.
                shaping.blocked = true;
                Some(len)
            }
            Err(SendRefused::Full(piece)) => {
                shaping.backlog.put_back(piece);
                shaping.blocked = true;
                None
            }
            // The transport is at its end, and says so in another way.
            Err(SendRefused::Closed(_)) => None,
        }
    }

    /// The end that waited for the backlog.
    fn finish_backlog(&mut self, key: Key) {
        let Some(shaping) = self
            .shaping(key)
            .filter(|shaping| shaping.backlog.is_empty())
        else {
            return;
        };
        match std::mem::take(&mut shaping.then) {
            Then::More => {}
            Then::End => self.end_transport(key),
            Then::Close => self.close_transport(key),
        }
    }

    /// How much of what a transport kept while it was paused may be passed on.
    pub(super) fn may_receive(&self, key: Key) -> u64 {
        let shaping = self.table.get(key).and_then(|link| link.shaping.as_deref());
        let limited = shaping.filter(|shaping| shaping.is_limited(Way::Down, &self.limits.shared));
        limited.map_or(u64::MAX, |shaping| {
            u64::try_from(shaping.grant).unwrap_or(0)
        })
    }

    /// Lets a connection receive `quantum` bytes more.
    fn grant(&mut self, key: Key, quantum: u64) -> u64 {
        let Some(shaping) = self.shaping(key) else {
            return 0;
        };
        shaping.grant = shaping.grant.saturating_add_unsigned(quantum);
        if shaping.grant > 0 && shaping.held {
            shaping.held = false;
            if !shaping.paused {
                self.start_receiving(key);
            }
        }
        quantum
    }

    /// The transport has room again; whether its owner is to be told.
    pub(crate) fn note_writable(&mut self, key: Key) -> bool {
        match self.shaping(key) {
            Some(shaping) => {
                shaping.blocked = false;
                self.wait(Way::Up, key);
                self.take_writable(key)
            }
            None => true,
        }
    }

    /// Whether the owner of a limited connection was told to wait and need not any more.
    fn take_writable(&mut self, key: Key) -> bool {
        let low = u64::from(self.send_limits.low);
        let Some(link) = self.table.get_mut(key) else {
            return false;
        };
        let open = matches!(link.phase, Phase::Open) && link.reason.is_none();
        let Some(shaping) = link.shaping.as_deref_mut() else {
            return false;
        };
        let room = shaping.backlog.bytes() <= low && shaping.backlog.files() == 0;
        let room = room && !shaping.blocked && shaping.then == Then::More;
        open && room && std::mem::take(&mut shaping.above_high)
    }
}

impl<D: Driver, H: Handler> Shard<D, H> {
    /// Gives turns to connections that wait for bandwidth.
    pub(super) fn serve_bandwidth(&mut self, now: Instant) {
        for way in Way::BOTH {
            for _ in 0..self.links.limits.turns_max {
                let Some(key) = self.links.next_turn(now, way) else {
                    break;
                };
                if way == Way::Up && self.links.take_writable(key) {
                    self.call(key, |handler, cx, conn| handler.on_writable(cx, conn));
                }
            }
        }
        self.fetch_cold();
    }

    /// Limits have changed.
    pub(super) fn set_bandwidth(&mut self, scope: &Scope) {
        match scope {
            Scope::All | Scope::Conn(..) => {}
            Scope::Peers(bandwidth) => self.links.limits.peers = *bandwidth,
            Scope::Channel(key, Some(rates)) => {
                self.links
                    .limits
                    .channels
                    .insert(key.clone(), rates.clone());
            }
            Scope::Channel(key, None) => {
                self.links.limits.channels.remove(key);
            }
        }
        let open = |(key, link): (Key, &Link)| matches!(link.phase, Phase::Open).then_some(key);
        let keys: Vec<Key> = match scope {
            Scope::Conn(conn, _) => vec![Links::key(*conn)],
            _ => self.links.table.iter().filter_map(open).collect(),
        };
        for key in keys {
            self.change_limit(key, scope);
            self.links.meter(key);
        }
        let limits = &mut self.links.limits;
        let shared = limits.shared.clone();
        for turns in &mut limits.turns {
            turns.look_again(&shared);
        }
    }

    fn change_limit(&mut self, key: Key, scope: &Scope) {
        let conn = self.links.conn_id(key);
        let channel = self.swarm.info(conn).and_then(|info| info.channel);
        let fresh = self.links.limits.apply(channel.as_ref());
        let Some(link) = self.links.table.get_mut(key) else {
            return;
        };
        if !matches!(link.phase, Phase::Open) {
            return;
        }
        if link.shaping.is_none() {
            link.shaping = fresh;
        }
        if let Scope::Conn(_, bandwidth) = scope {
            let shaping = link.shaping.get_or_insert_default();
            shaping.own.set(*bandwidth);
            shaping.apart = true;
        }
        let Some(shaping) = link.shaping.as_deref_mut() else {
            return;
        };
        match scope {
            Scope::Peers(bandwidth) if !shaping.apart => shaping.own.set(*bandwidth),
            Scope::Channel(name, rates) if channel.as_ref() == Some(name) => {
                shaping.channel.clone_from(rates);
            }
            _ => {}
        }
    }
}
