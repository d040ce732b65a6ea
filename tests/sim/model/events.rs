//! The events of candidates: what the rules say about each, and what follows from it.

use super::plan::is_nowhere;
use super::reference::{Asked, CONNECT, Candidate, Model, RETRY, State, Wait};
use super::rules::{Holds, SLACK, Span};
use flock_engine::event::{BanReason, RejectReason};
use flock_engine::{Event, Instant, Peer};
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// Notes that a failure shows.
const NOTES: usize = 60;

impl Model {
    /// The engine reports this.
    pub(crate) fn event(&mut self, now: Instant, event: &Event) {
        if self.wrong.is_some() {
            return;
        }
        if self.notes.len() >= 2 * NOTES {
            self.notes.drain(..NOTES);
        }
        let micros = now.as_nanos() / 1_000;
        self.notes.push(format!("{micros} us {event:?}"));
        self.endings.retain(|end| now - *end <= SLACK);
        self.lost.retain(|(end, _)| now - *end <= SLACK);
        self.latest = now;
        match event {
            Event::Peer(peer) => self.found(now, peer),
            Event::PeerRejected { peer, reason } => self.rejected(now, peer, *reason),
            Event::PeerBanned { peer, reason } => self.banned(now, peer, *reason),
            Event::PeerDropped(peer) => self.dropped(peer),
            Event::Connecting(peer) => self.connecting(now, peer),
            Event::ConnectFailed { peer, timed_out } => self.dial_failed(now, peer, *timed_out),
            Event::Handshaking(info) => self.handshaking_begins(now, info),
            Event::HandshakeTimeout(info) => self.timed_out(now, info),
            Event::Connection(info) => self.connection(now, info),
            Event::RedundantConnection(info) => self.redundant(now, info),
            Event::ConnectionClosed { info, reason, .. } => self.closed(now, info, *reason),
            Event::ConnectionRefused { addr, reason, .. } => self.refused(now, *addr, *reason),
            _ => self.wrong("an event that nothing leads to"),
        }
        if let Some(wrong) = &mut self.wrong {
            *wrong = format!("{wrong}, at {micros} us: {event:?}");
        }
    }

    /// The operation that an event answers.
    fn answered(&mut self, answers: impl Fn(&Asked) -> bool) -> bool {
        let found = self.asked.iter().position(answers);
        found.map(|index| self.asked.remove(index)).is_some()
    }

    fn answered_find(&mut self, peer: &Peer) -> bool {
        self.answered(|asked| {
            matches!(asked, Asked::AddPeer(channel, addr)
                if *channel == peer.channel && *addr == peer.addr)
        })
    }

    fn found(&mut self, now: Instant, peer: &Peer) {
        let asked = self.answered_find(peer);
        self.expect(asked, "nobody asked for this peer");
        self.expect(
            !self.must_leave_alone(now, peer.addr),
            "a peer to leave alone",
        );
        if let Some(candidate) = self.candidates.get_mut(&peer.addr) {
            let new = candidate.channels.insert(peer.channel.clone());
            if new {
                return;
            }
            let gone = candidate.is_perhaps_gone();
            self.expect(gone, "a peer that is known");
        } else if self.options.shards == 1 {
            let known = self.candidates.values().filter(|c| !c.is_perhaps_gone());
            let full = known.count() >= self.options.candidates as usize;
            self.expect(!full, "more candidates than there may be");
        }
        self.sums.candidates_added += 1;
        let candidate = Candidate {
            channels: BTreeSet::from([peer.channel.clone()]),
            state: State::Queued(now),
            retries: BTreeSet::from([0]),
            banned: false,
        };
        self.candidates.insert(peer.addr, candidate);
    }

    /// Whether an address is surely not to be dialled.
    fn must_leave_alone(&self, now: Instant, addr: SocketAddr) -> bool {
        !self.whitelisted(addr.ip())
            || self.denied(addr.ip())
            || self.options.walled_ip == Some(addr.ip())
            || self.bans.addr(now, addr) == Holds::Yes
    }

    fn rejected(&mut self, now: Instant, peer: &Peer, reason: RejectReason) {
        let asked = self.answered_find(peer);
        self.expect(asked, "nobody asked for this peer");
        let banned = self.bans.addr(now, peer.addr);
        let expected = if !self.whitelisted(peer.addr.ip()) {
            reason == RejectReason::Whitelist
        } else if self.denied(peer.addr.ip()) {
            reason == RejectReason::Denied
        } else if banned == Holds::Yes
            || (banned == Holds::Perhaps && reason == RejectReason::Banned)
        {
            reason == RejectReason::Banned
        } else if self.options.walled_ip == Some(peer.addr.ip()) {
            reason == RejectReason::Firewall
        } else if self.candidates.contains_key(&peer.addr) {
            reason == RejectReason::Duplicate && self.knows(peer)
        } else {
            let most = self.options.candidates as usize;
            reason == RejectReason::TooManyCandidates && self.candidates.len() >= most
        };
        self.expect(expected, "rejected for no reason");
        let sums = &mut self.sums;
        *match reason {
            RejectReason::Duplicate => &mut sums.candidates_duplicate,
            RejectReason::Banned => &mut sums.candidates_banned,
            RejectReason::Whitelist => &mut sums.candidates_not_whitelisted,
            RejectReason::Denied => &mut sums.candidates_denied,
            RejectReason::TooManyCandidates => &mut sums.candidates_refused,
            RejectReason::Firewall => &mut sums.candidates_firewalled,
            _ => return self.wrong("an unknown reason"),
        } += 1;
    }

    /// Whether a candidate is known for the channel, or for as many as may be noted; notes what
    /// that says about it.
    fn knows(&mut self, peer: &Peer) -> bool {
        let further = |c: &Candidate| c.channels.len().saturating_sub(1);
        let further: usize = self.candidates.values().map(further).sum();
        let full = further >= self.options.candidates as usize;
        let Some(candidate) = self.candidates.get_mut(&peer.addr) else {
            return false;
        };
        if let State::Waiting(wait) = &mut candidate.state {
            wait.gone = false;
        }
        let right = candidate.retries.contains(&peer.retries);
        candidate.retries = BTreeSet::from([peer.retries]);
        let noted = candidate.channels.contains(&peer.channel);
        self.sums.channels_refused += u64::from(!noted);
        right && (noted || full)
    }

    fn banned(&mut self, now: Instant, peer: &Peer, reason: BanReason) {
        if reason == BanReason::DetectedSelf {
            self.detected(now, peer);
            return;
        }
        let known = self.candidates.contains_key(&peer.addr);
        let named = self.answered(|asked| match asked {
            Asked::Ban(channel, addr) if *addr == peer.addr => {
                channel.as_ref().unwrap_or(&peer.channel) == &peer.channel
            }
            _ => false,
        });
        let hit = self.bans.addr(now, peer.addr) != Holds::No;
        let candidate = self.candidates.get_mut(&peer.addr);
        match candidate.map(|candidate| {
            candidate.banned = true;
            &mut candidate.state
        }) {
            None | Some(State::Connection(_)) => {}
            Some(state @ State::Dialling(_)) => *state = State::GivenUp,
            Some(_) => {
                self.candidates.remove(&peer.addr);
            }
        }
        self.expect(hit && (known || named), "nobody asked for this ban");
    }

    /// A dialled connection led to ourselves.
    fn detected(&mut self, now: Instant, peer: &Peer) {
        let candidate = self.candidates.remove(&peer.addr);
        let conn = match candidate.map(|c| c.state) {
            Some(State::Connection(conn)) => self.conns.get(&conn),
            _ => None,
        };
        let own = conn.is_some_and(|conn| conn.claims(&self.options.id));
        self.expect(own, "it is not ourselves");
        self.bans.add(now, peer.addr.into(), None);
    }

    fn connecting(&mut self, now: Instant, peer: &Peer) {
        let alone = self.must_leave_alone(now, peer.addr);
        let no_room = self.no_room();
        let suspended = self.is_suspended(now);
        self.expect(!suspended, "a dial in spite of the suspension");
        let dials = self.options.shards * self.options.dials as usize;
        self.expect(!alone, "an address to leave alone is dialled");
        self.expect(!no_room, "a dial without room");
        self.expect(
            (self.dialling() as usize) < dials,
            "too many dials at a time",
        );
        if self.options.shards == 1 {
            self.expect(!self.shards_busy(), "a dial too many for the shard");
        }
        let Some(candidate) = self.candidates.get(&peer.addr) else {
            return self.wrong("no candidate is dialled");
        };
        let since = match &candidate.state {
            State::Queued(since) => Some(*since),
            State::Waiting(wait) => Some(wait.until.from).filter(|from| now >= *from),
            _ => None,
        };
        let right =
            candidate.retries.contains(&peer.retries) && candidate.channels.contains(&peer.channel);
        self.expect(right, "its channel or its retries are wrong");
        let Some(since) = since else {
            return self.wrong("a candidate is dialled that does not wait for it");
        };
        if self.options.shards == 1 {
            let first = |candidate: &Candidate| match &candidate.state {
                State::Queued(since) => *since,
                State::Waiting(wait) if wait.is_certain() => wait.until.to,
                _ => Instant::FAR_FUTURE,
            };
            let earlier = self.candidates.values().any(|other| first(other) < since);
            self.expect(!earlier, "another candidate has waited for longer");
        }
        self.sums.dials_tcp += 1;
        if let Some(candidate) = self.candidates.get_mut(&peer.addr) {
            candidate.state = State::Dialling(now);
            candidate.banned = false;
            candidate.retries = BTreeSet::from([peer.retries]);
        }
    }

    fn dial_failed(&mut self, now: Instant, peer: &Peer, timed_out: bool) {
        let there = self.host(peer.addr.ip()).is_some_and(|host| host.up);
        let acted = self.host_acted(now, peer.addr.ip());
        let state = self.candidates.get(&peer.addr).map(|c| c.state.clone());
        match state {
            Some(State::GivenUp) => {
                self.sums.dials_given_up += 1;
                self.candidates.remove(&peer.addr);
                self.expect(!timed_out, "it was given up before");
            }
            Some(State::Dialling(since)) => {
                self.sums.dials_failed += 1;
                self.sums.dials_timed_out += u64::from(timed_out);
                let right = if timed_out {
                    let due = Span::fixed(since, CONNECT);
                    is_nowhere(peer.addr.ip()) && now >= due.from && now <= due.to
                } else {
                    !is_nowhere(peer.addr.ip()) && (!there || acted)
                };
                self.expect(right || self.ending, "a dial failed for no reason");
                self.attempt_failed(now, peer.addr, false);
            }
            _ => self.wrong("a dial failed that had not begun"),
        }
    }

    fn dropped(&mut self, peer: &Peer) {
        let state = self.candidates.remove(&peer.addr).map(|c| c.state);
        let may = match state {
            Some(State::Spent) => true,
            Some(State::Waiting(wait)) => wait.gone,
            _ => false,
        };
        self.expect(
            may && self.options.retry_tail.is_none(),
            "dropped too early",
        );
        self.sums.drops += 1;
    }

    /// An attempt failed, or perhaps it succeeded for a moment.
    pub(crate) fn attempt_failed(
        &mut self,
        now: Instant,
        addr: SocketAddr,
        perhaps_admitted: bool,
    ) {
        let tail = self.options.retry_tail;
        let Some(gone) = self.unwanted(now, addr) else {
            return;
        };
        let Some(candidate) = self.candidates.get_mut(&addr) else {
            return;
        };
        let mut spans: Vec<(Span, u32)> = Vec::new();
        let mut spent = false;
        for retries in &candidate.retries {
            match RETRY.get(*retries as usize).copied().or(tail) {
                // The engine counts them in eight bits.
                Some(wait) => spans.push((Span::drawn(now, wait), (retries + 1).min(255))),
                None => spent = true,
            }
        }
        if perhaps_admitted {
            spans.push((Span::drawn(now, RETRY[0]), 1));
        }
        candidate.retries = spans.iter().map(|(_, retries)| *retries).collect();
        let until = spans.into_iter().map(|(span, _)| span).reduce(Span::union);
        candidate.state = match until {
            Some(until) => State::Waiting(Wait {
                until,
                linked: None,
                gone: gone || spent,
            }),
            None => State::Spent,
        };
    }

    /// To be dialled again after the first wait.
    pub(crate) fn requeue(&mut self, now: Instant, addr: SocketAddr) {
        if let Some(gone) = self.unwanted(now, addr)
            && let Some(candidate) = self.candidates.get_mut(&addr)
        {
            candidate.retries = BTreeSet::from([1]);
            candidate.state = State::Waiting(Wait {
                gone,
                ..Wait::certain(Span::drawn(now, RETRY[0]))
            });
        }
    }

    /// Forgets a candidate that nobody wants any more, or says whether that may be so.
    fn unwanted(&mut self, now: Instant, addr: SocketAddr) -> Option<bool> {
        let reported = self.candidates.get(&addr).is_some_and(|c| c.banned);
        let banned = if reported {
            self.bans.addr_once_read(now, addr)
        } else {
            self.bans.addr(now, addr)
        };
        let left = |c: &Candidate| c.channels.is_empty();
        if banned == Holds::Yes || self.candidates.get(&addr).is_none_or(left) {
            self.candidates.remove(&addr);
            return None;
        }
        Some(banned == Holds::Perhaps)
    }
}
