//! The events of connections: what the rules say about each, and what follows from it.

use super::plan::Says;
use super::reference::{Conn, HANDSHAKE, Model, Phase, RETRY, State, Wait};
use super::rules::{Holds, SLACK, Span, first_stays};
use flock_engine::event::RefuseReason;
use flock_engine::{CloseReason, ConnId, ConnectionInfo, HandshakeError, Instant, PeerId};
use std::net::SocketAddr;
use std::time::Duration;

/// From when on a handshake makes room for a newcomer: a tenth of its time.
const STALE: Duration = Duration::from_millis(500);

impl Model {
    pub(crate) fn handshaking_begins(&mut self, now: Instant, info: &ConnectionInfo) {
        let Some(host) = self.host(info.addr.ip()) else {
            return self.wrong("a connection with nobody");
        };
        let (up, says) = (host.up, host.says.clone());
        let changed = now - host.changed <= SLACK;
        let acted = self.host_acted(now, info.addr.ip());
        self.expect(up || acted, "a connection with nobody");
        if info.initiator {
            self.sums.handshakes_outbound += 1;
            self.dial_succeeded(info);
        } else {
            self.sums.handshakes_inbound += 1;
            self.expect(info.channel.is_none(), "a channel that nobody can know");
            let suspended = self.is_suspended(now);
            self.expect(!suspended, "let in in spite of the suspension");
            let refused = self.surely_refused(now, info.addr);
            self.expect(!refused, "let in against the rules");
            let most = self.options.half_open as usize * self.options.shards;
            self.expect(
                (self.handshaking(false) as usize) < most,
                "too many handshakes",
            );
        }
        let conn = Conn {
            addr: info.addr,
            initiator: info.initiator,
            since: now,
            phase: Phase::Handshaking,
            says: (!changed).then_some(says),
        };
        if self.conns.insert(info.conn, conn).is_some() {
            self.wrong("a connection begins twice");
        }
    }

    fn dial_succeeded(&mut self, info: &ConnectionInfo) {
        let Some(candidate) = self.candidates.get_mut(&info.addr) else {
            return self.wrong("a connection that was not dialled");
        };
        let dialled = matches!(candidate.state, State::Dialling(_));
        let channel = info.channel.as_ref();
        let known = channel.is_some_and(|channel| candidate.channels.contains(channel));
        candidate.state = State::Connection(info.conn);
        self.expect(
            dialled && known,
            "a connection that was not dialled for this channel",
        );
    }

    fn surely_refused(&self, now: Instant, addr: SocketAddr) -> bool {
        let reached = |limit: u32, used: u32| limit > 0 && used >= limit;
        let (inbound, outbound) = (self.admitted_in(false), self.admitted_in(true));
        !self.whitelisted(addr.ip())
            || self.denied(addr.ip())
            || self.options.walled_ip == Some(addr.ip())
            || self.bans.addr(now, addr) == Holds::Yes
            || reached(self.options.max_connections, inbound + outbound)
            || reached(self.options.max_inbound, inbound) && self.replacing.is_empty()
    }

    pub(crate) fn refused(&mut self, now: Instant, addr: SocketAddr, reason: RefuseReason) {
        let banned = self.bans.addr(now, addr);
        let white = self.whitelisted(addr.ip());
        let denied = self.denied(addr.ip());
        let free = white && !denied && banned != Holds::Yes;
        let walled = self.options.walled_ip == Some(addr.ip());
        let right = match reason {
            RefuseReason::Whitelist => !white,
            RefuseReason::Denied => white && denied,
            RefuseReason::Banned => white && !denied && banned != Holds::No,
            RefuseReason::TooManyConnections => free && self.may_be_full(true),
            RefuseReason::TooManyInbound => free && self.may_be_full(false),
            RefuseReason::Firewall => free && walled,
            RefuseReason::TooManyHandshakes => {
                free && !walled && self.handshaking(false) >= self.options.half_open
            }
            _ => false,
        };
        self.expect(right, "refused for no reason");
        let sums = &mut self.sums;
        *match reason {
            RefuseReason::Whitelist => &mut sums.inbound_not_whitelisted,
            RefuseReason::Denied => &mut sums.inbound_denied,
            RefuseReason::Banned => &mut sums.inbound_banned,
            RefuseReason::TooManyConnections => &mut sums.inbound_full,
            RefuseReason::TooManyInbound => &mut sums.inbound_over_limit,
            RefuseReason::Firewall => &mut sums.inbound_firewalled,
            _ => &mut sums.inbound_half_open,
        } += 1;
    }

    /// Whether the limit of all, or of those that dialled us, is perhaps reached: also by those
    /// that are about to be admitted, or have just gone.
    fn may_be_full(&self, all: bool) -> bool {
        let limit = match all {
            true => self.options.max_connections,
            false => self.options.max_inbound,
        };
        let counts = |conn: &&Conn| {
            let speaks = !matches!(conn.says, Some(Says::Nothing | Says::Garbage));
            (all || !conn.initiator || !self.replacing.is_empty())
                && (conn.is_admitted() || speaks && conn.phase == Phase::Handshaking)
        };
        let near = self.conns.values().filter(counts).count() + self.endings.len();
        limit > 0 && near >= limit as usize
    }

    pub(crate) fn timed_out(&mut self, now: Instant, info: &ConnectionInfo) {
        self.sums.handshakes_timed_out += 1;
        let Some(conn) = self.conns.get(&info.conn) else {
            return self.wrong("nobody's handshake took too long");
        };
        let due = Span::fixed(conn.since, HANDSHAKE);
        let silent = conn.says.as_ref().is_none_or(|says| *says == Says::Nothing);
        let right = conn.phase == Phase::Handshaking && now >= due.from && now <= due.to && silent;
        self.expect(right, "a handshake did not take too long");
    }

    pub(crate) fn connection(&mut self, now: Instant, info: &ConnectionInfo) {
        let Some(peer) = info.peer_id.clone() else {
            return self.wrong("admitted without an id");
        };
        let claims = |conn: &Conn| conn.claims(&peer) && conn.initiator == info.initiator;
        let right = self.conns.get(&info.conn).is_some_and(claims);
        self.expect(
            right && peer != self.options.id,
            "admitted under another id",
        );
        let walled = self.options.walled_id.as_ref() == Some(&peer);
        self.expect(!walled, "admitted in spite of the firewall");
        let banned = self
            .bans
            .addr(now, info.addr)
            .max(self.bans.peer(now, &peer));
        self.expect(banned != Holds::Yes, "admitted in spite of a ban");
        let replaces = self.replacing.remove(&peer);
        let (inbound, outbound) = (self.admitted_in(false), self.admitted_in(true));
        let reached = |limit: u32, used: u32| limit > 0 && used >= limit;
        let full = reached(self.options.max_connections, inbound + outbound);
        let inbound_full = reached(self.options.max_inbound, inbound);
        self.expect(!full, "more peers than there may be");
        let beyond = inbound_full && !info.initiator && !replaces;
        self.expect(!beyond, "more inbound peers than there may be");
        if self.admitted.insert(peer, info.conn).is_some() {
            self.wrong("a peer is admitted twice");
        }
        if let Some(conn) = self.conns.get_mut(&info.conn) {
            conn.phase = Phase::Admitted;
        }
        self.sums.claims_granted += 1;
    }

    pub(crate) fn redundant(&mut self, now: Instant, info: &ConnectionInfo) {
        let Some(peer) = info.peer_id.clone() else {
            return self.wrong("redundant without an id");
        };
        let stays = |second_is_ours| {
            first_stays(
                &self.options.id,
                &peer,
                self.options.keep_existing,
                second_is_ours,
            )
        };
        let rivals = self.conns.iter().filter(|(name, _)| **name != info.conn);
        let mut claiming = rivals.filter(|(_, other)| other.claims(&peer));
        let phase = self.conns.get(&info.conn).map(|conn| conn.phase);
        let lost = self.lost.iter().any(|(_, other)| *other == peer);
        let right = match phase {
            // The newcomer wins against it.
            Some(Phase::Admitted) => lost || claiming.any(|(_, other)| !stays(other.initiator)),
            // It loses to who was there; among several that come at once, to one of these.
            Some(Phase::Handshaking) => {
                let to_holder = self.admitted.contains_key(&peer) && stays(info.initiator);
                to_holder || lost || claiming.next().is_some() || !self.endings.is_empty()
            }
            _ => false,
        };
        self.expect(right, "not the connection to end");
        let candidate = self.candidates.get_mut(&info.addr);
        let holder = self.admitted.contains_key(&peer);
        if let Some(candidate) = candidate
            && matches!(candidate.state, State::Connection(conn) if conn == info.conn)
        {
            candidate.state = if holder {
                State::Linked(peer.clone())
            } else {
                // Who it lost to has perhaps gone.
                candidate.retries.insert(1);
                State::Waiting(Wait {
                    until: Span::drawn(now, RETRY[0]),
                    linked: Some(peer.clone()),
                    gone: false,
                })
            };
        }
        if let Some(conn) = self.conns.get_mut(&info.conn) {
            if conn.is_admitted() {
                conn.phase = Phase::Yielding;
                self.replacing.insert(peer);
                self.sums.redundant_replaced += 1;
            } else {
                conn.phase = Phase::Refused;
                self.sums.redundant_refused += 1;
            }
        }
    }

    pub(crate) fn closed(&mut self, now: Instant, info: &ConnectionInfo, reason: CloseReason) {
        let Some(conn) = self.conns.remove(&info.conn) else {
            return self.wrong("a connection ended that was none");
        };
        self.expect_reason(now, info.conn, &conn, reason);
        let ours = self.candidates.get(&info.addr).is_some_and(
            |candidate| matches!(candidate.state, State::Connection(name) if name == info.conn),
        );
        if conn.is_admitted() {
            self.endings.push(now);
            if ours {
                self.requeue(now, info.addr);
            }
        } else {
            self.handshake_ended(now, &conn, reason, ours);
        }
        if let Some(peer) = &info.peer_id {
            if conn.phase == Phase::Handshaking {
                self.lost.push((now, peer.clone()));
            }
            self.peer_ended(now, info.conn, &conn, peer);
        }
    }

    fn handshake_ended(&mut self, now: Instant, conn: &Conn, reason: CloseReason, ours: bool) {
        let sums = &mut self.sums;
        match reason {
            CloseReason::Banned => sums.peers_banned += 1,
            CloseReason::DetectedSelf => sums.selves_detected += 1,
            CloseReason::Firewall => sums.peers_firewalled += 1,
            CloseReason::TooManyHandshakes => sums.handshakes_crowded_out += 1,
            CloseReason::TooManyConnections | CloseReason::TooManyInbound => {
                sums.claims_over_limit += 1;
            }
            CloseReason::HandshakeTimeout => {}
            _ if conn.phase == Phase::Refused => self.unheard |= reason != CloseReason::Redundant,
            _ => sums.handshakes_failed += 1,
        }
        match reason {
            _ if !ours => {}
            CloseReason::Banned => {
                self.candidates.remove(&conn.addr);
            }
            CloseReason::TooManyConnections | CloseReason::TooManyInbound => {
                self.requeue(now, conn.addr);
            }
            _ => {
                let speaks = !matches!(conn.says, Some(Says::Nothing | Says::Garbage));
                let by_peer = reason != CloseReason::HandshakeTimeout;
                self.attempt_failed(now, conn.addr, speaks && by_peer);
            }
        }
    }

    /// What the end of a connection means for candidates that lead to the same peer.
    fn peer_ended(&mut self, now: Instant, name: ConnId, conn: &Conn, peer: &PeerId) {
        let was_holder = self.admitted.get(peer) == Some(&name);
        if was_holder {
            self.admitted.remove(peer);
        }
        let claiming = self.conns.values().filter(|other| other.claims(peer));
        let claiming = claiming.count();
        if self.admitted.contains_key(peer) {
            return;
        }
        if claiming == 0 {
            self.replacing.remove(peer);
        }
        let lost = self.lost.iter().any(|(_, other)| other == peer);
        if claiming > 0 && conn.phase == Phase::Yielding && !lost {
            // One of these is next.
            return;
        }
        let until = Span::drawn(now, RETRY[0]);
        let linked: Vec<SocketAddr> = self
            .candidates
            .iter()
            .filter(|(_, candidate)| match &candidate.state {
                State::Linked(other) => other == peer,
                State::Waiting(wait) => wait.linked.as_ref() == Some(peer),
                _ => false,
            })
            .map(|(addr, _)| *addr)
            .collect();
        for addr in linked {
            let before = self.candidates.get(&addr);
            let before = before.map(|c| (c.state.clone(), c.retries.clone()));
            self.requeue(now, addr);
            let Some(candidate) = self.candidates.get_mut(&addr) else {
                continue;
            };
            let Some((before, retries)) = before else {
                continue;
            };
            if claiming > 0 {
                candidate.retries.extend(retries);
            }
            if let State::Waiting(wait) = &mut candidate.state {
                // Whoever is next may have asked before, or may yet have to.
                wait.linked = (claiming > 0).then(|| peer.clone());
                if let State::Waiting(earlier) = before {
                    wait.until = until.union(earlier.until);
                }
            }
        }
    }

    fn expect_reason(&mut self, now: Instant, name: ConnId, conn: &Conn, reason: CloseReason) {
        let is_id = |says: &Option<Says>, id: &PeerId| match says {
            Some(Says::Id(said)) => said == id,
            Some(_) => false,
            None => true,
        };
        let acted = self.host_acted(now, conn.addr.ip());
        let early = conn.phase == Phase::Handshaking;
        let right = match reason {
            CloseReason::Redundant => matches!(conn.phase, Phase::Yielding | Phase::Refused),
            CloseReason::Local => conn.is_admitted() && self.disconnected.contains(&name),
            CloseReason::Firewall => {
                let walled = self.options.walled_id.as_ref();
                early && walled.is_some_and(|id| is_id(&conn.says, id))
            }
            CloseReason::DetectedSelf => early && is_id(&conn.says, &self.options.id),
            CloseReason::Banned => {
                let peer = match &conn.says {
                    Some(Says::Id(id)) => self.bans.peer(now, id),
                    Some(_) => Holds::No,
                    None => Holds::Perhaps,
                };
                early && self.bans.addr(now, conn.addr).max(peer) != Holds::No
            }
            CloseReason::TooManyConnections => early && self.may_be_full(true),
            CloseReason::TooManyInbound => early && !conn.initiator && self.may_be_full(false),
            CloseReason::TooManyHandshakes => early && !conn.initiator && now - conn.since >= STALE,
            CloseReason::HandshakeTimeout => early && now - conn.since >= HANDSHAKE,
            CloseReason::Handshake(HandshakeError::Truncated) => early && acted,
            CloseReason::Handshake(_) => {
                early && conn.says.as_ref().is_none_or(|says| *says == Says::Garbage)
            }
            CloseReason::PeerClosed | CloseReason::PeerReset | CloseReason::Io(_) => acted,
            CloseReason::Shutdown => self.ending,
            _ => false,
        };
        self.expect(right, "ended for no reason");
    }
}
