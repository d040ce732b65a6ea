//! What must hold in every run, fed by what the engine says.

use flock_engine::{BanTarget, ConnId, Event, PeerId};
use flock_transport::Instant;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::net::SocketAddr;

/// How many notes a failure shows.
const TAIL: usize = 80;

/// What the engine was told to keep.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// Admitted peers at a time; 0: no limit.
    pub max_connections: usize,
    /// Unfinished inbound handshakes at a time, all shards together; 0: no limit.
    pub half_open: usize,
    /// Dials at a time, all shards together; 0: no limit.
    pub dials: usize,
    /// Outbound handshakes from which on a shard may leave its queue alone; 0: no limit.
    pub outbound_handshakes: usize,
}

/// What must be left alone for a time.
#[derive(Clone, Debug)]
struct Ban {
    target: BanTarget,
    from: Instant,
    until: Instant,
}

/// One thing that was seen, with the connection's name `K`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note<K> {
    /// Something about a candidate, for the tail only.
    Candidate(&'static str, SocketAddr),
    /// A dial starts.
    Dialling(SocketAddr),
    /// A dial failed.
    DialFailed(SocketAddr),
    /// A connection is established; whether we dialled it.
    Handshaking(K, SocketAddr, bool),
    /// Its handshake took too long.
    HandshakeTimeout(K),
    /// It was admitted under this id.
    Admitted(K, PeerId),
    /// It is about to be closed in favour of another.
    Redundant(K),
    /// It ended.
    Closed(K),
    /// An inbound connection was refused.
    Refused(SocketAddr),
    /// The handler got it.
    UserOpened(K, PeerId),
    /// The handler got bytes.
    UserData(K, usize),
    /// The handler lost it.
    UserClosed(K),
}

impl Note<ConnId> {
    /// What an event says.
    #[must_use]
    pub fn of(event: &Event) -> Option<Self> {
        Some(match event {
            Event::Connecting(peer) => Self::Dialling(peer.addr),
            Event::ConnectFailed { peer, .. } => Self::DialFailed(peer.addr),
            Event::Handshaking(info) => Self::Handshaking(info.conn, info.addr, info.initiator),
            Event::HandshakeTimeout(info) => Self::HandshakeTimeout(info.conn),
            Event::Connection(info) => Self::Admitted(info.conn, info.peer_id.clone()?),
            Event::RedundantConnection(info) => Self::Redundant(info.conn),
            Event::ConnectionClosed { info, .. } => Self::Closed(info.conn),
            Event::ConnectionRefused { addr, .. } => Self::Refused(*addr),
            Event::Peer(peer) | Event::PeerDropped(peer) => {
                Self::Candidate(event.name(), peer.addr)
            }
            Event::PeerBanned { peer, .. } | Event::PeerRejected { peer, .. } => {
                Self::Candidate(event.name(), peer.addr)
            }
            _ => return None,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Handshaking,
    Admitted,
    Closed,
}

#[derive(Debug)]
struct Conn {
    phase: Phase,
    addr: SocketAddr,
    inbound: bool,
    /// Between the handler's opening and closing.
    with_user: bool,
    user_calls: u32,
    peer: Option<PeerId>,
}

/// The model of an engine that its notes are held against.
#[derive(Debug)]
pub struct Checker<K> {
    limits: Limits,
    conns: BTreeMap<K, Conn>,
    admitted: BTreeMap<PeerId, K>,
    users: BTreeMap<PeerId, K>,
    dialling: BTreeMap<SocketAddr, u32>,
    bans: Vec<Ban>,
    handshaking: usize,
    half_open: usize,
    timeouts: u64,
    refused: u64,
    inbound: u64,
    admissions: u64,
    redundant: u64,
    peak: usize,
    tail: VecDeque<String>,
    violations: Vec<String>,
}

impl<K: Copy + Ord + Debug> Checker<K> {
    /// A checker for an engine that has seen nothing yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            conns: BTreeMap::new(),
            admitted: BTreeMap::new(),
            users: BTreeMap::new(),
            dialling: BTreeMap::new(),
            bans: Vec::new(),
            handshaking: 0,
            half_open: 0,
            timeouts: 0,
            refused: 0,
            inbound: 0,
            admissions: 0,
            redundant: 0,
            peak: 0,
            tail: VecDeque::new(),
            violations: Vec::new(),
        }
    }

    /// Records that something went wrong; a handler must not panic for it.
    pub fn violation(&mut self, what: impl Into<String>) {
        // One mistake often makes many: the first ones tell.
        let what = what.into();
        if self.violations.len() < 20 && self.violations.last() != Some(&what) {
            self.violations.push(what);
        }
    }

    /// Takes the next note.
    pub fn note(&mut self, now: Instant, note: Note<K>) {
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        let micros = now.as_nanos() / 1_000;
        self.tail.push_back(format!("{micros} us {note:?}"));
        match note {
            Note::Candidate(..) => {}
            Note::Dialling(addr) => self.dial_begins(now, addr),
            Note::DialFailed(addr) => self.dial_ended(addr, "failed"),
            Note::Handshaking(conn, addr, dialled) => {
                if !dialled {
                    self.expect_not_banned(now, addr, None);
                }
                self.handshaking(conn, addr, dialled);
            }
            Note::HandshakeTimeout(conn) => {
                self.timeouts += 1;
                self.expect_phase(conn, Phase::Handshaking, "handshake-timeout");
            }
            Note::Admitted(conn, peer) => self.admitted(now, conn, &peer),
            Note::Redundant(conn) => {
                self.redundant += 1;
                let phase = self.conns.get(&conn).map(|conn| conn.phase);
                if !matches!(phase, Some(Phase::Handshaking | Phase::Admitted)) {
                    self.violation(format!("{conn:?} is redundant, but was {phase:?}"));
                }
            }
            Note::Closed(conn) => self.closed(conn),
            Note::Refused(_) => self.refused += 1,
            Note::UserOpened(conn, peer) => self.user_opened(conn, &peer),
            Note::UserData(conn, len) => {
                if len == 0 {
                    self.violation(format!("{conn:?}: the handler got no bytes"));
                }
                if !self.conns.get(&conn).is_some_and(|conn| conn.with_user) {
                    self.violation(format!("{conn:?}: bytes without the handler having it"));
                }
            }
            Note::UserClosed(conn) => self.user_closed(conn),
        }
    }

    fn expect_phase(&mut self, conn: K, expected: Phase, what: &str) {
        let phase = self.conns.get(&conn).map(|conn| conn.phase);
        if phase != Some(expected) {
            self.violation(format!("{what} of {conn:?}, which was {phase:?}"));
        }
    }

    /// From then on, a while after it was asked for, the target is to be left alone. Replaces an
    /// earlier ban of it.
    pub fn ban(&mut self, target: BanTarget, from: Instant, until: Instant) {
        self.bans.retain(|ban| ban.target != target);
        self.bans.push(Ban {
            target,
            from,
            until,
        });
    }

    fn expect_not_banned(&mut self, now: Instant, addr: SocketAddr, peer: Option<&PeerId>) {
        let hit = |ban: &&Ban| {
            let meant = match &ban.target {
                BanTarget::Addr(banned) => *banned == addr,
                BanTarget::Net(net) => net.contains(&addr.ip()),
                BanTarget::Peer(banned) => Some(banned) == peer,
            };
            meant && (ban.from..ban.until).contains(&now)
        };
        if let Some(ban) = self.bans.iter().find(hit) {
            let text = format!("{addr}, {peer:?} at {now:?} in spite of {ban:?}");
            self.violation(text);
        }
    }

    fn dial_begins(&mut self, now: Instant, addr: SocketAddr) {
        self.expect_not_banned(now, addr, None);
        let dials = self.dialling.entry(addr).or_default();
        *dials += 1;
        if *dials > 1 {
            self.violation(format!("{addr} is dialled twice at a time"));
        }
        let (dialling, limit) = (self.dialling(), self.limits.dials);
        if limit > 0 && dialling > limit {
            self.violation(format!("{dialling} dials, the limit is {limit}"));
        }
    }

    fn dialling(&self) -> usize {
        self.dialling.values().sum::<u32>() as usize
    }

    fn handshake_over(&mut self, inbound: bool) {
        self.handshaking -= 1;
        self.half_open -= usize::from(inbound);
    }

    fn dial_ended(&mut self, addr: SocketAddr, how: &str) {
        match self.dialling.get_mut(&addr) {
            Some(dials) if *dials > 0 => *dials -= 1,
            _ => self.violation(format!("a dial to {addr} {how} that had not begun")),
        }
    }

    fn handshaking(&mut self, conn: K, addr: SocketAddr, dialled: bool) {
        if dialled {
            self.dial_ended(addr, "succeeded");
        } else {
            self.inbound += 1;
            self.half_open += 1;
        }
        self.handshaking += 1;
        let (half_open, limit) = (self.half_open, self.limits.half_open);
        if limit > 0 && half_open > limit {
            self.violation(format!("{half_open} half open, the limit is {limit}"));
        }
        let fresh = Conn {
            phase: Phase::Handshaking,
            addr,
            inbound: !dialled,
            with_user: false,
            user_calls: 0,
            peer: None,
        };
        if self.conns.insert(conn, fresh).is_some() {
            self.violation(format!("{conn:?} begins twice"));
        }
    }

    fn admitted(&mut self, now: Instant, conn: K, peer: &PeerId) {
        self.admissions += 1;
        self.expect_phase(conn, Phase::Handshaking, "connection");
        if let Some(addr) = self.conns.get(&conn).map(|conn| conn.addr) {
            self.expect_not_banned(now, addr, Some(peer));
        }
        if let Some(entry) = self.conns.get_mut(&conn)
            && entry.phase == Phase::Handshaking
        {
            entry.phase = Phase::Admitted;
            entry.peer = Some(peer.clone());
            let inbound = entry.inbound;
            self.handshake_over(inbound);
        }
        if let Some(other) = self.admitted.insert(peer.clone(), conn) {
            self.violation(format!("{peer:?} is admitted as {other:?} and {conn:?}"));
        }
        let (admitted, limit) = (self.admitted.len(), self.limits.max_connections);
        self.peak = self.peak.max(admitted);
        if limit > 0 && admitted > limit {
            self.violation(format!("{admitted} peers admitted, the limit is {limit}"));
        }
    }

    fn closed(&mut self, conn: K) {
        let Some(entry) = self.conns.get_mut(&conn) else {
            return self.violation(format!("{conn:?} closed without having begun"));
        };
        let was = std::mem::replace(&mut entry.phase, Phase::Closed);
        match was {
            Phase::Handshaking => {
                let inbound = entry.inbound;
                self.handshake_over(inbound);
            }
            Phase::Admitted => {
                let (peer, user_calls) = (entry.peer.take(), entry.user_calls);
                if user_calls == 0 {
                    self.violation(format!("{conn:?} was reported, but never handed over"));
                }
                if let Some(peer) = peer
                    && self.admitted.get(&peer) == Some(&conn)
                {
                    self.admitted.remove(&peer);
                }
            }
            Phase::Closed => self.violation(format!("{conn:?} closed twice")),
        }
    }

    fn user_opened(&mut self, conn: K, peer: &PeerId) {
        let Some(entry) = self.conns.get_mut(&conn) else {
            return self.violation(format!("the handler got {conn:?}, which had not begun"));
        };
        entry.with_user = true;
        entry.user_calls += 1;
        let (calls, phase) = (entry.user_calls, entry.phase);
        if calls > 1 || phase != Phase::Admitted {
            self.violation(format!(
                "the handler got {conn:?}, {phase:?}, {calls} times"
            ));
        }
        if let Some(other) = self.users.insert(peer.clone(), conn) {
            self.violation(format!(
                "the handler has {peer:?} as {other:?} and {conn:?}"
            ));
        }
    }

    fn user_closed(&mut self, conn: K) {
        let had = self.conns.get_mut(&conn);
        if !had.is_some_and(|entry| std::mem::take(&mut entry.with_user)) {
            self.violation(format!("the handler lost {conn:?}, which it did not have"));
        }
        self.users.retain(|_, open| *open != conn);
    }

    /// Compares the engine's own counters while nothing is on its way between shards.
    pub fn counters(&mut self, connecting: usize, queued: usize, connected: usize) {
        let (dialling, handshaking) = (self.dialling(), self.handshaking);
        if connecting != dialling + handshaking {
            let dials = self.dialling.iter().filter(|(_, dials)| **dials > 0);
            let dials: Vec<_> = dials.map(|(addr, _)| addr).collect();
            self.violation(format!(
                "connecting is {connecting}, but {handshaking} shake hands and {dialling} are \
                 dialled: {dials:?}"
            ));
        }
        if connected != self.admitted.len() {
            let admitted = self.admitted.len();
            self.violation(format!(
                "connected is {connected}, but {admitted} are admitted"
            ));
        }
        // Outbound handshakes keep the room of their dial.
        let limit = self.limits.max_connections;
        let room = limit == 0 || connected + handshaking < limit;
        let (outbound, most) = (
            handshaking - self.half_open,
            self.limits.outbound_handshakes,
        );
        let room = room && (most == 0 || outbound < most);
        if queued > 0 && dialling == 0 && room {
            self.violation(format!("{queued} wait in the queue although there is room"));
        }
    }

    /// Nothing may be left open.
    pub fn ended(&mut self) {
        let open: Vec<K> = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.phase != Phase::Closed || conn.with_user)
            .map(|(name, _)| *name)
            .collect();
        if !open.is_empty() {
            self.violation(format!("never closed: {open:?}"));
        }
        if self.dialling.values().any(|dials| *dials > 0) {
            self.violation(format!("dials without an end: {:?}", self.dialling));
        }
    }

    /// Inbound connections that began or were refused.
    #[must_use]
    pub fn arrivals(&self) -> u64 {
        self.inbound + self.refused
    }

    /// Inbound connections refused before their handshake.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Handshakes that took too long.
    #[must_use]
    pub fn timeouts(&self) -> u64 {
        self.timeouts
    }

    /// Admissions so far.
    #[must_use]
    pub fn admissions(&self) -> u64 {
        self.admissions
    }

    /// Connections told redundant so far.
    #[must_use]
    pub fn redundant(&self) -> u64 {
        self.redundant
    }

    /// The most peers admitted at a time.
    #[must_use]
    pub fn peak(&self) -> usize {
        self.peak
    }

    /// What went wrong, first things first.
    #[must_use]
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// The latest notes.
    pub fn tail(&self) -> impl Iterator<Item = &str> {
        self.tail.iter().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u8) -> PeerId {
        PeerId::new(&[n]).unwrap()
    }

    fn addr() -> SocketAddr {
        "10.0.0.9:1".parse().unwrap()
    }

    fn banned() -> SocketAddr {
        "10.0.0.66:1".parse().unwrap()
    }

    fn violations(limit: usize, notes: Vec<Note<u32>>) -> Vec<String> {
        let mut checker = Checker::new(Limits {
            max_connections: limit,
            half_open: limit + 1,
            dials: limit,
            ..Limits::default()
        });
        let (from, until) = (Instant::ZERO, Instant::FAR_FUTURE);
        let host: std::net::IpAddr = "10.0.0.66".parse().unwrap();
        checker.ban(host.into(), from, until);
        checker.ban(peer(66).into(), from, until);
        for note in notes {
            checker.note(Instant::ZERO, note);
        }
        checker.ended();
        checker.violations
    }

    fn begin(conn: u32) -> Note<u32> {
        Note::Handshaking(conn, addr(), false)
    }

    #[test]
    fn an_orderly_life_is_fine() {
        let notes = vec![
            Note::Dialling(addr()),
            Note::Handshaking(1, addr(), true),
            Note::Admitted(1, peer(1)),
            Note::UserOpened(1, peer(1)),
            Note::UserData(1, 5),
            begin(2),
            Note::Redundant(1),
            Note::UserClosed(1),
            Note::Closed(1),
            Note::Admitted(2, peer(1)),
            Note::UserOpened(2, peer(1)),
            Note::Closed(2),
            Note::UserClosed(2),
            begin(3),
            Note::HandshakeTimeout(3),
            Note::Closed(3),
        ];
        assert_eq!(violations(1, notes), Vec::<String>::new());
    }

    #[test]
    fn each_rule_is_noticed_when_it_is_broken() {
        let admitted = |conn, id| vec![begin(conn), Note::Admitted(conn, peer(id))];
        let two_of = |a, b| [admitted(1, a), admitted(2, b)].concat();
        let end = |conn| vec![Note::Closed(conn)];
        let cases = [
            ("never closed", admitted(1, 1)),
            ("closed twice", [admitted(1, 1), end(1), end(1)].concat()),
            ("closed without", end(1)),
            ("begins twice", vec![begin(1), begin(1), Note::Closed(1)]),
            ("is admitted as", [two_of(1, 1), end(1), end(2)].concat()),
            ("the limit is 1", [two_of(1, 2), end(1), end(2)].concat()),
            ("connection of", vec![Note::Admitted(1, peer(1))]),
            ("is redundant, but", vec![Note::Redundant(1)]),
            ("had not begun", vec![Note::DialFailed(addr())]),
            ("without an end", vec![Note::Dialling(addr())]),
            (
                "half open, the limit is 2",
                vec![begin(1), begin(2), begin(3), Note::Closed(1)],
            ),
            (
                "2 dials, the limit is 1",
                vec![Note::Dialling(addr()), Note::Dialling(banned())],
            ),
            (
                "dialled twice",
                vec![Note::Dialling(addr()), Note::Dialling(addr())],
            ),
            ("in spite of", vec![Note::Dialling(banned())]),
            ("in spite of", vec![Note::Handshaking(1, banned(), false)]),
            ("in spite of", [admitted(1, 66), end(1)].concat()),
            ("never handed over", [admitted(1, 1), end(1)].concat()),
            (
                "the handler got 1, Handshaking",
                vec![begin(1), Note::UserOpened(1, peer(1)), Note::Closed(1)],
            ),
            (
                "bytes without",
                vec![begin(1), Note::UserData(1, 1), Note::Closed(1)],
            ),
            ("did not have", vec![Note::UserClosed(1)]),
            (
                "never closed",
                vec![begin(1), Note::UserOpened(1, peer(1)), Note::Closed(1)],
            ),
        ];
        for (expected, notes) in cases {
            let found = violations(1, notes);
            assert!(
                found.iter().any(|text| text.contains(expected)),
                "{expected}: {found:?}"
            );
        }
    }

    #[test]
    fn counters_are_compared() {
        let mut checker = Checker::new(Limits::default());
        for note in [Note::Dialling(addr()), begin(1), begin(2)] {
            checker.note(Instant::ZERO, note);
        }
        checker.note(Instant::ZERO, Note::Admitted(2, peer(2)));
        checker.counters(2, 0, 1);
        assert!(checker.violations().is_empty());
        checker.counters(2, 0, 2);
        checker.counters(1, 0, 1);
        assert_eq!(checker.violations().len(), 2);
        checker.note(Instant::ZERO, Note::DialFailed(addr()));
        checker.counters(1, 3, 1);
        assert_eq!(checker.violations().len(), 3, "queued for no reason");
    }
}
