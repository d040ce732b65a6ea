use super::buffers;
use super::ring::{Entered, Wait};
use super::slots::{NO_FD, Ops, State};
use super::{DROP_GRACE, UringDriver, reap};
use crate::io::{Completions, Drained};
use io_uring::{opcode, squeue, types};
use std::mem::ManuallyDrop;
use std::time::Duration;

/// How long to wait before cancelling once more what did not end.
const ROUND: Duration = Duration::from_millis(20);

impl UringDriver {
    /// Ends every operation and closes every socket.
    pub(super) fn drain(&mut self, grace: Duration) -> Drained {
        if self.down {
            return Drained::default();
        }
        self.down = true;
        self.recycle_buffers();
        for slot in self.slots.iter_mut() {
            slot.wanted = Ops::NONE;
            slot.state = State::Closing;
        }
        let held = self.in_flight - u64::from(self.waker_armed);
        self.reap_everything(grace);
        for slot in self.slots.iter_mut() {
            let fd = std::mem::replace(&mut slot.fd, NO_FD);
            if fd != NO_FD {
                drop(reap::own(fd));
            }
        }
        self.pending.clear();
        self.starved.clear();
        self.paused.clear();
        Drained {
            ended: held - (self.in_flight - u64::from(self.waker_armed)),
            leaked: self.in_flight,
        }
    }

    fn reap_everything(&mut self, grace: Duration) {
        if self.ring.enable().is_err() {
            return;
        }
        let deadline = self.clock.now() + grace;
        let mut out = Completions::new();
        while self.in_flight > 0 || self.ring.has_submissions() {
            if self.in_flight > 0 {
                self.cancel_all();
            }
            let left = deadline - self.clock.now();
            let wait = if self.in_flight > 0 && !left.is_zero() {
                Wait::For(Some(left.min(ROUND)))
            } else {
                Wait::No
            };
            // Another thread than the ring's owner ends here: the kernel refuses it.
            let Ok(entered) = self.ring.enter(wait) else {
                return;
            };
            self.reap(&mut out);
            out.clear();
            self.pending.clear();
            if self.clock.now() >= deadline {
                return;
            }
            if entered == Entered::Busy {
                std::thread::sleep(super::BUSY_PAUSE);
            }
        }
    }

    fn cancel_all(&mut self) {
        let entry = opcode::AsyncCancel2::new(types::CancelBuilder::any())
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS);
        // SAFETY: a cancel points to nothing.
        unsafe { self.push(entry, reap::IGNORED) };
    }
}

impl Drop for UringDriver {
    fn drop(&mut self) {
        self.drain(DROP_GRACE);
        if self.in_flight > 0 {
            // Closing the ring would not stop the kernel from using this memory: keep all of it.
            return;
        }
        // A failure leaves the registration to the end of the ring, which follows at once.
        let _ = self.ring.unregister_buffers(buffers::STREAMS);
        if self.memory.is_some() {
            let _ = self.ring.unregister_buffers(buffers::DATAGRAMS);
        }
        // SAFETY: nothing is in flight, and none of the three is used again.
        unsafe { ManuallyDrop::drop(&mut self.ring) };
        // SAFETY: as above; no operation is left that could fill a buffer.
        unsafe { ManuallyDrop::drop(&mut self.buffers) };
        // SAFETY: as above.
        unsafe { ManuallyDrop::drop(&mut self.memory) };
        // SAFETY: as above.
        unsafe { ManuallyDrop::drop(&mut self.cargo) };
    }
}
