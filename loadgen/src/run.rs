//! One load from start to end: generator threads at work, this thread watching them.

use crate::generator::{DATAGRAM_SOCKETS_MAX, Generator, Harvest, Load};
use crate::meter::{Reading, Spent, TargetThreads, Weight};
use crate::plan::Plan;
use crate::progress::{self, Progress};
use crate::schedule::Pace;
use crate::stats::Stats;
use crate::system;
use crate::ticker::Ticker;
use crate::{backend, frame::Frames};
use flock_engine::io::{Clock, Driver, DriverConfig, DriverCounters};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// How often the generator threads are looked at.
const WATCH: Duration = Duration::from_millis(20);

/// What is loaded, as the generator and the meter see it.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) addrs: Vec<SocketAddr>,
    pub(crate) threads: TargetThreads,
    /// The target's process, if it is another one that can be seen.
    pub(crate) process: Option<u32>,
}

/// What a load came to.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) stats: Stats,
    /// Of each generator thread.
    pub(crate) counters: Vec<DriverCounters>,
    /// CPU while peers were started.
    pub(crate) window: Spent,
    /// CPU from before the first dial to after the last close.
    pub(crate) whole: Spent,
    /// Memory before, while connections are held, and after.
    pub(crate) weights: Vec<Weight>,
    /// Bytes of all id frames.
    pub(crate) frames: usize,
}

/// Carries `plan` out against `target`. `stop` ends it early. Errors are sentences.
pub(crate) fn run(
    plan: &Plan,
    chosen: backend::Chosen,
    target: &Target,
    stop: &AtomicBool,
    ticker: &mut Ticker,
) -> Result<Measured, String> {
    let frames = Frames::generate(plan.seed, plan.peers);
    let progress: Vec<Progress> = (0..plan.lanes())
        .map(|_| Progress::new(thread::current()))
        .collect();
    let clock = Clock::start();
    thread::scope(|scope| {
        let (ready, all_ready) = mpsc::channel();
        let mut lanes = Vec::new();
        for (lane, progress) in (0u32..).zip(&progress) {
            let load = load(plan, &target.addrs, frames.clone(), lane);
            let cpu = plan.cpus.as_ref().map(|cpus| cpus[lane as usize]);
            let (go, start) = mpsc::channel::<()>();
            let ready = ready.clone();
            let work = move || {
                let work = Lane {
                    load,
                    cpu,
                    chosen,
                    clock,
                    ready,
                    start,
                    progress,
                    stop,
                };
                work.run()
                    .map_err(|error| format!("generator thread {lane}: {error}"))
            };
            let handle = thread::Builder::new()
                .name(format!("loadgen-{lane}"))
                .spawn_scoped(scope, work)
                .map_err(|error| format!("no thread for the generator: {error}"))?;
            lanes.push((go, handle));
        }
        drop(ready);
        for _ in &lanes {
            // An error means that no lane is left that could become ready; joining tells why.
            let Ok(()) = all_ready.recv() else { break };
        }
        let mut watch = Watch::begin(plan, &progress, target);
        for (go, _) in &lanes {
            // A lane that failed has hung up; joining tells why.
            let _failed_already = go.send(());
        }
        let is_over = |handle: &thread::ScopedJoinHandle<'_, _>, progress: &Progress| {
            progress.is_finished() || handle.is_finished()
        };
        while !lanes
            .iter()
            .zip(&progress)
            .all(|((_, handle), progress)| is_over(handle, progress))
        {
            thread::park_timeout(WATCH);
            watch.look(ticker);
        }
        watch.finish();
        ticker.clear();
        let mut harvests = Vec::new();
        for (stay, handle) in lanes {
            drop(stay);
            match handle.join() {
                Ok(harvest) => harvests.push(harvest?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(watch.end(harvests, frames.memory()))
    })
}

fn load(plan: &Plan, targets: &[SocketAddr], frames: Frames, lane: u32) -> Load {
    let lanes = plan.lanes();
    // This lane's part of a number, so that the parts add up.
    let part = |all: u32| (all / lanes + u32::from(lane < all % lanes)) as usize;
    Load {
        targets: targets.to_vec(),
        sources: plan.sources,
        frames,
        peers: plan.peers,
        lane,
        lanes,
        pace: match plan.rate {
            None => Pace::Closed,
            Some(rate) => Pace::Open { rate, lane, lanes },
        },
        duration: plan.duration,
        room: part(plan.open()),
        dialling: part(plan.concurrency),
        lazy_ack: plan.lazy_ack(),
        transport: plan.transport.into(),
        close: plan.close.into(),
        hold: plan.hold,
        timeouts: plan.timeouts,
    }
}

/// What one generator thread is born with.
struct Lane<'a> {
    load: Load,
    cpu: Option<usize>,
    chosen: backend::Chosen,
    clock: Clock,
    ready: mpsc::Sender<()>,
    start: mpsc::Receiver<()>,
    progress: &'a Progress,
    stop: &'a AtomicBool,
}

impl backend::Job for Lane<'_> {
    type Output = io::Result<Harvest>;

    fn run_on<D: Driver>(self, driver: D) -> Self::Output {
        let generator = Generator::new(driver, self.load, self.progress, self.stop)?;
        // The watching thread leaves only after this one has ended.
        let _watched = self.ready.send(());
        drop(self.ready);
        if self.start.recv().is_err() {
            return Err(io::Error::other("another generator thread failed"));
        }
        let harvest = generator.run();
        self.progress.finish();
        // Until the other end is dropped: a thread that has ended has no CPU time to be read.
        let _read = self.start.recv();
        harvest
    }
}

impl Lane<'_> {
    fn run(self) -> io::Result<Harvest> {
        if let Some(cpu) = self.cpu {
            system::pin(cpu)?;
        }
        self.progress.begin(system::thread_id());
        let config = DriverConfig {
            // Closing sockets still have their place while new ones are dialled.
            sockets: u32::try_from(self.load.room + 64 + DATAGRAM_SOCKETS_MAX as usize)
                .unwrap_or(u32::MAX),
            buffers: 1024,
            buffer_size: 2048,
            ..DriverConfig::default()
        };
        let (chosen, clock) = (self.chosen, self.clock);
        backend::start(chosen, &config, clock, self)?
    }
}

/// The watching thread's notes.
struct Watch<'a> {
    progress: &'a [Progress],
    generator: Vec<u32>,
    target: &'a Target,
    holds: bool,
    begun: Reading,
    window: Option<Spent>,
    whole: Option<Spent>,
    weights: Vec<Weight>,
}

impl<'a> Watch<'a> {
    fn begin(plan: &Plan, progress: &'a [Progress], target: &'a Target) -> Self {
        let generator: Vec<u32> = progress.iter().filter_map(Progress::thread).collect();
        Self {
            progress,
            target,
            holds: plan.hold.is_some(),
            window: None,
            whole: None,
            weights: vec![Weight::take(0, target.process)],
            begun: Reading::take(&generator, &target.threads),
            generator,
        }
    }

    fn look(&mut self, ticker: &mut Ticker) {
        if self.window.is_none() && self.progress.iter().all(Progress::window_closed) {
            self.window = Some(self.spent());
        }
        let now = self.sum();
        if self.holds && now.open > 0 && self.weights.len() < 4096 {
            let weight = Weight::take(now.open, self.target.process);
            // While it was taken the number went on; the middle is the best guess.
            let open = now.open.midpoint(self.sum().open);
            self.weights.push(Weight { open, ..weight });
        }
        ticker.tick(now);
    }

    /// The last readings, while all threads are still there.
    fn finish(&mut self) {
        self.whole = Some(self.spent());
        self.weights.push(Weight::take(0, self.target.process));
    }

    fn end(self, harvests: Vec<Harvest>, frames: usize) -> Measured {
        let whole = self.whole.unwrap_or_else(|| self.begun.since(&self.begun));
        let (mut stats, mut counters) = (Stats::new(), Vec::new());
        for harvest in harvests {
            stats.merge(&harvest.stats);
            counters.push(harvest.counters);
        }
        Measured {
            stats,
            counters,
            window: self.window.unwrap_or_else(|| whole.clone()),
            whole,
            weights: self.weights,
            frames,
        }
    }

    fn spent(&self) -> Spent {
        Reading::take(&self.generator, &self.target.threads).since(&self.begun)
    }

    fn sum(&self) -> progress::Reading {
        let readings = self.progress.iter().map(Progress::read);
        readings.fold(progress::Reading::default(), progress::Reading::add)
    }
}
