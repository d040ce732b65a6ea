//! Many slow peers: one core sends to thousands of flows, each at a rate of its own of 1 Mbit/s.
//!
//! A flow at such a rate has a packet every twelve milliseconds. How many of them leave together is a
//! choice, the pacing quantum, and what a packet costs follows from it.

mod tcp;
mod utp;

use crate::compare::Plan;
use crate::engine::Engine;
use crate::engines::flock;
use crate::environment::{Environment, core_idle};
use crate::job::{Job, Targets};
use crate::limit::epoll;
use crate::limit::sys::{self, CpuClock};
use crate::measure::Server;
use crate::stats::Summary;
use flock_engine::io::{Backend, raise_open_files};
use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes a second of one flow: 1 Mbit/s.
pub const RATE: u32 = 125_000;
/// The core of the sender; the receiver has the other one.
const CORE: usize = 0;

/// Who sends.
#[derive(Clone, Copy, Debug)]
enum Sender {
    Utp(Backend, Duration),
    Tcp,
}

/// What the flows did in a window.
#[derive(Debug, Default)]
struct Flowed {
    took: Duration,
    /// Of that the core was busy so long, with whatever runs on it.
    busy: Duration,
    /// The processor time of the sender's thread.
    thread: Duration,
    /// Bytes of each flow that its peer has acknowledged.
    bytes: Vec<u64>,
    /// Datagrams or segments sent.
    packets: u64,
    /// Calls they left in, where that is known.
    trains: Option<u64>,
}

/// One reading of all counters.
struct Reading {
    at: Instant,
    idle: Duration,
    thread: Duration,
    bytes: Vec<u64>,
    packets: u64,
    trains: Option<u64>,
}

impl Reading {
    /// Of this moment.
    fn now(bytes: Vec<u64>, packets: u64, trains: Option<u64>) -> io::Result<Self> {
        Ok(Self {
            at: Instant::now(),
            idle: core_idle(CORE)?,
            thread: CpuClock::of_this_thread()?.read()?,
            bytes,
            packets,
            trains,
        })
    }

    fn until(&self, after: &Self) -> Flowed {
        let took = after.at - self.at;
        let each = after.bytes.iter().zip(&self.bytes);
        Flowed {
            took,
            busy: took.saturating_sub(after.idle.saturating_sub(self.idle)),
            thread: after.thread - self.thread,
            bytes: each.map(|(after, before)| after - before).collect(),
            packets: after.packets - self.packets,
            trains: after
                .trains
                .zip(self.trains)
                .map(|(after, before)| after - before),
        }
    }
}

/// When to read: a while after all flows are up, and at the end of the window.
#[derive(Clone, Copy)]
struct Course {
    flows: usize,
    plan: Plan,
}

/// Sends to every count of `flows`, over uTP with every pacing quantum and over TCP, and tabulates.
///
/// # Errors
/// Those of either side; most often too few descriptors.
pub fn run(flows: &[usize], quanta: &[u64], plan: Plan) -> io::Result<String> {
    let files = raise_open_files()?;
    let most = flows.iter().copied().max().unwrap_or(0) as u64;
    if files.soft < 2 * most + 100 {
        let what = format!("{most} flows over TCP need {} open files", 2 * most + 100);
        return Err(io::Error::other(what));
    }
    let mut text = format!(
        "{}.\n\nFlows of 1 Mbit/s each, sender on core {CORE}, receiver on the other one; {:.1} s each. \
         What is counted is what peers have acknowledged; the core is busy whenever it is not idle, the kernel's timers and the receive path included.\n\n\
         | sender | flows | quantum, ms | Gbit/s | core busy | its own thread | Gbit/s per core | packets per train | CPU us per packet | \
         Mbit/s of a flow, median | least |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
        Environment::read(),
        plan.window.as_secs_f64(),
    );
    for &flows in flows {
        let course = Course { flows, plan };
        for &quantum in quanta {
            let quantum = Duration::from_millis(quantum);
            row(&mut text, Sender::Utp(Backend::Uring, quantum), course)?;
        }
        if let Some(&quantum) = quanta.last() {
            let quantum = Duration::from_millis(quantum);
            row(&mut text, Sender::Utp(Backend::Poll, quantum), course)?;
        }
        row(&mut text, Sender::Tcp, course)?;
    }
    Ok(text)
}

impl Sender {
    fn server(self) -> Engine {
        match self {
            Self::Utp(Backend::Poll, _) => flock::UTP_POLL,
            Self::Utp(..) => flock::UTP_URING,
            Self::Tcp => epoll::ENGINE,
        }
    }

    fn send(self, targets: Targets, course: Course) -> io::Result<Flowed> {
        match self {
            Self::Utp(backend, quantum) => utp::send(backend, quantum, targets, course),
            Self::Tcp => tcp::send(targets, course),
        }
    }
}

fn window(sender: Sender, course: Course) -> io::Result<Flowed> {
    let engine = sender.server();
    let bind = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let server = Server::start(engine, Job::Bulk, bind, Some(1 - CORE))?;
    let targets = Targets::here(engine.transport, server.addr.port());
    let sending = thread::Builder::new()
        .name("slow".to_owned())
        .spawn(move || {
            sys::pin(CORE)?;
            sender.send(targets, course)
        })?;
    let flowed = sending
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the sender panicked")));
    server.stop()?;
    flowed
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of one window are far below 2^52"
)]
fn row(text: &mut String, sender: Sender, course: Course) -> io::Result<()> {
    let flowed = window(sender, course)?;
    let seconds = flowed.took.as_secs_f64();
    let busy = flowed.busy.as_secs_f64() / seconds;
    let rates: Vec<f64> = flowed
        .bytes
        .iter()
        .map(|&b| b as f64 * 8e-6 / seconds)
        .collect();
    let gigabits = rates.iter().sum::<f64>() / 1e3;
    let each = Summary::of(&rates);
    let (name, quantum) = match sender {
        Sender::Utp(Backend::Poll, quantum) => ("flock-utp-poll", quantum.as_millis().to_string()),
        Sender::Utp(_, quantum) => ("flock-utp-uring", quantum.as_millis().to_string()),
        Sender::Tcp => ("kernel TCP, SO_MAX_PACING_RATE, epoll", "-".to_owned()),
    };
    let trains = flowed.trains.map_or("-".to_owned(), |trains| {
        format!("{:.1}", flowed.packets as f64 / trains.max(1) as f64)
    });
    let _ = writeln!(
        text,
        "| {name} | {} | {quantum} | {gigabits:.2} | {:.0} % | {:.0} % | {:.1} | {trains} | {:.2} | {:.3} | {:.3} |",
        course.flows,
        busy * 100.0,
        flowed.thread.as_secs_f64() / seconds * 100.0,
        gigabits / busy,
        flowed.busy.as_secs_f64() * 1e6 / flowed.packets.max(1) as f64,
        each.median,
        each.min,
    );
    Ok(())
}
