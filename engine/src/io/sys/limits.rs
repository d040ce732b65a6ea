use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// How many descriptors the process may open (`RLIMIT_NOFILE`, getrlimit(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFiles {
    /// What is enforced.
    pub soft: u64,
    /// Up to where an unprivileged process may raise it.
    pub hard: u64,
}

impl OpenFiles {
    /// The limits as they are.
    pub fn read() -> io::Result<Self> {
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: `limit` is a valid, writable rlimit for the length of the call.
        let result = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            soft: limit.rlim_cur,
            hard: limit.rlim_max,
        })
    }
}

/// Raises the soft limit of open descriptors to the hard one, and returns what holds now. It acts
/// on the whole process, hence the embedder decides. Programs that use `select(2)` on descriptors
/// above 1023 break under a raised limit.
pub fn raise_open_files() -> io::Result<OpenFiles> {
    let now = OpenFiles::read()?;
    if now.soft >= now.hard {
        return Ok(now);
    }
    let wanted = libc::rlimit {
        rlim_cur: now.hard,
        rlim_max: now.hard,
    };
    // SAFETY: `wanted` is a valid rlimit for the length of the call.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const wanted) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    OpenFiles::read()
}

/// Limits of this host that bound an engine, for checks before a start. What cannot be read
/// (no `/proc`, another kernel) is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The longest accept queue (`net.core.somaxconn`).
    pub backlog: Option<u32>,
    /// Unanswered SYNs kept per listener (`net.ipv4.tcp_max_syn_backlog`).
    pub syn_backlog: Option<u32>,
    /// Source ports of dials (`net.ipv4.ip_local_port_range`).
    pub source_ports: Option<RangeInclusive<u16>>,
    /// The largest receive buffer a socket is given, bytes (`net.core.rmem_max`).
    pub recv_buffer: Option<u32>,
    /// The largest send buffer a socket is given, bytes (`net.core.wmem_max`).
    pub send_buffer: Option<u32>,
    /// Descriptors of this process.
    pub open_files: Option<OpenFiles>,
}

impl Limits {
    /// The limits as they are.
    #[must_use]
    pub fn read() -> Self {
        Self {
            backlog: read_sysctl("net/core/somaxconn"),
            syn_backlog: read_sysctl("net/ipv4/tcp_max_syn_backlog"),
            source_ports: fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
                .ok()
                .and_then(|text| parse_ports(&text)),
            recv_buffer: read_sysctl("net/core/rmem_max"),
            send_buffer: read_sysctl("net/core/wmem_max"),
            open_files: OpenFiles::read().ok(),
        }
    }
}

/// The sysctl at `path` below `/proc/sys`, or `None` when it is absent or not of this type.
pub(crate) fn read_sysctl<T: FromStr>(path: &str) -> Option<T> {
    fs::read_to_string(format!("/proc/sys/{path}"))
        .ok()?
        .trim()
        .parse()
        .ok()
}

pub(super) fn parse_ports(text: &str) -> Option<RangeInclusive<u16>> {
    let mut words = text.split_whitespace();
    let first = words.next()?.parse().ok()?;
    let last = words.next()?.parse().ok()?;
    (first <= last).then_some(first..=last)
}
