//! `revelation nc` as a user runs it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Far beyond what any of this takes.
const PATIENCE: Duration = Duration::from_secs(60);
const BACKENDS: [&str; 2] = ["auto", "poll"];
const TRANSPORTS: [&str; 2] = ["--tcp", "--utp"];

fn nc(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_revelation"));
    command
        .arg("nc")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// A listening `nc` and the port it printed. The child is killed when dropped.
struct Listening {
    child: Option<Child>,
    stderr: BufReader<ChildStderr>,
    port: String,
}

impl Listening {
    fn start(args: &[&str]) -> Self {
        let mut args = args.to_vec();
        args.extend(["-l", "127.0.0.1", "0"]);
        let mut child = nc(&args).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        let port = line.trim().rsplit(':').next().unwrap().to_owned();
        assert!(line.starts_with("listening on 127.0.0.1:"), "{line}");
        Self {
            child: Some(child),
            stderr,
            port,
        }
    }

    fn feed(&mut self, input: &[u8]) {
        let child = self.child.as_mut().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
    }

    fn finish(mut self) -> Output {
        let output = wait(self.child.take().unwrap());
        let mut rest = String::new();
        self.stderr.read_to_string(&mut rest).unwrap();
        output
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _gone = child.kill();
            let _reaped = child.wait();
        }
    }
}

fn wait(child: Child) -> Output {
    let (sender, done) = mpsc::channel();
    let pid = child.id();
    thread::spawn(move || sender.send(child.wait_with_output()));
    match done.recv_timeout(PATIENCE) {
        Ok(output) => output.unwrap(),
        Err(_) => panic!("process {pid} does not end"),
    }
}

fn dial(args: &[&str], port: &str, input: Vec<u8>) -> Output {
    let mut args = args.to_vec();
    args.extend(["127.0.0.1", port]);
    let mut child = nc(&args).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let feeding = thread::spawn(move || stdin.write_all(&input));
    let output = wait(child);
    feeding.join().unwrap().unwrap();
    output
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..=250_u8).cycle().skip(seed.into()).take(len).collect()
}

#[test]
fn bytes_go_both_ways_and_both_ends_are_seen() {
    for (backend, transport) in grounds() {
        let options = ["--backend", backend, transport];
        let (there, back) = (pattern(3_000_000, 1), pattern(2_000_000, 2));
        let mut server = Listening::start(&options);
        let port = server.port.clone();
        let answer = back.clone();
        let serving = thread::spawn(move || {
            server.feed(&answer);
            server.finish()
        });
        let client = dial(&options, &port, there.clone());
        let server = serving.join().unwrap();
        assert!(client.status.success() && server.status.success());
        assert!(client.stdout == back, "{options:?}: to the client");
        assert!(server.stdout == there, "{options:?}: to the server");
    }
}

/// Every backend with every transport.
fn grounds() -> impl Iterator<Item = (&'static str, &'static str)> {
    let over = |backend| TRANSPORTS.map(|transport| (backend, transport));
    BACKENDS.into_iter().flat_map(over)
}

#[test]
fn an_echo_over_utp_serves_one_after_another() {
    for backend in BACKENDS {
        let options = ["--backend", backend, "--utp"];
        let server = Listening::start(&["--echo", "-k", "--backend", backend, "--utp"]);
        for seed in 0..4 {
            let sent = pattern(400_000, seed);
            let client = dial(&options, &server.port, sent.clone());
            assert!(client.status.success());
            assert!(client.stdout == sent, "{backend}: echoed");
        }
    }
}

#[test]
fn stdin_end_half_closes() {
    for backend in BACKENDS {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        let peer = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut question = Vec::new();
            stream.read_to_end(&mut question).unwrap();
            // Only now, after its end, comes the answer.
            stream.write_all(b"heard: ").unwrap();
            stream.write_all(&question).unwrap();
        });
        let output = dial(&["--backend", backend], &port, b"hello".to_vec());
        peer.join().unwrap();
        assert!(output.status.success());
        assert_eq!(output.stdout, b"heard: hello");
    }
}

#[test]
fn the_peers_end_ends_stdout() {
    for backend in BACKENDS {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        let mut child = nc(&["--backend", backend, "127.0.0.1", &port])
            .spawn()
            .unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"bye").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        // Stdin is still open here, and so is this side's direction.
        let mut out = String::new();
        child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut out)
            .unwrap();
        assert_eq!(out, "bye");
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(b"later").unwrap();
        drop(stdin);
        let mut heard = String::new();
        stream.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "later");
        assert!(wait(child).status.success());
    }
}

#[test]
fn echo_keeps_serving() {
    for backend in BACKENDS {
        let server = Listening::start(&["--echo", "-k", "--backend", backend]);
        let addr = format!("127.0.0.1:{}", server.port);
        let mut streams: Vec<_> = (0..8).map(|_| TcpStream::connect(&addr).unwrap()).collect();
        for (seed, stream) in (0..).zip(&mut streams) {
            let sent = pattern(500_000, seed);
            let mut writing = stream.try_clone().unwrap();
            let feeding = {
                let sent = sent.clone();
                thread::spawn(move || {
                    writing.write_all(&sent).unwrap();
                    writing.shutdown(Shutdown::Write).unwrap();
                })
            };
            let mut echoed = Vec::new();
            stream.read_to_end(&mut echoed).unwrap();
            feeding.join().unwrap();
            assert!(echoed == sent);
        }
    }
}

#[test]
fn failures_have_their_status() {
    let unused = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = unused.local_addr().unwrap().port().to_string();
    drop(unused);
    let refused = dial(&[], &port, Vec::new());
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("cannot connect to 127.0.0.1"), "{said}");
    let usage = dial(&["-k"], &port, Vec::new());
    assert_eq!(usage.status.code(), Some(2));
}
