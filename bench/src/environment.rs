//! Where a run happened.

use serde::Serialize;
use std::fmt;
use std::fs;
use std::io;
use std::time::Duration;

/// The machine and the settings that decide such figures.
#[derive(Clone, Debug, Serialize)]
pub struct Environment {
    /// Kernel release.
    pub kernel: String,
    /// Processor model and how many.
    pub cpu: String,
    /// `net.ipv4.tcp_congestion_control`.
    pub congestion_control: String,
    /// `net.core.somaxconn`.
    pub somaxconn: String,
    /// Load average of the last minute before the run: above 0.3, somebody else was at work.
    pub load: String,
}

fn line(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

fn kibibytes(path: &str, key: &str) -> io::Result<u64> {
    let text = fs::read_to_string(path)?;
    let missing = || io::Error::other(format!("{path} has no {key}"));
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|rest| rest.split_ascii_whitespace().next());
    let number = number.and_then(|number| number.parse::<u64>().ok());
    Ok(number.ok_or_else(missing)? * 1024)
}

/// Bytes of a process's memory that are resident.
///
/// # Errors
/// When there is no such process.
pub fn resident_bytes(pid: u32) -> io::Result<u64> {
    kibibytes(&format!("/proc/{pid}/status"), "VmRSS:")
}

/// Bytes of the kernel's slab objects in use, of the whole system. What caches keep for later
/// does not count, so that earlier connections do not hide later ones.
///
/// # Errors
/// `/proc/slabinfo` cannot be read, which takes root, or looks otherwise.
pub fn slab_bytes() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/slabinfo")?;
    let in_use = |line: &str| -> Option<u64> {
        let mut columns = line.split_ascii_whitespace().skip(1);
        let active: u64 = columns.next()?.parse().ok()?;
        let size: u64 = columns.nth(1)?.parse().ok()?;
        Some(active * size)
    };
    text.lines()
        .skip(2)
        .map(in_use)
        .sum::<Option<u64>>()
        .ok_or_else(|| io::Error::other("/proc/slabinfo has another form"))
}

/// How long a core has been idle since the start, to a hundredth of a second.
///
/// # Errors
/// When the kernel does not tell.
pub fn core_idle(core: usize) -> io::Result<Duration> {
    let text = fs::read_to_string("/proc/stat")?;
    let name = format!("cpu{core} ");
    let mut columns = text
        .lines()
        .find_map(|line| line.strip_prefix(&name))
        .map(|line| line.split_ascii_whitespace().map(str::parse::<u64>))
        .ok_or_else(|| io::Error::other("/proc/stat does not know the core"))?;
    // user, nice, system, idle, iowait, in hundredths of a second.
    let (idle, waiting) = (columns.nth(3), columns.next());
    let ticks = [idle, waiting].into_iter().flatten().flatten().sum::<u64>();
    Ok(Duration::from_millis(10 * ticks))
}

/// Datagrams that sockets of this network namespace have sent so far over IPv4; a train that was handed
/// over whole (`UDP_SEGMENT`) counts as one.
///
/// # Errors
/// When the kernel does not tell.
pub fn datagrams_sent() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/self/net/snmp")?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let column = |line: &str| line.split(' ').position(|name| name == "OutDatagrams");
    let at = lines.next().and_then(column);
    at.and_then(|at| lines.next()?.split(' ').nth(at)?.parse().ok())
        .ok_or_else(|| io::Error::other("/proc/self/net/snmp has another form"))
}

/// Bytes of memory in TCP's socket buffers, of the whole network namespace.
///
/// # Errors
/// When the kernel does not tell.
pub fn tcp_buffer_bytes() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/net/sockstat")?;
    let pages = text
        .lines()
        .find_map(|line| line.strip_prefix("TCP:"))
        .and_then(|line| line.rsplit(' ').next())
        .and_then(|pages| pages.parse::<u64>().ok());
    pages
        .map(|pages| pages * 4096)
        .ok_or_else(|| io::Error::other("/proc/net/sockstat has another form"))
}

impl Environment {
    /// What this machine says of itself now.
    #[must_use]
    pub fn read() -> Self {
        let info = line("/proc/cpuinfo");
        let model = info
            .lines()
            .find_map(|line| line.strip_prefix("model name"))
            .map_or("unknown", |rest| rest.trim_start_matches([' ', '\t', ':']));
        let count = info.matches("processor\t").count();
        let load = line("/proc/loadavg");
        Self {
            kernel: line("/proc/sys/kernel/osrelease"),
            cpu: format!("{count} x {model}"),
            congestion_control: line("/proc/sys/net/ipv4/tcp_congestion_control"),
            somaxconn: line("/proc/sys/net/core/somaxconn"),
            load: load.split(' ').next().unwrap_or("unknown").to_owned(),
        }
    }
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Linux {}, {}, congestion control {}, somaxconn {}, load before the run {}",
            self.kernel, self.cpu, self.congestion_control, self.somaxconn, self.load
        )
    }
}
