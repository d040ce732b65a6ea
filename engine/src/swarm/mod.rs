//! The swarm: whom to dial, whom to admit, which of two connections stays. One per shard, pure:
//! calls in, [`Action`]s out, time and randomness from outside.

mod admission;
mod bans;
mod candidates;
mod channels;
mod conns;
mod counters;
mod counts;
mod dialling;
mod half_open;
mod home;
mod known;
mod meeting;
mod message;
mod nets;
mod places;
mod racing;

#[cfg(test)]
mod tests;

pub use admission::Approach;
pub(crate) use admission::{Firewall, Quotas};
pub use bans::{Ban, BanTarget};
pub(crate) use candidates::CandidateId;
pub use counters::SwarmCounters;
pub(crate) use counts::SharedCounts;
pub use known::ChannelStatus;
pub(crate) use message::{Homes, PeerMessage};
pub(crate) use places::ChannelQuota;

use crate::event::{BanReason, ConnectionInfo, Event, Peer, RejectReason};
use crate::names::{ChannelKey, ConnId, PeerId};
use bans::Bans;
use candidates::{Added, Candidates, State};
use conns::Conns;
use flock_transport::{CloseReason, Instant, Transport};
use half_open::HalfOpen;
use hashbrown::HashMap;
use home::{Home, Verdicts};
use ipnet::IpNet;
use known::Known;
use nets::Nets;
use places::Places;
use racing::Race;
use rand::{SeedableRng, rngs::SmallRng};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Options of a swarm; the same on all shards but for `shard`.
pub(crate) struct SwarmConfig {
    pub(crate) shard: u16,
    pub(crate) shards: u16,
    pub(crate) id: PeerId,
    /// Keys the hashes that say which shard is home to what.
    pub(crate) hash_seed: u64,
    /// Unfinished inbound handshakes at a time, and as many outbound ones beyond which nothing is
    /// dialled.
    pub(crate) half_open: u32,
    /// How long each of them keeps its place when more come.
    pub(crate) half_open_grace: Duration,
    pub(crate) candidates: u32,
    /// Empty: everybody.
    pub(crate) whitelist: Vec<IpNet>,
    pub(crate) denylist: Vec<IpNet>,
    pub(crate) firewall: Option<Firewall>,
    /// How long a dial over TCP may take; none: it is switched off, and uTP is not.
    pub(crate) tcp: Option<Duration>,
    /// The same for uTP, which is dialled along with TCP.
    pub(crate) utp: Option<Duration>,
    pub(crate) retry: [Duration; 4],
    /// How often to go on after those; none: the candidate is dropped.
    pub(crate) retry_tail: Option<Duration>,
    pub(crate) keep_existing: bool,
    /// Candidates dialled at a time.
    pub(crate) dials: u32,
}

/// How many peers are in which state; each peer is in exactly one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Dials and unfinished handshakes, in both directions.
    pub connecting: u64,
    /// Found and not yet dialled; not those that wait for a retry.
    pub queued: u64,
    /// Handshake done and admitted.
    pub connected: u64,
}

/// What the shard is to do.
#[derive(Debug)]
pub(crate) enum Action {
    /// Dial; the answer is `dial_established` or `dial_failed`.
    Dial {
        candidate: CandidateId,
        transport: Transport,
        addr: SocketAddr,
    },
    /// Give the dial up, or the connection that it established and that has not begun its
    /// handshake: without an answer.
    AbortDial {
        candidate: CandidateId,
        transport: Transport,
    },
    /// Begin the handshake of a connection that was dialled.
    Begin { conn: ConnId },
    /// Report the connection and hand it to the application, unless its transport has broken
    /// meanwhile: then `closed` follows alone.
    Admit(ConnectionInfo),
    /// Close in good order, after our id went out; `closed` is the answer.
    Close { conn: ConnId, reason: CloseReason },
    /// Pass on to another shard's swarm.
    Send { shard: u16, message: PeerMessage },
    /// Report.
    Emit(Event),
}

/// Actions that memory is kept for; more come at a time only when many candidates are banned.
const ACTIONS_KEPT: usize = 1024;

/// One shard's part of the swarm.
pub(crate) struct Swarm {
    config: SwarmConfig,
    counts: Arc<SharedCounts>,
    homes: Homes,
    home: Home,
    bans: Bans,
    whitelist: Nets<()>,
    denylist: Nets<()>,
    candidates: Candidates,
    conns: Conns,
    known: Known,
    places: Places,
    /// What is being dialled.
    racing: HashMap<CandidateId, Race, ahash::RandomState>,
    counters: SwarmCounters,
    actions: VecDeque<Action>,
    verdicts: Verdicts,
    expired: Vec<CandidateId>,
    rng: SmallRng,
    suspended: bool,
    half_open: u32,
    inbound_handshakes: HalfOpen,
    outbound_handshakes: u32,
    connected: u32,
}

impl Swarm {
    pub(crate) fn new(config: SwarmConfig, counts: Arc<SharedCounts>, seed: u64) -> Self {
        let hasher = |n| ahash::RandomState::with_seeds(seed, n, !seed, seed.rotate_left(17));
        let list = |nets: &[IpNet], n| {
            let mut list = Nets::new(hasher(n));
            for net in nets {
                list.insert(*net, ());
            }
            list
        };
        let (whitelist, denylist) = (list(&config.whitelist, 5), list(&config.denylist, 7));
        let (own, keep) = (config.id.clone(), config.keep_existing);
        Self {
            homes: Homes::new(config.hash_seed, config.shards),
            home: Home::new(own, keep, counts.clone(), hasher(1)),
            bans: Bans::new(&hasher(2)),
            whitelist,
            denylist,
            candidates: Candidates::new(config.candidates, hasher(3)),
            conns: Conns::new(),
            known: Known::new(hasher(8)),
            places: Places::new(hasher(9)),
            racing: HashMap::with_hasher(hasher(6)),
            counters: SwarmCounters::default(),
            actions: VecDeque::new(),
            verdicts: Vec::new(),
            expired: Vec::new(),
            rng: SmallRng::seed_from_u64(seed),
            suspended: false,
            half_open: 0,
            inbound_handshakes: HalfOpen::new(config.half_open_grace),
            outbound_handshakes: 0,
            connected: 0,
            config,
            counts,
        }
    }

    /// The next thing to do; to be asked until there is none, after every call.
    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        let action = self.actions.pop_front();
        if action.is_none() && self.actions.capacity() > ACTIONS_KEPT {
            // A ban of a network may have reported every candidate.
            self.actions.shrink_to(ACTIONS_KEPT);
        }
        action
    }

    pub(crate) fn stats(&self) -> Stats {
        let connecting = self.dials() + self.half_open + self.outbound_handshakes;
        Stats {
            connecting: connecting.into(),
            queued: self.candidates.queued().into(),
            connected: self.connected.into(),
        }
    }

    pub(crate) fn info(&self, conn: ConnId) -> Option<ConnectionInfo> {
        self.conns.get(conn).map(|record| record.info(conn))
    }

    /// Starts nothing new while set; dials what has waited when that is over.
    pub(crate) fn suspend_starts(&mut self, now: Instant, suspended: bool) {
        let was = std::mem::replace(&mut self.suspended, suspended);
        if was && !suspended {
            self.kick(now);
        }
    }

    /// Candidates of this channel alone are forgotten, unless they are connected.
    pub(crate) fn leave(&mut self, now: Instant, channel: &ChannelKey) {
        self.known.leave(channel);
        while let Some((id, alone)) = self.candidates.leave(channel) {
            if alone {
                self.forget_unless_connected(id);
            }
        }
        self.made_room(now);
    }

    /// As [`add_peer`](Self::add_peer), for one that has a reserved place.
    pub(crate) fn add_reserved_peer(
        &mut self,
        now: Instant,
        channel: ChannelKey,
        addr: SocketAddr,
    ) {
        // Were it dialled first, it would be without its place.
        let suspended = std::mem::replace(&mut self.suspended, true);
        self.add_peer(now, channel, addr);
        self.suspended = suspended;
        if let Some(id) = self.candidates.by_addr(addr) {
            self.candidates.reserve(id);
        }
        self.kick(now);
    }

    /// A peer was found. Called on the home shard of `addr`.
    pub(crate) fn add_peer(&mut self, now: Instant, channel: ChannelKey, addr: SocketAddr) {
        let peer = Peer {
            channel: channel.clone(),
            addr,
            retries: 0,
        };
        if let Some(reason) = self.rejects(now, addr) {
            return self.reject(peer, reason);
        }
        match self.candidates.add(channel, addr) {
            Added::New => {
                self.counters.candidates_added += 1;
                self.emit(Event::Peer(peer));
            }
            Added::Channel => {
                self.found_again(now, addr, &peer.channel);
                self.emit(Event::Peer(peer));
            }
            Added::Known(id) => {
                let retries = self.candidates.get(id).map_or(0, |c| u32::from(c.retries));
                self.reject(Peer { retries, ..peer }, RejectReason::Duplicate);
            }
            Added::Full => self.reject(peer, RejectReason::TooManyCandidates),
        }
        self.kick(now);
    }

    fn reject(&mut self, peer: Peer, reason: RejectReason) {
        let counters = &mut self.counters;
        *match reason {
            RejectReason::Duplicate => &mut counters.candidates_duplicate,
            RejectReason::Banned => &mut counters.candidates_banned,
            RejectReason::Whitelist => &mut counters.candidates_not_whitelisted,
            RejectReason::Denied => &mut counters.candidates_denied,
            RejectReason::Firewall => &mut counters.candidates_firewalled,
            RejectReason::TooManyCandidates => &mut counters.candidates_refused,
        } += 1;
        self.emit(Event::PeerRejected { peer, reason });
    }

    fn rejects(&self, now: Instant, addr: SocketAddr) -> Option<RejectReason> {
        if !self.whitelisted(addr) {
            Some(RejectReason::Whitelist)
        } else if self.denied(addr) {
            Some(RejectReason::Denied)
        } else if self.bans.addr(now, addr) {
            Some(RejectReason::Banned)
        } else {
            let pass = self.passes_firewall(&Approach::Outbound { addr });
            (!pass).then_some(RejectReason::Firewall)
        }
    }

    fn denied(&self, addr: SocketAddr) -> bool {
        self.denylist.containing(addr.ip()).next().is_some()
    }

    fn passes_firewall(&self, approach: &Approach<'_>) -> bool {
        let firewall = self.config.firewall.as_ref();
        firewall.is_none_or(|firewall| firewall.allows(approach))
    }

    fn whitelisted(&self, addr: SocketAddr) -> bool {
        self.whitelist.is_empty() || self.whitelist.containing(addr.ip()).next().is_some()
    }

    /// Bans on all shards; the shard an address belongs to reports it.
    ///
    /// As with the original, live connections stay; to end them is for the application to ask.
    /// A dial ends at once, and a connection whose handshake is unfinished when it would be
    /// admitted.
    pub(crate) fn ban(
        &mut self,
        now: Instant,
        target: &BanTarget,
        channel: Option<&ChannelKey>,
        expires: Option<Instant>,
    ) {
        let until = expires.unwrap_or(Instant::FAR_FUTURE);
        if !self.bans.add(now, target.clone(), until) {
            return;
        }
        let hit = match target {
            BanTarget::Peer(_) => return,
            BanTarget::Addr(addr) => {
                if self.homes.of_addr(*addr) != self.config.shard {
                    return;
                }
                let known = self.candidates.by_addr(*addr);
                if known.is_none() {
                    let channel = channel.cloned().unwrap_or_else(|| ChannelKey::from(""));
                    let peer = Peer {
                        channel,
                        addr: *addr,
                        retries: 0,
                    };
                    self.emit(Event::PeerBanned {
                        peer,
                        reason: BanReason::Application,
                    });
                }
                known.into_iter().collect()
            }
            BanTarget::Net(net) => self.candidates.within(net),
        };
        for id in hit {
            let Some(mut peer) = self.candidates.peer(id) else {
                continue;
            };
            peer.channel = channel.cloned().unwrap_or(peer.channel);
            self.emit(Event::PeerBanned {
                peer,
                reason: BanReason::Application,
            });
            self.forget_unless_connected(id);
        }
        self.made_room(now);
    }

    pub(crate) fn unban(&mut self, target: &BanTarget) {
        self.bans.remove(target);
    }

    /// The bans that hold now.
    pub(crate) fn bans(&self, now: Instant) -> Vec<Ban> {
        self.bans.list(now)
    }

    /// An admitted connection, and when it was admitted.
    pub(crate) fn admitted(&self, conn: ConnId) -> Option<(ConnectionInfo, Instant)> {
        let record = self.conns.get(conn)?;
        let since = Instant::ZERO + Duration::from_secs(record.since.into());
        (record.stage == conns::Stage::Admitted).then(|| (record.info(conn), since))
    }

    /// What was counted since the start.
    pub(crate) fn counters(&self) -> SwarmCounters {
        SwarmCounters {
            channels_refused: self.candidates.channels_refused(),
            bans_refused: self.bans.refused(),
            ..self.counters
        }
    }

    fn forget_unless_connected(&mut self, id: CandidateId) {
        let Some(candidate) = self.candidates.get(id) else {
            return;
        };
        match candidate.state {
            State::Connection(_) => return,
            State::Dialling => self.give_dial_up(id),
            _ => {}
        }
        self.candidates.forget(id);
    }

    /// A message of another shard's swarm.
    pub(crate) fn message(&mut self, now: Instant, message: PeerMessage) {
        match message {
            PeerMessage::Claim { peer, contender } => {
                self.home.claim(peer, contender, &mut self.verdicts);
                self.pass_verdicts(now);
            }
            PeerMessage::Release { peer, conn } => self.release(now, &peer, conn),
            PeerMessage::Granted { conn } => self.granted(now, conn),
            PeerMessage::Refused { conn, reason } => self.refused(now, conn, reason),
            PeerMessage::Yield { conn } => self.yield_place(now, conn),
            PeerMessage::PeerGone { peer } => self.peer_gone(now, &peer),
            PeerMessage::Known { peer, channels } => self.known(now, &peer, channels),
            PeerMessage::KnownFor { conn, channels } => self.known_for(conn, channels),
            PeerMessage::Refill { hops } => self.refill(now, hops),
        }
    }

    fn send(&mut self, now: Instant, shard: u16, message: PeerMessage) {
        if shard == self.config.shard {
            self.message(now, message);
        } else {
            self.actions.push_back(Action::Send { shard, message });
        }
    }

    fn pass_verdicts(&mut self, now: Instant) {
        let mut verdicts = std::mem::take(&mut self.verdicts);
        for (shard, message) in verdicts.drain(..) {
            self.send(now, shard, message);
        }
        self.verdicts = verdicts;
    }

    fn emit(&mut self, event: Event) {
        self.actions.push_back(Action::Emit(event));
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.candidates.next_deadline()
    }
}
