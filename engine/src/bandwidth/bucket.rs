use flock_transport::Instant;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a full bucket of many lets through at once.
pub(crate) const BURST: Duration = Duration::from_millis(20);

/// What a full bucket of one connection lets through at once: enough for a shard that has time for each
/// connection ten times a second.
pub(crate) const OWN_BURST: Duration = Duration::from_millis(100);

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

    /// The tokens there are, if so many fit.
    pub(crate) fn tokens(&self, now: Instant, burst: Duration) -> u64 {
        let unspent = now.since(self.ready_at()).min(burst);
        let rate = self.rate().map_or(0, NonZeroU64::get);
        let bytes = unspent.as_nanos() * u128::from(rate) / 1_000_000_000;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// How long `bytes` take.
    pub(crate) fn cost(&self, bytes: u64) -> Duration {
        let Some(rate) = self.rate() else {
            return Duration::ZERO;
        };
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.get());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Takes tokens out of a bucket that holds those of `burst`.
    pub(crate) fn spend(&self, now: Instant, bytes: u64, burst: Duration) {
        if self.rate().is_none() {
            return;
        }
        let cost = self.cost(bytes);
        let _always_some =
            self.spent_until
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |until| {
                    Some(advance(Instant::from_nanos(until), now, cost, burst).as_nanos())
                });
    }
}

/// The time until which tokens are spent, once those for `cost` are, too.
pub(super) fn advance(until: Instant, now: Instant, cost: Duration, burst: Duration) -> Instant {
    let burst = u64::try_from(burst.as_nanos()).expect("a moment");
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
                    bucket.spend(now, quantum, BURST);
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

    proptest! {
        /// Who comes late, but within the burst, finds all it has missed.
        #[test]
        fn nothing_is_lost_by_coming_late(rate in 1_000_u64..1_000_000_000, waits in prop::collection::vec(0_u64..90_000_000, 1..200)) {
            let bucket = Bucket::default();
            bucket.set_rate(NonZeroU64::new(rate));
            let mut now = Instant::from_nanos(SECOND);
            bucket.spend(now, bucket.tokens(now, OWN_BURST), OWN_BURST);
            let (start, mut through) = (now, 0);
            for wait in &waits {
                now = now + Duration::from_nanos(*wait);
                let tokens = bucket.tokens(now, OWN_BURST);
                bucket.spend(now, tokens, OWN_BURST);
                through += tokens;
            }
            let given = u128::from(rate) * now.since(start).as_nanos() / u128::from(SECOND);
            let given = u64::try_from(given).unwrap();
            // Neither tokens nor their cost are divided further than bytes and nanoseconds.
            let rounding = rate.div_ceil(SECOND) * (waits.len() as u64 + 1) + 1;
            prop_assert!(through <= given + rounding, "{through} of {given}");
            prop_assert!(through + 1 + rounding >= given, "{through} of {given}");
        }
    }

    #[test]
    fn without_a_rate_everything_goes() {
        let bucket = Bucket::default();
        bucket.spend(Instant::from_nanos(5), u64::MAX, BURST);
        assert_eq!(bucket.ready_at(), Instant::ZERO);
    }

    #[test]
    fn a_new_rate_forgives_the_debt_of_the_old() {
        let bucket = Bucket::default();
        bucket.set_rate(NonZeroU64::new(1));
        let now = Instant::from_nanos(SECOND);
        bucket.spend(now, 1_000_000, BURST);
        assert!(bucket.ready_at() > now + Duration::from_secs(900_000));
        bucket.set_rate(NonZeroU64::new(1_000));
        assert!(bucket.ready_at() <= now);
    }
}
