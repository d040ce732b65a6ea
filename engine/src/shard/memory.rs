//! How much waits to be sent, against the watermark.

use super::Shard;
use crate::api::Handler;
use crate::io::Driver;
use crate::swarm::SharedCounts;
use flock_transport::Instant;
use std::sync::Arc;
use std::time::Duration;

/// Connections looked at in a turn; above the watermark, when news are worth more.
const LOOKS: u32 = 64;
const LOOKS_ABOVE: u32 = 4096;

/// How often to look at the least while above it: peers may have gone, and nothing happens here.
const LOOK: Duration = Duration::from_millis(10);

/// Adds up what connections have queued, a few in a turn, so that no send has to keep a sum.
pub(super) struct Sweep {
    counts: Arc<SharedCounts>,
    next: u32,
    sum: u64,
}

impl Sweep {
    /// None without a watermark.
    pub(super) fn new(counts: &Arc<SharedCounts>) -> Option<Self> {
        counts.has_watermark().then(|| Self {
            counts: counts.clone(),
            next: 0,
            sum: 0,
        })
    }

    pub(super) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        self.counts.above_watermark().then(|| now + LOOK)
    }
}

impl<D: Driver, H: Handler> Shard<D, H> {
    pub(super) fn look_at_memory(&mut self) {
        let Some(sweep) = &mut self.sweep else {
            return;
        };
        let above = sweep.counts.above_watermark();
        let looks = if above { LOOKS_ABOVE } else { LOOKS };
        let slots = self.links.table.slots();
        let until = slots.min(sweep.next.saturating_add(looks));
        for slot in sweep.next..until {
            if let Some((key, _)) = self.links.table.at(slot) {
                sweep.sum += self.links.queued(key) as u64;
            }
        }
        sweep.next = until;
        if until == slots {
            sweep.counts.show_queued_bytes(self.links.shard, sweep.sum);
            (sweep.next, sweep.sum) = (0, 0);
        }
    }
}
