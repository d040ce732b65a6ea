//! From what was asked to what will be done: defaults filled in, names resolved, limits applied.

use crate::cli::{Args, BackendArg, CloseArg, TransportArg};
use crate::frame::FRAME;
use crate::generator::{DATAGRAM_SOCKETS_MAX, Timeouts};
use crate::preflight::{self, Limits, Needs};
use crate::system;
use crate::units::{Cpus, Rate, Sources};
use flock_engine::io::ListenOptions;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

/// Bytes of a peer's place in the queue of the idle.
const IDLE: usize = size_of::<u32>();
const PEERS: u32 = 4096;
const CONCURRENCY: u32 = 256;
const OPEN_LOOP_CONCURRENCY: u32 = 4096;
const MEMORY_PEERS: u32 = 8_000;
/// Fewer idle connections than this weigh less than the noise.
const MEMORY_PEERS_MIN: u32 = 100;

/// What is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    /// An engine in this process.
    Embedded {
        shards: u32,
        cpus: Option<Vec<usize>>,
    },
    /// Somebody else.
    Remote {
        addrs: Vec<SocketAddr>,
        process: Option<u32>,
    },
}

/// A run, ready to be checked against the limits and started.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) aim: Aim,
    pub(crate) peers: u32,
    pub(crate) concurrency: u32,
    /// For how long peers are started; `None`: each lives once.
    pub(crate) duration: Option<Duration>,
    pub(crate) rate: Option<Rate>,
    pub(crate) transport: TransportArg,
    pub(crate) close: CloseArg,
    /// Keep all connections this long.
    pub(crate) hold: Option<Duration>,
    pub(crate) backend: BackendArg,
    pub(crate) seed: u64,
    /// One generator thread each; `None`: one thread, not pinned.
    pub(crate) cpus: Option<Vec<usize>>,
    pub(crate) sources: Sources,
    pub(crate) timeouts: Timeouts,
    /// Idle connections opened afterwards to weigh them.
    pub(crate) memory_peers: u32,
}

impl Plan {
    /// What `args` ask for on a machine that lets this process use `allowed` processors. Errors
    /// are usage errors.
    pub(crate) fn new(args: &Args, allowed: &[usize]) -> Result<Self, String> {
        let aim = aim(args, allowed)?;
        let sources = sources(args, &aim)?;
        let duration = match (args.hold, args.duration, args.peers) {
            (true, ..) => None,
            (false, None, None) => Some(Duration::from_secs(7)),
            (false, duration, _) => duration,
        };
        let peers = args.peers.unwrap_or(PEERS);
        let default = if args.rate.is_some() && !args.hold {
            OPEN_LOOP_CONCURRENCY
        } else {
            CONCURRENCY
        };
        let embedded = matches!(aim, Aim::Embedded { .. });
        let plan = Self {
            peers,
            concurrency: args.concurrency.unwrap_or(default).min(peers),
            duration,
            rate: args.rate,
            transport: args.transport,
            close: args.close,
            hold: args
                .hold
                .then(|| args.duration.unwrap_or(Duration::from_secs(5))),
            backend: args.backend,
            seed: args
                .seed
                .unwrap_or_else(|| StdRng::from_os_rng().next_u64()),
            cpus: generator_cpus(args, allowed)?,
            sources,
            timeouts: Timeouts {
                connect: args.connect_timeout,
                handshake: args.handshake_timeout,
            },
            memory_peers: match args.memory_peers {
                _ if !embedded || args.hold => 0,
                given => given.unwrap_or(MEMORY_PEERS),
            },
            aim,
        };
        if plan.lanes() > plan.concurrency {
            return Err(format!(
                "{} generator threads need at least as many peers at a time, not {}",
                plan.lanes(),
                plan.concurrency
            ));
        }
        Ok(plan)
    }

    /// Generator threads.
    pub(crate) fn lanes(&self) -> u32 {
        let lanes = self.cpus.as_ref().map_or(1, Vec::len);
        u32::try_from(lanes).expect("a list of processors is short")
    }

    pub(crate) fn is_embedded(&self) -> bool {
        matches!(self.aim, Aim::Embedded { .. })
    }

    /// Whether the last packet of a connect may ride on the id frame: only where the target is
    /// known to write its own frame in one piece.
    pub(crate) fn lazy_ack(&self) -> bool {
        self.is_embedded()
    }

    /// Connections open at a time.
    pub(crate) fn open(&self) -> u32 {
        if self.hold.is_some() {
            self.peers
        } else {
            self.concurrency
        }
    }

    /// What the plan needs of the machine.
    pub(crate) fn needs(&self) -> Needs {
        let (shards, targets) = match &self.aim {
            Aim::Embedded { shards, .. } => (*shards, 1),
            Aim::Remote { addrs, .. } => (0, addrs.len()),
        };
        Needs {
            open: self.open(),
            dialling: self.concurrency,
            embedded: self.is_embedded(),
            threads: self.lanes().saturating_add(shards),
            // Those of a held load are as many as there is room for.
            ids: if self.hold.is_some() {
                0
            } else {
                u64::from(self.peers) * (FRAME + IDLE) as u64
            },
            // Peer k uses source k and target k, each modulo their number: at least this many.
            pairs: u64::from(self.sources.used_by(self.peers)).max(targets as u64),
            rate: self.rate.map(|rate| rate.arrivals_before(1_000_000_000)),
            lingers: self.close == CloseArg::Fin,
            backlog: ListenOptions::default().backlog,
            held: self.hold.is_some(),
            datagram_sockets: match self.transport {
                TransportArg::Tcp => 0,
                _ => self
                    .sources
                    .used_by(self.peers)
                    .min(DATAGRAM_SOCKETS_MAX)
                    .saturating_mul(self.lanes()),
            },
            utp: self.transport == TransportArg::Utp,
        }
    }

    /// Does with `open` connections at a time.
    pub(crate) fn limit_to(&mut self, open: u32) {
        if self.hold.is_some() {
            self.peers = self.peers.min(open);
        }
        self.concurrency = self.concurrency.min(open);
    }

    /// The load with which idle connections are weighed, after the run proper: as many as asked
    /// for and as `limits` allow each of the two processes.
    pub(crate) fn weighing(&self, limits: &Limits) -> Option<Self> {
        let mut weighing = Self {
            peers: self.memory_peers,
            concurrency: CONCURRENCY.min(self.memory_peers),
            duration: None,
            // Slow enough to be weighed many times on the way up.
            rate: Some(Rate::per_second_of(self.memory_peers.saturating_mul(2))),
            hold: Some(Duration::from_millis(300)),
            // Other ids than those of the run, whose last connections may still be closing.
            seed: self.seed.wrapping_add(1),
            memory_peers: 0,
            ..self.clone()
        };
        let needs = Needs {
            embedded: false,
            ..weighing.needs()
        };
        weighing.limit_to(preflight::check(&needs, limits).open);
        (weighing.peers >= MEMORY_PEERS_MIN).then_some(weighing)
    }
}

fn aim(args: &Args, allowed: &[usize]) -> Result<Aim, String> {
    if args.target.is_empty() {
        let shards = args.shards.unwrap_or(1);
        let cpus = match &args.engine_cpus {
            Some(Cpus(cpus)) => Some(check_cpus(cpus, allowed)?),
            None if allowed.len() < 2 => None,
            None => {
                // The last processors, so that the generator's first one stays free of them.
                let spare = shards.min(u32::try_from(allowed.len() - 1).unwrap_or(u32::MAX));
                Some(allowed[allowed.len() - spare as usize..].to_vec())
            }
        };
        return Ok(Aim::Embedded { shards, cpus });
    }
    let mut addrs = Vec::new();
    for target in &args.target {
        let found = target
            .to_socket_addrs()
            .map_err(|error| format!("--target {target}: {error}"))?
            .next()
            .ok_or_else(|| format!("--target {target}: no address"))?;
        addrs.push(found);
    }
    Ok(Aim::Remote {
        addrs,
        process: args.target_pid,
    })
}

fn sources(args: &Args, aim: &Aim) -> Result<Sources, String> {
    let targets: Vec<_> = match aim {
        Aim::Embedded { .. } => vec![std::net::Ipv4Addr::LOCALHOST.into()],
        Aim::Remote { addrs, .. } => addrs.iter().map(SocketAddr::ip).collect(),
    };
    let Some(sources) = args.sources else {
        let loopback = |ip: &std::net::IpAddr| ip.is_ipv4() && ip.is_loopback();
        return Ok(if targets.iter().all(loopback) {
            Sources::LOOPBACK
        } else {
            Sources::Kernel
        });
    };
    match targets.iter().find(|target| !sources.fit(**target)) {
        Some(target) => Err(format!(
            "--sources {sources} cannot reach {target}: not the same address family"
        )),
        None => Ok(sources),
    }
}

fn generator_cpus(args: &Args, allowed: &[usize]) -> Result<Option<Vec<usize>>, String> {
    match &args.cpus {
        Some(Cpus(cpus)) => check_cpus(cpus, allowed).map(Some),
        None if allowed.len() < 2 => Ok(None),
        None => Ok(Some(vec![allowed[0]])),
    }
}

fn check_cpus(cpus: &[usize], allowed: &[usize]) -> Result<Vec<usize>, String> {
    match cpus.iter().find(|cpu| !allowed.contains(cpu)) {
        Some(cpu) => Err(format!(
            "processor {cpu} is not among those this process may use ({})",
            Cpus(allowed.to_vec())
        )),
        None => Ok(cpus.to_vec()),
    }
}

/// The plan for `args` on this machine.
pub(crate) fn plan(args: &Args) -> Result<Plan, String> {
    Plan::new(args, &system::allowed_cpus())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    const LIMITS: Limits = Limits {
        datagram_buffers: [4 << 20, 1 << 20],
        files: 20_000,
        files_hard: 20_000,
        files_open: 6,
        memory: 1 << 34,
        somaxconn: 4096,
        ports: 28_232,
        time_wait: 131_072,
    };

    fn plan(line: &str) -> Result<Plan, String> {
        let args = std::iter::once("loadgen").chain(line.split_whitespace());
        Plan::new(&Args::try_parse_from(args).unwrap(), &[0, 1, 2, 3])
    }

    #[test]
    fn no_arguments_load_an_engine_of_our_own_on_another_core() {
        let plan = plan("").unwrap();
        assert_eq!(
            plan.aim,
            Aim::Embedded {
                shards: 1,
                cpus: Some(vec![3])
            }
        );
        assert_eq!(plan.cpus, Some(vec![0]));
        assert_eq!(plan.duration, Some(Duration::from_secs(7)));
        assert_eq!(
            (plan.peers, plan.concurrency, plan.open()),
            (4096, 256, 256)
        );
        assert_eq!(plan.sources, Sources::LOOPBACK);
        assert_eq!(plan.weighing(&LIMITS).unwrap().open(), 8_000);
        let few = Limits {
            files: 1_000,
            ..LIMITS
        };
        let weighing = plan.weighing(&few).unwrap();
        assert!((800..1_000).contains(&weighing.open()), "{weighing:?}");
    }

    #[test]
    fn peers_without_a_duration_live_once() {
        assert_eq!(plan("--peers 1000").unwrap().duration, None);
        assert!(
            plan("--peers 1000 --duration 1s")
                .unwrap()
                .duration
                .is_some()
        );
        assert_eq!(plan("--peers 10").unwrap().concurrency, 10);
        assert_eq!(plan("--rate 10/s").unwrap().concurrency, 4096);
    }

    #[test]
    fn holding_opens_all_peers_and_shrinks_to_the_limit() {
        let mut plan = plan("--hold --peers 20k --duration 7s").unwrap();
        assert_eq!(plan.hold, Some(Duration::from_secs(7)));
        assert_eq!((plan.open(), plan.needs().dialling), (20_000, 256));
        plan.limit_to(9_957);
        assert_eq!(
            (plan.peers, plan.open(), plan.concurrency),
            (9_957, 9_957, 256)
        );
        assert!(plan.weighing(&LIMITS).is_none());
    }

    #[test]
    fn targets_decide_the_sources() {
        let remote = plan("--target 127.0.0.1:9,127.0.0.2:9 --peers 8").unwrap();
        assert_eq!(remote.sources, Sources::LOOPBACK);
        assert_eq!((remote.needs().pairs, remote.needs().embedded), (8, false));
        assert!(remote.weighing(&LIMITS).is_none());
        assert_eq!(plan("--target [::1]:9").unwrap().sources, Sources::Kernel);
        assert!(plan("--target [::1]:9 --sources 127.1.0.0/16").is_err());
        assert!(plan("--target nonsense").is_err());
    }

    #[test]
    fn processors_must_be_ours() {
        assert!(plan("--cpus 0,1 --engine-cpus 2").is_ok_and(|plan| plan.lanes() == 2));
        assert!(plan("--cpus 7").is_err());
        assert!(plan("--engine-cpus 4").is_err());
        assert!(plan("--cpus 0-3 --peers 2").is_err());
        let args = Args::try_parse_from(["loadgen"]).unwrap();
        let one = Plan::new(&args, &[0]).unwrap();
        assert_eq!(one.cpus, None);
        assert_eq!(
            one.aim,
            Aim::Embedded {
                shards: 1,
                cpus: None
            }
        );
    }
}
