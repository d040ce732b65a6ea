//! Medians, and how sure a median of paired ratios is.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;

/// Resamples drawn for a bound.
const RESAMPLES: usize = 10_000;

/// Median, least and greatest of some values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Summary {
    /// Summarises `values`; zeroes when there are none.
    #[must_use]
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (sorted.first(), sorted.last()) else {
            return Self::default();
        };
        let median = middle(&sorted);
        Self { median, min, max }
    }
}

/// The median of sorted values, of which there is at least one.
fn middle(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[half]
    } else {
        f64::midpoint(sorted[half - 1], sorted[half])
    }
}

/// Where the true median lies, by the percentile bootstrap: one-sided 95 % bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Bounds {
    /// In 95 of 100 resamples the median is at least this.
    pub lower: f64,
    /// In 95 of 100 resamples the median is at most this.
    pub upper: f64,
}

/// The bounds of the median of `values`; the same `seed` gives the same bounds.
#[must_use]
pub fn bounds(values: &[f64], seed: u64) -> Bounds {
    if values.is_empty() {
        return Bounds::default();
    }
    let mut rng = StdRng::seed_from_u64(seed);
    let mut resample = vec![0.0; values.len()];
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            for value in &mut resample {
                *value = values[rng.random_range(0..values.len())];
            }
            resample.sort_by(f64::total_cmp);
            middle(&resample)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    Bounds {
        lower: medians[RESAMPLES / 20],
        upper: medians[RESAMPLES - 1 - RESAMPLES / 20],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_of_odd_even_and_no_values() {
        let summary = Summary::of(&[3.0, 1.0, 2.0]);
        assert_eq!((summary.median, summary.min, summary.max), (2.0, 1.0, 3.0));
        assert!((Summary::of(&[1.0, 2.0, 3.0, 4.0]).median - 2.5).abs() < 1e-9);
        assert_eq!(Summary::of(&[]), Summary::default());
    }

    #[test]
    fn bounds_enclose_the_median_and_repeat() {
        let values: Vec<f64> = (0..15).map(|n| 1.0 + f64::from(n) / 100.0).collect();
        let bounds_once = bounds(&values, 7);
        assert_eq!(bounds_once, bounds(&values, 7));
        assert!(bounds_once.lower < 1.07 && 1.07 < bounds_once.upper);
        assert!(bounds_once.lower >= 1.0 && bounds_once.upper <= 1.14);
        let sure = bounds(&[2.0; 15], 7);
        assert_eq!((sure.lower, sure.upper), (2.0, 2.0));
    }
}
