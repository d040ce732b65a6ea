use crate::io::Wake;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Ends a wait of the ring: an eventfd that a persistent multishot poll watches. The flag keeps
/// a burst of wake-ups to one system call and one completion.
pub(super) struct EventWaker {
    event: File,
    raised: AtomicBool,
}

impl EventWaker {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: takes two integers and returns a new descriptor or -1.
        let event = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if event < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor nobody else knows yet.
        let event = unsafe { OwnedFd::from_raw_fd(event) };
        Ok(Self {
            event: event.into(),
            raised: AtomicBool::new(false),
        })
    }

    pub(super) fn descriptor(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    /// Takes note of the wake-ups so far: later ones write again. Whatever was published before
    /// them is visible to the caller from here on.
    pub(super) fn acknowledge(&self) {
        self.raised.swap(false, Ordering::AcqRel);
    }
}

impl Wake for EventWaker {
    fn wake(&self) {
        if !self.raised.swap(true, Ordering::AcqRel) {
            // The counter would have to be raised 2^64 - 2 times before this could fail.
            let _ = (&self.event).write(&1_u64.to_ne_bytes());
        }
    }
}
