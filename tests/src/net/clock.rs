use flock_transport::Instant;
use std::time::Duration;

/// A node's own clock: it starts elsewhere, runs fast or slow, and may jump forward.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// What it shows at the start of the simulation.
    pub offset: Duration,
    /// How much faster than true time it runs, in millionths; negative: slower.
    pub skew_ppm: i32,
    /// True times at which it jumps forward, in order, and by how much. A monotonic clock never
    /// jumps back; to see one peer's stamps fall behind, let the other's jump.
    pub steps: Vec<(Instant, Duration)>,
}

const MILLION: i128 = 1_000_000;

impl Clock {
    /// What the clock shows at `at`, a true time.
    #[must_use]
    pub fn show(&self, at: Instant) -> Instant {
        let jumped = self.steps.iter().filter(|(when, _)| *when <= at);
        let base = jumped.fold(self.offset, |sum, (_, by)| sum + *by);
        Instant::from_nanos(narrow(self.scaled(at))) + base
    }

    /// The first true time at which the clock shows `shown` or more.
    #[must_use]
    pub fn when(&self, shown: Instant) -> Instant {
        let mut base = self.offset;
        let mut from = Instant::ZERO;
        for (at, by) in &self.steps {
            let reached = self.first(shown, base).max(from);
            if reached < *at {
                return reached;
            }
            base += *by;
            from = *at;
        }
        self.first(shown, base).max(from)
    }

    fn scaled(&self, at: Instant) -> i128 {
        let nanos = i128::from(at.as_nanos());
        nanos + nanos * i128::from(self.skew_ppm) / MILLION
    }

    fn first(&self, shown: Instant, base: Duration) -> Instant {
        let wanted =
            i128::from(shown.as_nanos()) - i128::try_from(base.as_nanos()).unwrap_or(i128::MAX);
        let rate = MILLION + i128::from(self.skew_ppm);
        // The division rounds; the loop, of two rounds at most, finds the exact nanosecond.
        let mut at = Instant::from_nanos(narrow(wanted * MILLION / rate));
        while self.scaled(at) < wanted && at < Instant::FAR_FUTURE {
            at = at + Duration::from_nanos(1);
        }
        at
    }
}

fn narrow(nanos: i128) -> u64 {
    u64::try_from(nanos.max(0)).unwrap_or(u64::MAX)
}
