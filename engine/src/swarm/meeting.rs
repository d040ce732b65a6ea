//! Connections from their handshake to their end.

use super::admission::Approach;
use super::conns::{Conn, Stage};
use super::message::{Contender, PeerMessage};
use super::{Action, BanTarget, Swarm};
use crate::event::{BanReason, Event, RefuseReason};
use crate::names::{ConnId, PeerId};
use crate::sources::Crowded;
use flock_transport::{CloseReason, Instant, Transport};
use std::net::SocketAddr;

impl Swarm {
    /// Judges an inbound connection before anything is said. `Ok` is followed by
    /// [`inbound_started`](Self::inbound_started), once the actions are carried out: another
    /// connection may have to make room.
    ///
    /// A uTP connection counts, and is judged, from its first data on: the original dials both
    /// transports at once, so a peer that comes over TCP leaves a uTP one behind that never
    /// says anything.
    pub(crate) fn inbound(
        &mut self,
        now: Instant,
        transport: Transport,
        addr: SocketAddr,
    ) -> Result<(), RefuseReason> {
        let judged = self.judge(now, transport, addr);
        if let Err(reason) = judged {
            self.refuse_inbound(transport, addr, reason);
        }
        judged
    }

    fn judge(
        &mut self,
        now: Instant,
        transport: Transport,
        addr: SocketAddr,
    ) -> Result<(), RefuseReason> {
        if !self.whitelisted(addr) {
            return Err(RefuseReason::Whitelist);
        } else if self.denied(addr) {
            return Err(RefuseReason::Denied);
        } else if self.bans.addr(now, addr) {
            return Err(RefuseReason::Banned);
        } else if self.counts.full() {
            return Err(RefuseReason::TooManyConnections);
        } else if self.counts.inbound_full() {
            return Err(RefuseReason::TooManyInbound);
        } else if self.counts.above_watermark() {
            return Err(RefuseReason::Memory);
        }
        // What is refused for where it is from takes nothing of the rate that others may need.
        self.counts
            .take_source(addr.ip())
            .map_err(|crowded| match crowded {
                Crowded::Ip => RefuseReason::TooManyFromIp,
                Crowded::Subnet => RefuseReason::TooManyFromSubnet,
            })?;
        let reason = if !self.passes_firewall(&Approach::Inbound { addr, transport }) {
            RefuseReason::Firewall
        } else if !self.counts.take_accept(now) {
            RefuseReason::AcceptRate
        } else if self.half_open >= self.config.half_open && !self.make_room(now) {
            RefuseReason::TooManyHandshakes
        } else {
            return Ok(());
        };
        self.counts.release_source(addr.ip());
        Err(reason)
    }

    /// Ends the handshake that has been unfinished for longest, if that is long.
    fn make_room(&mut self, now: Instant) -> bool {
        let conns = &self.conns;
        let stale = self
            .inbound_handshakes
            .stale(now, |conn| conns.is_unfinished_inbound(conn));
        let Some(conn) = stale else {
            return false;
        };
        self.set_refused(conn);
        self.counters.handshakes_crowded_out += 1;
        self.close(conn, CloseReason::TooManyHandshakes);
        true
    }

    fn set_refused(&mut self, conn: ConnId) {
        if let Some(record) = self.conns.get_mut(conn) {
            record.stage = Stage::Refused;
        }
    }

    /// Reports an inbound connection that was turned away.
    pub(crate) fn refuse_inbound(
        &mut self,
        transport: Transport,
        addr: SocketAddr,
        reason: RefuseReason,
    ) {
        let counters = &mut self.counters;
        *match reason {
            RefuseReason::Banned => &mut counters.inbound_banned,
            RefuseReason::Whitelist => &mut counters.inbound_not_whitelisted,
            RefuseReason::TooManyConnections => &mut counters.inbound_full,
            RefuseReason::TooManyHandshakes => &mut counters.inbound_half_open,
            RefuseReason::TableFull => &mut counters.inbound_table_full,
            RefuseReason::Denied => &mut counters.inbound_denied,
            RefuseReason::Firewall => &mut counters.inbound_firewalled,
            RefuseReason::TooManyInbound => &mut counters.inbound_over_limit,
            RefuseReason::TooManyFromIp => &mut counters.inbound_over_ip,
            RefuseReason::TooManyFromSubnet => &mut counters.inbound_over_subnet,
            RefuseReason::Memory => &mut counters.inbound_over_memory,
            RefuseReason::AcceptRate => &mut counters.inbound_over_rate,
        } += 1;
        self.emit(Event::ConnectionRefused {
            addr,
            transport,
            reason,
        });
    }

    /// The handshake of an inbound connection begins.
    pub(crate) fn inbound_started(
        &mut self,
        now: Instant,
        conn: ConnId,
        addr: SocketAddr,
        transport: Transport,
    ) {
        let record = Conn::new(transport, addr);
        let conns = &self.conns;
        self.inbound_handshakes
            .begin(now, conn, self.half_open, |conn| {
                conns.is_unfinished_inbound(conn)
            });
        self.half_open += 1;
        self.counters.handshakes_inbound += 1;
        self.emit(Event::Handshaking(record.info(conn)));
        self.conns.insert(conn, record);
    }

    /// The peer has stated its id.
    pub(crate) fn handshake_done(&mut self, now: Instant, conn: ConnId, peer: PeerId) {
        let Some(record) = self.conns.get_mut(conn) else {
            return;
        };
        record.peer = Some(peer.clone());
        let (candidate, addr) = (record.candidate, record.addr);
        if peer == self.config.id {
            record.stage = Stage::Refused;
            self.counters.selves_detected += 1;
            if let Some(peer) = candidate.and_then(|id| self.candidates.forget(id)) {
                self.bans
                    .add(now, BanTarget::Addr(peer.addr), Instant::FAR_FUTURE);
                self.emit(Event::PeerBanned {
                    peer,
                    reason: BanReason::DetectedSelf,
                });
            }
            return self.close(conn, CloseReason::DetectedSelf);
        }
        if self.bans.addr(now, addr) || self.bans.peer(now, &peer) {
            record.stage = Stage::Refused;
            self.counters.peers_banned += 1;
            return self.close(conn, CloseReason::Banned);
        }
        let info = record.info(conn);
        if !self.passes_firewall(&Approach::Identified(&info)) {
            self.counters.peers_firewalled += 1;
            self.set_refused(conn);
            return self.close(conn, CloseReason::Firewall);
        }
        let Some(record) = self.conns.get_mut(conn) else {
            return;
        };
        record.stage = Stage::Claiming;
        let contender = Contender {
            conn,
            initiator: record.initiator,
            transport: record.transport,
            reserved: candidate.is_some_and(|id| self.candidates.is_reserved(id)),
        };
        self.counters.claims_sent += 1;
        let home = self.homes.of_peer(&peer);
        self.send(now, home, PeerMessage::Claim { peer, contender });
    }

    /// The handshake, admission included, takes too long; the shard closes the connection.
    pub(crate) fn handshake_timeout(&mut self, conn: ConnId) {
        let Some(record) = self.conns.get_mut(conn) else {
            return;
        };
        if record.stage == Stage::Claiming {
            record.stage = Stage::Late;
        }
        let info = record.info(conn);
        self.counters.handshakes_timed_out += 1;
        self.emit(Event::HandshakeTimeout(info));
    }

    fn close(&mut self, conn: ConnId, reason: CloseReason) {
        self.actions.push_back(Action::Close { conn, reason });
    }

    /// The home admitted the connection.
    pub(super) fn granted(&mut self, now: Instant, conn: ConnId) {
        // One that has ended meanwhile has told the home so.
        let Some(record) = self.conns.get_mut(conn) else {
            return;
        };
        if record.stage != Stage::Claiming {
            return;
        }
        let banned = |peer| self.bans.peer(now, peer);
        if self.bans.addr(now, record.addr) || record.peer.as_ref().is_some_and(banned) {
            // It holds the place at its home, which hears of the end from `closed`.
            record.stage = Stage::Late;
            self.counters.peers_banned += 1;
            return self.close(conn, CloseReason::Banned);
        }
        record.stage = Stage::Admitted;
        record.since = u32::try_from(now.as_nanos() / 1_000_000_000).unwrap_or(u32::MAX);
        self.counters.claims_granted += 1;
        let info = record.info(conn);
        let initiator = info.initiator;
        self.end_handshake(initiator);
        self.connected += 1;
        self.actions.push_back(Action::Admit(info));
        if initiator {
            // For a moment the peer counted as admitted and as dialled.
            self.made_room(now);
        }
    }

    /// The home refused the connection.
    pub(super) fn refused(&mut self, now: Instant, conn: ConnId, reason: CloseReason) {
        let Some(record) = self.conns.get_mut(conn) else {
            return;
        };
        if record.stage != Stage::Claiming {
            return;
        }
        record.stage = Stage::Refused;
        if reason == CloseReason::Redundant {
            let info = record.info(conn);
            self.counters.redundant_refused += 1;
            self.link(now, conn);
            self.emit(Event::RedundantConnection(info));
        } else {
            self.counters.claims_over_limit += 1;
        }
        self.close(conn, reason);
    }

    /// Another connection takes this one's place.
    pub(super) fn yield_place(&mut self, now: Instant, conn: ConnId) {
        // One that has ended meanwhile has told the home so.
        let Some(record) = self.conns.get(conn) else {
            return;
        };
        let info = record.info(conn);
        self.counters.redundant_replaced += 1;
        self.link(now, conn);
        self.emit(Event::RedundantConnection(info));
        self.close(conn, CloseReason::Redundant);
    }

    /// Gives back what an unfinished handshake holds.
    fn end_handshake(&mut self, initiator: bool) {
        if initiator {
            self.outbound_handshakes -= 1;
            self.counts.release_dial();
        } else {
            self.half_open -= 1;
        }
    }

    /// A connection is over. Called exactly once for each that was started.
    pub(crate) fn closed(
        &mut self,
        now: Instant,
        conn: ConnId,
        reason: CloseReason,
        bytes_in: u64,
        bytes_out: u64,
    ) {
        let Some(record) = self.conns.remove(conn) else {
            return;
        };
        self.known.forget(conn);
        self.counts.release_source(record.addr.ip());
        let info = record.info(conn);
        self.emit(Event::ConnectionClosed {
            info,
            reason,
            bytes_in,
            bytes_out,
        });
        match record.stage {
            Stage::Admitted => self.connected -= 1,
            stage => {
                let timed_out = reason == CloseReason::HandshakeTimeout;
                let undecided = matches!(stage, Stage::Handshaking | Stage::Claiming);
                self.counters.handshakes_failed += u64::from(undecided && !timed_out);
                self.end_handshake(record.initiator);
            }
        }
        if let Some(id) = record.candidate {
            self.places.release(id);
            match (record.stage, reason) {
                (_, CloseReason::Banned) => {
                    self.candidates.forget(id);
                }
                (Stage::Admitted, _)
                | (_, CloseReason::TooManyConnections | CloseReason::TooManyInbound) => {
                    self.requeue(now, id);
                }
                _ => self.failed_attempt(now, id),
            }
        }
        let claimed = matches!(
            record.stage,
            Stage::Claiming | Stage::Late | Stage::Admitted
        );
        if let (true, Some(peer)) = (claimed, record.peer) {
            let home = self.homes.of_peer(&peer);
            self.send(now, home, PeerMessage::Release { peer, conn });
        }
        if record.initiator && record.stage != Stage::Admitted {
            self.made_room(now);
        }
    }

    /// As home: a connection that claimed is over.
    pub(super) fn release(&mut self, now: Instant, peer: &PeerId, conn: ConnId) {
        let room = self.home.release(peer, conn, &mut self.verdicts);
        self.pass_verdicts(now);
        if room {
            self.made_room(now);
        }
    }
}
