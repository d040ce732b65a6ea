//! `revelation doctor`: what this host allows, and what to change.

use flock_engine::io::{Backend, Limits, Reason, Unavailable, select};
use std::fmt;

/// Descriptors an engine needs beside those of its connections.
const SPARE_FILES: u64 = 64;
/// What a large seeder wants.
const FILES: u64 = 100_000;
const PORTS: usize = 50_000;
const BACKLOG: u32 = 4096;
/// What the engine asks for, per UDP socket.
const RECV_BUFFER: u32 = 4 << 20;
const SEND_BUFFER: u32 = 1 << 20;

/// Something looked at.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    subject: &'static str,
    says: String,
    /// What to do about it, where something should be done.
    fix: Option<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.fix.is_some() { "low " } else { "ok  " };
        write!(f, "{mark} {:<15} {}", self.subject, self.says)?;
        match &self.fix {
            Some(fix) => write!(f, "\n     {:<15} fix: {fix}", ""),
            None => Ok(()),
        }
    }
}

/// Looks at everything and tells.
pub(crate) fn run() {
    let limits = Limits::read();
    let mut findings = vec![driver(
        select(Backend::Auto).map(|selected| selected.reason),
    )];
    findings.extend(examine(&limits));
    for finding in &findings {
        println!("{finding}");
    }
    println!("\n{}", first_limit(&limits));
}

fn driver(chosen: Result<Reason, Unavailable>) -> Finding {
    let why = match chosen {
        Ok(Reason::Fallback(why)) | Err(why) => Some(why),
        Ok(_) => None,
    };
    Finding {
        subject: "driver",
        says: match why {
            None => "io_uring, the fastest".to_owned(),
            Some(_) => "epoll, since io_uring does not work here".to_owned(),
        },
        fix: why.map(|why| why.to_string()),
    }
}

fn examine(limits: &Limits) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(files) = limits.open_files {
        let hard = files.hard;
        findings.push(Finding {
            subject: "open files",
            says: format!("{} now, up to {hard} without privilege", files.soft),
            fix: (hard < FILES).then(|| {
                format!("ulimit -Hn {FILES} as root, or LimitNOFILE={FILES} in the service's unit")
            }),
        });
    }
    if let Some(ports) = &limits.source_ports {
        findings.push(Finding {
            subject: "source ports",
            says: format!("{} (at a time, towards one address and port)", ports.len()),
            fix: (ports.len() < PORTS)
                .then(|| "sysctl -w net.ipv4.ip_local_port_range='1024 65535'".to_owned()),
        });
    }
    let sysctls = [
        (
            "accept queue",
            "net.core.somaxconn",
            limits.backlog,
            BACKLOG,
            "connections",
        ),
        (
            "SYN queue",
            "net.ipv4.tcp_max_syn_backlog",
            limits.syn_backlog,
            BACKLOG,
            "connections",
        ),
        (
            "UDP receive",
            "net.core.rmem_max",
            limits.recv_buffer,
            RECV_BUFFER,
            "bytes",
        ),
        (
            "UDP send",
            "net.core.wmem_max",
            limits.send_buffer,
            SEND_BUFFER,
            "bytes",
        ),
    ];
    for (subject, name, value, wanted, unit) in sysctls {
        findings.extend(value.map(|value| Finding {
            subject,
            says: format!("{value} {unit} ({name})"),
            fix: (value < wanted).then(|| format!("sysctl -w {name}={wanted}")),
        }));
    }
    findings
}

/// What is met first when connections grow.
fn first_limit(limits: &Limits) -> String {
    let files = limits
        .open_files
        .map(|files| files.hard.saturating_sub(SPARE_FILES));
    let Some(files) = files else {
        return "How many descriptors are allowed cannot be read here.".to_owned();
    };
    let ports = limits.source_ports.as_ref().map(|ports| ports.len() as u64);
    let mut text =
        format!("First limit: open files, at about {files} TCP connections; uTP needs none each.");
    if let Some(ports) = ports.filter(|ports| *ports < files) {
        text = format!(
            "First limit: source ports, at {ports} dials to one address and port; then {}",
            &text[13..]
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use flock_engine::io::OpenFiles;

    fn limits(files: u64, ports: u16, rest: u32) -> Limits {
        let mut limits = Limits::read();
        limits.open_files = Some(OpenFiles {
            soft: 1024,
            hard: files,
        });
        limits.source_ports = Some(65_535 - ports + 1..=65_535);
        limits.backlog = Some(rest);
        limits.syn_backlog = Some(rest);
        limits.recv_buffer = Some(rest);
        limits.send_buffer = Some(rest);
        limits
    }

    #[test]
    fn what_is_enough_needs_no_fix_and_the_rest_says_which() {
        let enough = examine(&limits(FILES, 60_000, RECV_BUFFER));
        assert_eq!(enough.len(), 6);
        assert!(
            enough.iter().all(|finding| finding.fix.is_none()),
            "{enough:?}"
        );
        let low = examine(&limits(FILES - 1, 100, 128));
        assert!(low.iter().all(|finding| finding.fix.is_some()), "{low:?}");
        assert!(
            low[4]
                .to_string()
                .contains("sysctl -w net.core.rmem_max=4194304"),
            "{}",
            low[4]
        );
    }

    #[test]
    fn the_first_limit_is_the_lowest() {
        assert!(
            first_limit(&limits(20_000, 28_000, 1))
                .starts_with("First limit: open files, at about 19936")
        );
        let text = first_limit(&limits(200_000, 28_000, 1));
        assert!(
            text.starts_with("First limit: source ports, at 28000")
                && text.contains("then open files"),
            "{text}"
        );
    }

    #[test]
    fn a_fallback_says_why() {
        let finding = driver(Ok(Reason::Fallback(Unavailable::Sysctl { value: 2 })));
        assert!(
            finding.to_string().contains("kernel.io_uring_disabled"),
            "{finding}"
        );
        assert_eq!(driver(Ok(Reason::Works)).fix, None);
    }
}
