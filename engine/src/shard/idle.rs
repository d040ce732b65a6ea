//! Peers that neither send nor take anything, or too little.

use super::Shard;
use super::link::{Phase, Timer};
use crate::api::{Builder, Handler};
use crate::io::Driver;
use crate::table::Key;
use flock_transport::CloseReason;
use std::time::Duration;

/// What an admitted connection has to do to stay.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watch {
    /// Between looks at it.
    every: Duration,
    /// Bytes it has to have moved from one look to the next.
    least: u32,
    /// Looks in a row that may see fewer before it goes.
    looks: u8,
    reason: CloseReason,
}

/// Looks per idle timeout: a connection ends after one timeout without a byte, and at the latest a
/// quarter later. Nothing is noted when bytes move.
const LOOKS: u8 = 4;

impl Watch {
    pub(super) fn new(options: &Builder) -> Option<Self> {
        if let Some(timeout) = options.idle_timeout {
            return Some(Self {
                every: (timeout / LOOKS.into()).max(Duration::from_millis(1)),
                least: 1,
                looks: LOOKS,
                reason: CloseReason::IdleTimeout,
            });
        }
        let rate = options.min_rate?;
        Some(Self {
            every: rate.over,
            least: rate.bytes()?.get(),
            looks: 1,
            reason: CloseReason::TooSlow,
        })
    }
}

impl<D: Driver, H: Handler> Shard<D, H> {
    /// Looks after an admitted connection from here on.
    pub(super) fn watch_idle(&mut self, key: Key) {
        if let Some(watch) = self.watch {
            #[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
            let moved = self.links.bytes_moved(key) as u32;
            if let Some(link) = self.links.table.get_mut(key) {
                link.seen = moved;
            }
            self.links.set_stage_timer(Timer::Idle(key), watch.every);
        }
    }

    pub(super) fn look_for_idle(&mut self, key: Key) {
        let Some(watch) = self.watch else {
            return;
        };
        let bytes = self.links.bytes_moved(key);
        let Some(link) = self.links.table.get_mut(key) else {
            return;
        };
        if link.reason.is_some() || !matches!(link.phase, Phase::Open) {
            return;
        }
        #[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
        let moved = (bytes as u32).wrapping_sub(link.seen);
        link.still = match moved < watch.least {
            true => link.still + 1,
            false => 0,
        };
        if link.still == 0 || link.still < watch.looks {
            self.watch_idle(key);
        } else {
            self.links.close(key, watch.reason);
        }
    }
}
