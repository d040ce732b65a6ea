//! The result of a run as data: what `--json` writes. README.md describes every field; fields are
//! only ever added within a schema number.

use crate::backend::Chosen;
use crate::engine::OwnCount;
use crate::generator::Transport;
use crate::meter::{self, Share, Spent, Weight};
use crate::plan::{Aim, Plan};
use crate::preflight;
use crate::run::Measured;
use crate::stats::{Failure, Latency, Stats};
use crate::system;
use crate::verdict::{Evidence, Verdict, judge};
use flock_engine::io::DriverCounters;
use serde::Serialize;
use std::time::Duration;

/// Version of the JSON layout.
const SCHEMA: u32 = 1;

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) schema: u32,
    pub(crate) version: &'static str,
    pub(crate) machine: Machine,
    pub(crate) run: Run,
    pub(crate) backend: BackendReport,
    pub(crate) preflight: Preflight,
    pub(crate) counts: Counts,
    pub(crate) rates: Rates,
    pub(crate) latency_ns: Latencies,
    pub(crate) errors: Vec<ErrorCount>,
    pub(crate) cpu: Costs,
    pub(crate) memory: Memory,
    pub(crate) driver: Vec<DriverReport>,
    pub(crate) verdict: Verdict,
    pub(crate) exit_code: u8,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) kernel: String,
    pub(crate) processor: String,
    pub(crate) allowed_cpus: usize,
    pub(crate) congestion_control: String,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Run {
    pub(crate) target: &'static str,
    pub(crate) addrs: Vec<String>,
    pub(crate) shards: Option<u32>,
    pub(crate) transport: &'static str,
    pub(crate) close: &'static str,
    pub(crate) lazy_ack: bool,
    pub(crate) loop_kind: &'static str,
    pub(crate) peers: u32,
    pub(crate) concurrency: u32,
    pub(crate) duration_s: Option<f64>,
    pub(crate) rate_per_s: Option<f64>,
    pub(crate) hold_s: Option<f64>,
    pub(crate) seed: u64,
    pub(crate) sources: String,
    pub(crate) generator_threads: u32,
    pub(crate) generator_cpus: Option<Vec<usize>>,
    pub(crate) engine_cpus: Option<Vec<usize>>,
    pub(crate) interrupted: bool,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct BackendReport {
    pub(crate) generator: &'static str,
    pub(crate) generator_reason: String,
    pub(crate) engine_reason: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Preflight {
    pub(crate) asked: u32,
    pub(crate) allowed: u32,
    pub(crate) summary: String,
    pub(crate) shortages: Vec<String>,
    pub(crate) warnings: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Counts {
    pub(crate) started: u64,
    pub(crate) connected: u64,
    pub(crate) handshaken: u64,
    pub(crate) closed: u64,
    pub(crate) failed: u64,
    pub(crate) abandoned: u64,
    pub(crate) missed: u64,
    pub(crate) survived: Option<u64>,
    pub(crate) peak_open: u64,
    pub(crate) bytes_in: u64,
    pub(crate) target_admitted: Option<u64>,
    pub(crate) engine_messages: Option<u64>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Rates {
    pub(crate) window_s: f64,
    pub(crate) connects_per_s: f64,
    pub(crate) handshakes_per_s: f64,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Latencies {
    pub(crate) connect: LatencyReport,
    pub(crate) handshake: LatencyReport,
    pub(crate) close: LatencyReport,
    pub(crate) ready: LatencyReport,
    pub(crate) lag: Option<LatencyReport>,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct LatencyReport {
    pub(crate) count: u64,
    pub(crate) min: u64,
    pub(crate) mean: u64,
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) max: u64,
    pub(crate) clipped: u64,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct ErrorCount {
    pub(crate) stage: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) errno: Option<i32>,
    pub(crate) text: String,
    pub(crate) count: u64,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Costs {
    pub(crate) generator: Cost,
    pub(crate) target: Option<Cost>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Cost {
    pub(crate) us_per_connection: Option<f64>,
    pub(crate) busiest_thread: f64,
    pub(crate) busiest_thread_waiting: f64,
    pub(crate) total_s: f64,
}

/// Memory per idle connection, bytes; slopes over the number of connections held.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Memory {
    pub(crate) connections: u64,
    pub(crate) target_per_connection: Option<f64>,
    pub(crate) generator_per_connection: Option<f64>,
    pub(crate) both_per_connection: Option<f64>,
    pub(crate) kernel_per_connection: Option<f64>,
    pub(crate) generator_peer_state: usize,
    pub(crate) id_frames: usize,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct DriverReport {
    pub(crate) turns: u64,
    pub(crate) waits: u64,
    pub(crate) completion_overflows: u64,
    pub(crate) submissions_spilled: u64,
    pub(crate) receives_parked: u64,
    pub(crate) short_sends: u64,
    pub(crate) soft_errors: u64,
}

/// Everything a report is made of.
pub(crate) struct Findings<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) preflight: &'a preflight::Verdict,
    pub(crate) asked: u32,
    pub(crate) addrs: Vec<String>,
    pub(crate) chosen: Chosen,
    pub(crate) generator_reason: String,
    pub(crate) engine_reason: Option<String>,
    pub(crate) own_count: Option<OwnCount>,
    pub(crate) measured: &'a Measured,
    /// The separate weighing of idle connections, or a run that held some.
    pub(crate) weighed: Option<&'a Measured>,
    pub(crate) interrupted: bool,
    pub(crate) exit_code: u8,
}

impl Report {
    pub(crate) fn new(findings: &Findings<'_>) -> Self {
        let (plan, measured) = (findings.plan, findings.measured);
        let stats = &measured.stats;
        Self {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            machine: machine(),
            run: run(findings),
            backend: BackendReport {
                generator: findings.chosen.name(),
                generator_reason: findings.generator_reason.clone(),
                engine_reason: findings.engine_reason.clone(),
            },
            preflight: Preflight {
                asked: findings.asked,
                allowed: findings.preflight.open,
                summary: findings.preflight.summary.clone(),
                shortages: findings.preflight.shortages.clone(),
                warnings: findings.preflight.warnings.clone(),
            },
            counts: counts(findings),
            rates: Rates {
                window_s: stats.window.as_secs_f64(),
                connects_per_s: stats.connect_rate(),
                handshakes_per_s: stats.handshake_rate(),
            },
            latency_ns: Latencies {
                connect: latency(&stats.connect),
                handshake: latency(&stats.handshake),
                close: latency(&stats.close),
                ready: latency(&stats.ready),
                lag: plan.rate.map(|_| latency(&stats.lag)),
            },
            errors: errors(stats),
            cpu: costs(measured),
            memory: memory(findings),
            driver: measured.counters.iter().map(driver).collect(),
            verdict: judge(&evidence(plan, stats, &measured.window)),
            exit_code: findings.exit_code,
        }
    }
}

fn machine() -> Machine {
    Machine {
        kernel: system::kernel(),
        processor: system::processor(),
        allowed_cpus: system::allowed_cpus().len(),
        congestion_control: system::sysctl_text("net/ipv4/tcp_congestion_control")
            .unwrap_or_default(),
    }
}

fn run(findings: &Findings<'_>) -> Run {
    let plan = findings.plan;
    let (target, shards, engine_cpus) = match &plan.aim {
        Aim::Embedded { shards, cpus } => ("embedded", Some(*shards), cpus.clone()),
        Aim::Remote { .. } => ("remote", None, None),
    };
    Run {
        target,
        addrs: findings.addrs.clone(),
        shards,
        transport: Transport::from(plan.transport).name(),
        close: plan.close.name(),
        lazy_ack: plan.lazy_ack(),
        loop_kind: if plan.rate.is_some() {
            "open"
        } else {
            "closed"
        },
        peers: plan.peers,
        concurrency: plan.concurrency,
        duration_s: plan.duration.map(|duration| duration.as_secs_f64()),
        rate_per_s: plan.rate.map(crate::units::Rate::per_second),
        hold_s: plan.hold.map(|hold| hold.as_secs_f64()),
        seed: plan.seed,
        sources: plan.sources.to_string(),
        generator_threads: plan.lanes(),
        generator_cpus: plan.cpus.clone(),
        engine_cpus,
        interrupted: findings.interrupted,
    }
}

fn counts(findings: &Findings<'_>) -> Counts {
    let stats = &findings.measured.stats;
    Counts {
        started: stats.started,
        connected: stats.connected,
        handshaken: stats.handshaken,
        closed: stats.closed,
        failed: stats.failed(),
        abandoned: stats.abandoned,
        missed: stats.missed,
        survived: findings.plan.hold.map(|_| stats.survived),
        peak_open: stats.peak,
        bytes_in: stats.bytes_in,
        target_admitted: findings.own_count.map(|count| count.admitted),
        engine_messages: findings.own_count.map(|count| count.messages),
    }
}

fn latency(latency: &Latency) -> LatencyReport {
    if latency.count() == 0 {
        return LatencyReport::default();
    }
    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    LatencyReport {
        count: latency.count(),
        min: nanos(latency.min()),
        mean: nanos(latency.mean()),
        p50: nanos(latency.quantile(0.5)),
        p90: nanos(latency.quantile(0.9)),
        p99: nanos(latency.quantile(0.99)),
        p999: nanos(latency.quantile(0.999)),
        max: nanos(latency.max()),
        clipped: latency.clipped(),
    }
}

fn errors(stats: &Stats) -> Vec<ErrorCount> {
    let entry = |(&(stage, failure), &count): (&(_, Failure), &u64)| {
        let stage: crate::stats::Stage = stage;
        ErrorCount {
            stage: stage.name(),
            kind: failure.kind(),
            errno: match failure {
                Failure::Os(number) => Some(number),
                _ => None,
            },
            text: failure.text(),
            count,
        }
    };
    stats.errors.iter().map(entry).collect()
}

fn costs(measured: &Measured) -> Costs {
    let connections = measured.stats.handshaken;
    let cost = |total: Duration, busiest: Share| Cost {
        us_per_connection: (connections > 0)
            .then(|| total.as_secs_f64() * 1e6 / connections as f64),
        busiest_thread: busiest.busy,
        busiest_thread_waiting: busiest.waiting,
        total_s: total.as_secs_f64(),
    };
    Costs {
        generator: cost(
            measured.whole.generator(),
            measured.window.generator_busiest(),
        ),
        target: measured
            .whole
            .target()
            .zip(measured.window.target_busiest())
            .map(|(total, busiest)| cost(total, busiest)),
    }
}

fn memory(findings: &Findings<'_>) -> Memory {
    let all = findings.weighed.map_or(&[][..], |weighed| &weighed.weights);
    let most = all.iter().map(|weight| weight.open).max().unwrap_or(0);
    // The first connections also pay for buffers and tables that the others share.
    let enough = |weight: &&Weight| weight.open > most / 8;
    let held: Vec<Weight> = all.iter().filter(enough).copied().collect();
    let slope = |pick: fn(&Weight) -> Option<u64>| {
        let points: Option<Vec<_>> = held.iter().map(|w| Some((w.open, pick(w)?))).collect();
        meter::slope(points?.into_iter())
    };
    let own = slope(|weight| Some(weight.generator));
    let target = slope(|weight| weight.target);
    // Without a process of its own the target's memory is in ours.
    let apart = target.is_some() || !findings.plan.is_embedded();
    Memory {
        connections: most,
        target_per_connection: target,
        generator_per_connection: own.filter(|_| apart),
        both_per_connection: own.filter(|_| !apart),
        kernel_per_connection: slope(|weight| Some(weight.kernel)),
        generator_peer_state: crate::generator::MEMORY_PER_PEER,
        id_frames: findings.measured.frames,
    }
}

fn driver(counters: &DriverCounters) -> DriverReport {
    DriverReport {
        turns: counters.turns,
        waits: counters.waits,
        completion_overflows: counters.completion_overflows,
        submissions_spilled: counters.submissions_spilled,
        receives_parked: counters.receives_parked,
        short_sends: counters.short_sends,
        soft_errors: counters.soft_errors,
    }
}

fn evidence(plan: &Plan, stats: &Stats, window: &Spent) -> Evidence {
    // Sides, or shards of one, that share a processor wait for each other.
    let shared = match (&plan.aim, &plan.cpus) {
        (Aim::Embedded { shards, cpus }, Some(own)) => cpus.as_ref().is_none_or(|engine| {
            *shards as usize > engine.len() || own.iter().any(|cpu| engine.contains(cpu))
        }),
        (Aim::Embedded { .. }, None) => true,
        (Aim::Remote { .. }, _) => false,
    };
    Evidence {
        generator: window.generator_busiest(),
        target: window.target_busiest(),
        shared,
        open_loop: plan.rate.is_some(),
        missed: stats.missed,
        lag_p99: stats.lag.quantile(0.99).as_secs_f64(),
        held: plan.hold.is_some(),
        concurrency: plan.concurrency,
        any: stats.handshaken > 0,
    }
}
