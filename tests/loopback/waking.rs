//! Wake-ups from other threads.

use crate::backends::{Backend, Poll, Uring};
use flock_engine::io::{Driver, DriverConfig};
use flock_tests::conformance::Rig;
use std::sync::mpsc;
use std::time::Duration;

flock_tests::both_backends!(another_thread_ends_a_wait, spinning_puts_off_sleep);

/// Every wake-up ends a wait, whether it comes before, while or after the driver goes to sleep.
fn another_thread_ends_a_wait<B: Backend>() {
    let mut rig = Rig::new::<B>();
    rig.listen::<B>();
    let waker = rig.driver.waker();
    let (go, asked) = mpsc::channel::<u32>();
    let thread = std::thread::spawn(move || {
        for spins in asked {
            (0..spins).for_each(|_| std::hint::spin_loop());
            waker.wake();
        }
    });
    let before = rig.driver.now();
    for round in 0..500 {
        go.send(round * 20).expect("the thread runs");
        rig.turn(Duration::from_secs(20));
        assert!(rig.latest.is_empty());
    }
    assert!(rig.driver.now() - before < Duration::from_secs(10));
    drop(go);
    thread.join().expect("the thread ends");
}

/// A driver that may spin looks for completions that long before it sleeps, and keeps deadlines.
fn spinning_puts_off_sleep<B: Backend>() {
    let wait = Duration::from_millis(2);
    for (spin, sleeps) in [(Duration::ZERO, true), (wait / 2, true), (wait * 10, false)] {
        let mut rig = Rig::<B::Driver>::with::<B>(&DriverConfig {
            sockets: 16,
            spin,
            ..DriverConfig::default()
        });
        // A busy machine may use up a wait between two lines, hence several tries.
        let slept = (0..50).any(|_| {
            rig.turn(Duration::ZERO);
            let waits = rig.driver.counters().waits;
            let deadline = rig.driver.now() + wait;
            let now = rig.turn(wait);
            assert!(now >= deadline, "{:?} early", deadline - now);
            rig.driver.counters().waits > waits
        });
        assert_eq!(slept, sleeps, "with {spin:?} of spinning");
    }
}
