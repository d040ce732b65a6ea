//! The few system calls that the limit loops and the harness need and std does not have.
#![expect(
    unsafe_code,
    reason = "foreign calls; each is wrapped in a safe function here"
)]

use crate::job::{Close, Job};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// Binds the calling thread, and the threads it will start, to one core.
///
/// # Errors
/// The system's; `EINVAL` when the core does not exist or is not ours.
pub fn pin(core: usize) -> io::Result<()> {
    // SAFETY: all zeroes is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    if core >= usize::try_from(libc::CPU_SETSIZE).unwrap_or(0) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the core is within the set, as just checked.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: the set is valid and of the stated size for the length of the call.
    check(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) })?;
    Ok(())
}

/// A clock that counts the processor time of one thread or process.
#[derive(Clone, Copy, Debug)]
pub struct CpuClock(libc::clockid_t);

impl CpuClock {
    /// All threads of this process, also those the kernel made for it.
    pub const PROCESS: Self = Self(libc::CLOCK_PROCESS_CPUTIME_ID);

    /// The calling thread; other threads may read the clock while it lives.
    ///
    /// # Errors
    /// The system's.
    pub fn of_this_thread() -> io::Result<Self> {
        let mut id = 0;
        // SAFETY: pthread_self is always valid for its caller.
        let this = unsafe { libc::pthread_self() };
        // SAFETY: `this` is the calling thread, and `id` outlives the call.
        match unsafe { libc::pthread_getcpuclockid(this, &raw mut id) } {
            0 => Ok(Self(id)),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    /// All threads of another process.
    ///
    /// # Errors
    /// `ESRCH` when there is no such process.
    pub fn of_process(pid: u32) -> io::Result<Self> {
        let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
        let mut id = 0;
        // SAFETY: `id` is valid for the length of the call.
        match unsafe { libc::clock_getcpuclockid(pid, &raw mut id) } {
            0 => Ok(Self(id)),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    /// Processor time so far.
    ///
    /// # Errors
    /// `EINVAL` when the thread has ended.
    pub fn read(self) -> io::Result<Duration> {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: `time` is valid for the length of the call.
        check(unsafe { libc::clock_gettime(self.0, &raw mut time) })?;
        let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
        Ok(Duration::new(
            u64::try_from(time.tv_sec).unwrap_or(0),
            nanos,
        ))
    }
}

/// Sets an integer socket option.
///
/// # Errors
/// The system's; `EBADF` for a descriptor that is none.
pub fn set_option(fd: RawFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    let value = &raw const value;
    // SAFETY: `value` points to an integer of the stated size for the length of the call.
    check(unsafe { libc::setsockopt(fd, level, name, value.cast(), 4) })?;
    Ok(())
}

/// What [`job::client_options`](crate::job::client_options) does, by bare descriptor.
///
/// # Errors
/// The system's; `EBADF` for a descriptor that is none.
pub fn client_options(fd: RawFd, job: Job) -> io::Result<()> {
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    if job == Job::Life(Close::Rst) {
        let linger = &raw const ABORT;
        // SAFETY: `linger` points to a constant of the stated size.
        check(unsafe {
            libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, linger.cast(), 8)
        })?;
    }
    Ok(())
}

/// What a TCP stream has sent since it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpSent {
    /// Bytes that its peer has acknowledged (`tcpi_bytes_acked`).
    pub acked: u64,
    /// Segments (`tcpi_segs_out`).
    pub segments: u32,
}

/// Reads `TCP_INFO` (tcp(7); the fields are at fixed places of `struct tcp_info` since Linux 4.2).
///
/// # Errors
/// The system's; `Unsupported` from kernels that tell less.
pub fn tcp_sent(stream: &impl AsRawFd) -> io::Result<TcpSent> {
    const ACKED: usize = 120;
    const SEGMENTS: usize = 136;
    let mut info = [0u8; 256];
    let mut len = 256;
    let (fd, to, len_to) = (stream.as_raw_fd(), info.as_mut_ptr(), &raw mut len);
    // SAFETY: `info` has room for as many bytes as `len` says, for the length of the call.
    check(unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, to.cast(), len_to) })?;
    let told = info.get(..usize::try_from(len).unwrap_or(0)).unwrap_or(&[]);
    let acked = told.get(ACKED..).and_then(|b| b.first_chunk());
    let segments = told.get(SEGMENTS..).and_then(|b| b.first_chunk());
    let (Some(acked), Some(segments)) = (acked, segments) else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    Ok(TcpSent {
        acked: u64::from_ne_bytes(*acked),
        segments: u32::from_ne_bytes(*segments),
    })
}

/// The option value that makes `close` send RST.
pub static ABORT: libc::linger = libc::linger {
    l_onoff: 1,
    l_linger: 0,
};

/// Takes one waiting connection, non-blocking, without its address; `None` when none waits.
///
/// # Errors
/// The system's.
pub fn accept(listener: &impl AsRawFd) -> io::Result<Option<OwnedFd>> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let (fd, null) = (listener.as_raw_fd(), std::ptr::null_mut());
    // SAFETY: null addresses are allowed and mean that no address is wanted.
    match check(unsafe { libc::accept4(fd, null, null.cast(), flags) }) {
        // SAFETY: the descriptor is new and nobody else's.
        Ok(fd) => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) })),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// An epoll instance.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

impl Epoll {
    /// A new one.
    ///
    /// # Errors
    /// The system's.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers are involved.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the descriptor is new and nobody else's.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Watches `fd` for `events` under the name `key`.
    ///
    /// # Errors
    /// The system's.
    pub fn add(&self, fd: &impl AsRawFd, events: i32, key: u64) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: events.cast_unsigned(),
            u64: key,
        };
        let (epoll, fd) = (self.0.as_raw_fd(), fd.as_raw_fd());
        // SAFETY: `event` is valid for the length of the call.
        check(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &raw mut event) })?;
        Ok(())
    }

    /// Waits for events and puts them into `events`, whose capacity limits how many.
    ///
    /// # Errors
    /// The system's, but for interruptions, which count as no event.
    pub fn wait(&self, events: &mut Vec<libc::epoll_event>) -> io::Result<()> {
        events.clear();
        let max = i32::try_from(events.capacity()).unwrap_or(i32::MAX);
        let (epoll, buffer) = (self.0.as_raw_fd(), events.as_mut_ptr());
        // SAFETY: the buffer has room for `max` events.
        match check(unsafe { libc::epoll_wait(epoll, buffer, max, -1) }) {
            Ok(count) => {
                // SAFETY: the kernel has written that many events.
                unsafe { events.set_len(usize::try_from(count).unwrap_or(0)) };
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }
}
