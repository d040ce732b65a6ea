//! The tasks a turn has something for, woken together.
//!
//! Waking a task of another thread may cost a system call, and on the same core a change of threads
//! there and back. So a shard wakes one, and that one wakes the others from its own thread as soon as
//! it touches its connection, for which runtimes need neither. What it has not woken a moment later,
//! since a woken task need not do anything, the shard wakes after all.

use std::collections::VecDeque;
use std::task::Waker;
use std::time::Duration;
use sync::{AtomicUsize, Mutex, MutexGuard, Ordering};

#[cfg(not(loom))]
mod sync {
    pub(super) use std::sync::atomic::{AtomicUsize, Ordering};
    pub(super) use std::sync::{Mutex, MutexGuard};
}
#[cfg(loom)]
mod sync {
    pub(super) use loom::sync::atomic::{AtomicUsize, Ordering};
    pub(super) use loom::sync::{Mutex, MutexGuard};
}

/// How long the task that was woken may take to wake the others.
pub(super) const MOMENT: Duration = Duration::from_micros(100);

/// Tasks of one shard's connections that somebody is to wake.
#[derive(Default)]
pub(super) struct Batch {
    wakers: Mutex<VecDeque<Waker>>,
    /// How many they are, as a hint that costs no lock.
    left: AtomicUsize,
}

impl Batch {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Waker>> {
        match self.wakers.lock() {
            Ok(wakers) => wakers,
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    /// Wakes the first of `woken` and leaves the others to it, those of an earlier turn it wakes itself.
    /// Whether it is to be called again within a [`MOMENT`].
    pub(super) fn wake(&self, woken: &mut Vec<Waker>) -> bool {
        self.wake_rest();
        let mut all = woken.drain(..);
        let Some(first) = all.next() else {
            return false;
        };
        if all.len() > 0 {
            let mut wakers = self.lock();
            wakers.extend(all);
            self.left.store(wakers.len(), Ordering::Release);
        }
        first.wake();
        self.left.load(Ordering::Acquire) > 0
    }

    /// Wakes whoever is left, each outside the lock.
    pub(super) fn wake_rest(&self) {
        while self.left.load(Ordering::Acquire) > 0 {
            let mut wakers = self.lock();
            let next = wakers.pop_front();
            self.left.store(wakers.len(), Ordering::Release);
            drop(wakers);
            if let Some(next) = next {
                next.wake();
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::task::Wake;

    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl Wake for Counting {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn one_is_woken_the_others_by_whoever_comes_first() {
        let tasks: Vec<_> = (0..3).map(|_| Arc::new(Counting::default())).collect();
        let counts = || -> Vec<_> { tasks.iter().map(|t| t.0.load(Ordering::Relaxed)).collect() };
        let wakers = || tasks.iter().cloned().map(Waker::from).collect::<Vec<_>>();
        let batch = Batch::default();
        assert!(!batch.wake(&mut Vec::new()));
        assert!(batch.wake(&mut wakers()));
        assert_eq!(counts(), [1, 0, 0]);
        batch.wake_rest();
        assert_eq!(counts(), [1, 1, 1]);
        assert!(batch.wake(&mut wakers()));
        assert_eq!(counts(), [2, 1, 1]);
        assert!(!batch.wake(&mut Vec::new()), "the first did nothing");
        assert_eq!(counts(), [2, 2, 2]);
        assert!(!batch.wake(&mut vec![wakers().remove(0)]), "it is alone");
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    struct Counting(AtomicUsize);

    impl std::task::Wake for Counting {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn loom_each_task_of_a_batch_is_woken_once() {
        loom::model(|| {
            let batch = Arc::new(Batch::default());
            let tasks: Vec<_> = (0..3)
                .map(|_| std::sync::Arc::new(Counting(AtomicUsize::new(0))))
                .collect();
            let other = {
                let batch = batch.clone();
                thread::spawn(move || batch.wake_rest())
            };
            let mut woken = tasks.iter().cloned().map(Waker::from).collect();
            // The second call comes only where the first asks for it.
            if batch.wake(&mut woken) {
                batch.wake(&mut woken);
            }
            other.join().unwrap();
            for task in tasks {
                assert_eq!(task.0.load(Ordering::Relaxed), 1);
            }
        });
    }
}
