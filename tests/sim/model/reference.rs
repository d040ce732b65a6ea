//! The reference model: plain sets and maps, and the rules in their plainest form.
//!
//! What follows from an operation is decided here. The engine's events only tell in which order
//! things happened where the rules leave that open: when a wait that is drawn is over, who of
//! several that wait is dialled, who of several that shake hands is done first. Each event must be
//! one that the rules allow then; and once everything has happened that follows from the operations
//! so far, none may be missing.

use super::plan::{Options, Says, at, ip, is_nowhere};
use super::rules::{Bans, Holds, SLACK, Span};
use flock_engine::{BanTarget, ChannelKey, ConnId, Instant, PeerId, Stats, SwarmCounters};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub(crate) const CONNECT: Duration = Duration::from_secs(3);
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(5);
pub(crate) const RETRY: [Duration; 4] = [
    Duration::from_secs(1),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(15),
];

pub(crate) struct Candidate {
    pub(crate) channels: BTreeSet<ChannelKey>,
    pub(crate) state: State,
    /// One of these; seldom more than one.
    pub(crate) retries: BTreeSet<u32>,
    /// It was reported banned: its shard has read of that.
    pub(crate) banned: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum State {
    /// To be dialled as soon as there is room, since then.
    Queued(Instant),
    Waiting(Wait),
    Dialling(Instant),
    Connection(ConnId),
    /// The peer it leads to is connected otherwise.
    Linked(PeerId),
    /// Its dial is about to end: nobody wants it any more.
    GivenUp,
    /// About to be dropped.
    Spent,
}

/// Until a candidate is queued again.
#[derive(Clone, Debug)]
pub(crate) struct Wait {
    pub(crate) until: Span,
    /// Or it is linked to this peer, whose end was at about the same time.
    pub(crate) linked: Option<PeerId>,
    /// Or it is not known any more.
    pub(crate) gone: bool,
}

pub(crate) struct Conn {
    pub(crate) addr: SocketAddr,
    pub(crate) initiator: bool,
    pub(crate) since: Instant,
    pub(crate) phase: Phase,
    /// What its host says, unless that changed when it began.
    pub(crate) says: Option<Says>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Handshaking,
    Admitted,
    /// Another one is to take its place.
    Yielding,
    /// Another one is kept.
    Refused,
}

pub(crate) struct Host {
    pub(crate) says: Says,
    pub(crate) up: bool,
    /// When it was last started, stopped or made to close something.
    pub(crate) acted: Instant,
    /// When it last began to say something else.
    pub(crate) changed: Instant,
}

/// An operation that the engine answers with an event.
pub(crate) enum Asked {
    AddPeer(ChannelKey, SocketAddr),
    /// On behalf of a channel.
    Ban(Option<ChannelKey>, SocketAddr),
}

pub(crate) struct Model {
    pub(crate) options: Options,
    pub(crate) hosts: Vec<Host>,
    pub(crate) candidates: BTreeMap<SocketAddr, Candidate>,
    pub(crate) conns: BTreeMap<ConnId, Conn>,
    pub(crate) admitted: BTreeMap<PeerId, ConnId>,
    pub(crate) bans: Bans,
    pub(crate) joined: BTreeSet<ChannelKey>,
    pub(crate) asked: Vec<Asked>,
    pub(crate) disconnected: BTreeSet<ConnId>,
    /// Peers of which one connection is taking the place of another.
    pub(crate) replacing: BTreeSet<PeerId>,
    /// A connection was redundant that its peer was ending.
    pub(crate) unheard: bool,
    /// Since when nothing new is begun.
    pub(crate) suspended: Option<Instant>,
    /// When something happened last.
    pub(crate) latest: Instant,
    /// Who ended, and when, after it had asked to be the peer's, and before it heard.
    pub(crate) lost: Vec<(Instant, PeerId)>,
    /// When connections ended, until room was surely made by that.
    pub(crate) endings: Vec<Instant>,
    /// What the engine must have counted.
    pub(crate) sums: SwarmCounters,
    /// The engine is shutting down.
    pub(crate) ending: bool,
    pub(crate) notes: Vec<String>,
    pub(crate) wrong: Option<String>,
}

/// The three counters, and by how many candidates `queued` may be more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) least: Stats,
    pub(crate) doubt: u64,
}

impl Model {
    pub(crate) fn new(options: &Options, hosts: &[Says]) -> Self {
        let host = |says: &Says| Host {
            says: says.clone(),
            up: true,
            acted: Instant::ZERO,
            changed: Instant::ZERO,
        };
        Self {
            options: options.clone(),
            hosts: hosts.iter().map(host).collect(),
            candidates: BTreeMap::new(),
            conns: BTreeMap::new(),
            admitted: BTreeMap::new(),
            bans: Bans::default(),
            joined: BTreeSet::new(),
            asked: Vec::new(),
            disconnected: BTreeSet::new(),
            replacing: BTreeSet::new(),
            unheard: false,
            suspended: None,
            latest: Instant::ZERO,
            lost: Vec::new(),
            endings: Vec::new(),
            sums: SwarmCounters::default(),
            ending: false,
            notes: Vec::new(),
            wrong: None,
        }
    }

    /// Only the first mistake tells.
    pub(crate) fn wrong(&mut self, what: impl Into<String>) {
        if self.wrong.is_none() {
            self.wrong = Some(what.into());
        }
    }

    pub(crate) fn expect(&mut self, holds: bool, what: &str) {
        if !holds {
            self.wrong(what);
        }
    }

    // Operations.

    pub(crate) fn add_peer(&mut self, channel: ChannelKey, addr: SocketAddr) {
        self.asked.push(Asked::AddPeer(channel, addr));
    }

    pub(crate) fn ban(
        &mut self,
        now: Instant,
        target: BanTarget,
        channel: Option<ChannelKey>,
        expires: Option<Duration>,
    ) {
        if let BanTarget::Addr(addr) = target {
            self.asked.push(Asked::Ban(channel, addr));
        }
        self.bans.add(now, target, expires);
    }

    pub(crate) fn leave(&mut self, channel: &ChannelKey) {
        if !self.joined.remove(channel) {
            return;
        }
        self.candidates.retain(|_, candidate| {
            let was_its = candidate.channels.remove(channel);
            if !was_its || !candidate.channels.is_empty() {
                return true;
            }
            match candidate.state {
                State::Connection(_) => true,
                State::Dialling(_) => {
                    candidate.state = State::GivenUp;
                    true
                }
                _ => false,
            }
        });
    }

    /// Who dialled meanwhile, and perhaps is another one now or has gone, comes now.
    pub(crate) fn resume(&mut self, now: Instant) {
        let Some(since) = self.suspended.take() else {
            return;
        };
        for host in &mut self.hosts {
            for last in [&mut host.acted, &mut host.changed] {
                if *last >= since {
                    *last = now;
                }
            }
        }
    }

    /// Whether nothing new may begin.
    pub(crate) fn is_suspended(&self, now: Instant) -> bool {
        self.suspended.is_some_and(|since| now - since > SLACK)
    }

    pub(crate) fn host_acts(&mut self, now: Instant, host: usize) {
        self.hosts[host].acted = now;
    }

    // What is so.

    /// The host with this address, if it is a host's.
    pub(crate) fn host(&self, addr: IpAddr) -> Option<&Host> {
        let index = (0..self.hosts.len()).find(|index| ip(*index) == addr)?;
        self.hosts.get(index)
    }

    /// Whether a host did something so short a time ago that it is not known what came first.
    pub(crate) fn host_acted(&self, now: Instant, addr: IpAddr) -> bool {
        self.host(addr)
            .is_some_and(|host| now - host.acted <= SLACK)
    }

    pub(crate) fn whitelisted(&self, addr: IpAddr) -> bool {
        let list = &self.options.whitelist;
        list.is_empty() || list.contains(&addr)
    }

    pub(crate) fn denied(&self, addr: IpAddr) -> bool {
        self.options.denylist.contains(&addr)
    }

    fn count(&self, which: impl Fn(&Conn) -> bool) -> u32 {
        let count = self.conns.values().filter(|conn| which(conn)).count();
        u32::try_from(count).expect("few")
    }

    pub(crate) fn admitted_in(&self, initiator: bool) -> u32 {
        self.count(|conn| conn.is_admitted() && conn.initiator == initiator)
    }

    pub(crate) fn handshaking(&self, initiator: bool) -> u32 {
        self.count(|conn| !conn.is_admitted() && conn.initiator == initiator)
    }

    pub(crate) fn dialling(&self) -> u32 {
        let dialling = |c: &&Candidate| matches!(c.state, State::Dialling(_) | State::GivenUp);
        let count = self.candidates.values().filter(dialling).count();
        u32::try_from(count).expect("few")
    }

    /// Whether a limit of the engine forbids one more dial.
    pub(crate) fn no_room(&self) -> bool {
        let (inbound, outbound) = (self.admitted_in(false), self.admitted_in(true));
        let pending = self.dialling() + self.handshaking(true);
        let reached = |limit: u32, used: u32| limit > 0 && used >= limit;
        reached(self.options.max_connections, inbound + outbound + pending)
            || reached(self.options.max_outbound, outbound + pending)
    }

    /// Whether shards may have as much under way as each of them may. The hash that spreads
    /// candidates over shards is not the model's business: all may be one's.
    pub(crate) fn shards_busy(&self) -> bool {
        self.dialling() >= self.options.dials || self.handshaking(true) >= self.options.half_open
    }

    pub(crate) fn counts(&self, now: Instant) -> Counts {
        let mut queued = (0, 0);
        for candidate in self.candidates.values() {
            match &candidate.state {
                State::Queued(_) => queued.0 += 1,
                State::Waiting(wait) if now > wait.until.to && wait.is_certain() => queued.0 += 1,
                State::Waiting(wait) if now >= wait.until.from => queued.1 += 1,
                _ => {}
            }
        }
        let connecting = self.dialling() + self.handshaking(true) + self.handshaking(false);
        let connected = self.admitted_in(true) + self.admitted_in(false);
        Counts {
            least: Stats {
                connecting: connecting.into(),
                queued: queued.0,
                connected: connected.into(),
            },
            doubt: queued.1,
        }
    }

    /// Until when the rules leave open what happens, if they do now.
    pub(crate) fn open_until(&self, now: Instant) -> Option<Instant> {
        let waits = self.candidates.values().filter_map(|c| match &c.state {
            State::Waiting(wait) => Some(wait.until),
            _ => None,
        });
        let dials = self.candidates.values().filter_map(|c| match &c.state {
            State::Dialling(since) => Some((*since, CONNECT)),
            _ => None,
        });
        let handshakes = self.conns.values().map(|conn| (conn.since, HANDSHAKE));
        let begun = dials.chain(handshakes);
        let ends = begun.map(|(since, time)| Span::fixed(since, time));
        let latest = Span::fixed(self.latest, Duration::ZERO);
        let all = waits.chain(ends).chain([latest]);
        let all = all.chain(self.bans.edges());
        all.filter_map(|span| span.open_until(now)).max()
    }

    /// What must be so once all has happened that follows from the operations so far.
    pub(crate) fn expect_settled(&mut self, now: Instant) {
        self.expect(self.asked.is_empty(), "an operation was not answered");
        // Who was banned at about the time its connection ended was forgotten then or before.
        let bans = &self.bans;
        self.candidates.retain(|addr, candidate| {
            !(candidate.is_perhaps_gone() && bans.addr(now, *addr) == Holds::Yes)
        });
        let busy = self.no_room() || self.shards_busy() || self.suspended.is_some();
        let mut wrong = Vec::new();
        for (addr, candidate) in &self.candidates {
            let state = &candidate.state;
            let due = match state {
                State::Queued(_) => true,
                State::Waiting(wait) => now > wait.until.to && wait.is_certain(),
                _ => false,
            };
            if due && !busy {
                wrong.push(format!("{addr} is not dialled although there is room"));
            }
            if matches!(state, State::Dialling(_)) && !is_nowhere(addr.ip()) {
                wrong.push(format!("the dial to {addr} does not end"));
            }
            if matches!(state, State::GivenUp | State::Spent) {
                wrong.push(format!("{addr} is {state:?}"));
            }
            let kept = matches!(state, State::Connection(_) | State::Linked(_));
            if self.bans.addr(now, *addr) == Holds::Yes && !kept {
                wrong.push(format!("{addr} is banned, and {state:?}"));
            }
        }
        for (name, conn) in &self.conns {
            // Who outlives a change of its host is of the new one.
            let host = self.host(conn.addr.ip()).map(|host| &host.says);
            let silent = conn.says.as_ref().or(host) == Some(&Says::Nothing);
            let admitted = conn.phase == Phase::Admitted;
            let waits = silent && conn.phase == Phase::Handshaking;
            if !admitted && !waits {
                wrong.push(format!(
                    "{name} with {} is still {:?}",
                    conn.addr, conn.phase
                ));
            }
        }
        if let Some(first) = wrong.into_iter().next() {
            self.wrong(first);
        }
    }

    /// Connections with a host.
    pub(crate) fn open(&self, host: usize) -> usize {
        let with_host = |conn: &&Conn| conn.addr.ip() == at(host).ip();
        self.conns.values().filter(with_host).count()
    }
}

impl Candidate {
    pub(crate) fn is_perhaps_gone(&self) -> bool {
        matches!(&self.state, State::Waiting(wait) if wait.gone)
    }
}

impl Wait {
    pub(crate) fn certain(until: Span) -> Self {
        Self {
            until,
            linked: None,
            gone: false,
        }
    }

    pub(crate) fn is_certain(&self) -> bool {
        self.linked.is_none() && !self.gone
    }
}

impl Conn {
    pub(crate) fn is_admitted(&self) -> bool {
        matches!(self.phase, Phase::Admitted | Phase::Yielding)
    }

    /// Whether it is one that could be the peer's and is not decided on.
    pub(crate) fn claims(&self, peer: &PeerId) -> bool {
        let its = match &self.says {
            Some(Says::Id(id)) => id == peer,
            Some(_) => false,
            None => true,
        };
        self.phase == Phase::Handshaking && its
    }
}
