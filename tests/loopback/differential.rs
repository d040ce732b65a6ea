//! The same script on every backend shows the same bytes and the same outcomes.

use crate::backends::{Poll, Uring};
use flock_tests::conformance::script::play;

#[test]
fn backends_agree() {
    for seed in 0..4 {
        let reference = play::<Poll>(seed, 25);
        assert!(reference.iter().any(|seen| seen.outcomes.len() > 4));
        assert_eq!(reference, play::<Uring>(seed, 25), "seed {seed}");
    }
}
