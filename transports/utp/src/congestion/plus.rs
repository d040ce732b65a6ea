use super::ledbat::decrease;
use super::{AckInfo, FLOOR};
use flock_transport::Instant;
use std::time::Duration;

/// LEDBAT++: delay by round trips, growth that gives way on short paths too, and a slowdown now
/// and then, in which the queue empties and everybody sees the true base.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plus {
    target: Duration,
    phase: Phase,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Until the end of the first slow start there is nothing to slow down.
    Starting,
    /// The next slowdown is due then.
    Cruising { slow_at: Instant },
    /// At the floor until then; back to this window afterwards.
    Slowed {
        began: Instant,
        until: Instant,
        back_to: u64,
    },
    /// In slow start back to where it was.
    Returning { began: Instant },
}

/// Slow start ends at three quarters of the target.
const CROWDED: (u32, u32) = (3, 4);
/// Time between slowdowns, in durations of the slowdown before.
const APART: u32 = 9;

impl Plus {
    pub(super) fn new(target: Duration) -> Self {
        Self {
            target: target.max(Duration::from_millis(1)),
            phase: Phase::Starting,
        }
    }

    fn queueing(ack: &AckInfo) -> Duration {
        ack.rtt.saturating_sub(ack.min_rtt)
    }

    /// The reciprocal of GAIN: on short paths growth is slower, where a segment is a larger share.
    pub(super) fn gain(&self, base: Duration) -> u64 {
        let base = base.as_micros().max(1);
        let ratio = (self.target.as_micros() * 2).div_ceil(base);
        u64::try_from(ratio.clamp(1, 16)).unwrap_or(16)
    }

    pub(super) fn is_crowded(&self, ack: &AckInfo) -> bool {
        let first = matches!(self.phase, Phase::Starting);
        first && Self::queueing(ack) >= self.target * CROWDED.0 / CROWDED.1
    }

    /// Whether this is a slowdown, or the way back from it.
    pub(super) fn is_slowed(&self) -> bool {
        matches!(self.phase, Phase::Slowed { .. } | Phase::Returning { .. })
    }

    /// Slow start is over.
    pub(super) fn started(&mut self, ack: &AckInfo) {
        if let Phase::Starting = self.phase {
            let slow_at = ack.now + ack.srtt * 2;
            self.phase = Phase::Cruising { slow_at };
        }
    }

    /// Begins and ends slowdowns.
    pub(super) fn slow_down(
        &mut self,
        ack: &AckInfo,
        window: &mut u64,
        threshold: &mut u64,
        mss: u16,
    ) {
        match self.phase {
            Phase::Starting if *window >= *threshold => self.started(ack),
            Phase::Starting => {}
            Phase::Cruising { slow_at } if ack.now >= slow_at => {
                self.phase = Phase::Slowed {
                    began: ack.now,
                    until: ack.now + ack.srtt * 2,
                    back_to: *window,
                };
                *window = FLOOR * u64::from(mss);
                *threshold = *window;
            }
            Phase::Cruising { .. } => {}
            Phase::Slowed {
                began,
                until,
                back_to,
            } => {
                *window = FLOOR * u64::from(mss);
                *threshold = *window;
                if ack.now >= until {
                    *threshold = back_to.max(*window + 1);
                    self.phase = Phase::Returning { began };
                }
            }
            Phase::Returning { began } => {
                if *window >= *threshold {
                    let took = ack.now - began;
                    let slow_at = ack.now + took * APART;
                    self.phase = Phase::Cruising { slow_at };
                }
            }
        }
    }

    pub(super) fn on_ack(&mut self, ack: &AckInfo, window: &mut u64, mss: u16) {
        if let Phase::Slowed { .. } = self.phase {
            return;
        }
        let queueing = Self::queueing(ack);
        let (queue, target) = (queueing.as_micros(), self.target.as_micros());
        if queue > target {
            *window -= decrease(queue, target, ack.bytes, *window);
        }
        if !ack.app_limited && !ack.recovering {
            let grown = ack.bytes * u64::from(mss) / self.gain(ack.min_rtt);
            *window += grown / (*window).max(1);
        }
    }
}
