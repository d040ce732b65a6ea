//! Nothing new for a while, or for good.

use super::command::Reply;
use super::link::{Link, Phase};
use super::{Listener, Shard, discard};
use crate::api::Handler;
use crate::io::{Driver, OpKey, Verb};
use crate::table::Key;
use flock_transport::Instant;

/// What keeps a shard from starting anything new, other than its own limits.
#[derive(Default)]
pub(super) struct Pause {
    suspended: bool,
    /// Who wants to hear of the last end.
    drained: Vec<Reply<()>>,
    draining: bool,
}

impl Pause {
    pub(super) fn is_set(&self) -> bool {
        self.suspended || self.draining
    }

    /// Starts nothing new from the end of this turn on, or again.
    pub(super) fn suspend(&mut self, suspended: bool) {
        self.suspended = suspended;
    }
}

impl<D: Driver, H: Handler> Shard<D, H> {
    /// Accepts and dials no more, and answers when the last connection has ended.
    pub(super) fn drain(&mut self, now: Instant, reply: Reply<()>) {
        self.pause.draining = true;
        self.pause.drained.push(reply);
        self.leave_listeners();
        self.retire_sides(|_| true);
        self.swarm.suspend_starts(now, true);
        self.abort_dials(now);
    }

    /// Closes every listener once it has handed over what it had accepted by then: who else holds
    /// an inherited one does not get those, and for them this is no refusal.
    fn leave_listeners(&mut self) {
        for listener in &mut self.listeners {
            listener.leaving = true;
            if listener.accepting {
                let (socket, verb) = (listener.socket, Verb::Accept);
                self.driver.cancel(OpKey { socket, verb });
            }
        }
        self.close_leaving();
    }

    pub(super) fn close_leaving(&mut self) {
        let over = |listener: &mut Listener| listener.leaving && !listener.accepting;
        for listener in self.listeners.extract_if(.., over) {
            discard(&mut self.driver, listener.socket);
        }
    }

    /// Gives up what has not been established.
    pub(super) fn abort_dials(&mut self, now: Instant) {
        let dialling = |(_, link): (Key, &Link)| match link.phase {
            Phase::Dialling => Some((link.candidate?, link.stream.transport())),
            _ => None,
        };
        let dials: Vec<_> = self.links.table.iter().filter_map(dialling).collect();
        for (candidate, transport) in dials {
            self.abort_dial(candidate, transport);
            self.swarm.dial_failed(now, candidate, transport, false);
        }
    }

    /// Answers who waits for that, once no connection is left but what has been reported as closed.
    pub(super) fn report_drained(&mut self) {
        let open = self.links.table.len() > self.links.ending() || !self.listeners.is_empty();
        if self.pause.drained.is_empty() || open {
            return;
        }
        for reply in self.pause.drained.drain(..) {
            // An asker that has gone does not mind.
            let _ = reply.try_send(());
        }
    }
}
