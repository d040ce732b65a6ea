use crate::io::DriverConfig;
use arrayvec::ArrayVec;
use io_uring::{IoUring, Probe, cqueue, opcode, squeue, types};
use std::collections::VecDeque;
use std::io;
use std::time::Duration;

/// Completions taken off the queue at a time.
pub(super) const REAP: usize = 64;

/// A ring whose submission queue never refuses: what does not fit waits in user space, in order.
pub(super) struct Ring {
    io: IoUring,
    spill: VecDeque<squeue::Entry>,
    enabled: bool,
    pub(super) spilled: u64,
    pub(super) overflows: u64,
    #[cfg(test)]
    pub(super) pushed: u64,
    #[cfg(test)]
    pub(super) enters: std::cell::Cell<u64>,
}

/// How long to look for completions while entering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Only submit, and run what is ready.
    No,
    /// Until there is a completion, at most this long; `None`: without limit.
    For(Option<Duration>),
}

/// How entering went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entered {
    /// Submitted, and waited if asked; also when a signal or the time ended the wait.
    Ok,
    /// The kernel took nothing for want of memory or of room for completions: reap, then retry.
    Busy,
}

impl Ring {
    /// A ring that is still disabled: it belongs to the thread that enables it.
    pub(super) fn new(config: &DriverConfig) -> io::Result<Self> {
        let submissions = config.submissions.clamp(1, 1 << 15);
        let completions = config.completions.clamp(submissions, 1 << 16);
        // Not needing the index array saves memory; kernels before 6.6 do not know the flag.
        let io = match build(submissions, completions, true) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                build(submissions, completions, false)?
            }
            other => other?,
        };
        if !io.params().is_feature_nodrop() || !io.params().is_feature_ext_arg() {
            return Err(io::Error::from_raw_os_error(libc::ENOSYS));
        }
        Ok(Self {
            io,
            spill: VecDeque::new(),
            enabled: false,
            spilled: 0,
            overflows: 0,
            #[cfg(test)]
            pushed: 0,
            #[cfg(test)]
            enters: std::cell::Cell::new(0),
        })
    }

    /// The first operation this driver needs that the kernel does not know.
    pub(super) fn missing_operation(&self) -> io::Result<Option<&'static str>> {
        let needed = [
            ("accept", opcode::AcceptMulti::CODE),
            ("connect", opcode::Connect::CODE),
            ("recv", opcode::RecvMulti::CODE),
            ("recvmsg", opcode::RecvMsgMulti::CODE),
            ("send", opcode::Send::CODE),
            ("sendmsg", opcode::SendMsg::CODE),
            ("close", opcode::Close::CODE),
            ("async cancel", opcode::AsyncCancel::CODE),
            ("poll add", opcode::PollAdd::CODE),
        ];
        let mut probe = Probe::new();
        self.io.submitter().register_probe(&mut probe)?;
        Ok(needed
            .into_iter()
            .find(|(_, code)| !probe.is_supported(*code))
            .map(|(name, _)| name))
    }

    /// Makes the ring the calling thread's, which alone may enter it from here on.
    pub(super) fn enable(&mut self) -> io::Result<()> {
        if !self.enabled {
            self.io.submitter().register_enable_rings()?;
            self.enabled = true;
        }
        Ok(())
    }

    /// Registers a ring of `entries` buffers at `address` as `group`.
    ///
    /// # Safety
    ///
    /// The memory there, and that of the buffers it names, outlives the registration.
    pub(super) unsafe fn register_buffers(
        &self,
        address: u64,
        entries: u16,
        group: u16,
    ) -> io::Result<()> {
        let submitter = self.io.submitter();
        // SAFETY: the caller vouches for the memory.
        unsafe { submitter.register_buf_ring_with_flags(address, entries, group, 0) }
    }

    pub(super) fn unregister_buffers(&self, group: u16) -> io::Result<()> {
        self.io.submitter().unregister_buf_ring(group)
    }

    /// Queues an entry; it is submitted by the next [`enter`](Self::enter).
    ///
    /// # Safety
    ///
    /// What the entry points to stays in place until its completion, and its descriptor is open
    /// until it has been submitted.
    pub(super) unsafe fn push(&mut self, entry: squeue::Entry) {
        #[cfg(test)]
        {
            self.pushed += 1;
        }
        if self.spill.is_empty() {
            let mut queue = self.io.submission();
            // SAFETY: the caller vouches for the entry.
            if unsafe { queue.push(&entry) }.is_ok() {
                return;
            }
        }
        self.spilled += 1;
        self.spill.push_back(entry);
    }

    pub(super) fn has_completions(&mut self) -> bool {
        !self.io.completion().is_empty()
    }

    /// Whether entries wait for submission.
    pub(super) fn has_submissions(&mut self) -> bool {
        !self.spill.is_empty() || !self.io.submission().is_empty()
    }

    /// Whether the kernel has completions that only an enter brings into the queue.
    pub(super) fn has_deferred(&mut self) -> bool {
        let queue = self.io.submission();
        queue.taskrun() || queue.cq_overflow()
    }

    /// Takes up to `most` completions.
    pub(super) fn take(&mut self, into: &mut ArrayVec<cqueue::Entry, REAP>, most: usize) {
        let room = into.remaining_capacity().min(most);
        into.extend(self.io.completion().take(room));
    }

    /// Submits what is queued and waits. Errors are those the ring cannot go on after.
    pub(super) fn enter(&mut self, wait: Wait) -> io::Result<Entered> {
        if self.io.submission().cq_overflow() {
            self.overflows += 1;
        }
        self.refill();
        while !self.spill.is_empty() {
            if self.enter_once(Wait::No)? == Entered::Busy {
                return Ok(Entered::Busy);
            }
            self.refill();
        }
        self.enter_once(wait)
    }

    fn enter_once(&self, wait: Wait) -> io::Result<Entered> {
        #[cfg(test)]
        self.enters.set(self.enters.get() + 1);
        let submitter = self.io.submitter();
        let result = match wait {
            Wait::No => submitter.submit(),
            Wait::For(None) => submitter.submit_and_wait(1),
            Wait::For(Some(time)) => {
                let timespec = types::Timespec::from(time);
                let arguments = types::SubmitArgs::new().timespec(&timespec);
                submitter.submit_with_args(1, &arguments)
            }
        };
        match result {
            Ok(_) => Ok(Entered::Ok),
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR) => Ok(Entered::Ok),
                Some(libc::EBUSY | libc::EAGAIN | libc::ENOMEM) => Ok(Entered::Busy),
                _ => Err(error),
            },
        }
    }

    /// Moves what was spilled into the submission queue, as far as there is room.
    fn refill(&mut self) {
        let mut queue = self.io.submission();
        while let Some(entry) = self.spill.front() {
            // SAFETY: whoever pushed the entry vouched for it.
            if unsafe { queue.push(entry) }.is_err() {
                break;
            }
            self.spill.pop_front();
        }
    }
}

fn build(submissions: u32, completions: u32, no_array: bool) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_clamp()
        .setup_r_disabled()
        .setup_cqsize(completions.next_power_of_two())
        .dontfork();
    if no_array {
        builder.setup_no_sqarray();
    }
    builder.build(submissions.next_power_of_two())
}
