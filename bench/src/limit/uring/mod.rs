//! The raw io_uring loop, in steps: each operation follows from the completion of the one before.
//!
//! Direct descriptors, multishot accept and receive, a buffer ring, no completion where success
//! tells nothing, one enter per turn. Links, SQPOLL and zero-copy sends are left out: they made
//! these jobs dearer.
#![expect(
    unsafe_code,
    reason = "submission entries name memory the kernel will use"
)]

mod buffers;
mod client;
mod exchange;
pub mod files;
mod server;

use crate::engine::Engine;
use crate::job::Job;
use flock_transport::Transport;
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use std::io;

/// The plain loop.
pub const ENGINE: Engine = Engine {
    name: "uring",
    about: "limit: raw io_uring loop, in steps",
    transport: Transport::Tcp,
    plays: |_| true,
    lives_max: None,
    sharded: false,
    serve: server::serve,
    drive: |cx| client::drive(cx, false),
};

/// The same, the client's handshake ACK riding on its first data.
pub const ENGINE_QA0: Engine = Engine {
    name: "uring-qa0",
    about: "limit: raw io_uring loop, TCP_QUICKACK 0 before connect",
    transport: Transport::Tcp,
    plays: |_| true,
    lives_max: None,
    sharded: false,
    serve: server::serve,
    drive: |cx| client::drive(cx, true),
};

/// Bare datagrams in the order of a uTP connection's life.
pub const EXCHANGE: Engine = Engine {
    name: "udp-exchange",
    about: "limit: raw io_uring loop that exchanges the packets of a uTP life as bare datagrams",
    transport: Transport::Utp,
    plays: |job| matches!(job, Job::Life(_)),
    lives_max: None,
    sharded: false,
    serve: exchange::serve,
    drive: exchange::drive,
};

const SUBMISSIONS: u32 = 4096;

/// What an operation is, as part of its user data.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Verb {
    Accept,
    Recv,
    Send,
    Close,
    Socket,
    Option,
    Connect,
}

/// Names an operation: its verb, the slot it works on, and the life of that slot.
#[derive(Clone, Copy)]
struct Key {
    verb: Verb,
    slot: u32,
    life: u16,
}

impl Key {
    fn pack(self) -> u64 {
        (self.verb as u64) << 56 | u64::from(self.life) << 32 | u64::from(self.slot)
    }

    fn unpack(data: u64) -> Self {
        let verb = match data >> 56 {
            0 => Verb::Accept,
            1 => Verb::Recv,
            2 => Verb::Send,
            3 => Verb::Close,
            4 => Verb::Socket,
            5 => Verb::Option,
            _ => Verb::Connect,
        };
        let slot = u32::try_from(data & 0xffff_ffff).unwrap_or(u32::MAX);
        let life = u16::try_from(data >> 32 & 0xffff).unwrap_or(0);
        Self { verb, slot, life }
    }
}

/// A length as entries carry it; what is beyond goes with the next operation.
fn length(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// A ring with a table of `files` direct descriptors.
struct Ring {
    ring: IoUring,
}

impl Ring {
    fn new(files: u32) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_cqsize(SUBMISSIONS * 4)
            .build(SUBMISSIONS)?;
        ring.submitter().register_files_sparse(files)?;
        Ok(Self { ring })
    }

    /// Queues `entry`, handing queued ones over first when there is no room.
    fn push(&mut self, entry: squeue::Entry, key: Key) -> io::Result<()> {
        let entry = entry.user_data(key.pack());
        loop {
            // SAFETY: every caller in `client` and `server` passes memory that lives until the
            // operation ends: statics, the run's shared bytes, or buffers that are freed only
            // after `quiesce`.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return Ok(());
            }
            self.ring.submit()?;
        }
    }

    /// Queues `entry` so that only its failure is told.
    fn push_quiet(&mut self, entry: squeue::Entry, key: Key) -> io::Result<()> {
        self.push(entry.flags(squeue::Flags::SKIP_SUCCESS), key)
    }

    /// Closes the direct descriptor in `slot`.
    fn close(&mut self, slot: u32, life: u16) -> io::Result<()> {
        let entry = opcode::Close::new(types::Fixed(slot)).build();
        let verb = Verb::Close;
        self.push_quiet(entry, Key { verb, slot, life })
    }

    /// Hands over what is queued, waits for a completion, and moves all of them to `out`.
    fn turn(&mut self, out: &mut Vec<cqueue::Entry>) -> io::Result<()> {
        match self.ring.submit_and_wait(1) {
            Err(error) if error.raw_os_error() != Some(libc::EBUSY) => return Err(error),
            _ => {}
        }
        out.clear();
        out.extend(self.ring.completion());
        Ok(())
    }

    /// Cancels everything and reaps it, so that the memory operations name can be freed.
    fn quiesce(&mut self) -> io::Result<()> {
        self.ring.submit()?;
        let all = types::CancelBuilder::any();
        match self.ring.submitter().register_sync_cancel(None, all) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
            _ => {}
        }
        // A no-op behind the cancellations: when it is done, their completions have run.
        let key = Key {
            verb: Verb::Close,
            slot: u32::MAX,
            life: 0,
        };
        self.push(opcode::Nop::new().build(), key)?;
        let mut out = Vec::new();
        loop {
            self.turn(&mut out)?;
            if out.iter().any(|entry| entry.user_data() == key.pack()) {
                return Ok(());
            }
        }
    }
}
