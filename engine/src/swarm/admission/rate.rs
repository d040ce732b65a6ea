//! How many inbound connections a second.

use flock_transport::Instant;
use std::sync::atomic::{AtomicU64, Ordering};

/// A token bucket in one number, which all shards share: when it would be full again. It holds
/// the tokens of one second.
#[derive(Debug)]
pub(crate) struct AcceptRate {
    /// Nanoseconds that one connection costs; 0: no limit.
    cost: u64,
    full_at: AtomicU64,
}

const SECOND: u64 = 1_000_000_000;

impl AcceptRate {
    /// `per_second` connections, 0 for any number.
    pub(crate) fn new(per_second: u32) -> Self {
        let cost = SECOND.checked_div(per_second.into());
        Self {
            cost: cost.map_or(0, |cost| cost.max(1)),
            full_at: AtomicU64::new(0),
        }
    }

    /// Takes a token, if there is one.
    pub(crate) fn take(&self, now: Instant) -> bool {
        if self.cost == 0 {
            return true;
        }
        let now = now.as_nanos();
        let after = |full_at: u64| {
            let after = full_at.max(now).saturating_add(self.cost);
            (after <= now.saturating_add(SECOND)).then_some(after)
        };
        self.full_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, after)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn taken(rate: &AcceptRate, ms: u64) -> usize {
        let now = Instant::ZERO + Duration::from_millis(ms);
        (0..1000).take_while(|_| rate.take(now)).count()
    }

    #[test]
    fn a_second_of_tokens_at_once_and_then_the_rate() {
        let rate = AcceptRate::new(10);
        assert_eq!(taken(&rate, 5_000), 10);
        assert_eq!(taken(&rate, 5_099), 0);
        assert_eq!(taken(&rate, 5_100), 1);
        assert_eq!(taken(&rate, 5_400), 3);
        assert_eq!(taken(&rate, 60_000), 10, "rest does not add up");
        assert_eq!(taken(&AcceptRate::new(0), 0), 1000);
        assert_eq!(taken(&AcceptRate::new(u32::MAX), 0), 1000);
    }
}
