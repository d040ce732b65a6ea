//! The two sides as processes of their own: for namespaces, for several copies at a time, and for
//! measuring a server's memory apart.
//!
//! A child is this program with `side serve` or `side drive`. It says on its first line what its
//! parent must know, answers every line it reads with its counters, and ends at the end of its
//! input.

use crate::engine::{Drive, Engine};
use crate::environment::resident_bytes;
use crate::job::{Job, Targets};
use crate::limit::sys::CpuClock;
use crate::measure::{Client, Sample, Server, Setup};
use flock_transport::Transport;
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

/// What a server's process says first.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Ready {
    /// Where it listens.
    pub port: u16,
    /// Bytes of its memory that were resident before it listened.
    pub resident: u64,
}

/// What a side counted so far; each side fills what it knows.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Counted {
    /// Units the client did.
    pub done: u64,
    /// Connections whose handshake the server saw.
    pub frames: u64,
    /// Payload bytes that arrived at the server.
    #[serde(default)]
    pub bytes: u64,
    /// Connections that failed.
    pub errors: u64,
    /// Microseconds of processor time in processes of the engine's own.
    #[serde(default)]
    pub elsewhere: u64,
    /// Messages between the server's shards.
    pub messages: u64,
}

fn say(line: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, line)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Answers every line of the input with what `count` says, until its end.
fn answer(count: impl Fn() -> Counted) -> io::Result<()> {
    for line in io::stdin().lock().lines() {
        line?;
        say(&count())?;
    }
    Ok(())
}

/// Is the server's process.
///
/// # Errors
/// Those of the server.
pub fn serve(engine: Engine, job: Job, core: Option<usize>, shards: usize) -> io::Result<()> {
    let resident = resident_bytes(std::process::id())?;
    let bind = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let server = Server::start_sharded(engine, job, bind, core, shards)?;
    say(&Ready {
        port: server.addr.port(),
        resident,
    })?;
    answer(|| Counted {
        frames: server.cx.served.frames.load(Ordering::Relaxed),
        bytes: server.cx.served.bytes.load(Ordering::Relaxed),
        errors: server.cx.served.errors.load(Ordering::Relaxed),
        elsewhere: server.cx.elsewhere.load(Ordering::Relaxed),
        messages: server.cx.served.messages.load(Ordering::Relaxed),
        ..Counted::default()
    })?;
    server.stop()
}

/// Is the client's process.
///
/// # Errors
/// Those of the client.
pub fn drive(
    engine: Engine,
    job: Job,
    core: Option<usize>,
    targets: Targets,
    in_flight: usize,
) -> io::Result<()> {
    let client = Client::start(engine, Drive::new(job, targets, in_flight, None), core)?;
    answer(|| Counted {
        done: client.cx.done.load(Ordering::Relaxed),
        errors: client.cx.errors.load(Ordering::Relaxed),
        elsewhere: client.cx.elsewhere.load(Ordering::Relaxed),
        ..Counted::default()
    })?;
    client.stop()
}

/// A child process that plays one side.
#[derive(Debug)]
pub struct Side {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// The processor time of all its threads.
    pub clock: CpuClock,
}

impl Side {
    /// Starts `command`, which follows the protocol of this module.
    ///
    /// # Errors
    /// The system's.
    pub fn start(mut command: Command) -> io::Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let gone = || io::Error::other("a side has no pipes");
        let clock = CpuClock::of_process(child.id())?;
        Ok(Self {
            input: Some(child.stdin.take().ok_or_else(gone)?),
            output: BufReader::new(child.stdout.take().ok_or_else(gone)?),
            clock,
            child,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line it says.
    ///
    /// # Errors
    /// When it ends instead, or says something else.
    pub fn hear<T: for<'a> Deserialize<'a>>(&mut self) -> io::Result<T> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err(io::Error::other("a side ended by itself"));
        }
        Ok(serde_json::from_str(&line)?)
    }

    /// Its counters now.
    ///
    /// # Errors
    /// As [`Self::hear`].
    pub fn count(&mut self) -> io::Result<Counted> {
        self.ask("?")
    }

    /// What it says to `line`.
    ///
    /// # Errors
    /// As [`Self::hear`].
    pub fn ask<T: for<'a> Deserialize<'a>>(&mut self, line: &str) -> io::Result<T> {
        if let Some(input) = self.input.as_mut() {
            input.write_all(format!("{line}\n").as_bytes())?;
        }
        self.hear()
    }

    /// Ends it at once, whatever it is doing.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it ends badly, or not within ten seconds; then it is killed.
    pub fn stop(mut self) -> io::Result<()> {
        drop(self.input.take());
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(io::Error::other(format!("a side ended: {status}"))),
                None if Instant::now() > deadline => {
                    return Err(io::Error::other("a side does not end"));
                }
                None => thread::sleep(Duration::from_millis(1)),
            }
        }
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        // It may have ended long ago; that is the usual case.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where the processes run.
#[derive(Clone, Debug)]
pub struct Place {
    /// What goes before the server's command line.
    pub server: Vec<String>,
    /// What goes before the client's command line.
    pub client: Vec<String>,
    /// The first address the client connects to over TCP.
    pub base: Ipv4Addr,
    /// The server's own address, which it answers datagrams from.
    pub host: Ipv4Addr,
}

impl Place {
    /// Here, over loopback.
    #[must_use]
    pub fn here() -> Self {
        Self {
            server: Vec::new(),
            client: Vec::new(),
            base: Targets::loopback(0).base,
            host: Ipv4Addr::LOCALHOST,
        }
    }

    fn command(prefix: &[String]) -> io::Result<Command> {
        let this = std::env::current_exe()?;
        let Some((first, rest)) = prefix.split_first() else {
            return Ok(Command::new(this));
        };
        let mut command = Command::new(first);
        command.args(rest).arg(this);
        Ok(command)
    }

    /// Starts a server's process and waits until it listens.
    ///
    /// # Errors
    /// Those of the process.
    pub fn serve(
        &self,
        engine: Engine,
        job: Job,
        core: Option<usize>,
        shards: usize,
    ) -> io::Result<(Side, Ready)> {
        let mut command = Self::command(&self.server)?;
        command.args(["side", "serve", "--engine", engine.name]);
        command.args(["--job", &job.to_string(), "--shards", &shards.to_string()]);
        if let Some(core) = core {
            command.args(["--core", &core.to_string()]);
        }
        let mut side = Side::start(command)?;
        let ready = side.hear()?;
        Ok((side, ready))
    }

    /// Starts a client's process.
    ///
    /// # Errors
    /// Those of the process.
    pub fn drive(
        &self,
        engine: Engine,
        job: Job,
        core: Option<usize>,
        port: u16,
        in_flight: usize,
    ) -> io::Result<Side> {
        let (base, spread) = match engine.transport {
            Transport::Tcp => (self.base, "256"),
            Transport::Utp => (self.host, "1"),
        };
        let to = SocketAddr::from((base, port)).to_string();
        let mut command = Self::command(&self.client)?;
        command.args(["side", "drive", "--engine", engine.name]);
        command.args(["--job", &job.to_string(), "--to", &to, "--spread", spread]);
        command.args(["--in-flight", &in_flight.to_string()]);
        if let Some(core) = core {
            command.args(["--core", &core.to_string()]);
        }
        Side::start(command)
    }

    /// Runs one window with every side in a process of its own. With more than one copy each
    /// pair has a core to itself; an engine that shards by itself serves them all from one
    /// process instead.
    ///
    /// # Errors
    /// Those of any side.
    pub fn run(&self, setup: &Setup) -> io::Result<Sample> {
        let several = setup.copies > 1;
        let one_server = several && setup.server.sharded;
        let cores = |core: Option<usize>, copy: usize| if several { Some(copy) } else { core };
        let mut servers = Vec::new();
        let mut clients = Vec::new();
        let mut port = 0;
        for copy in 0..setup.copies {
            if copy == 0 || !one_server {
                let core = cores(setup.server_core, copy).filter(|_| !one_server);
                let shards = if one_server { setup.copies } else { 1 };
                let (side, ready) = self.serve(setup.server, setup.job, core, shards)?;
                port = ready.port;
                servers.push(side);
            }
            let core = cores(setup.client_core, copy);
            clients.push(self.drive(setup.client, setup.job, core, port, setup.in_flight)?);
        }
        thread::sleep(setup.warm_up);
        let mut read = || read(setup, &mut servers, &mut clients);
        let before = read()?;
        thread::sleep(setup.window);
        let after = read()?;
        for side in clients.into_iter().chain(servers) {
            side.stop()?;
        }
        Ok(sample(&before, &after))
    }
}

/// One reading of every clock and counter.
struct Reading {
    at: Instant,
    server: Duration,
    client: Duration,
    counted: Counted,
}

fn read(setup: &Setup, servers: &mut [Side], clients: &mut [Side]) -> io::Result<Reading> {
    let elsewhere = |counted: &Counted| Duration::from_micros(counted.elsewhere);
    let mut reading = Reading {
        at: Instant::now(),
        server: Duration::ZERO,
        client: Duration::ZERO,
        counted: Counted::default(),
    };
    for side in servers {
        let counted = side.count()?;
        reading.server += side.clock.read()? + elsewhere(&counted);
        if setup.counts_arrivals() {
            reading.counted.done += counted.bytes / setup.job.request() as u64;
        }
        reading.counted.frames += counted.frames;
        reading.counted.messages += counted.messages;
        reading.counted.errors += counted.errors;
    }
    for side in clients {
        let counted = side.count()?;
        reading.client += side.clock.read()? + elsewhere(&counted);
        if !setup.counts_arrivals() {
            reading.counted.done += counted.done;
        }
        reading.counted.errors += counted.errors;
    }
    Ok(reading)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of one window are far below 2^52"
)]
fn sample(before: &Reading, after: &Reading) -> Sample {
    let units = (after.counted.done - before.counted.done) as f64;
    let per_unit = |time: Duration| time.as_secs_f64() * 1e6 / units;
    let client = per_unit(after.client - before.client);
    let server = per_unit(after.server - before.server);
    Sample {
        rate: units / (after.at - before.at).as_secs_f64(),
        cpu: client + server,
        client_cpu: client,
        server_cpu: server,
        errors: after.counted.errors,
        units: after.counted.done,
        messages: (after.counted.messages - before.counted.messages) as f64 / units,
        datagrams: 0.0,
    }
}
