//! A shard's mailbox: many senders, one reader that takes everything at a stroke.

use crate::io::Waker;
use std::fmt;
use sync::{Arc, AtomicU64, Mutex, MutexGuard, Ordering};

#[cfg(not(loom))]
mod sync {
    pub(super) use std::sync::atomic::{AtomicU64, Ordering};
    pub(super) use std::sync::{Arc, Mutex, MutexGuard};
}
#[cfg(loom)]
mod sync {
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering};
    pub(super) use loom::sync::{Arc, Mutex, MutexGuard};
}

/// The reading side.
///
/// Waking is the costly part, so it happens only for a reader that may be asleep. The order that
/// keeps a wake-up from being lost: a sender queues and looks at `asleep`, the reader looks at the
/// queue and sets `asleep`, each in one go under the queue's lock, so one of them sees the other.
pub(crate) struct Mailbox<T> {
    shared: Arc<Shared<T>>,
}

/// The sending side.
pub(crate) struct Sender<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    refused: AtomicU64,
    waker: Waker,
    limit: usize,
    protocol_limit: usize,
}

struct State<T> {
    mail: Vec<T>,
    /// How many of `mail` count against the ordinary limit.
    ordinary: usize,
    closed: bool,
    /// Whether the reader may be asleep and nobody has begun to wake it.
    asleep: bool,
}

/// Mail that was not taken, handed back.
pub(crate) enum SendError<T> {
    /// The mailbox is at its limit.
    Full(T),
    /// The shard has ended.
    Closed(T),
}

impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "Full",
            Self::Closed(_) => "Closed",
        })
    }
}

impl<T> Mailbox<T> {
    /// `limit`: ordinary messages at a time. `protocol_limit`: messages of all kinds at a time
    /// that the protocol between shards could at the most produce; more is a bug.
    pub(crate) fn new(limit: usize, protocol_limit: usize, waker: Waker) -> (Sender<T>, Self) {
        let state = State {
            mail: Vec::new(),
            ordinary: 0,
            closed: false,
            asleep: false,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            refused: AtomicU64::new(0),
            waker,
            limit,
            protocol_limit: protocol_limit.saturating_add(limit),
        });
        (
            Sender {
                shared: shared.clone(),
            },
            Self { shared },
        )
    }

    /// Says that the reader is about to sleep. `false`: there is mail, so it must not.
    pub(crate) fn prepare_sleep(&self) -> bool {
        // Under the lock: a sender that queued before sees no sleeper, but is seen here.
        let mut state = self.shared.lock();
        state.asleep = state.mail.is_empty();
        state.asleep
    }

    /// Says that the reader is awake again.
    pub(crate) fn awake(&self) {
        self.shared.lock().asleep = false;
    }

    /// Takes all mail, in order, into `into`, which must be empty: the two vectors change
    /// places, so that neither is ever allocated anew.
    pub(crate) fn take(&self, into: &mut Vec<T>) {
        debug_assert!(into.is_empty(), "mail of the turn before is still there");
        let mut state = self.shared.lock();
        std::mem::swap(&mut state.mail, into);
        state.ordinary = 0;
    }

    /// Messages refused because the mailbox was at its limit.
    pub(crate) fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }
}

impl<T> Drop for Mailbox<T> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closed = true;
        // Dropped outside the lock: mail may hold reply channels whose owners run on drop.
        let mail = std::mem::take(&mut state.mail);
        drop(state);
        drop(mail);
    }
}

impl<T> Sender<T> {
    /// Leaves a message, if there is room.
    pub(crate) fn send(&self, message: T) -> Result<(), SendError<T>> {
        let mut state = self.shared.lock();
        if state.closed {
            return Err(SendError::Closed(message));
        }
        if state.ordinary >= self.shared.limit {
            self.shared.refused.fetch_add(1, Ordering::Relaxed);
            return Err(SendError::Full(message));
        }
        state.ordinary += 1;
        state.mail.push(message);
        self.shared.wake_sleeper(state);
        Ok(())
    }

    /// Leaves a message of a kind whose number is bounded by the number of connections. It
    /// always finds room, since losing one would leave the shards at odds; a shard that has
    /// ended takes none, and needs none.
    pub(crate) fn send_protocol(&self, message: T) {
        let mut state = self.shared.lock();
        if state.closed {
            return;
        }
        assert!(
            state.mail.len() < self.shared.protocol_limit,
            "more messages than connections"
        );
        state.mail.push(message);
        self.shared.wake_sleeper(state);
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        match self.state.lock() {
            Ok(state) => state,
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    fn wake_sleeper(&self, mut state: MutexGuard<'_, State<T>>) {
        // One of several senders wakes; the others' mail is found by the same turn.
        let asleep = std::mem::take(&mut state.asleep);
        drop(state);
        if asleep {
            self.waker.wake();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::io::Wake;
    use std::sync::atomic::AtomicUsize;

    #[derive(Default)]
    struct CountingWake(AtomicUsize);

    impl Wake for CountingWake {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn mailbox(limit: usize) -> (Sender<u32>, Mailbox<u32>, std::sync::Arc<CountingWake>) {
        let wake = std::sync::Arc::new(CountingWake::default());
        let (sender, mailbox) = Mailbox::new(limit, 2, Waker::new(wake.clone()));
        (sender, mailbox, wake)
    }

    #[test]
    fn only_a_sleeper_is_woken_and_only_once() {
        let (sender, mailbox, wake) = mailbox(8);
        sender.send(1).unwrap();
        assert_eq!(wake.0.load(Ordering::Relaxed), 0);
        assert!(!mailbox.prepare_sleep(), "there is mail");
        let mut mail = Vec::new();
        mailbox.take(&mut mail);
        assert!(mailbox.prepare_sleep());
        sender.send(2).unwrap();
        sender.send(3).unwrap();
        assert_eq!(wake.0.load(Ordering::Relaxed), 1);
        mail.clear();
        mailbox.awake();
        mailbox.take(&mut mail);
        assert_eq!(mail, [2, 3]);
    }

    #[test]
    fn limits_hold_and_protocol_messages_have_room_of_their_own() {
        let (sender, mailbox, _) = mailbox(1);
        sender.send(1).unwrap();
        assert!(matches!(sender.send(2), Err(SendError::Full(2))));
        sender.send_protocol(3);
        assert_eq!(mailbox.refused(), 1);
        drop(mailbox);
        assert!(matches!(sender.send(4), Err(SendError::Closed(4))));
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use crate::io::Wake;
    use loom::sync::Notify;
    use loom::thread;

    /// A driver's wait, for the model checker.
    struct NotifyWake(Notify);

    impl Wake for NotifyWake {
        fn wake(&self) {
            self.0.notify();
        }
    }

    #[test]
    fn no_wake_up_is_lost() {
        loom::model(|| {
            let wake = std::sync::Arc::new(NotifyWake(Notify::new()));
            let (sender, mailbox) = Mailbox::new(8, 8, Waker::new(wake.clone()));
            let threads: Vec<_> = (0..2)
                .map(|n| {
                    let sender = sender.clone();
                    thread::spawn(move || sender.send(n).unwrap())
                })
                .collect();
            let (mut seen, mut mail) = (0, Vec::new());
            while seen < 2 {
                if mailbox.prepare_sleep() {
                    // A lost wake-up would be a deadlock, which the checker reports.
                    wake.0.wait();
                }
                mailbox.awake();
                mailbox.take(&mut mail);
                seen += mail.drain(..).count();
            }
            for thread in threads {
                thread.join().unwrap();
            }
        });
    }
}
