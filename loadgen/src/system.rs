//! What the operating system says about this machine, this process and the target's.

use std::fs;
use std::path::Path;
use std::time::Duration;

/// How a thread has spent its time so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ThreadTime {
    /// On a processor.
    pub(crate) cpu: Duration,
    /// Ready to run, waiting for a processor that somebody else had.
    pub(crate) waiting: Duration,
}

/// A thread's times, to the nanosecond where the kernel keeps schedstat (else CPU time alone, to
/// the clock tick). `None` once it is gone.
pub(crate) fn thread_time(process: u32, thread: u32) -> Option<ThreadTime> {
    let task = format!("/proc/{process}/task/{thread}");
    let precise = fs::read_to_string(format!("{task}/schedstat"))
        .ok()
        .and_then(|text| {
            let mut fields = text.split_whitespace().map(str::parse);
            let cpu = Duration::from_nanos(fields.next()?.ok()?);
            let waiting = Duration::from_nanos(fields.next()?.ok()?);
            Some(ThreadTime { cpu, waiting })
        })
        .filter(|time| !time.cpu.is_zero());
    precise.or_else(|| {
        let cpu = stat_cpu(&fs::read_to_string(format!("{task}/stat")).ok()?)?;
        Some(ThreadTime {
            cpu,
            ..ThreadTime::default()
        })
    })
}

/// User and system time out of a `stat` line (proc_pid_stat(5)), ticks of 10 ms.
fn stat_cpu(line: &str) -> Option<Duration> {
    let (_, fields) = line.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let ticks: u64 = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 10))
}

/// The threads of a process.
pub(crate) fn threads(process: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(format!("/proc/{process}/task")) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

/// A thread's name, empty once it is gone.
pub(crate) fn thread_name(process: u32, thread: u32) -> String {
    fs::read_to_string(format!("/proc/{process}/task/{thread}/comm"))
        .map(|name| name.trim().to_owned())
        .unwrap_or_default()
}

/// Resident memory of a process in bytes, exact where the kernel can tell (`smaps_rollup`).
pub(crate) fn resident(process: u32) -> Option<u64> {
    let exact = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))
        .ok()
        .and_then(|text| kilobytes(&text, "Rss:"));
    exact.or_else(|| {
        kilobytes(
            &fs::read_to_string(format!("/proc/{process}/status")).ok()?,
            "VmRSS:",
        )
    })
}

fn kilobytes(text: &str, label: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// The kernel's small objects on the whole machine in bytes (`Slab` of proc_meminfo(5)): sockets,
/// their files and ports among them.
pub(crate) fn kernel_objects() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/meminfo").ok()?, "Slab:")
}

/// Memory that can be taken without swapping, in bytes (`MemAvailable` of proc_meminfo(5)).
pub(crate) fn available_memory() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
}

/// A sysctl under `/proc/sys`, its first number.
pub(crate) fn sysctl(name: &str) -> Option<u64> {
    sysctl_text(name)?.split_whitespace().next()?.parse().ok()
}

/// A sysctl under `/proc/sys`, trimmed.
pub(crate) fn sysctl_text(name: &str) -> Option<String> {
    let text = fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?;
    Some(text.trim().to_owned())
}

/// Descriptors this process has open.
pub(crate) fn open_files() -> u64 {
    fs::read_dir("/proc/self/fd").map_or(16, |entries| entries.count() as u64)
}

/// The kernel's release.
pub(crate) fn kernel() -> String {
    sysctl_text("kernel/osrelease").unwrap_or_else(|| "unknown".into())
}

/// The processor's name.
pub(crate) fn processor() -> String {
    fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        })
        .unwrap_or_else(|| "unknown".into())
}

/// Processors this process may run on.
pub(crate) fn allowed_cpus() -> Vec<usize> {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else {
        return vec![0];
    };
    (0..rustix::thread::CpuSet::MAX_CPU)
        .filter(|&cpu| set.is_set(cpu))
        .collect()
}

/// Binds the calling thread to one processor.
pub(crate) fn pin(cpu: usize) -> std::io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// The calling thread's number.
pub(crate) fn thread_id() -> u32 {
    rustix::thread::gettid()
        .as_raw_nonzero()
        .get()
        .unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_can_be_read() {
        let me = std::process::id();
        assert!(threads(me).contains(&thread_id()));
        assert!(thread_time(me, thread_id()).is_some());
        assert!(resident(me).is_some_and(|bytes| bytes > 100_000));
        assert!(open_files() > 2);
        assert!(!allowed_cpus().is_empty());
        assert!(kernel_objects().is_some());
        assert!(sysctl("net/core/somaxconn").is_some_and(|n| n > 0));
    }

    #[test]
    fn stat_lines_with_odd_names_are_read() {
        let line = "7 (a) b (c) S 1 1 1 0 -1 0 0 0 0 0 150 50 0 0 20";
        assert_eq!(stat_cpu(line), Some(Duration::from_secs(2)));
        assert_eq!(stat_cpu("nonsense"), None);
    }

    #[test]
    fn sizes_are_in_kilobytes() {
        assert_eq!(
            kilobytes("Rss:      12 kB\nPss: 3 kB", "Rss:"),
            Some(12_288)
        );
        assert_eq!(kilobytes("", "Rss:"), None);
    }
}
