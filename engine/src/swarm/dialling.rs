//! Dials: their room, their deadlines, their retries.

use super::candidates::{CandidateId, State};
use super::conns::Conn;
use super::message::PeerMessage;
use super::{Action, Swarm};
use crate::event::Event;
use crate::names::{ConnId, PeerId};
use flock_transport::{Instant, Transport};
use rand::Rng;
use std::time::Duration;

impl Swarm {
    /// Dials as many queued candidates as there is room for.
    pub(super) fn kick(&mut self, now: Instant) {
        self.show_queued();
        while !self.suspended && self.dials < self.config.dials {
            let Some(id) = self.candidates.front() else {
                break;
            };
            // Bans end what they find, but not a connection, after which the candidate is back.
            let banned = |addr| self.bans.addr(now, addr);
            if self.candidates.get(id).is_some_and(|c| banned(c.addr)) {
                self.candidates.forget(id);
                continue;
            }
            if !self.counts.reserve_dial() {
                break;
            }
            self.candidates
                .start_dial(id, now + self.config.connect_timeout);
            self.dials += 1;
            let Some(candidate) = self.candidates.get(id) else {
                break;
            };
            let (addr, peer) = (candidate.addr, candidate.peer());
            self.emit(Event::Connecting(peer));
            self.actions.push_back(Action::Dial {
                candidate: id,
                addr,
            });
        }
        self.show_queued();
    }

    pub(super) fn show_queued(&self) {
        self.counts
            .show_queued(self.config.shard, self.candidates.queued());
    }

    /// A dial succeeded; its handshake begins on `conn`.
    pub(crate) fn dial_established(&mut self, now: Instant, id: CandidateId, conn: ConnId) {
        let Some(candidate) = self.candidates.get(id) else {
            return;
        };
        let mut record = Conn::new(Transport::Tcp, candidate.addr);
        record.candidate = Some(id);
        record.initiator = true;
        record.channel = candidate.channels.first().cloned();
        let info = record.info(conn);
        self.candidates.set_state(id, State::Connection(conn));
        self.dials -= 1;
        // The room taken for the dial is given back when the peer is admitted or the
        // connection over.
        self.outbound_handshakes += 1;
        self.emit(Event::Handshaking(info));
        self.conns.insert(conn, record);
        self.kick(now);
    }

    /// A dial failed.
    pub(crate) fn dial_failed(&mut self, now: Instant, id: CandidateId, timed_out: bool) {
        let Some(candidate) = self.candidates.get(id) else {
            return;
        };
        if candidate.state != State::Dialling {
            return;
        }
        let peer = candidate.peer();
        self.end_dial();
        self.emit(Event::ConnectFailed { peer, timed_out });
        self.failed_attempt(now, id);
        self.made_room(now);
    }

    /// Gives back what a dial in progress holds.
    pub(super) fn end_dial(&mut self) {
        self.dials -= 1;
        self.counts.release_dial();
    }

    /// Plans the next attempt, or gives the candidate up.
    pub(super) fn failed_attempt(&mut self, now: Instant, id: CandidateId) {
        let Some(retries) = self.wanted(now, id) else {
            return;
        };
        match self.config.retry.get(usize::from(retries)) {
            Some(&wait) => {
                let at = now + self.jitter(wait);
                self.candidates.wait(id, at, retries + 1);
            }
            None => {
                if let Some(candidate) = self.candidates.forget(id) {
                    self.emit(Event::PeerDropped(candidate.peer()));
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
        let candidate = self.candidates.get(id)?;
        if candidate.channels.is_empty() || self.bans.addr(now, candidate.addr) {
            self.candidates.forget(id);
            return None;
        }
        Some(candidate.retries)
    }

    /// ±10 %, so that two sides that refuse each other do not stay in step.
    fn jitter(&mut self, wait: Duration) -> Duration {
        wait.mul_f64(self.rng.random_range(0.9..=1.1))
    }

    /// The peer that linked candidates lead to is not connected any more.
    pub(super) fn peer_gone(&mut self, now: Instant, peer: &PeerId) {
        for id in self.candidates.take_linked(peer) {
            self.requeue(now, id);
        }
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
        if hops == 0 || !self.counts.has_room() {
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
                    self.actions.push_back(Action::AbortDial { candidate: id });
                    self.dial_failed(now, id, true);
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
