//! Peers that neither send nor take anything.

use super::Shard;
use super::link::{Phase, Timer};
use crate::api::Handler;
use crate::io::Driver;
use crate::table::Key;
use flock_transport::CloseReason;
use std::time::Duration;

/// Looks per timeout: a connection ends after one timeout without a byte, and at the latest a
/// quarter later. Nothing is noted when bytes move.
const LOOKS: u8 = 4;

impl<D: Driver, H: Handler> Shard<D, H> {
    /// Looks after an admitted connection from here on.
    pub(super) fn watch_idle(&mut self, key: Key) {
        if let Some(timeout) = self.idle_timeout {
            let after = (timeout / LOOKS.into()).max(Duration::from_millis(1));
            self.links.set_stage_timer(Timer::Idle(key), after);
        }
    }

    pub(super) fn look_for_idle(&mut self, key: Key) {
        let bytes = self.links.bytes_moved(key);
        let Some(link) = self.links.table.get_mut(key) else {
            return;
        };
        if link.reason.is_some() || !matches!(link.phase, Phase::Open) {
            return;
        }
        #[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
        let bytes = bytes as u32;
        link.still = match bytes == link.seen {
            true => link.still + 1,
            false => 0,
        };
        link.seen = bytes;
        if link.still < LOOKS {
            self.watch_idle(key);
        } else {
            self.links.close(key, CloseReason::IdleTimeout);
        }
    }
}
