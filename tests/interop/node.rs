//! A Node process with real `discovery-swarm` peers, driven over its standard streams.

use crate::install;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take; reached only when it is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The process. It ends with its stdin, and is killed when it does not.
pub(crate) struct NodePeer {
    child: Child,
    stdin: Option<ChildStdin>,
    events: Receiver<Value>,
    /// Events nobody asked for yet, oldest first.
    unread: Vec<Value>,
}

/// A swarm in the process.
pub(crate) struct Started {
    /// The TCP port it listens on.
    pub(crate) port: u16,
    /// Its peer id, in hex.
    pub(crate) id: String,
}

/// Counters of a swarm in the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) connected: u64,
    pub(crate) connecting: u64,
    pub(crate) queued: u64,
    /// Dials so far.
    pub(crate) dials: u64,
    /// Handshakes so far that ended with a connection.
    pub(crate) met: u64,
}

impl NodePeer {
    /// A process without swarms, or nothing where Node is missing.
    pub(crate) fn spawn() -> Option<Self> {
        Self::run(concat!(env!("CARGO_MANIFEST_DIR"), "/interop/node/peer.js"))
    }

    /// A process without libutp sockets, or nothing where Node is missing.
    pub(crate) fn spawn_libutp() -> Option<Self> {
        Self::run(concat!(env!("CARGO_MANIFEST_DIR"), "/interop/node/utp.js"))
    }

    /// A process whose swarms use the options `stream` and `connect`, or nothing where Node is missing.
    pub(crate) fn spawn_connect() -> Option<Self> {
        Self::run(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/interop/node/connect.js"
        ))
    }

    fn run(script: &str) -> Option<Self> {
        let modules = install::node_modules()?;
        let mut child = Command::new("node")
            .arg(script)
            .env("NODE_PATH", modules)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node was found a moment ago");
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().expect("stdout is piped");
        Some(Self {
            child,
            stdin,
            events: read_events(stdout),
            unread: Vec::new(),
        })
    }

    /// Starts swarm number `swarm` with `options` and waits until it listens.
    pub(crate) fn start(&mut self, swarm: u32, options: Value) -> Started {
        let mut command = options;
        command["cmd"] = json!("start");
        command["swarm"] = json!(swarm);
        self.command(&command);
        let listening = self.event("listening", |e| e["swarm"] == swarm);
        let port = listening["port"].as_u64().and_then(|p| p.try_into().ok());
        Started {
            port: port.expect("a port is a number"),
            id: listening["id"].as_str().expect("an id is text").to_owned(),
        }
    }

    /// Tells `swarm` of a peer on this host.
    pub(crate) fn add_peer(&mut self, swarm: u32, port: u16) {
        self.command(&json!({"cmd": "addPeer", "swarm": swarm, "host": "127.0.0.1", "port": port}));
    }

    /// `swarm` finds a peer on this host once more, although it knows it.
    pub(crate) fn announce(&mut self, swarm: u32, port: u16) {
        self.command(
            &json!({"cmd": "announce", "swarm": swarm, "host": "127.0.0.1", "port": port}),
        );
    }

    /// The counters of `swarm`.
    pub(crate) fn status(&mut self, swarm: u32) -> Status {
        self.command(&json!({"cmd": "status", "swarm": swarm}));
        let status = self.event("status", |e| e["swarm"] == swarm);
        let count = |name: &str| status[name].as_u64().expect("a count is a number");
        Status {
            connected: count("connected"),
            connecting: count("connecting"),
            queued: count("queued"),
            dials: count("dials"),
            met: count("met"),
        }
    }

    /// Whom `swarm` is connected to, by id in hex: `received`, `initiator` and `type` of each.
    pub(crate) fn heard(&mut self, swarm: u32) -> serde_json::Map<String, Value> {
        self.command(&json!({"cmd": "heard", "swarm": swarm}));
        let heard = self.event("heard", |e| e["swarm"] == swarm);
        heard["heard"].as_object().expect("an object").clone()
    }

    /// Sends one command.
    pub(crate) fn command(&mut self, command: &Value) {
        let stdin = self.stdin.as_mut().expect("stdin is open until drop");
        writeln!(stdin, "{command}").expect("the node process runs");
    }

    /// The oldest event of this name, if there is one now.
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.unread.extend(self.events.try_iter());
        let at = self
            .unread
            .iter()
            .position(|event| event["event"] == name)?;
        Some(self.unread.remove(at))
    }

    /// The oldest event of this name that `wanted` accepts; waits for it.
    pub(crate) fn event(&mut self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let wanted = |event: &Value| event["event"] == name && wanted(event);
        if let Some(at) = self.unread.iter().position(wanted) {
            return self.unread.remove(at);
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(event) if wanted(&event) => return event,
                Ok(event) => self.unread.push(event),
                Err(RecvTimeoutError::Timeout) => {
                    panic!("no {name} within {PATIENCE:?}; unread: {:?}", self.unread)
                }
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("node ended before {name}; unread: {:?}", self.unread)
                }
            }
        }
    }
}

impl Drop for NodePeer {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let deadline = Instant::now() + Duration::from_secs(5);
        // Its stdout ends when the process does.
        while Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if let Err(RecvTimeoutError::Disconnected) = self.events.recv_timeout(left) {
                break;
            }
        }
        // Harmless when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_events(stdout: ChildStdout) -> Receiver<Value> {
    let (sender, events) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines() {
            let Ok(line) = line else { return };
            let event = serde_json::from_str(&line)
                .unwrap_or_else(|error| panic!("node printed {line:?}: {error}"));
            if sender.send(event).is_err() {
                return;
            }
        }
    });
    events
}
