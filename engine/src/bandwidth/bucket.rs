use flock_transport::Instant;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a bucket that was full lets through at once.
const BURST: Duration = Duration::from_millis(20);

/// A token bucket, kept as the time until which its tokens are spent. Tokens may be spent that are
/// not there yet: the debt is paid before the next are given. Shards share buckets, and their
/// clock; two that spend at the same moment go one quantum into debt.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    /// Bytes a second; 0 is no limit.
    rate: AtomicU64,
    /// Nanoseconds.
    spent_until: AtomicU64,
}

impl Bucket {
    pub(crate) fn set_rate(&self, rate: Option<NonZeroU64>) {
        self.rate
            .store(rate.map_or(0, NonZeroU64::get), Ordering::Relaxed);
        // A debt at the old rate says nothing about the new one.
        self.spent_until.store(0, Ordering::Relaxed);
    }

    pub(crate) fn rate(&self) -> Option<NonZeroU64> {
        NonZeroU64::new(self.rate.load(Ordering::Relaxed))
    }

    /// From when on there are tokens.
    pub(crate) fn ready_at(&self) -> Instant {
        match self.rate() {
            Some(_) => Instant::from_nanos(self.spent_until.load(Ordering::Relaxed)),
            None => Instant::ZERO,
        }
    }

    /// How long `bytes` take.
    pub(crate) fn cost(&self, bytes: u64) -> Duration {
        let Some(rate) = self.rate() else {
            return Duration::ZERO;
        };
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.get());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    pub(crate) fn spend(&self, now: Instant, bytes: u64) {
        if self.rate().is_none() {
            return;
        }
        let cost = self.cost(bytes);
        let _always_some =
            self.spent_until
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |until| {
                    Some(advance(Instant::from_nanos(until), now, cost).as_nanos())
                });
    }
}

/// The time until which tokens are spent, once those for `cost` are, too.
pub(super) fn advance(until: Instant, now: Instant, cost: Duration) -> Instant {
    let burst = u64::try_from(BURST.as_nanos()).expect("a moment");
    let full = Instant::from_nanos(now.as_nanos().saturating_sub(burst));
    until.max(full) + cost
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    proptest! {
        /// Over any time no more goes through than the rate gives, a burst and one debt; and who
        /// asks often enough gets as much.
        #[test]
        fn the_rate_holds(rate in 1_000_u64..1_000_000_000, quantum in 1_u64..300_000, waits in prop::collection::vec(0_u64..20_000_000, 1..200)) {
            let bucket = Bucket::default();
            bucket.set_rate(NonZeroU64::new(rate));
            let start = SECOND;
            let mut now = Instant::from_nanos(start);
            let mut through = 0;
            for wait in waits {
                now = now + Duration::from_nanos(wait);
                while bucket.ready_at() <= now {
                    bucket.spend(now, quantum);
                    through += quantum;
                }
                let elapsed = u128::from(now.as_nanos() - start);
                let given = |nanos: u128| u64::try_from(u128::from(rate) * nanos / u128::from(SECOND)).unwrap();
                // A cost is rounded down to a nanosecond.
                let rounding = given(u128::from(through / quantum));
                prop_assert!(through <= given(elapsed + BURST.as_nanos()) + quantum + rounding + 1);
                prop_assert!(through >= given(elapsed), "{through} of {}", given(elapsed));
            }
        }
    }

    #[test]
    fn without_a_rate_everything_goes() {
        let bucket = Bucket::default();
        bucket.spend(Instant::from_nanos(5), u64::MAX);
        assert_eq!(bucket.ready_at(), Instant::ZERO);
    }

    #[test]
    fn a_new_rate_forgives_the_debt_of_the_old() {
        let bucket = Bucket::default();
        bucket.set_rate(NonZeroU64::new(1));
        let now = Instant::from_nanos(SECOND);
        bucket.spend(now, 1_000_000);
        assert!(bucket.ready_at() > now + Duration::from_secs(900_000));
        bucket.set_rate(NonZeroU64::new(1_000));
        assert!(bucket.ready_at() <= now);
    }
}
