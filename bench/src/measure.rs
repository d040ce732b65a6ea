//! One engine, one window: starts both sides, lets them warm up, and reads clocks and counters at
//! the two ends of the window.

use crate::engine::{Drive, Engine, Serve};
use crate::environment::datagrams_sent;
use crate::job::{Job, Targets};
use crate::limit::sys::{self, CpuClock};
use flock_transport::Transport;
use serde::Serialize;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a side may take to start or to end before the run is given up.
const PATIENCE: Duration = Duration::from_secs(40);

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Plays the server.
    pub server: Engine,
    /// Plays the client.
    pub client: Engine,
    /// What they do.
    pub job: Job,
    /// What carries the connections in this comparison. Over uTP, bulk is counted where it arrives.
    pub transport: Transport,
    /// Connections at a time.
    pub in_flight: usize,
    /// The core of the server's threads; `None` leaves them where the system puts them.
    pub server_core: Option<usize>,
    /// The core of the client's threads.
    pub client_core: Option<usize>,
    /// How many such pairs at a time; more than one only as processes (see [`crate::roles`]).
    pub copies: usize,
    /// Time before the window.
    pub warm_up: Duration,
    /// The window.
    pub window: Duration,
}

/// What a window gave.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Sample {
    /// Units done per second (see [`Job`]).
    pub rate: f64,
    /// Processor time per unit of both sides together, in microseconds: all threads of the
    /// process, those the kernel made for it included.
    pub cpu: f64,
    /// The client's part of it: the thread that drives.
    pub client_cpu: f64,
    /// The rest of it: the server's thread and whatever threads either library started.
    pub server_cpu: f64,
    /// Connections that failed, from start to end, on either side.
    pub errors: u64,
    /// Units done from start to end.
    pub units: u64,
    /// Messages between the server's shards per unit, where it has several.
    pub messages: f64,
    /// Datagrams or trains of them that both sides sent per unit, over uTP and where both sides are in
    /// this network namespace.
    pub datagrams: f64,
}

/// One reading of every clock and counter.
struct Reading {
    at: Instant,
    process: Duration,
    client: Duration,
    harness: Duration,
    done: u64,
    datagrams: u64,
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    /// What it shares with its thread.
    pub cx: Arc<Serve>,
    /// Where it listens.
    pub addr: SocketAddr,
    thread: JoinHandle<io::Result<()>>,
}

impl Server {
    /// Starts `engine` serving `job` on `bind` in a thread of its own, bound to `core`.
    ///
    /// # Errors
    /// Those of the server, or `TimedOut` when it says nothing.
    pub fn start(
        engine: Engine,
        job: Job,
        bind: SocketAddr,
        core: Option<usize>,
    ) -> io::Result<Self> {
        Self::start_sharded(engine, job, bind, core, 1)
    }

    /// The same with `shards` threads, for an engine that spreads by itself.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_sharded(
        engine: Engine,
        job: Job,
        bind: SocketAddr,
        core: Option<usize>,
        shards: usize,
    ) -> io::Result<Self> {
        let (ready, address) = sync_channel(1);
        let cx = Arc::new(Serve::new(job, bind, shards, ready));
        let shared = Arc::clone(&cx);
        let thread = thread::Builder::new()
            .name(format!("serve-{}", engine.name))
            .spawn(move || {
                core.map_or(Ok(()), sys::pin)?;
                (engine.serve)(&shared)
            })?;
        let addr = match first(&address, &thread) {
            Some(addr) => addr,
            None if thread.is_finished() => {
                join(thread)?;
                return Err(io::Error::other("the server ended before it listened"));
            }
            None => return Err(io::ErrorKind::TimedOut.into()),
        };
        Ok(Self { cx, addr, thread })
    }

    /// Ends it and hands back how it went.
    ///
    /// # Errors
    /// Those of the server, or `TimedOut` when it does not end.
    pub fn stop(self) -> io::Result<()> {
        let knock = SocketAddr::from((Ipv4Addr::LOCALHOST, self.addr.port()));
        let to = if self.addr.ip().is_unspecified() {
            knock
        } else {
            self.addr
        };
        self.cx.stop(to);
        wait(self.thread)
    }
}

/// The server's address, once it tells; `None` when it ended or took too long.
fn first(
    address: &Receiver<SocketAddr>,
    thread: &JoinHandle<io::Result<()>>,
) -> Option<SocketAddr> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline && !thread.is_finished() {
        if let Ok(addr) = address.recv_timeout(Duration::from_millis(20)) {
            return Some(addr);
        }
    }
    address.try_recv().ok()
}

/// Joins a thread that should be about to end.
fn wait(thread: JoinHandle<io::Result<()>>) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !thread.is_finished() {
        if Instant::now() > deadline {
            let name = thread.thread().name().unwrap_or("a side").to_owned();
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{name} does not end"),
            ));
        }
        thread::sleep(Duration::from_millis(1));
    }
    join(thread)
}

fn join(thread: JoinHandle<io::Result<()>>) -> io::Result<()> {
    thread
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("a side panicked")))
}

/// A running client.
#[derive(Debug)]
pub struct Client {
    /// What it shares with its thread.
    pub cx: Arc<Drive>,
    /// The processor time of its thread.
    pub clock: CpuClock,
    thread: JoinHandle<io::Result<()>>,
}

impl Client {
    /// Starts `engine` driving `cx` in a thread of its own, bound to `core`.
    ///
    /// # Errors
    /// The system's.
    pub fn start(engine: Engine, cx: Drive, core: Option<usize>) -> io::Result<Self> {
        let cx = Arc::new(cx);
        let shared = Arc::clone(&cx);
        let (tell, clock) = sync_channel(1);
        let thread = thread::Builder::new()
            .name(format!("drive-{}", engine.name))
            .spawn(move || {
                core.map_or(Ok(()), sys::pin)?;
                let _ = tell.send(CpuClock::of_this_thread()?);
                (engine.drive)(&shared)
            })?;
        let Ok(clock) = clock.recv() else {
            join(thread)?;
            return Err(io::Error::other("the client ended before it began"));
        };
        Ok(Self { cx, clock, thread })
    }

    /// Lets it finish what is under way and hands back how it went.
    ///
    /// # Errors
    /// Those of the client, or `TimedOut` when it does not end.
    pub fn stop(self) -> io::Result<()> {
        self.cx.stop();
        wait(self.thread)
    }

    /// Waits until it has done all its units, but not for ever.
    ///
    /// # Errors
    /// As [`Self::stop`].
    pub fn finish(self) -> io::Result<()> {
        wait(self.thread)
    }

    /// Waits until it has done all its units, however long that takes.
    ///
    /// # Errors
    /// Those of the client.
    pub fn join(self) -> io::Result<()> {
        join(self.thread)
    }
}

/// Runs one window.
///
/// # Errors
/// Those of either side; a side that does not end in time.
pub fn run(setup: &Setup) -> io::Result<Sample> {
    let bind = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let server = Server::start(setup.server, setup.job, bind, setup.server_core)?;
    let targets = Targets::here(setup.client.transport, server.addr.port());
    let lives_max = setup.client.lives_max;
    let most = lives_max.filter(|_| matches!(setup.job, Job::Life(_)));
    let drive = Drive::new(setup.job, targets, setup.in_flight, most);
    let client = Client::start(setup.client, drive, setup.client_core)?;
    if most.is_some() {
        return burst(server, client);
    }
    let harness = CpuClock::of_this_thread()?;
    thread::sleep(setup.warm_up);
    let read = || read(setup, &server, &client, harness);
    let before = read()?;
    thread::sleep(setup.window);
    let after = read()?;

    let shared = Arc::clone(&client.cx);
    client.stop()?;
    let served = settle(&server, &shared);
    let errors = shared.errors.load(Ordering::Relaxed) + served;
    server.stop()?;
    Ok(sample(&before, &after, errors, &shared))
}

/// Lets an engine do as many units as it can without a pause, and takes the time of all of them.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of one window are far below 2^52"
)]
fn burst(server: Server, client: Client) -> io::Result<Sample> {
    let cx = Arc::clone(&client.cx);
    client.finish()?;
    let served = settle(&server, &cx);
    let units = cx.done.load(Ordering::Relaxed);
    let spent = |micros: &AtomicU64| micros.load(Ordering::Relaxed) as f64 / units as f64;
    let (client_cpu, server_cpu) = (spent(&cx.elsewhere), spent(&server.cx.elsewhere));
    server.stop()?;
    let (Some(began), Some(ended)) = (cx.began.get(), cx.ended.get()) else {
        return Err(io::Error::other("it did not do all units"));
    };
    Ok(Sample {
        rate: units as f64 / (*ended - *began).as_secs_f64(),
        cpu: client_cpu + server_cpu,
        client_cpu,
        server_cpu,
        errors: cx.errors.load(Ordering::Relaxed) + served,
        units,
        ..Sample::default()
    })
}

impl Setup {
    /// Whether units are counted where they arrive: what a transport has taken may be far from there.
    #[must_use]
    pub fn counts_arrivals(&self) -> bool {
        self.transport == Transport::Utp && self.job == Job::Bulk
    }
}

fn read(setup: &Setup, server: &Server, client: &Client, harness: CpuClock) -> io::Result<Reading> {
    let done = if setup.counts_arrivals() {
        server.cx.served.bytes.load(Ordering::Relaxed) / setup.job.request() as u64
    } else {
        client.cx.done.load(Ordering::Relaxed)
    };
    let elsewhere = |micros: &AtomicU64| Duration::from_micros(micros.load(Ordering::Relaxed));
    let driving = elsewhere(&client.cx.elsewhere);
    let serving = elsewhere(&server.cx.elsewhere);
    Ok(Reading {
        at: Instant::now(),
        process: CpuClock::PROCESS.read()? + driving + serving,
        client: client.clock.read()? + driving,
        harness: harness.read()?,
        done,
        datagrams: match setup.transport {
            Transport::Tcp => 0,
            Transport::Utp => datagrams_sent()?,
        },
    })
}

/// Waits until the server has seen all the client did, and returns what went wrong there.
fn settle(server: &Server, client: &Drive) -> u64 {
    let served = &server.cx.served;
    let done = client.done.load(Ordering::Relaxed);
    let deadline = Instant::now() + Duration::from_secs(1);
    loop {
        let seen = match client.job {
            Job::Life(_) => served.frames.load(Ordering::Relaxed),
            job => served.bytes.load(Ordering::Relaxed) / job.request() as u64,
        };
        if seen >= done || Instant::now() > deadline {
            let missing = done.saturating_sub(seen);
            return served.errors.load(Ordering::Relaxed) + missing;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of one window are far below 2^52"
)]
fn sample(before: &Reading, after: &Reading, errors: u64, client: &Drive) -> Sample {
    let units = (after.done - before.done) as f64;
    let per_unit = |time: Duration| time.as_secs_f64() * 1e6 / units;
    let spent = after.process - before.process;
    let idle = after.harness - before.harness;
    let driving = after.client - before.client;
    let both = spent.saturating_sub(idle);
    Sample {
        rate: units / (after.at - before.at).as_secs_f64(),
        cpu: per_unit(both),
        client_cpu: per_unit(driving),
        server_cpu: per_unit(both.saturating_sub(driving)),
        errors,
        units: client.done.load(Ordering::Relaxed),
        messages: 0.0,
        datagrams: (after.datagrams - before.datagrams) as f64 / units,
    }
}
