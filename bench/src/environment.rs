//! Where a run happened.

use serde::Serialize;
use std::fmt;
use std::fs;

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
