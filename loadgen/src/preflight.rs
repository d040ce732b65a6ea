//! Before anything starts: do files, ports and backlog allow what was asked for, and if not,
//! what do they allow and what has to be raised?

use crate::system;
use flock_engine::io::{CappedBuffer, DatagramOptions};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors kept back for rings, listeners, wake-ups, the terminal and a report file.
const SPARE_FILES: u64 = 48;
/// What each engine shard and each generator thread may need on top.
const SPARE_FILES_PER_THREAD: u64 = 16;
/// How long Linux keeps the port of a connection that this side closed first (TIME_WAIT).
const TIME_WAIT_SECONDS: u64 = 60;
/// uTP connection ids that a dialler may use towards one address from one socket (BEP 29: 16 bits,
/// and each connection has two).
const CONNECTION_IDS: u64 = 32_000;
/// Faster than this a closed loop will not go on one generator core; used to warn about ports.
const FASTEST_LOOP: u64 = 50_000;

/// Limits of this machine and process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// `RLIMIT_NOFILE`, soft, after raising it as far as the hard one.
    pub(crate) files: u64,
    /// `RLIMIT_NOFILE`, hard.
    pub(crate) files_hard: u64,
    /// Descriptors open before the run.
    pub(crate) files_open: u64,
    /// Bytes of memory that programs may still take (`MemAvailable` of proc_meminfo(5)).
    pub(crate) memory: u64,
    /// `net.core.somaxconn`.
    pub(crate) somaxconn: u64,
    /// `net.ipv4.ip_local_port_range`, how many ports it has.
    pub(crate) ports: u64,
    /// `net.ipv4.tcp_max_tw_buckets`: TIME_WAIT sockets the machine keeps at the most.
    pub(crate) time_wait: u64,
    /// `net.core.rmem_max` and `net.core.wmem_max`: bytes of a UDP socket's buffers.
    pub(crate) datagram_buffers: [u64; 2],
}

impl Limits {
    /// Reads the limits, and first raises the soft file limit to the hard one.
    pub(crate) fn read() -> Self {
        let was = getrlimit(Resource::Nofile);
        let raised = Rlimit {
            current: was.maximum,
            maximum: was.maximum,
        };
        if was.current != was.maximum {
            // A refusal leaves the old limit, which is what is read and reported next.
            let _refused = setrlimit(Resource::Nofile, raised);
        }
        let files = getrlimit(Resource::Nofile);
        Self {
            files: files.current.unwrap_or(u64::MAX),
            files_hard: files.maximum.unwrap_or(u64::MAX),
            files_open: system::open_files(),
            memory: system::available_memory().unwrap_or(u64::MAX),
            somaxconn: system::sysctl("net/core/somaxconn").unwrap_or(4096),
            ports: ports().unwrap_or(28_232),
            time_wait: system::sysctl("net/ipv4/tcp_max_tw_buckets").unwrap_or(131_072),
            datagram_buffers: ["net/core/rmem_max", "net/core/wmem_max"]
                .map(|name| system::sysctl(name).unwrap_or(u64::MAX)),
        }
    }

    /// Which buffers of the UDP sockets the system will cut, with what to raise.
    fn capped_buffers(&self) -> impl Iterator<Item = String> {
        let wanted = DatagramOptions::default();
        let [recv_buffer, send_buffer] = self
            .datagram_buffers
            .map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX));
        [
            (wanted.recv_buffer, recv_buffer, "net.core.rmem_max"),
            (wanted.send_buffer, send_buffer, "net.core.wmem_max"),
        ]
        .into_iter()
        .filter(|(wanted, got, _)| got < wanted)
        .map(|(wanted, got, sysctl)| {
            let buffer = CappedBuffer {
                wanted,
                got,
                sysctl,
            };
            buffer.to_string()
        })
    }
}

fn ports() -> Option<u64> {
    let text = system::sysctl_text("net/ipv4/ip_local_port_range")?;
    let mut numbers = text.split_whitespace().map(|n| n.parse::<u64>());
    let (low, high) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some(high.saturating_sub(low) + 1)
}

/// What a run wants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needs {
    /// Connections open at a time.
    pub(crate) open: u32,
    /// Connects that may be under way at a time.
    pub(crate) dialling: u32,
    /// Whether the target's ends are in this process too.
    pub(crate) embedded: bool,
    /// Generator threads and embedded shards.
    pub(crate) threads: u32,
    /// Bytes of all peers' ids, which are drawn before the first one starts.
    pub(crate) ids: u64,
    /// Pairs of a source and a destination address; each has its own ports.
    pub(crate) pairs: u64,
    /// Connects a second of an open loop.
    pub(crate) rate: Option<u64>,
    /// Whether this side closes first, and with FIN, so that its ports linger in TIME_WAIT.
    pub(crate) lingers: bool,
    /// The embedded engine's listen backlog.
    pub(crate) backlog: u32,
    /// Whether the connections are held, so that nothing is dialled twice.
    pub(crate) held: bool,
    /// Datagram sockets that peers share.
    pub(crate) datagram_sockets: u32,
    /// Whether these carry all connections, so that none has a descriptor or a port of its own.
    pub(crate) utp: bool,
}

impl Needs {
    /// Descriptors of this process that a connection takes.
    fn files_each(&self) -> u64 {
        match (self.utp, self.embedded) {
            (true, _) => 0,
            (false, true) => 2,
            (false, false) => 1,
        }
    }

    /// Pairs of addresses, and what each of them allows.
    fn pairs_and_ports(&self, limits: &Limits) -> (u64, u64) {
        match self.utp {
            true => (u64::from(self.datagram_sockets), CONNECTION_IDS),
            false => (self.pairs, limits.ports),
        }
    }
}

/// What the preflight found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Connections the limits allow at a time, at most what was asked for.
    pub(crate) open: u32,
    /// What is short, what that allows, what to raise: one sentence each.
    pub(crate) shortages: Vec<String>,
    /// What may disturb the run without shortening it.
    pub(crate) warnings: Vec<String>,
    /// One line of arithmetic for the report.
    pub(crate) summary: String,
}

/// The arithmetic, without looking at the machine.
pub(crate) fn check(needs: &Needs, limits: &Limits) -> Verdict {
    let ends = needs.files_each();
    let spare = SPARE_FILES
        + SPARE_FILES_PER_THREAD * u64::from(needs.threads)
        + u64::from(needs.datagram_sockets);
    let files = limits.files.saturating_sub(limits.files_open + spare);
    let files = files.checked_div(ends).unwrap_or(u64::from(needs.open));
    let (pairs, per_pair) = needs.pairs_and_ports(limits);
    let ports = pairs.saturating_mul(per_pair);
    let wanted = u64::from(needs.open);
    let (mut shortages, mut warnings) = (Vec::new(), Vec::new());
    if files < wanted {
        shortages.push(file_shortage(needs, limits, files, ends, spare));
    }
    if ports < wanted {
        shortages.push(format!(
            "ports: {pairs} address pairs x {per_pair} local ports allow {ports} connections at a \
             time, {wanted} were asked for; give more addresses with --sources or widen \
             net.ipv4.ip_local_port_range"
        ));
    }
    let fits = needs.ids <= limits.memory / 2;
    if !fits {
        shortages.push(format!(
            "memory: the ids of all peers take {} MiB, and of {} MiB available at most half is \
             taken; give fewer --peers: they take turns",
            needs.ids >> 20,
            limits.memory >> 20
        ));
    }
    let rate = needs.rate.unwrap_or(FASTEST_LOOP);
    let lingering = rate.saturating_mul(TIME_WAIT_SECONDS).min(limits.time_wait);
    if needs.lingers && !needs.held && !needs.utp && ports < lingering + wanted {
        warnings.push(format!(
            "ports: closing with FIN keeps a port for {TIME_WAIT_SECONDS} s; {ports} ports sustain \
             {} connects/s; give more addresses with --sources or close with --close rst",
            ports / TIME_WAIT_SECONDS
        ));
    }
    let backlog = u64::from(needs.backlog).min(limits.somaxconn);
    if needs.embedded && !needs.utp && u64::from(needs.dialling) > backlog {
        warnings.push(format!(
            "backlog: {} connects at a time against a listen backlog of {backlog}; the kernel may \
             drop SYNs, which shows as connects of 1 s and more; raise net.core.somaxconn or lower \
             --concurrency",
            needs.dialling
        ));
    }
    if needs.utp {
        warnings.extend(limits.capped_buffers());
    }
    let open = if fits {
        wanted.min(files).min(ports)
    } else {
        0
    };
    Verdict {
        open: u32::try_from(open).expect("at most what was asked for"),
        shortages,
        warnings,
        summary: format!(
            "files {} ({} open, {spare} kept back, {ends} a connection: {files} connections), {} {pairs} x \
             {per_pair} = {ports}, backlog {backlog}",
            limits.files,
            limits.files_open,
            if needs.utp { "ids" } else { "ports" },
        ),
    }
}

fn file_shortage(needs: &Needs, limits: &Limits, files: u64, ends: u64, spare: u64) -> String {
    let want = u64::from(needs.open) * ends + limits.files_open + spare;
    let both = if needs.embedded {
        ", both ends being in this process"
    } else {
        ""
    };
    let raise = if want <= limits.files_hard {
        format!("ulimit -n {want}")
    } else {
        format!(
            "the hard limit is {}; LimitNOFILE= or limits.conf",
            limits.files_hard
        )
    };
    let elsewhere = if needs.embedded {
        "; or run the target in another process and give --target"
    } else {
        ""
    };
    format!(
        "files: the limit of {} allows {files} connections at a time{both}; {} were asked for and \
         need {want} ({raise}{elsewhere})",
        limits.files, needs.open
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        files: 20_000,
        files_hard: 20_000,
        files_open: 6,
        memory: 1 << 34,
        somaxconn: 4096,
        ports: 28_232,
        time_wait: 131_072,
        datagram_buffers: [4 << 20, 1 << 20],
    };

    #[test]
    fn small_datagram_buffers_are_a_warning_with_utp() {
        let needs = Needs { utp: true, ..HOLD };
        let buffers = |warnings: &[String]| {
            let raise = |text: &&String| text.contains("sysctl -w net.core");
            warnings.iter().filter(raise).count()
        };
        assert_eq!(buffers(&check(&needs, &LIMITS).warnings), 0);
        let small = Limits {
            datagram_buffers: [212_992; 2],
            ..LIMITS
        };
        let warnings = check(&needs, &small).warnings;
        assert_eq!(buffers(&warnings), 2, "{warnings:?}");
        assert!(warnings[0].contains("sysctl -w net.core.rmem_max=4194304"));
        assert_eq!(buffers(&check(&HOLD, &small).warnings), 0);
    }

    const HOLD: Needs = Needs {
        open: 20_000,
        dialling: 256,
        embedded: true,
        threads: 2,
        ids: 0,
        pairs: 65_536,
        rate: None,
        lingers: true,
        backlog: 4096,
        held: true,
        datagram_sockets: 0,
        utp: false,
    };

    #[test]
    fn both_ends_in_one_process_halve_the_file_limit() {
        let verdict = check(&HOLD, &LIMITS);
        assert_eq!(verdict.open, (20_000 - 6 - 48 - 32) / 2);
        assert!((9_900..10_000).contains(&verdict.open));
        let [text] = &verdict.shortages[..] else {
            panic!("{verdict:?}")
        };
        assert!(text.contains("allows 9957 connections"), "{text}");
        assert!(text.contains("need 40086"), "{text}");
        assert!(text.contains("hard limit is 20000"), "{text}");
    }

    #[test]
    fn one_end_needs_one_file() {
        let needs = Needs {
            embedded: false,
            threads: 1,
            open: 19_000,
            ..HOLD
        };
        let verdict = check(&needs, &LIMITS);
        assert_eq!(verdict.open, 19_000);
        assert!(verdict.shortages.is_empty() && verdict.warnings.is_empty());
        let raised = Limits {
            files_hard: 100_000,
            ..LIMITS
        };
        let short = check(
            &Needs {
                open: 30_000,
                ..needs
            },
            &raised,
        );
        assert!(short.shortages[0].contains("ulimit -n 30070"), "{short:?}");
    }

    #[test]
    fn one_address_pair_has_one_port_range() {
        let many = Limits {
            files: 1 << 20,
            ..LIMITS
        };
        let needs = Needs {
            pairs: 1,
            open: 100_000,
            ..HOLD
        };
        let verdict = check(&needs, &many);
        assert_eq!(verdict.open, 28_232);
        assert!(verdict.shortages[0].contains("--sources"));
    }

    #[test]
    fn lingering_ports_are_a_matter_of_rate() {
        let churn = Needs {
            pairs: 1,
            open: 256,
            held: false,
            ..HOLD
        };
        assert!(check(&churn, &LIMITS).warnings[0].contains("sustain 470 connects/s"));
        let slow = Needs {
            rate: Some(400),
            ..churn
        };
        assert!(check(&slow, &LIMITS).warnings.is_empty());
        let rst = Needs {
            lingers: false,
            ..churn
        };
        assert!(check(&rst, &LIMITS).warnings.is_empty());
        let spread = Needs { pairs: 64, ..churn };
        assert!(check(&spread, &LIMITS).warnings.is_empty());
    }

    #[test]
    fn a_short_backlog_is_said() {
        let needs = Needs {
            dialling: 5_000,
            open: 5_000,
            ..HOLD
        };
        assert!(check(&needs, &LIMITS).warnings[0].contains("backlog of 4096"));
        let remote = Needs {
            embedded: false,
            ..needs
        };
        assert!(check(&remote, &LIMITS).warnings.is_empty());
    }

    #[test]
    fn nothing_left_means_nothing() {
        let tiny = Limits {
            files: 60,
            ..LIMITS
        };
        assert_eq!(check(&HOLD, &tiny).open, 0);
    }

    #[test]
    fn ids_that_do_not_fit_memory_are_refused() {
        let churn = Needs {
            held: false,
            open: 256,
            ids: 1 << 33,
            ..HOLD
        };
        assert_eq!(check(&churn, &LIMITS).open, 256);
        let more = Needs {
            ids: (1 << 33) + 1,
            ..churn
        };
        let verdict = check(&more, &LIMITS);
        assert_eq!(verdict.open, 0);
        assert!(verdict.shortages[0].contains("8192 MiB"), "{verdict:?}");
    }

    #[test]
    fn this_machine_has_limits() {
        let limits = Limits::read();
        assert!(limits.memory > 1 << 20 && limits.memory < u64::MAX);
        assert!(limits.files > 0 && limits.ports > 0 && limits.files_open > 2);
        assert!(limits.files <= limits.files_hard);
    }
}
