//! Node's discovery-swarm as the server, beside ours, with the same native client.

use crate::compare::{Plan, order};
use crate::engine::Engine;
use crate::environment::Environment;
use crate::job::{Close, Job, SERVER_FRAME};
use crate::limit;
use crate::roles::{Place, Side};
use crate::stats::Summary;
use crate::targets::{Limit, Ratio};
use serde::Deserialize;
use std::io;
use std::path::Path;
use std::process::Command;
use std::thread;

/// What it must cost at the most, compared with Node.
const TARGET: Limit = Limit::AtMost(0.25);
/// Connections at a time.
const IN_FLIGHT: usize = 64;
const SCRIPT: &str = include_str!("../node/server.js");

#[derive(Deserialize)]
struct Listening {
    port: u16,
}

/// One window: processor microseconds of the server per handshake, handshakes per second, and
/// failed connections.
#[derive(Clone, Copy, Debug)]
struct Window {
    cpu: f64,
    rate: f64,
    errors: u64,
}

/// Compares `ours` with Node; a line that says why, when there is no Node or no discovery-swarm.
///
/// # Errors
/// Those of either side.
pub fn run(modules: &Path, ours: Engine, plan: Plan) -> io::Result<String> {
    let package = modules.join("node_modules/discovery-swarm/package.json");
    if !package.exists() {
        let package = package.display();
        return Ok(format!(
            "skipped: {package} is not there; run `npm ci` or name another folder\n"
        ));
    }
    if Command::new("node").arg("--version").output().is_err() {
        return Ok("skipped: there is no node\n".to_owned());
    }
    let mut windows = [Vec::new(), Vec::new()];
    for round in 0..plan.rounds {
        for which in order(2, round) {
            let (side, port) = if which == 0 {
                let job = Job::Life(Close::Fin);
                let (side, ready) = Place::here().serve(ours, job, Some(1), 1)?;
                (side, ready.port)
            } else {
                node(modules)?
            };
            windows[which].push(window(side, port, plan)?);
        }
    }
    Ok(table(ours, &windows))
}

fn node(modules: &Path) -> io::Result<(Side, u16)> {
    let id: String = SERVER_FRAME[1..]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let mut command = Command::new("taskset");
    command.args(["-c", "1", "node", "-e", SCRIPT, &id]);
    command.current_dir(modules);
    let mut side = Side::start(command)?;
    let listening: Listening = side.hear()?;
    Ok((side, listening.port))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of one window are far below 2^52"
)]
fn window(server: Side, port: u16, plan: Plan) -> io::Result<Window> {
    let job = Job::Life(Close::Fin);
    let mut client = Place::here().drive(limit::uring::ENGINE, job, Some(0), port, IN_FLIGHT)?;
    thread::sleep(plan.warm_up);
    let (before, spent) = (client.count()?, server.clock.read()?);
    thread::sleep(plan.window);
    let (after, spent) = (client.count()?, server.clock.read()? - spent);
    client.stop()?;
    server.stop()?;
    let units = (after.done - before.done) as f64;
    Ok(Window {
        cpu: spent.as_secs_f64() * 1e6 / units,
        rate: units / plan.window.as_secs_f64(),
        errors: after.errors,
    })
}

fn table(ours: Engine, windows: &[Vec<Window>; 2]) -> String {
    let cpu = |index: usize| -> Vec<f64> { windows[index].iter().map(|w| w.cpu).collect() };
    let mut text = format!(
        "{}.\n\n| server | us of the server's CPU per handshake | handshakes/s | failed |\n\
         | --- | --- | --- | --- |\n",
        Environment::read()
    );
    for (index, name) in [(0, ours.name), (1, "node, discovery-swarm")] {
        let cost = Summary::of(&cpu(index));
        let rates: Vec<f64> = windows[index].iter().map(|w| w.rate).collect();
        let errors: u64 = windows[index].iter().map(|w| w.errors).sum();
        text.push_str(&format!(
            "| {name} | {:.1} [{:.1}..{:.1}] | {:.0} | {errors} |\n",
            cost.median,
            cost.min,
            cost.max,
            Summary::of(&rates).median,
        ));
    }
    let ratio = Ratio::paired(&cpu(0), &cpu(1));
    let clean = windows.iter().flatten().all(|window| window.errors == 0);
    text.push_str(&format!(
        "\nratio {:.3} [{:.3}..{:.3}], 95 % bound {:.3}, target <= 0.25: {}\n",
        ratio.ratio.median,
        ratio.ratio.min,
        ratio.ratio.max,
        ratio.bounds.upper,
        ratio.judge(TARGET, clean).name(),
    ));
    text
}
