//! `loadgen`: simulated peers against a swarm engine, with honest numbers.

mod backend;
mod cli;
mod engine;
mod frame;
mod generator;
mod meter;
mod plan;
mod preflight;
mod progress;
mod render;
mod report;
mod run;
mod schedule;
mod stats;
mod system;
mod text;
mod ticker;
mod units;
mod verdict;

use backend::Chosen;
use clap::Parser;
use cli::Args;
use engine::{Embedded, Separate};
use meter::TargetThreads;
use plan::{Aim, Plan};
use preflight::Limits;
use report::{Findings, Report};
use run::{Measured, Target};
use signal_hook::consts::SIGINT;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use ticker::Ticker;

/// All peers succeeded.
const OK: u8 = 0;
/// Some peers failed.
const PEERS_FAILED: u8 = 1;
/// The command line makes no sense (clap's own number too).
const USAGE: u8 = 2;
/// The machine's limits allow none of it, or less than asked for with `--strict`.
const REFUSED: u8 = 3;
/// The run broke off.
const BROKEN: u8 = 4;
/// SIGINT: 128 and the signal's number, as shells do.
const INTERRUPTED: u8 = 130;

/// Why there is no report, and the exit status that says so.
struct Trouble {
    status: u8,
    text: String,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match execute(&args) {
        Ok(status) => ExitCode::from(status),
        Err(trouble) => {
            eprintln!("loadgen: {}", trouble.text);
            ExitCode::from(trouble.status)
        }
    }
}

fn execute(args: &Args) -> Result<u8, Trouble> {
    let usage = |text| Trouble {
        status: USAGE,
        text,
    };
    let mut plan = plan::plan(args).map_err(usage)?;
    let limits = Limits::read();
    if args.serve {
        serve(&plan).map_err(broken)?;
        return Ok(OK);
    }
    let asked = plan.open();
    let checked = preflight::check(&plan.needs(), &limits);
    if !args.quiet {
        for text in checked.shortages.iter().chain(&checked.warnings) {
            eprintln!("loadgen: {text}");
        }
    }
    if checked.open < plan.lanes() || (args.strict && checked.open < asked) {
        return Err(Trouble {
            status: REFUSED,
            text: format!("refused: {}", checked.shortages.join("; ")),
        });
    }
    if checked.open < asked {
        plan.limit_to(checked.open);
        if !args.quiet {
            eprintln!(
                "loadgen: going on with {} connections at a time",
                checked.open
            );
        }
    }
    if let Some(path) = json_file(args) {
        // Better now than after the load.
        let opened = OpenOptions::new().append(true).create(true).open(path);
        opened.map_err(|error| broken(format!("{}: {error}", path.display())))?;
    }
    let report = measure(&plan, &limits, &checked, asked, args.quiet)?;
    publish(args, &report).map_err(broken)?;
    Ok(report.exit_code)
}

/// The file the report goes to; `None` for stdout too.
fn json_file(args: &Args) -> Option<&Path> {
    args.json.as_deref().filter(|path| *path != Path::new("-"))
}

fn broken(text: String) -> Trouble {
    Trouble {
        status: BROKEN,
        text,
    }
}

fn serve(plan: &Plan) -> Result<(), String> {
    match &plan.aim {
        Aim::Embedded { shards, cpus } => {
            engine::serve(plan.backend.into(), *shards, cpus.as_deref())
        }
        Aim::Remote { .. } => Err("--serve and --target exclude each other".into()),
    }
}

/// Does what the plan says.
fn measure(
    plan: &Plan,
    limits: &Limits,
    checked: &preflight::Verdict,
    asked: u32,
    quiet: bool,
) -> Result<Report, Trouble> {
    let stop = stop_on_interrupt().map_err(broken)?;
    let selected = flock_engine::io::select(plan.backend.into())
        .map_err(|error| broken(format!("no driver: {error}")))?;
    let chosen = Chosen::of(&selected);
    let mut ticker = Ticker::new(quiet);
    let (engine, target) = aim(plan).map_err(broken)?;
    let measured = run::run(plan, chosen, &target, &stop, &mut ticker).map_err(broken)?;
    let own_count = engine
        .as_ref()
        .map(|engine| engine.count(measured.stats.handshaken));
    let engine_reason = engine.as_ref().map(Embedded::backend);
    if let Some(engine) = engine {
        engine.stop();
    }
    let stopped = || stop.load(Ordering::Relaxed);
    let weighing = plan.weighing(limits).filter(|_| !stopped());
    let weighed = weighing.and_then(|weighing| {
        let weighed = weigh(&weighing, chosen, &stop, &mut ticker);
        // The run itself is measured; its report is not lost for this.
        weighed
            .inspect_err(|text| eprintln!("loadgen: memory not measured: {text}"))
            .ok()
    });
    let interrupted = stopped();
    let exit_code = match measured.stats.failed() {
        _ if interrupted => INTERRUPTED,
        0 => OK,
        _ => PEERS_FAILED,
    };
    Ok(Report::new(&Findings {
        plan,
        preflight: checked,
        asked,
        addrs: target.addrs.iter().map(ToString::to_string).collect(),
        chosen,
        generator_reason: backend::describe(&selected),
        engine_reason,
        own_count,
        measured: &measured,
        weighed: weighed.as_ref().or(plan.hold.map(|_| &measured)),
        interrupted,
        exit_code,
    }))
}

fn aim(plan: &Plan) -> Result<(Option<Embedded>, Target), String> {
    match &plan.aim {
        Aim::Embedded { shards, cpus } => {
            let engine = Embedded::start(plan.backend.into(), *shards, cpus.as_deref())?;
            let target = engine.target();
            Ok((Some(engine), target))
        }
        Aim::Remote { addrs, process } => {
            let target = Target {
                addrs: addrs.clone(),
                threads: process.map_or(TargetThreads::Unseen, TargetThreads::Process),
                process: *process,
            };
            Ok((None, target))
        }
    }
}

/// Opens idle connections to an engine in a process of its own, to see what one weighs.
fn weigh(
    plan: &Plan,
    chosen: Chosen,
    stop: &AtomicBool,
    ticker: &mut Ticker,
) -> Result<Measured, String> {
    let Aim::Embedded { shards, cpus } = &plan.aim else {
        return Err("only an engine of our own is weighed".into());
    };
    let engine = Separate::start(plan.backend.name(), *shards, cpus.as_deref())?;
    let weighed = run::run(plan, chosen, &engine.target(), stop, ticker)?;
    match weighed.stats.failed() {
        0 => Ok(weighed),
        failed => Err(format!(
            "{failed} of {} idle connections failed",
            plan.peers
        )),
    }
}

/// The first interrupt ends the run early, with a report; the second ends the program.
fn stop_on_interrupt() -> Result<Arc<AtomicBool>, String> {
    let stop = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register_conditional_default(SIGINT, stop.clone())
        .and_then(|_| signal_hook::flag::register(SIGINT, stop.clone()))
        .map_err(|error| format!("SIGINT cannot be handled: {error}"))?;
    Ok(stop)
}

fn publish(args: &Args, report: &Report) -> Result<(), String> {
    let mut stdout = std::io::stdout().lock();
    let mut say = |text: &str| {
        stdout
            .write_all(text.as_bytes())
            .map_err(|error| error.to_string())
    };
    let json = || {
        serde_json::to_string_pretty(report)
            .map(|json| json + "\n")
            .map_err(|error| format!("the report cannot be written as JSON: {error}"))
    };
    if args.json.is_some() && json_file(args).is_none() {
        return say(&json()?);
    }
    // The text first: a disk that has filled up meanwhile does not lose what was measured.
    say(&render::render(report, render::colour_wanted()))?;
    json_file(args).map_or(Ok(()), |path| {
        std::fs::write(path, json()?).map_err(|error| format!("{}: {error}", path.display()))
    })
}
