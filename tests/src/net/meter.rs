use flock_transport::Instant;
use std::time::Duration;

/// Bytes over time, in steps of 10 ms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meter {
    steps: Vec<u64>,
    total: u64,
}

const STEP_NANOS: u64 = 10_000_000;
const STEP: Duration = Duration::from_nanos(STEP_NANOS);

fn step(at: Instant) -> usize {
    usize::try_from(at.as_nanos() / STEP_NANOS).unwrap_or(usize::MAX)
}

impl Meter {
    /// Adds bytes at a time.
    pub fn add(&mut self, at: Instant, bytes: u64) {
        let step = step(at);
        if step >= self.steps.len() {
            self.steps.resize(step + 1, 0);
        }
        self.steps[step] += bytes;
        self.total += bytes;
    }

    /// All bytes.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Bytes per second between two times, which count in whole steps.
    #[must_use]
    pub fn rate(&self, from: Instant, to: Instant) -> f64 {
        let (first, last) = (step(from), step(to));
        let within = self.steps.iter().take(last).skip(first);
        let bytes: u64 = within.sum();
        bytes as f64 / (last.saturating_sub(first).max(1) as f64 * STEP.as_secs_f64())
    }

    /// The first time at which the rate over the `window` before it was at least `rate` bytes per
    /// second.
    #[must_use]
    pub fn reached(&self, rate: f64, window: Duration) -> Option<Instant> {
        let width = usize::try_from(window.as_nanos() / STEP.as_nanos())
            .unwrap_or(1)
            .max(1);
        let enough = rate * window.as_secs_f64();
        let mut sum = 0;
        for (index, bytes) in self.steps.iter().enumerate() {
            sum += bytes;
            if index >= width {
                sum -= self.steps[index - width];
            }
            if sum as f64 >= enough {
                return Some(Instant::ZERO + STEP * u32::try_from(index + 1).unwrap_or(u32::MAX));
            }
        }
        None
    }
}

/// Jain's index of fairness: 1 if all have the same, 1/n if one has all.
#[must_use]
pub fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    sum * sum / (shares.len() as f64 * squares)
}
