//! Dials: their room, their deadlines, their retries.

use super::admission::Approach;
use super::candidates::{CandidateId, State};
use super::conns::Conn;
use super::message::PeerMessage;
use super::racing::{Output, Outputs, Race};
use super::{Action, Swarm};
use crate::event::{Event, RejectReason};
use crate::names::{ConnId, PeerId};
use flock_transport::{Instant, Transport};
use rand::Rng;
use std::time::Duration;

/// Candidates passed over at a time because of where they are; the rest waits for the next turn.
const DEFERRED_MAX: u32 = 256;

/// How long such a candidate waits at the least.
const DEFER: Duration = Duration::from_secs(1);

impl Swarm {
    /// Dials as many queued candidates as there is room for.
    pub(super) fn kick(&mut self, now: Instant) {
        self.show_queued();
        let mut deferred = 0;
        while self.may_dial() {
            let Some(id) = self.candidates.front() else {
                break;
            };
            // Bans end what they find, but not a connection, after which the candidate is back.
            let banned = |addr| self.bans.addr(now, addr);
            let Some(addr) = self.candidates.get(id).map(|candidate| candidate.addr) else {
                break;
            };
            if banned(addr) {
                self.candidates.forget(id);
                continue;
            }
            let reserved = self.candidates.is_reserved(id);
            if !self.counts.has_room(reserved) || deferred == DEFERRED_MAX {
                break;
            }
            if !self.passes_firewall(&Approach::Outbound { addr }) {
                if let Some(peer) = self.candidates.forget(id) {
                    self.reject(peer, RejectReason::Firewall);
                }
                continue;
            }
            if !self.take_place(id) {
                deferred += 1;
                self.defer(now, id);
                continue;
            }
            if self.counts.take_source(addr.ip()).is_err() {
                self.places.release(id);
                deferred += 1;
                self.defer(now, id);
                continue;
            }
            if !self.counts.reserve_dial(reserved) {
                self.counts.release_source(addr.ip());
                self.places.release(id);
                break;
            }
            self.start_dial(now, id);
        }
        self.show_queued();
    }

    /// Too many connections with the candidate's address or network, or for its channels: others go
    /// first.
    fn defer(&mut self, now: Instant, id: CandidateId) {
        self.counters.dials_deferred += 1;
        let retries = self.candidates.get(id).map_or(0, |c| c.retries);
        let at = now + self.jitter(self.config.retry[0].max(DEFER));
        self.candidates.wait(id, at, retries);
    }

    /// Whether this shard's own limits leave room for a dial. Listeners that say nothing would
    /// otherwise take a descriptor each, as fast as they can be dialled.
    pub(super) fn may_dial(&self) -> bool {
        !self.suspended
            && !self.counts.above_watermark()
            && self.dials() < self.config.dials
            && self.outbound_handshakes < self.config.half_open
    }

    fn start_dial(&mut self, now: Instant, id: CandidateId) {
        let (race, outputs) = Race::start(now, self.config.tcp, self.config.utp);
        self.candidates.start_dial(id, race.deadline());
        if let Some(peer) = self.candidates.peer(id) {
            self.emit(Event::Connecting(peer));
        }
        self.racing.insert(id, race);
        self.follow(now, id, outputs);
    }

    pub(super) fn show_queued(&self) {
        self.counts
            .show_queued(self.config.shard, self.candidates.queued());
    }

    /// Candidates being dialled.
    pub(super) fn dials(&self) -> u32 {
        u32::try_from(self.racing.len()).expect("no more than configured")
    }

    /// A dial succeeded. [`Action::Begin`] follows if `conn` becomes the connection, at once or,
    /// with uTP, after a while; else [`Action::AbortDial`].
    pub(crate) fn dial_established(
        &mut self,
        now: Instant,
        id: CandidateId,
        conn: ConnId,
        transport: Transport,
    ) {
        let race = self.racing.get_mut(&id);
        debug_assert!(race.is_some(), "an aborted dial has no answer");
        if let Some(race) = race {
            let outputs = race.established(now, transport, conn);
            self.follow(now, id, outputs);
        }
    }

    /// A dial failed, or what it established broke before it became the connection.
    pub(crate) fn dial_failed(
        &mut self,
        now: Instant,
        id: CandidateId,
        transport: Transport,
        timed_out: bool,
    ) {
        if let Some(race) = self.racing.get_mut(&id) {
            let outputs = race.failed(now, transport, timed_out);
            self.follow(now, id, outputs);
        }
    }

    /// Does what the race for a candidate came to.
    fn follow(&mut self, now: Instant, id: CandidateId, outputs: Outputs) {
        for output in outputs {
            match output {
                Output::Start(transport) => self.dial(id, transport),
                Output::Abort(transport) => self.actions.push_back(Action::AbortDial {
                    candidate: id,
                    transport,
                }),
                Output::Won(transport, conn) => return self.dial_won(now, id, transport, conn),
                Output::Failed { timed_out } => return self.dial_lost(now, id, timed_out),
            }
        }
        if let Some(race) = self.racing.get(&id) {
            self.candidates.rearm(id, race.deadline());
        }
    }

    fn dial(&mut self, id: CandidateId, transport: Transport) {
        let Some(addr) = self.candidates.get(id).map(|candidate| candidate.addr) else {
            return;
        };
        match transport {
            Transport::Tcp => self.counters.dials_tcp += 1,
            Transport::Utp => self.counters.dials_utp += 1,
        }
        self.actions.push_back(Action::Dial {
            candidate: id,
            transport,
            addr,
        });
    }

    fn dial_won(&mut self, now: Instant, id: CandidateId, transport: Transport, conn: ConnId) {
        self.racing.remove(&id);
        let Some(candidate) = self.candidates.get(id) else {
            return;
        };
        let mut record = Conn::new(transport, candidate.addr);
        record.candidate = Some(id);
        record.initiator = true;
        let channel = self.places.channel(id);
        record.channel = channel.or_else(|| self.candidates.channel(id));
        let info = record.info(conn);
        self.candidates.set_state(id, State::Connection(conn));
        // The room taken for the dial is given back when the peer is admitted or the
        // connection over.
        self.outbound_handshakes += 1;
        self.counters.handshakes_outbound += 1;
        self.emit(Event::Handshaking(info));
        self.conns.insert(conn, record);
        self.actions.push_back(Action::Begin { conn });
        self.kick(now);
    }

    fn dial_lost(&mut self, now: Instant, id: CandidateId, timed_out: bool) {
        self.end_dial(id, timed_out);
        self.counters.dials_failed += 1;
        self.counters.dials_timed_out += u64::from(timed_out);
        self.failed_attempt(now, id);
        self.made_room(now);
    }

    /// Ends the dials of a candidate that is not wanted any more.
    pub(super) fn give_dial_up(&mut self, id: CandidateId) {
        let Some(race) = self.racing.get(&id) else {
            return;
        };
        for output in race.give_up() {
            if let Output::Abort(transport) = output {
                self.actions.push_back(Action::AbortDial {
                    candidate: id,
                    transport,
                });
            }
        }
        self.counters.dials_given_up += 1;
        self.end_dial(id, false);
    }

    /// Gives back what a dial in progress holds, and reports its end.
    fn end_dial(&mut self, id: CandidateId, timed_out: bool) {
        self.racing.remove(&id);
        self.places.release(id);
        self.counts.release_dial();
        if let Some(candidate) = self.candidates.get(id) {
            self.counts.release_source(candidate.addr.ip());
        }
        if let Some(peer) = self.candidates.peer(id) {
            self.emit(Event::ConnectFailed { peer, timed_out });
        }
    }

    /// Plans the next attempt, or gives the candidate up.
    pub(super) fn failed_attempt(&mut self, now: Instant, id: CandidateId) {
        let Some(retries) = self.wanted(now, id) else {
            return;
        };
        let table = self.config.retry.get(usize::from(retries)).copied();
        match table.or(self.config.retry_tail) {
            Some(wait) => {
                let at = now + self.jitter(wait);
                self.candidates.wait(id, at, retries.saturating_add(1));
            }
            None => {
                if let Some(peer) = self.candidates.forget(id) {
                    self.counters.drops += 1;
                    self.emit(Event::PeerDropped(peer));
                }
            }
        }
    }

    /// Dials the candidate again after the first wait. That is the first of its retries: a
    /// completed handshake gave it all of them.
    pub(super) fn requeue(&mut self, now: Instant, id: CandidateId) {
        if self.wanted(now, id).is_some() {
            let at = now + self.jitter(self.config.retry[0]);
            self.candidates.wait(id, at, 1);
        }
    }

    /// The retries so far of a candidate to dial again. One that was banned, or whose channels
    /// were all left, while there was a connection to it is forgotten now.
    fn wanted(&mut self, now: Instant, id: CandidateId) -> Option<u8> {
        let (addr, retries) = self.candidates.get(id).map(|c| (c.addr, c.retries))?;
        if self.candidates.is_unwanted(id) || self.bans.addr(now, addr) {
            self.candidates.forget(id);
            return None;
        }
        Some(retries)
    }

    /// ±10 %, so that two sides that refuse each other do not stay in step.
    fn jitter(&mut self, wait: Duration) -> Duration {
        let seconds = wait.as_secs_f64() * self.rng.random_range(0.9..=1.1);
        // "For ever" may be longer than what is left of the clock.
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    /// The peer that linked candidates lead to is not connected any more.
    pub(super) fn peer_gone(&mut self, now: Instant, peer: &PeerId) {
        while let Some(id) = self.candidates.pop_linked(peer) {
            self.requeue(now, id);
        }
        self.unlinked(peer);
    }

    /// Lets somebody use room that was made: this shard or, in turn, another.
    pub(super) fn made_room(&mut self, now: Instant) {
        self.show_queued();
        let hops = self.config.shards;
        match self.counts.next_waiting() {
            Some(shard) if shard != self.config.shard => {
                self.send(now, shard, PeerMessage::Refill { hops });
            }
            _ => self.refill(now, hops),
        }
    }

    /// Uses room, and hands on what this shard leaves: it may have nothing to dial, or as much
    /// under way as it may.
    pub(super) fn refill(&mut self, now: Instant, hops: u16) {
        self.kick(now);
        if hops == 0 || !self.counts.has_room(true) {
            return;
        }
        if let Some(shard) = self.counts.next_waiting_but(self.config.shard) {
            self.send(now, shard, PeerMessage::Refill { hops: hops - 1 });
        }
    }

    /// Ends dials that take too long, dials again what has waited, and whatever there is room
    /// for. Called every turn.
    pub(crate) fn on_deadline(&mut self, now: Instant) {
        let mut expired = std::mem::take(&mut self.expired);
        self.candidates.expire(now, &mut expired);
        for id in expired.drain(..) {
            match self.candidates.get(id).map(|candidate| &candidate.state) {
                Some(State::Dialling) => {
                    if let Some(race) = self.racing.get_mut(&id) {
                        let outputs = race.expire(now);
                        self.follow(now, id, outputs);
                    }
                }
                Some(State::Waiting) => self.candidates.enqueue(id),
                _ => {}
            }
        }
        self.expired = expired;
        if self.candidates.queued() > 0 {
            self.kick(now);
        }
    }
}
