use super::AckInfo;
use flock_transport::Instant;
use std::time::Duration;

/// When to leave slow start: HyStart++ (RFC 9406). A round whose shortest round trip is clearly
/// longer than that of the round before slows the growth; if it does not get shorter again within
/// some rounds, the start is over.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SlowStart {
    round_ends: Option<Instant>,
    /// Shortest round trips of this round and of the one before, in microseconds; 0: none.
    this: u32,
    last: u32,
    samples: u8,
    /// The round trip at which growth was slowed, and the rounds since.
    slowed: Option<(u32, u8)>,
}

/// What to do with an acknowledgement.
pub(super) struct Share {
    /// The window grows by the bytes delivered, divided by this.
    pub(super) divisor: u64,
    /// Slow start ends now.
    pub(super) over: bool,
}

/// Samples in a round before it says anything (`N_RTT_SAMPLE`).
const SAMPLES: u8 = 8;
/// `MIN_RTT_THRESH` and `MAX_RTT_THRESH`.
const RISE_MIN: u32 = 4_000;
const RISE_MAX: u32 = 16_000;
/// `CSS_GROWTH_DIVISOR` and `CSS_ROUNDS`.
const SLOWED_BY: u64 = 4;
const SLOWED_ROUNDS: u8 = 5;

impl SlowStart {
    pub(super) fn share(&mut self, ack: &AckInfo) -> Share {
        let rtt = u32::try_from(ack.rtt.as_micros())
            .unwrap_or(u32::MAX)
            .max(1);
        if self.round_ends.is_none_or(|end| ack.now >= end) {
            self.round_ends = Some(ack.now + ack.srtt.max(Duration::from_micros(1)));
            (self.last, self.this, self.samples) = (self.this, rtt, 0);
            if let Some((_, rounds)) = &mut self.slowed {
                *rounds += 1;
            }
        }
        self.this = self.this.min(rtt);
        self.samples = self.samples.saturating_add(1);
        if self.samples >= SAMPLES && self.last > 0 {
            match self.slowed {
                None => {
                    let rise = (self.last / 8).clamp(RISE_MIN, RISE_MAX);
                    if self.this >= self.last + rise {
                        self.slowed = Some((self.this, 0));
                    }
                }
                // It was jitter, and no queue.
                Some((then, _)) if self.this < then => self.slowed = None,
                Some(_) => {}
            }
        }
        Share {
            divisor: if self.slowed.is_some() { SLOWED_BY } else { 1 },
            over: self
                .slowed
                .is_some_and(|(_, rounds)| rounds >= SLOWED_ROUNDS),
        }
    }
}
