//! Handshakes: their beginning, what a peer says in them, and its end.

use super::Shard;
use super::link::{Phase, Timer};
use super::stream::Stream;
use crate::api::Handler;
use crate::io::Driver;
use crate::session::{Progress, Session};
use crate::table::Key;
use flock_transport::{CloseReason, Instant};

impl<D: Driver, H: Handler> Shard<D, H> {
    /// Shakes hands on a connection that is one from here on: accepted, or the winner of its race.
    pub(super) fn begin_handshake(&mut self, key: Key) {
        self.leave_race(key);
        self.links
            .set_stage_timer(Timer::Handshake(key), self.handshake_timeout);
        if self.links.table.get(key).is_some() {
            self.greet(key);
        }
        self.links.touch(key);
    }

    fn greet(&mut self, key: Key) {
        let info = || self.swarm.info(self.links.conn_id(key));
        if let Some(connectors) = self.links.joints.connectors() {
            let joint = info().and_then(|info| connectors.make(&info));
            if !self.links.attach(key, joint) {
                return;
            }
        }
        let greeting = match &self.protocol {
            None => self.frame.clone(),
            Some(factory) => {
                let info = self.swarm.info(self.links.conn_id(key));
                let started = info.and_then(|info| factory.start(&info));
                let Some((session, greeting)) = started else {
                    self.counters.handler_panics += 1;
                    return self.links.abort(key, CloseReason::HandlerPanicked);
                };
                if let Some(link) = self.links.table.get_mut(key) {
                    link.phase = Phase::Handshaking(session);
                }
                greeting.into()
            }
        };
        // An empty queue takes one frame whatever its limits are.
        let sent = greeting.is_empty() || self.links.send_raw(key, greeting).is_ok();
        if !sent {
            // Only a connector may have filled it before.
            debug_assert!(!self.links.joints.is_unused(), "it fits an empty queue");
            self.links.abort(key, CloseReason::SendQueueFull);
        }
    }

    /// Until now another transport could have been preferred, and a uTP connection was silent.
    fn leave_race(&mut self, key: Key) {
        let Some(link) = self.links.table.get_mut(key) else {
            return;
        };
        if !matches!(link.phase, Phase::Dialling) {
            return;
        }
        link.phase = Phase::Handshaking(Session::default());
        let transport = link.stream.transport();
        if let Some(candidate) = link.candidate.take() {
            self.dials.remove(&(candidate, transport));
        }
        if let Stream::Utp(utp) = link.stream {
            self.links.utp.endpoint(utp.side).release(utp.key);
        }
    }

    /// What the bytes of a peer that shakes hands amount to.
    pub(super) fn shake(
        &mut self,
        now: Instant,
        key: Key,
        progress: Option<Progress>,
        reply: Vec<u8>,
    ) {
        if !reply.is_empty() && self.links.send_raw(key, reply.into()).is_err() {
            return self.links.abort(key, CloseReason::SendQueueFull);
        }
        match progress {
            Some(Progress::More) => {}
            Some(Progress::Done { peer_id, .. }) => {
                let conn = self.links.conn_id(key);
                self.swarm.handshake_done(now, conn, peer_id);
                self.act(now);
                self.hold_while_claiming(key);
            }
            Some(Progress::Reject(error)) => {
                self.part(now, key, CloseReason::Handshake(error));
            }
            None => {
                self.counters.handler_panics += 1;
                self.links.abort(key, CloseReason::HandlerPanicked);
            }
        }
    }
}
