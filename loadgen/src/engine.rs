//! The engine under load: in this process, or in a child of its own so that each side's memory
//! can be told apart.

use crate::backend;
use crate::meter::TargetThreads;
use crate::run::Target;
use crate::system;
use crate::units::Cpus;
use flock_engine::io::Backend;
use flock_engine::{Flock, Ignore};
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long the engine may take to end.
const SHUTDOWN: Duration = Duration::from_secs(2);
/// How long the engine's counters may lag behind the last close.
const SETTLE: Duration = Duration::from_secs(2);

/// What an engine counted itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OwnCount {
    /// Peers admitted.
    pub(crate) admitted: u64,
    /// Messages between its shards.
    pub(crate) messages: u64,
}

/// An engine in this process.
pub(crate) struct Embedded {
    flock: Flock<()>,
    addr: SocketAddr,
    threads: Vec<u32>,
}

impl Embedded {
    /// Starts an engine that accepts every peer and listens on a free port of 127.0.0.1.
    pub(crate) fn start(
        backend: Backend,
        shards: u32,
        cpus: Option<&[usize]>,
    ) -> Result<Self, String> {
        let before = system::threads(std::process::id());
        let builder = Flock::builder()
            .backend(backend)
            .shards(shards as usize)
            .cpus(cpus.unwrap_or_default().iter().copied())
            .max_connections(0)
            .half_open(1 << 20)
            .connections(1 << 20);
        let flock = builder
            .start_with(|_shard| Ignore)
            .map_err(|error| format!("the engine does not start: {error}"))?;
        let addr = flock
            .listen_at((Ipv4Addr::LOCALHOST, 0).into())
            .map_err(|error| format!("the engine cannot listen on 127.0.0.1: {error}"))?;
        let mut threads = system::threads(std::process::id());
        threads.retain(|thread| !before.contains(thread));
        Ok(Self {
            flock,
            addr,
            threads,
        })
    }

    pub(crate) fn target(&self) -> Target {
        Target {
            addrs: vec![self.addr],
            threads: TargetThreads::Own(self.threads.clone()),
            process: None,
        }
    }

    /// Which backend, and why.
    pub(crate) fn backend(&self) -> String {
        self.flock
            .backend()
            .map_or_else(|| "drivers of its own".into(), backend::describe)
    }

    /// The engine's own count, once it has caught up with `expected` admitted peers.
    pub(crate) fn count(&self, expected: u64) -> OwnCount {
        let deadline = Instant::now() + SETTLE;
        loop {
            let counters = self.flock.counters().counters;
            if counters.admitted >= expected || Instant::now() >= deadline {
                return OwnCount {
                    admitted: counters.admitted,
                    messages: counters.messages_sent,
                };
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn stop(self) {
        self.flock.shutdown(SHUTDOWN);
    }
}

/// An engine in a child process, which ends with this value.
pub(crate) struct Separate {
    child: Child,
    addr: SocketAddr,
}

impl Separate {
    /// Starts this program again as nothing but an engine.
    pub(crate) fn start(
        backend: &str,
        shards: u32,
        cpus: Option<&[usize]>,
    ) -> Result<Self, String> {
        let broken = |error: std::io::Error| format!("the engine's process: {error}");
        let mut command = Command::new(std::env::current_exe().map_err(broken)?);
        command
            .args([
                "--serve",
                "--backend",
                backend,
                "--shards",
                &shards.to_string(),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if let Some(cpus) = cpus {
            command.args(["--engine-cpus", &Cpus(cpus.to_vec()).to_string()]);
        }
        let mut child = command.spawn().map_err(broken)?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output)
                .read_line(&mut line)
                .map_err(broken)?;
        }
        match line.trim().parse() {
            Ok(addr) => Ok(Self { child, addr }),
            Err(_) => {
                end(&mut child);
                Err("the engine's process did not start".into())
            }
        }
    }

    pub(crate) fn target(&self) -> Target {
        Target {
            addrs: vec![self.addr],
            threads: TargetThreads::Process(self.child.id()),
            process: Some(self.child.id()),
        }
    }
}

impl Drop for Separate {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Closing its input asks the child to end; waiting collects it.
fn end(child: &mut Child) {
    drop(child.stdin.take());
    // A child that cannot be waited for is gone already.
    let _gone = child.wait();
}

/// The child's side of [`Separate`]: says where it listens, and serves until its input ends.
pub(crate) fn serve(backend: Backend, shards: u32, cpus: Option<&[usize]>) -> Result<(), String> {
    let engine = Embedded::start(backend, shards, cpus)?;
    println!("{}", engine.addr);
    let mut nothing = [0; 1];
    while std::io::stdin()
        .read(&mut nothing)
        .is_ok_and(|read| read > 0)
    {}
    engine.stop();
    Ok(())
}
