//! Time and waking.

use super::{Fixture, Rig};
use flock_engine::io::Driver;
use std::time::Duration;

/// How late a turn may end. Generous, because the machine may be busy; the best of several
/// tries counts.
const LATE: Duration = Duration::from_millis(5);

/// A turn without events ends at its deadline, never before and hardly after.
pub fn deadlines_are_kept<F: Fixture>() {
    let mut rig = Rig::new::<F>();
    rig.listen::<F>();
    for micros in [50, 300, 999, 1_000, 2_500, 15_000, 60_000] {
        let wait = Duration::from_micros(micros);
        let mut best = Duration::MAX;
        for _ in 0..10 {
            rig.turn(Duration::ZERO);
            let deadline = rig.driver.now() + wait;
            let now = rig.turn(wait);
            assert!(now >= deadline, "{:?} early", deadline - now);
            best = best.min(now - deadline);
            if best < LATE {
                break;
            }
        }
        assert!(best < LATE, "{best:?} after a wait of {wait:?}");
    }
}

/// Deadlines are not rounded up to a millisecond.
pub fn deadlines_are_fine_grained<F: Fixture>() {
    let mut rig = Rig::new::<F>();
    let wait = Duration::from_micros(100);
    let late = (0..100).map(|_| {
        rig.turn(Duration::ZERO);
        let deadline = rig.driver.now() + wait;
        rig.turn(wait) - deadline
    });
    let best = late.min().expect("a hundred tries");
    assert!(best < Duration::from_micros(600), "{best:?} late at best");
}

/// A deadline in the past is a turn that only looks.
pub fn a_past_deadline_does_not_wait<F: Fixture>() {
    let mut rig = Rig::new::<F>();
    let before = rig.driver.now();
    for _ in 0..100 {
        rig.turn(Duration::ZERO);
    }
    assert!(rig.driver.now() - before < Duration::from_secs(1));
    assert_eq!(rig.driver.counters().turns, 100);
}

/// A wake-up before the turn ends that turn.
pub fn an_early_wake_is_kept<F: Fixture>() {
    let mut rig = Rig::new::<F>();
    let waker = rig.driver.waker();
    for _ in 0..3 {
        waker.wake();
        let before = rig.driver.now();
        let now = rig.turn(Duration::from_secs(20));
        assert!(now - before < Duration::from_secs(10), "slept");
        assert!(rig.latest.is_empty());
    }
    // Used up: the next turn waits again.
    rig.turn(Duration::ZERO);
    let before = rig.driver.now();
    let now = rig.turn(Duration::from_millis(10));
    assert!(now - before >= Duration::from_millis(10));
}

/// Time goes forward, from turn to turn and between turn and `now`.
pub fn time_never_goes_back<F: Fixture>() {
    let mut rig = Rig::new::<F>();
    for step in 0..50 {
        rig.turn(Duration::from_micros(step * 10));
    }
}
