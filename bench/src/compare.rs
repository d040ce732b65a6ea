//! Interleaves the windows of many engines, so that spells of noise fall on all of them.

use crate::engine::Engine;
use crate::engines;
use crate::job::{Close, Job};
use crate::limit;
use crate::measure::{self, Sample, Setup};
use crate::roles::Place;
use crate::targets::Metric;
use flock_transport::Transport;
use serde::Serialize;
use std::io;
use std::time::Duration;

/// A job in one arrangement.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// The name on the command line and in tables.
    pub name: &'static str,
    /// What it shows.
    pub about: &'static str,
    /// What is done.
    pub job: Job,
    /// What carries the connections.
    pub transport: Transport,
    /// Connections at a time.
    pub in_flight: usize,
    /// Whether both roles share core 0; else the client has core 0 and the server core 1.
    pub one_core: bool,
    /// Whether every server has the raw io_uring client, so that only servers differ.
    pub common_client: bool,
    /// Pairs of client and server at a time, each on a core of its own, as processes; a server
    /// that shards by itself serves all of them.
    pub copies: usize,
    /// The figure that counts.
    pub metric: Metric,
}

const LIFE: Scenario = Scenario {
    name: "life-fin",
    about: "connect, 33 bytes each way, close by the client's FIN; both roles on one core",
    job: Job::Life(Close::Fin),
    transport: Transport::Tcp,
    in_flight: 256,
    one_core: true,
    common_client: false,
    copies: 1,
    metric: Metric::Cpu,
};

const UTP_LIFE: Scenario = Scenario {
    name: "utp-life-fin",
    about: "connect, 33 bytes each way, FIN both ways; every peer has a socket address of its own; both roles on one core",
    job: Job::Life(Close::Fin),
    transport: Transport::Utp,
    in_flight: 64,
    ..LIFE
};

const UTP_BULK: Scenario = Scenario {
    name: "utp-bulk",
    about: "one flow of 64 KiB writes in datagrams of at most 1,472 bytes, counted where they arrive; client on core 0 and server on core 1",
    job: Job::Bulk,
    transport: Transport::Utp,
    in_flight: 1,
    one_core: false,
    metric: Metric::Rate,
    ..LIFE
};

/// Every scenario, in the order of the report.
pub const ALL: &[Scenario] = &[
    LIFE,
    Scenario {
        name: "life-rst",
        about: "the same, closed by the client's RST",
        job: Job::Life(Close::Rst),
        ..LIFE
    },
    Scenario {
        name: "server-fin",
        about: "life-fin with the raw io_uring client for every server, on one core",
        common_client: true,
        ..LIFE
    },
    Scenario {
        name: "server-rst",
        about: "life-rst with the raw io_uring client for every server, on one core",
        job: Job::Life(Close::Rst),
        common_client: true,
        ..LIFE
    },
    Scenario {
        name: "life-fin-2",
        about: "life-fin, client on core 0 and server on core 1",
        one_core: false,
        metric: Metric::Rate,
        ..LIFE
    },
    Scenario {
        name: "shards",
        about: "life-fin on two cores at a time, each core with both roles, in processes",
        copies: 2,
        metric: Metric::Rate,
        ..LIFE
    },
    Scenario {
        name: "echo-64",
        about: "64 connections echo 64 bytes, both roles on one core",
        job: Job::Echo(64),
        in_flight: 64,
        ..LIFE
    },
    Scenario {
        name: "echo-16k",
        about: "64 connections echo 16 KiB, both roles on one core",
        job: Job::Echo(16 * 1024),
        in_flight: 64,
        ..LIFE
    },
    Scenario {
        name: "echo-64k",
        about: "64 connections echo 64 KiB, the raw io_uring client on core 0 and every server on core 1",
        job: Job::Echo(64 * 1024),
        in_flight: 64,
        one_core: false,
        common_client: true,
        metric: Metric::Rate,
        ..LIFE
    },
    Scenario {
        name: "one-to-many",
        about: "one shared blob of 256 KiB to 64 peers, over and over, both roles on one core",
        job: Job::Blob(256 * 1024),
        in_flight: 64,
        ..LIFE
    },
    Scenario {
        name: "bulk",
        about: "64 streams of 64 KiB writes, client on core 0 and server on core 1",
        job: Job::Bulk,
        in_flight: 64,
        one_core: false,
        metric: Metric::Rate,
        ..LIFE
    },
    UTP_LIFE,
    Scenario {
        name: "utp-life-rst",
        about: "the same, ended by the client's RESET",
        job: Job::Life(Close::Rst),
        ..UTP_LIFE
    },
    UTP_BULK,
    Scenario {
        name: "utp-bulk-64",
        about: "the same with 64 flows, each from a socket of its own, in sum",
        in_flight: 64,
        ..UTP_BULK
    },
];

/// The scenario called `name`.
#[must_use]
pub fn find(name: &str) -> Option<Scenario> {
    ALL.iter().copied().find(|scenario| scenario.name == name)
}

/// The windows of one engine in one scenario, round by round.
#[derive(Clone, Debug, Serialize)]
pub struct Series {
    /// The engine.
    pub engine: &'static str,
    /// One a round.
    pub samples: Vec<Sample>,
}

impl Series {
    /// One figure of every window.
    #[must_use]
    pub fn figures(&self, metric: Metric) -> Vec<f64> {
        let figure = |sample: &Sample| match metric {
            Metric::Cpu => sample.cpu,
            Metric::ServerCpu => sample.server_cpu,
            Metric::Rate => sample.rate,
        };
        self.samples.iter().map(figure).collect()
    }

    /// Whether no connection failed.
    #[must_use]
    pub fn clean(&self) -> bool {
        self.samples.iter().all(|sample| sample.errors == 0)
    }
}

/// How long and how often.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Plan {
    /// Rounds; each has one window of every engine.
    pub rounds: usize,
    /// Time before each window.
    pub warm_up: Duration,
    /// The window.
    pub window: Duration,
}

impl Scenario {
    /// One window of `engine` in this scenario.
    #[must_use]
    pub fn setup(&self, engine: Engine, plan: Plan) -> Setup {
        let client = if self.common_client {
            crate::limit::uring::ENGINE
        } else {
            engine
        };
        Setup {
            server: engine,
            client,
            job: self.job,
            transport: self.transport,
            in_flight: self.in_flight,
            server_core: Some(usize::from(!self.one_core)),
            client_core: Some(0),
            copies: self.copies,
            warm_up: plan.warm_up,
            window: plan.window,
        }
    }
}

/// The order of `count` entries in round `round`: rotated, and every other round backwards, so
/// that no entry always follows the same one.
pub fn order(count: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |step| {
        let step = if round % 2 == 1 {
            count - 1 - step
        } else {
            step
        };
        (step + round) % count
    })
}

/// Runs all rounds of `scenario`, telling `progress` what is about to run. The sides are threads
/// of this process, or processes in `place`.
///
/// # Errors
/// The first error of any window.
pub fn run(
    scenario: &Scenario,
    engines: &[Engine],
    plan: Plan,
    place: Option<&Place>,
    mut progress: impl FnMut(usize, &str),
) -> io::Result<Vec<Series>> {
    let mut all: Vec<Series> = engines
        .iter()
        .map(|engine| Series {
            engine: engine.name,
            samples: Vec::with_capacity(plan.rounds),
        })
        .collect();
    for round in 0..plan.rounds {
        for index in order(engines.len(), round) {
            let engine = engines[index];
            progress(round, engine.name);
            let setup = scenario.setup(engine, plan);
            let window = match place {
                Some(place) => place.run(&setup),
                None if scenario.copies > 1 => Place::here().run(&setup),
                None => measure::run(&setup),
            };
            let sample = window.map_err(|error| {
                let what = format!("{} in {}: {error}", engine.name, scenario.name);
                io::Error::new(error.kind(), what)
            })?;
            all[index].samples.push(sample);
        }
    }
    Ok(all)
}

/// The engines a scenario compares when none are named: those in which they differ. How the
/// client acknowledges matters only where clients connect, and one shard or several only where
/// there are several cores.
#[must_use]
pub fn default_engines(scenario: &Scenario) -> Vec<Engine> {
    let carries = |engine: &&Engine| {
        let same = engine.transport == scenario.transport && (engine.plays)(scenario.job);
        // One stream of the kernel's TCP, for comparison.
        let beside = scenario.transport == Transport::Utp && scenario.job == Job::Bulk;
        same || beside && engine.name == limit::epoll::ENGINE.name
    };
    let dials = matches!(scenario.job, Job::Life(_)) && !scenario.common_client;
    let differs = |engine: &&Engine| match engine.name {
        name if name.ends_with("-qa0") || name.ends_with("-ack") => dials,
        // Only where flows meet.
        name if name.ends_with("-cubic") => false,
        name if name.ends_with("-one") => scenario.in_flight > 1,
        // Where the server is what differs.
        name if name.ends_with("-guarded") => scenario.name == "server-fin",
        name if name.ends_with("-async") => matches!(scenario.job, Job::Echo(_)),
        name if name.ends_with("-single") => scenario.copies > 1,
        _ => true,
    };
    let all = engines::ALL.iter().filter(carries);
    all.filter(differs).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_has_every_entry_once() {
        for round in 0..7 {
            let mut seen: Vec<_> = order(5, round).collect();
            assert_eq!(
                seen[0],
                if round % 2 == 0 {
                    round % 5
                } else {
                    (round + 4) % 5
                }
            );
            seen.sort_unstable();
            assert_eq!(seen, [0, 1, 2, 3, 4]);
        }
    }
}
