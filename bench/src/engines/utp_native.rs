//! libutp as Node has it (npm utp-native 2.5.3): each side is a process of its own.

use crate::engine::{Drive, Engine, Serve};
use crate::job::{Close, Job};
use crate::roles::Side;
use flock_transport::Transport;
use serde::Deserialize;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

/// libutp behind Node's binding.
pub const ENGINE: Engine = Engine {
    name: "utp-native",
    about: "libutp as npm utp-native 2.5.3, a Node process each side; it cannot reset",
    transport: Transport::Utp,
    plays: |job| matches!(job, Job::Life(Close::Fin) | Job::Bulk),
    // A context of libutp takes no more than some 3,000 connections, those of the last seconds
    // included. What it does until then is its best.
    lives_max: Some(2_500),
    sharded: false,
    serve,
    drive,
};

const SCRIPT: &str = include_str!("../../node/utp.js");
/// How often a process is asked what it has counted.
const LOOK: Duration = Duration::from_millis(2);

/// The folder that holds `node_modules`.
#[must_use]
pub fn modules() -> PathBuf {
    let named = std::env::var_os("FLOCK_NODE_DIR").map(PathBuf::from);
    named.unwrap_or_else(|| PathBuf::from("tests/interop/node"))
}

/// Why it cannot run here, if it cannot.
#[must_use]
pub fn missing() -> Option<String> {
    let package = modules().join("node_modules/utp-native/package.json");
    if !package.exists() {
        let package = package.display();
        return Some(format!(
            "{package} is not there (`npm ci`, or FLOCK_NODE_DIR)"
        ));
    }
    let node = Command::new("node").arg("--version").output();
    node.is_err().then(|| "there is no node".to_owned())
}

#[derive(Deserialize)]
struct Listening {
    port: u16,
}

#[derive(Deserialize)]
struct Ready {
    ready: bool,
}

#[derive(Deserialize)]
struct Counted {
    done: u64,
    frames: u64,
    bytes: u64,
    ended: u64,
    errors: u64,
    over: bool,
    cpu: u64,
}

fn start(arguments: &[String]) -> io::Result<Side> {
    let mut command = Command::new("node");
    command.args(["-e", SCRIPT]).args(arguments);
    command.current_dir(modules());
    Side::start(command)
}

fn serve(cx: &Arc<Serve>) -> io::Result<()> {
    let mut side = start(&["serve".to_owned(), cx.job.to_string()])?;
    let Listening { port } = side.hear()?;
    cx.report(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
    while !cx.stopped() {
        let counted: Counted = side.ask("")?;
        cx.served.frames.store(counted.frames, Relaxed);
        cx.served.bytes.store(counted.bytes, Relaxed);
        cx.served.ended.store(counted.ended, Relaxed);
        cx.served.errors.store(counted.errors, Relaxed);
        cx.elsewhere.store(counted.cpu, Relaxed);
        thread::sleep(LOOK);
    }
    side.stop()
}

fn drive(cx: &Arc<Drive>) -> io::Result<()> {
    let to = cx.targets.nth(0);
    let units = cx.take_all().unwrap_or(0);
    let arguments = [
        "drive".to_owned(),
        cx.job.to_string(),
        format!("{}@{}", to.port(), to.ip()),
        cx.in_flight.to_string(),
        units.to_string(),
    ];
    let mut side = start(&arguments)?;
    let Ready { ready } = side.hear()?;
    debug_assert!(ready, "it says nothing else");
    let _ = cx.began.set(Instant::now());
    loop {
        let word = if cx.is_stopped() { "stop" } else { "" };
        let counted: Counted = side.ask(word)?;
        cx.done.store(counted.done, Relaxed);
        cx.errors.store(counted.errors, Relaxed);
        cx.elsewhere.store(counted.cpu, Relaxed);
        if units > 0 && counted.done >= units {
            let _ = cx.ended.set(Instant::now());
        }
        if counted.over {
            return side.stop();
        }
        thread::sleep(LOOK);
    }
}
