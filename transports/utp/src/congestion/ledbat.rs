use super::AckInfo;
use std::time::Duration;

/// LEDBAT (RFC 6817): the window follows the distance of the queueing delay from a target.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ledbat {
    target: Duration,
}

/// Growth of a round trip on an empty queue, in bytes: what libutp and libtorrent use.
const GAIN: u64 = 3_000;

impl Ledbat {
    pub(super) fn new(target: Duration) -> Self {
        Self {
            target: target.max(Duration::from_millis(1)),
        }
    }

    /// Whether slow start has filled the queue.
    pub(super) fn is_crowded(&self, ack: &AckInfo) -> bool {
        ack.queueing
            .is_some_and(|queueing| queueing >= self.target / 2)
    }

    pub(super) fn on_ack(&mut self, ack: &AckInfo, window: &mut u64, mss: u16) {
        let queueing = ack.queueing.unwrap_or(Duration::ZERO);
        let (queue, target) = (queueing.as_micros(), self.target.as_micros());
        if queue <= target {
            if ack.app_limited || ack.recovering {
                return;
            }
            let gain = u128::from(GAIN.max(u64::from(mss)));
            let grown = gain * u128::from(ack.bytes) * (target - queue);
            let grown = grown / target / u128::from((*window).max(1));
            *window += u64::try_from(grown).unwrap_or(0);
        } else {
            *window -= decrease(queue, target, ack.bytes, *window);
        }
    }
}

/// A queue above the target takes as much off the window in a round trip as it is above, but at
/// most a half: in proportion, so that a large window gives way as fast as a small one.
pub(super) fn decrease(queue: u128, target: u128, bytes: u64, window: u64) -> u64 {
    let above = (queue - target).min(target / 2);
    let share = u128::from(bytes.min(window)) * above / target;
    u64::try_from(share).unwrap_or(0).min(window / 2)
}
