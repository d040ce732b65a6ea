//! One uTP flow behind a bottleneck with a queue of a second: how much of the rate it takes, how long
//! packets wait, and how much of it a TCP flow keeps that comes beside it.

use crate::compare::Plan;
use crate::engine::Engine;
use crate::environment::Environment;
use crate::job::Job;
use crate::limit::epoll;
use crate::roles::{Place, Side};
use crate::stats::Summary;
use crate::veth::Veth;
use std::fmt::Write as _;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

/// How often the queue is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// How long what the flows have left behind may take to leave.
const QUEUE: Duration = Duration::from_millis(1200);

/// A flow from the one namespace to the other.
struct Flow {
    server: Side,
    client: Side,
}

impl Flow {
    fn start(place: &Place, engine: Engine) -> io::Result<Self> {
        let (server, ready) = place.serve(engine, Job::Bulk, Some(1), 1)?;
        let client = place.drive(engine, Job::Bulk, Some(0), ready.port, 1)?;
        Ok(Self { server, client })
    }
}

/// What a window showed.
struct Seen {
    /// Goodput of each flow in Mbit/s.
    rates: Vec<f64>,
    /// How long a packet that came then had to wait, in milliseconds.
    waits: Vec<f64>,
}

/// Runs every engine at every rate, and tabulates; a line that says why, where that cannot be done.
///
/// # Errors
/// Those of the flows.
pub fn run(engines: &[Engine], rates: &[u32], plan: Plan, meet: Duration) -> io::Result<String> {
    let veth = match Veth::routed() {
        Ok(veth) => veth,
        Err(error) => return Ok(format!("skipped: this needs root, ip and tc: {error}\n")),
    };
    let mut text = format!(
        "{}.\n\nOne flow through a router that sends at no more than a rate (tbf) with a queue of 1 s, {:.0} s to find the rate ({:.0} s where a TCP flow joins \
         a tenth of a second later) and {:.0} s measured. TCP is CUBIC. \
         Goodput is what the receiver has; a packet waits as long as what is queued before it takes.\n\n\
         | engine | Mbit/s of the bottleneck | goodput alone, Mbit/s | wait alone, ms: median, p95 | beside TCP | TCP beside it | \
         TCP alone | TCP keeps | target | verdict |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
        Environment::read(),
        plan.warm_up.as_secs_f64(),
        meet.as_secs_f64(),
        plan.window.as_secs_f64(),
    );
    for &rate in rates {
        veth.shape(rate)?;
        let tcp = window(&veth, rate, &[epoll::ENGINE_CUBIC], plan)?;
        let solo = tcp.rates.first().copied().unwrap_or(0.0);
        for &engine in engines {
            let alone = window(&veth, rate, &[engine], plan)?;
            let plan = Plan {
                warm_up: meet,
                ..plan
            };
            let both = window(&veth, rate, &[engine, epoll::ENGINE_CUBIC], plan)?;
            row(&mut text, (engine, rate), &alone, &both, solo);
        }
    }
    Ok(text)
}

/// Runs flows of these engines at the same time.
fn window(veth: &Veth, rate: u32, engines: &[Engine], plan: Plan) -> io::Result<Seen> {
    let place = veth.place();
    let flows: io::Result<Vec<Flow>> = engines.iter().map(|&e| Flow::start(&place, e)).collect();
    let mut flows = flows?;
    thread::sleep(plan.warm_up);
    let mut bytes = Vec::new();
    for flow in &mut flows {
        bytes.push(flow.server.count()?.bytes);
    }
    let began = Instant::now();
    let mut waits = Vec::new();
    while began.elapsed() < plan.window {
        thread::sleep(LOOK);
        let bits = 8 * u32::try_from(veth.backlog()?).unwrap_or(u32::MAX);
        waits.push(f64::from(bits) / f64::from(rate) / 1e3);
    }
    let micros = began.elapsed().as_secs_f64() * 1e6;
    let mut rates = Vec::new();
    for (flow, before) in flows.iter_mut().zip(bytes) {
        let bytes = u32::try_from(flow.server.count()?.bytes - before).unwrap_or(u32::MAX);
        rates.push(8.0 * f64::from(bytes) / micros);
    }
    drop(flows);
    thread::sleep(QUEUE);
    Ok(Seen { rates, waits })
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.client.kill();
        self.server.kill();
    }
}

/// What a TCP flow is to keep of its rate.
const KEEPS: f64 = 0.9;

fn row(text: &mut String, (engine, rate): (Engine, u32), alone: &Seen, both: &Seen, solo: f64) {
    let first = |seen: &Seen| seen.rates.first().copied().unwrap_or(0.0);
    let tcp = both.rates.get(1).copied().unwrap_or(0.0);
    let mut waits = alone.waits.clone();
    waits.sort_by(f64::total_cmp);
    let p95 = waits.get(waits.len() * 95 / 100).copied().unwrap_or(0.0);
    let keeps = tcp / solo;
    let _ = writeln!(
        text,
        "| {} | {rate} | {:.2} | {:.0}, {p95:.0} | {:.2} | {tcp:.2} | {solo:.2} | {keeps:.3} | >= {KEEPS} | {} |",
        engine.name,
        first(alone),
        Summary::of(&waits).median,
        first(both),
        if keeps >= KEEPS { "met" } else { "missed" },
    );
}
