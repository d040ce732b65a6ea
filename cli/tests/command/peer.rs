//! A `revelation join` and what it says.

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Far beyond what any of this takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running peer with `--json`. It is killed when dropped.
pub(crate) struct Peer {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    /// Everything it said so far.
    pub(crate) said: Vec<Value>,
    pub(crate) port: u16,
}

pub(crate) fn join(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_revelation"));
    command
        .arg("join")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

impl Peer {
    /// Starts a peer on loopback and waits until it listens.
    pub(crate) fn start(args: &[&str]) -> Self {
        let mut command = join(args);
        command.args(["--json", "--host", "127.0.0.1", "--shards", "1"]);
        command.stderr(Stdio::inherit());
        Self::spawn(command)
    }

    /// The same with a command of the test's own making.
    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut peer = Self {
            stdin: child.stdin.take(),
            child,
            lines,
            said: Vec::new(),
            port: 0,
        };
        let listening = peer.wait_for("listening");
        peer.port = u16::try_from(listening["port"].as_u64().unwrap()).unwrap();
        peer
    }

    /// A peer that obeys.
    pub(crate) fn controlled(args: &[&str]) -> Self {
        let mut all = args.to_vec();
        all.push("--control");
        Self::start(&all)
    }

    pub(crate) fn say(&mut self, command: &Value) {
        let stdin = self.stdin.as_mut().unwrap();
        writeln!(stdin, "{command}").unwrap();
    }

    /// Ends its stdin.
    pub(crate) fn hang_up(&mut self) {
        self.stdin = None;
    }

    /// Waits for the next line that names this event.
    pub(crate) fn wait_for(&mut self, event: &str) -> Value {
        self.wait_until(event, |line| line["event"] == event)
    }

    /// Waits for a line like that, beginning with the next one.
    pub(crate) fn wait_until(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let line = self.next(deadline, what);
            if wanted(&line) {
                return line;
            }
        }
    }

    /// The bytes of `data` events until there are `count`.
    pub(crate) fn collect(&mut self, conn: u64, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            let data = self.wait_until("data", |line| {
                line["event"] == "data" && line["conn"] == conn
            });
            bytes.extend(hex::decode(data["hex"].as_str().unwrap()).unwrap());
        }
        bytes
    }

    fn next(&mut self, deadline: Instant, what: &str) -> Value {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(line) = self.lines.recv_timeout(left) else {
            panic!("no {what}; it said {:#?}", self.said);
        };
        let line: Value = serde_json::from_str(&line).unwrap();
        self.said.push(line.clone());
        line
    }

    /// Everything it says from now on, to its end.
    pub(crate) fn rest(&mut self) -> Vec<Value> {
        let from = self.said.len();
        let deadline = Instant::now() + PATIENCE;
        while let Ok(line) = self
            .lines
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            self.said.push(serde_json::from_str(&line).unwrap());
        }
        self.said[from..].to_vec()
    }

    /// Sends it a signal of this name.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill")
            .args([&format!("-{name}"), &pid])
            .status();
        assert!(status.unwrap().success());
    }

    /// Its exit status, once it has ended.
    pub(crate) fn status(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "it does not end");
            thread::yield_now();
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Runs a command to its end on this input; what it wrote to stdout, to stderr, and its status.
pub(crate) fn run(mut command: Command, input: &[u8]) -> (Vec<u8>, String, Option<i32>) {
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let input = input.to_vec();
    let feeding = thread::spawn(move || stdin.write_all(&input));
    let reading = thread::spawn(move || {
        let mut out = Vec::new();
        stdout.read_to_end(&mut out).map(|_| out)
    });
    let mut said = String::new();
    stderr.read_to_string(&mut said).unwrap();
    let out = reading.join().unwrap().unwrap();
    let _fed_what_it_took = feeding.join().unwrap();
    (out, said, child.wait().unwrap().code())
}
