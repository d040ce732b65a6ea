//! Nothing new for a while, or for good.

use super::Shard;
use super::command::Reply;
use super::link::{Link, Phase};
use crate::api::Handler;
use crate::io::Driver;
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
        self.unlisten(|_| true);
        self.swarm.suspend_starts(now, true);
        self.abort_dials(now);
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
        if self.pause.drained.is_empty() || self.links.table.len() > self.links.ending() {
            return;
        }
        for reply in self.pause.drained.drain(..) {
            // An asker that has gone does not mind.
            let _ = reply.try_send(());
        }
    }
}
