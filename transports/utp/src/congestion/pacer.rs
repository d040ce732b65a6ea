use flock_transport::Instant;
use std::time::Duration;

/// Lets bytes go at a rate, in bursts of a few milliseconds at the most, so that trains do not build the
/// queue that is being measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pacer {
    /// A burst is what the rate brings in this time …
    quantum: Duration,
    /// Until when what was sent has had its time, at the rate below; later than now: in debt.
    paid_until: Instant,
    rate: u64,
}

/// … but at least so many segments on fast paths, where timers are coarser than that,
const SEGMENTS_FAST: u64 = 10;
/// and on slow ones, where each of them is a queue of its own.
const SEGMENTS_SLOW: u64 = 2;
/// What separates the two: 50 Mbit/s.
const FAST: u64 = 50_000_000 / 8;
/// From here on segments wait for company: 100 Mbit/s.
const COMPANY: u64 = 100_000_000 / 8;

/// Nanoseconds.
const SECOND: u64 = 1_000_000_000;

/// Time that `bytes` take at `rate` bytes a second.
fn time(bytes: u64, rate: u64) -> Duration {
    Duration::from_nanos(bytes.saturating_mul(SECOND) / rate.max(1))
}

impl Pacer {
    pub(crate) fn new(quantum: Duration) -> Self {
        Self {
            quantum,
            paid_until: Instant::ZERO,
            rate: 0,
        }
    }

    fn burst(&self, rate: u64, mss: u16) -> Duration {
        let segments = if rate >= FAST {
            SEGMENTS_FAST
        } else {
            SEGMENTS_SLOW
        };
        self.quantum.max(time(segments * u64::from(mss), rate))
    }

    /// Bytes that may go now.
    pub(crate) fn budget(&self, now: Instant, rate: u64, mss: u16) -> u64 {
        let burst = self.burst(rate, mss);
        let debt = self.debt(now, rate);
        let nanos = u64::try_from(burst.saturating_sub(debt).as_nanos()).unwrap_or(u64::MAX);
        nanos.saturating_mul(rate) / SECOND
    }

    /// Bytes were sent.
    pub(crate) fn sent(&mut self, now: Instant, bytes: u64, rate: u64) {
        // Time in which nothing was sent is not saved up beyond a burst.
        self.paid_until = now + self.debt(now, rate) + time(bytes, rate);
        self.rate = rate;
    }

    /// What was sent is owed in bytes: at another rate it takes another time.
    fn debt(&self, now: Instant, rate: u64) -> Duration {
        let debt = self.paid_until.since(now);
        if debt.is_zero() || rate == self.rate {
            return debt;
        }
        let nanos = debt.as_nanos() * u128::from(self.rate) / u128::from(rate.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Whether a train may begin now. On slow paths that is whenever one segment may go; on fast ones
    /// each that left with every acknowledgement would be a train of its own, so it waits for company.
    pub(crate) fn begins(&self, now: Instant, rate: u64, mss: u16) -> bool {
        rate < COMPANY || self.next(now, rate, mss) <= now
    }

    /// When a segment may go; `now` if it may already.
    pub(crate) fn next(&self, now: Instant, rate: u64, mss: u16) -> Instant {
        let wanted = time(mss.into(), rate);
        let debt = self.debt(now, rate);
        let room = self.burst(rate, mss).saturating_sub(wanted);
        // A little later than just enough for one, for trains of some length.
        now + debt.saturating_sub(room / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUANTUM: Duration = Duration::from_millis(1);

    /// Sends segments through the pacer for `span`; the bytes that went, and the largest burst.
    fn run(rate: u64, span: Duration) -> (u64, u64) {
        const MSS: u16 = 1_452;
        let mut pacer = Pacer::new(QUANTUM);
        let (begin, mut now) = (Instant::from_nanos(1 << 40), Instant::from_nanos(1 << 40));
        let (mut total, mut most) = (0, 0);
        while now - begin < span {
            let segments = pacer.budget(now, rate, MSS) / u64::from(MSS);
            let bytes = segments * u64::from(MSS);
            pacer.sent(now, bytes, rate);
            total += bytes;
            most = most.max(bytes);
            let next = pacer.next(now, rate, MSS);
            assert!(next > now || segments > 0, "time goes on");
            now = next.max(now + Duration::from_nanos(1));
        }
        (total, most)
    }

    #[test]
    fn rates_are_kept_from_slow_to_fast_and_bursts_are_short() {
        for rate in [
            1_250,
            125_000,
            6_000_000,
            12_500_000,
            125_000_000,
            5_000_000_000,
        ] {
            let span = Duration::from_secs(if rate < 10_000 { 200 } else { 1 });
            let (total, most) = run(rate, span);
            let fair = rate * span.as_secs();
            let slack = fair / 100 + 20 * 1_452;
            assert!(total.abs_diff(fair) <= slack, "{rate}: {total} of {fair}");
            let limit = (rate / 1_000).max(10 * 1_452);
            assert!(most <= limit, "{rate}: a burst of {most}");
            if rate < FAST {
                assert!(most <= (rate / 1_000).max(2 * 1_452), "{rate}: {most}");
            }
        }
    }

    #[test]
    fn a_debt_is_paid_at_the_rate_there_is() {
        let mut pacer = Pacer::new(QUANTUM);
        let now = Instant::from_nanos(1 << 50);
        pacer.sent(now, 10_000, 1_000);
        assert_eq!(
            pacer.next(now, 1_000, 1_000) - now,
            Duration::from_millis(9_500)
        );
        assert_eq!(
            pacer.next(now, 1_000_000, 1_000) - now,
            Duration::from_micros(9_500)
        );
        let later = now + Duration::from_millis(8);
        assert_eq!(pacer.budget(later, 1_000_000, 1_000), 0);
    }

    #[test]
    fn a_longer_quantum_gives_longer_bursts() {
        const MSS: u16 = 1_452;
        let now = Instant::from_nanos(1 << 50);
        let budget = |quantum| Pacer::new(quantum).budget(now, 125_000, MSS);
        assert_eq!(
            budget(QUANTUM),
            2 * u64::from(MSS),
            "two segments at the least"
        );
        assert_eq!(budget(Duration::from_millis(100)), 12_500);
    }

    #[test]
    fn a_train_begins_with_room_for_some_length_or_at_once_on_slow_paths() {
        const MSS: u16 = 1_452;
        let now = Instant::from_nanos(1 << 50);
        for (rate, waits) in [(1_250_000, false), (25_000_000, true)] {
            let mut pacer = Pacer::new(QUANTUM);
            let all = pacer.budget(now, rate, MSS);
            pacer.sent(now, all, rate);
            assert!(!pacer.begins(now, rate, MSS) || !waits);
            let one = now + time(MSS.into(), rate) + Duration::from_nanos(1);
            assert!(pacer.budget(one, rate, MSS) >= MSS.into());
            assert_eq!(pacer.begins(one, rate, MSS), !waits, "{rate}");
            assert!(pacer.begins(pacer.next(now, rate, MSS), rate, MSS));
        }
    }

    #[test]
    fn idle_time_is_not_saved_up() {
        let mut pacer = Pacer::new(QUANTUM);
        let later = Instant::from_nanos(1 << 50);
        assert_eq!(pacer.budget(later, 10_000_000, 1_000), 10_000);
        pacer.sent(later, 10_000, 10_000_000);
        assert_eq!(pacer.budget(later, 10_000_000, 1_000), 0);
    }
}
