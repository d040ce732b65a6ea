//! What the generator threads tell the thread that watches them, without locks.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::Thread;

/// One generator thread's live figures; written by it alone, once a turn.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Who watches; woken when something is to be measured at once.
    watcher: Thread,
    thread: AtomicU32,
    handshaken: AtomicU64,
    failed: AtomicU64,
    open: AtomicU64,
    window_closed: AtomicBool,
    finished: AtomicBool,
}

/// A reading of [`Progress`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) handshaken: u64,
    pub(crate) failed: u64,
    pub(crate) open: u64,
}

impl Progress {
    /// Nothing has happened yet; `watcher` will look.
    pub(crate) fn new(watcher: Thread) -> Self {
        Self {
            watcher,
            thread: AtomicU32::new(0),
            handshaken: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            open: AtomicU64::new(0),
            window_closed: AtomicBool::new(false),
            finished: AtomicBool::new(false),
        }
    }

    /// Says which thread writes here.
    pub(crate) fn begin(&self, thread: u32) {
        self.thread.store(thread, Ordering::Release);
    }

    /// The thread that writes here, once it has begun.
    pub(crate) fn thread(&self) -> Option<u32> {
        Some(self.thread.load(Ordering::Acquire)).filter(|&thread| thread != 0)
    }

    pub(crate) fn publish(&self, reading: Reading) {
        self.handshaken.store(reading.handshaken, Ordering::Relaxed);
        self.failed.store(reading.failed, Ordering::Relaxed);
        self.open.store(reading.open, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Reading {
        Reading {
            handshaken: self.handshaken.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            open: self.open.load(Ordering::Relaxed),
        }
    }

    /// The window over which rates and CPU shares are taken is over.
    pub(crate) fn close_window(&self) {
        self.window_closed.store(true, Ordering::Release);
        self.watcher.unpark();
    }

    /// All is done; the thread stays until its CPU time has been read.
    pub(crate) fn finish(&self) {
        self.finished.store(true, Ordering::Release);
        self.watcher.unpark();
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }

    pub(crate) fn window_closed(&self) -> bool {
        self.window_closed.load(Ordering::Acquire)
    }
}

impl Reading {
    pub(crate) fn add(self, other: Self) -> Self {
        Self {
            handshaken: self.handshaken + other.handshaken,
            failed: self.failed + other.failed,
            open: self.open + other.open,
        }
    }
}
