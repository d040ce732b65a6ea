//! Who waits for what: tasks by their wakers, blocked threads by one of their own.

use std::sync::Arc;
use std::task::{Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// Tasks remembered at a time; beyond it those there are woken, to ask again.
const WAITERS_MAX: usize = 64;

/// The tasks that wait for one thing. Whoever takes wakers out of it calls them after giving up
/// its locks: a waker may run anything.
#[derive(Debug, Default)]
pub(crate) struct Waiters(Vec<Waker>);

impl Waiters {
    /// Remembers a task, once. What comes back is to be woken.
    #[must_use]
    pub(crate) fn add(&mut self, waker: &Waker) -> Vec<Waker> {
        if self.0.iter().any(|known| known.will_wake(waker)) {
            return Vec::new();
        }
        let crowd = if self.0.len() >= WAITERS_MAX {
            std::mem::take(&mut self.0)
        } else {
            Vec::new()
        };
        self.0.push(waker.clone());
        crowd
    }

    /// Moves all of them to `woken`.
    pub(crate) fn take(&mut self, woken: &mut Vec<Waker>) {
        woken.append(&mut self.0);
    }
}

/// Wakes all of `woken`, and leaves its memory for the next.
pub(crate) fn wake_all(woken: &mut Vec<Waker>) {
    for waker in woken.drain(..) {
        waker.wake();
    }
}

/// Wakes a blocked thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

thread_local! {
    static THIS_THREAD: Waker = Waker::from(Arc::new(Unpark(thread::current())));
}

/// Blocks this thread until `poll` is ready, or until `deadline` (`None`).
pub(crate) fn block_until<T>(
    deadline: Instant,
    mut poll: impl FnMut(&Waker) -> Poll<T>,
) -> Option<T> {
    THIS_THREAD.with(|waker| {
        loop {
            if let Poll::Ready(value) = poll(waker) {
                return Some(value);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            thread::park_timeout(left);
        }
    })
}

/// `timeout` from now; one beyond what a clock can say is as good as for ever.
pub(crate) fn deadline(timeout: Duration) -> Instant {
    const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    let now = Instant::now();
    now.checked_add(timeout).unwrap_or(now + FOR_EVER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl Wake for Counting {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn each_waits_once_and_a_crowd_is_woken() {
        let tasks: Vec<_> = (0..=WAITERS_MAX)
            .map(|_| Arc::new(Counting::default()))
            .collect();
        let count = || {
            tasks
                .iter()
                .map(|t| t.0.load(Ordering::Relaxed))
                .sum::<usize>()
        };
        let mut waiters = Waiters::default();
        for task in &tasks {
            let waker = Waker::from(task.clone());
            wake_all(&mut waiters.add(&waker));
            wake_all(&mut waiters.add(&waker));
        }
        assert_eq!(
            count(),
            WAITERS_MAX,
            "all but the last, which found too many"
        );
        let mut woken = Vec::new();
        waiters.take(&mut woken);
        wake_all(&mut woken);
        assert_eq!(count(), WAITERS_MAX + 1);
    }

    #[test]
    fn a_blocked_thread_gives_up_in_time() {
        let soon = Instant::now() + Duration::from_millis(20);
        assert_eq!(block_until(soon, |_| Poll::<()>::Pending), None);
        assert!(Instant::now() >= soon);
        let mut polls = 0;
        let ready = block_until(deadline(Duration::MAX), |waker| {
            polls += 1;
            waker.wake_by_ref();
            if polls == 3 {
                Poll::Ready(polls)
            } else {
                Poll::Pending
            }
        });
        assert_eq!(ready, Some(3));
    }
}
