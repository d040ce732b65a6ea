use flock_transport::Instant;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Which driver an engine runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// io_uring where a behavioural probe says it works, else epoll with the reason kept.
    #[default]
    Auto,
    /// io_uring, or an error.
    Uring,
    /// epoll.
    Poll,
}

/// The clock that all shards of an engine share, so that their instants compare.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: std::time::Instant,
}

impl Clock {
    /// A clock that starts now; it begins at one second, so that zero is always in the past.
    #[must_use]
    pub fn start() -> Self {
        Self {
            origin: std::time::Instant::now(),
        }
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> Instant {
        Instant::from_nanos(1_000_000_000) + self.origin.elapsed()
    }
}

/// Sizes and limits of a driver.
#[derive(Clone, Copy, Debug)]
pub struct DriverConfig {
    /// Sockets open at a time; more connects are refused with `QueueFull`, and more accepted
    /// connections are closed at once and counted.
    pub sockets: u32,
    /// Submission queue entries (io_uring); rounded up to a power of two.
    pub submissions: u32,
    /// Completion queue entries (io_uring); rounded up to a power of two.
    pub completions: u32,
    /// Receive buffers; rounded up to a power of two, at most 32,768.
    pub buffers: u16,
    /// Bytes of each receive buffer.
    pub buffer_size: u32,
    /// Completions delivered per turn at the most.
    pub batch: usize,
    /// Receive buffers for datagrams, made with the first datagram socket; rounded up to a power of
    /// two, at most 32,768. Each holds the longest datagram, or train of datagrams, that UDP can
    /// bring, and takes 66 KiB of address space; memory only as it is used.
    pub datagram_buffers: u16,
    /// How long to look for completions before sleeping; zero sleeps at once.
    pub spin: Duration,
}

impl Default for DriverConfig {
    fn default() -> Self {
        Self {
            sockets: 1 << 20,
            submissions: 1024,
            completions: 8192,
            buffers: 512,
            buffer_size: 64 * 1024,
            datagram_buffers: 256,
            batch: 512,
            spin: Duration::ZERO,
        }
    }
}

flock_transport::counters! {
    /// What a driver counted since its start.
    pub struct DriverCounters {
        /// Turns taken.
        turns,
        /// Turns that slept.
        waits,
        /// Times the completion queue overflowed; nothing was lost.
        completion_overflows,
        /// Operations that waited in user space for room in the submission queue.
        submissions_spilled,
        /// Times a receive was parked for want of buffers.
        receives_parked,
        /// Times accepting paused for want of descriptors or memory.
        accepts_paused,
        /// Accepted connections closed at once because the socket table was full.
        accepts_refused,
        /// Connections that were gone before they could be named (reset in the backlog).
        accepts_aborted,
        /// Sends that took more than one system operation.
        short_sends,
        /// Completions of sockets closed meanwhile.
        stale_completions,
        /// Trains of datagrams handed to the kernel.
        trains,
        /// Trains that went datagram by datagram, because the way out of the host refused them whole.
        trains_split,
        /// Datagrams that came empty or that the network refused (ICMP errors); nobody is told.
        datagrams_dropped,
        /// Errors of `close`, `shutdown` and of optional socket options.
        soft_errors,
    }
}

/// How a driver's end went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Operations that ended within the grace.
    pub ended: u64,
    /// Operations whose memory was leaked because the kernel still held it.
    pub leaked: u64,
}

/// What ends a driver's wait from another thread.
pub trait Wake: Send + Sync {
    /// Makes the current or the next wait return at once.
    fn wake(&self);
}

/// A shared handle to a [`Wake`].
#[derive(Clone)]
pub struct Waker(Arc<dyn Wake>);

impl Waker {
    /// Wraps a driver's wake-up.
    pub fn new(wake: Arc<dyn Wake>) -> Self {
        Self(wake)
    }

    /// Makes the current or the next wait of the driver return at once.
    pub fn wake(&self) {
        self.0.wake();
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waker")
    }
}
