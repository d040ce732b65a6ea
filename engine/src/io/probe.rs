//! Which driver this host can run, found by trying it rather than by the kernel's version:
//! filters, sysctls and broken backports do not show in a version.

use super::sys::read_sysctl;
use super::uring::{SetupError, SetupStep, UringDriver};
use super::{Backend, Clock, Driver, DriverConfig, Op, Outcome, Token};
use flock_transport::Errno;
use std::fmt;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// How long the trial waits for bytes that are already there.
const PATIENCE: Duration = Duration::from_secs(2);
const PROBE_BYTES: &[u8] = b"flock";

/// Why io_uring cannot be used here. `Display` says what to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unavailable {
    /// `kernel.io_uring_disabled` forbids it: 1 to processes outside `kernel.io_uring_group`,
    /// 2 to all.
    Sysctl {
        /// The sysctl's value.
        value: u32,
    },
    /// A seccomp filter or a security module refuses the system call.
    Filtered,
    /// The kernel has no io_uring.
    NoSystemCall,
    /// The kernel does not know the ring's modes: it is older than 6.1.
    TooOld,
    /// The kernel does not know an operation.
    NoOperation(&'static str),
    /// Not enough memory, most likely lockable memory (`RLIMIT_MEMLOCK`).
    Memory,
    /// No descriptor left for the ring.
    Descriptors,
    /// The kernel refuses rings of provided buffers; some backports break them.
    BufferRing(Errno),
    /// A receive through the ring did not bring the bytes that were sent.
    Misbehaves,
    /// Any other error.
    Other(Errno),
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sysctl { value: 1 } => f.write_str(
                "io_uring is reserved to a group (kernel.io_uring_disabled = 1); \
                 join the group of kernel.io_uring_group or set the sysctl to 0",
            ),
            Self::Sysctl { value } => write!(
                f,
                "io_uring is disabled (kernel.io_uring_disabled = {value}); set the sysctl to 0"
            ),
            Self::Filtered => f.write_str(
                "a seccomp filter or security module forbids io_uring, as container runtimes do \
                 by default; allow io_uring_setup, io_uring_enter and io_uring_register in the \
                 profile",
            ),
            Self::NoSystemCall => f.write_str(
                "the kernel was built without io_uring (CONFIG_IO_URING); use one that has it",
            ),
            Self::TooOld => f.write_str(
                "the kernel does not know the ring modes SINGLE_ISSUER and DEFER_TASKRUN; \
                 use Linux 6.1 or later",
            ),
            Self::NoOperation(name) => write!(
                f,
                "the kernel's io_uring has no `{name}` operation; use Linux 6.1 or later"
            ),
            Self::Memory => f.write_str(
                "no memory for the ring; raise RLIMIT_MEMLOCK (ulimit -l) or use smaller queues",
            ),
            Self::Descriptors => {
                f.write_str("no descriptor left for the ring; raise RLIMIT_NOFILE (ulimit -n)")
            }
            Self::BufferRing(errno) => write!(
                f,
                "the kernel refuses rings of provided buffers ({errno}); some distribution \
                 kernels have this broken: update the kernel"
            ),
            Self::Misbehaves => {
                f.write_str("io_uring lost bytes in a trial on a socket pair; update the kernel")
            }
            Self::Other(errno) => write!(f, "io_uring does not start: {errno}"),
        }
    }
}

impl std::error::Error for Unavailable {}

/// Tries io_uring: makes a small ring and receives some bytes through a ring of buffers.
///
/// A filter that kills the process on `io_uring_setup`, rather than refusing it, kills it here
/// too; programs under such a filter ask for [`Backend::Poll`].
pub fn probe() -> Result<(), Unavailable> {
    let config = DriverConfig {
        sockets: 4,
        submissions: 8,
        completions: 16,
        buffers: 4,
        buffer_size: 64,
        datagram_buffers: 4,
        batch: 8,
        spin: Duration::ZERO,
    };
    let clock = Clock::start();
    let mut driver = UringDriver::set_up(&config, clock).map_err(|error| classify(&error))?;
    let other = |error: io::Error| Unavailable::Other(Errno::from_io(&error));
    let (ours, mut theirs) = UnixStream::pair().map_err(other)?;
    let socket = driver
        .adopt(ours.into(), Token(0))
        .map_err(|_| Unavailable::Misbehaves)?;
    driver
        .submit(Op::Recv { socket })
        .map_err(|_| Unavailable::Misbehaves)?;
    theirs.write_all(PROBE_BYTES).map_err(other)?;
    let deadline = clock.now() + PATIENCE;
    let mut out = Vec::new();
    driver.turn(Some(deadline), &mut out).map_err(other)?;
    match out.first().map(|completion| completion.outcome) {
        Some(Outcome::Data(loan)) if driver.bytes(loan) == PROBE_BYTES => Ok(()),
        Some(Outcome::RecvEnded(errno)) => Err(Unavailable::BufferRing(errno)),
        _ => Err(Unavailable::Misbehaves),
    }
}

fn classify(failure: &SetupError) -> Unavailable {
    let errno = Errno::from_io(&failure.error);
    match (failure.step, errno.0) {
        (SetupStep::Operation(name), _) => Unavailable::NoOperation(name),
        (_, libc::ENOMEM) => Unavailable::Memory,
        (_, libc::EMFILE | libc::ENFILE) => Unavailable::Descriptors,
        (SetupStep::Buffers, _) => Unavailable::BufferRing(errno),
        (SetupStep::Ring, libc::EPERM | libc::EACCES) => {
            refused(read_sysctl::<u32>("kernel/io_uring_disabled"))
        }
        (SetupStep::Ring, libc::ENOSYS) => Unavailable::NoSystemCall,
        (SetupStep::Ring, libc::EINVAL) => Unavailable::TooOld,
        _ => Unavailable::Other(errno),
    }
}

/// Who refused, given `kernel.io_uring_disabled`. A value of 1 refuses those outside a group
/// only, but then the likelier cause is not the filter.
fn refused(disabled: Option<u32>) -> Unavailable {
    match disabled {
        None | Some(0) => Unavailable::Filtered,
        Some(value) => Unavailable::Sysctl { value },
    }
}

/// Why a driver was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The caller named it.
    Asked,
    /// It is the preferred one, and the trial went well.
    Works,
    /// The preferred one does not work here.
    Fallback(Unavailable),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked => f.write_str("asked for"),
            Self::Works => f.write_str("io_uring works here"),
            Self::Fallback(why) => why.fmt(f),
        }
    }
}

/// The driver to run on, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selected {
    /// Never [`Backend::Auto`].
    pub backend: Backend,
    /// Why this one.
    pub reason: Reason,
}

/// Settles which driver to use; an engine does it once, for all its shards. Fails only for
/// [`Backend::Uring`] where io_uring does not work.
pub fn select(wanted: Backend) -> Result<Selected, Unavailable> {
    let (backend, reason) = match wanted {
        Backend::Poll => (Backend::Poll, Reason::Asked),
        Backend::Uring => {
            probe()?;
            (Backend::Uring, Reason::Asked)
        }
        Backend::Auto => match probe() {
            Ok(()) => (Backend::Uring, Reason::Works),
            Err(why) => (Backend::Poll, Reason::Fallback(why)),
        },
    };
    Ok(Selected { backend, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(step: SetupStep, errno: i32) -> Unavailable {
        let error = io::Error::from_raw_os_error(errno);
        classify(&SetupError { step, error })
    }

    #[test]
    fn errors_have_their_reason() {
        use SetupStep::{Buffers, Operation, Ring};
        assert_eq!(failed(Ring, libc::ENOSYS), Unavailable::NoSystemCall);
        assert_eq!(failed(Ring, libc::EINVAL), Unavailable::TooOld);
        assert_eq!(failed(Ring, libc::ENOMEM), Unavailable::Memory);
        assert_eq!(failed(Buffers, libc::ENOMEM), Unavailable::Memory);
        let broken = Unavailable::BufferRing(Errno(libc::EINVAL));
        assert_eq!(failed(Buffers, libc::EINVAL), broken);
        assert_eq!(
            failed(Operation("recv"), libc::ENOSYS),
            Unavailable::NoOperation("recv")
        );
        assert_eq!(refused(Some(0)), Unavailable::Filtered);
        assert_eq!(refused(None), Unavailable::Filtered);
        assert_eq!(refused(Some(2)), Unavailable::Sysctl { value: 2 });
    }

    #[test]
    fn the_fix_is_in_the_text() {
        assert!(Unavailable::Sysctl { value: 2 }.to_string().contains("= 2"));
        assert!(Unavailable::Memory.to_string().contains("ulimit -l"));
        assert!(Unavailable::Filtered.to_string().contains("seccomp"));
    }

    #[test]
    fn selecting_agrees_with_the_probe() {
        let poll = select(Backend::Poll).unwrap();
        assert_eq!((poll.backend, poll.reason), (Backend::Poll, Reason::Asked));
        match (probe(), select(Backend::Auto).unwrap()) {
            (Ok(()), auto) => {
                assert_eq!(auto.backend, Backend::Uring);
                assert_eq!(auto.reason, Reason::Works);
            }
            (Err(why), auto) => {
                assert_eq!(auto.backend, Backend::Poll);
                assert_eq!(auto.reason, Reason::Fallback(why));
                assert_eq!(select(Backend::Uring), Err(why));
            }
        }
    }
}
