//! Every example runs, as the program it is.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

/// The example's program, which is built first where nobody did.
fn program(name: &str) -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let profile = this.parent().unwrap().parent().unwrap();
    let program = profile.join("examples").join(name);
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "-q", "-p", "flock-engine", "--features", "tokio"]);
    build.args(["--example", name]);
    if profile.ends_with("release") {
        build.arg("--release");
    }
    if !program.exists() {
        assert!(build.status().unwrap().success(), "{name} can be built");
    }
    program
}

/// A running example: what it says, line by line, and its input, whose end ends it.
struct Example {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Example {
    fn start(name: &str, args: &[&str]) -> Self {
        let mut command = Command::new(program(name));
        command.args(args).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let (tell, lines) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.lines() {
                if tell.send(line.unwrap()).is_err() {
                    break;
                }
            }
        });
        Self {
            input: child.stdin.take(),
            child,
            lines,
        }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("another line")
    }

    fn wait_for(&self, text: &str) -> String {
        loop {
            let line = self.line();
            if line.contains(text) {
                return line;
            }
        }
    }

    fn port(&self) -> u16 {
        let line = self.wait_for("on ");
        let addr = line.split("on ").nth(1).unwrap().split(',').next().unwrap();
        let port = addr.rsplit(':').next().unwrap();
        port.parse().unwrap_or_else(|_| panic!("no port in {line}"))
    }

    fn write(&mut self, text: &str) {
        self.input
            .as_mut()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
    }

    /// Ends its input and returns the rest of what it says.
    fn end(mut self) -> String {
        drop(self.input.take());
        let mut rest = String::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            rest += &(line + "\n");
        }
        assert!(self.child.wait().unwrap().success(), "{rest}");
        rest
    }
}

impl Drop for Example {
    /// Of a test that failed.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A peer that is nothing but a socket, after its handshake.
fn peer(port: u16, byte: u8) -> TcpStream {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut frame = [byte; 33];
    frame[0] = 32;
    stream.write_all(&frame).unwrap();
    stream.read_exact(&mut frame).unwrap();
    stream
}

fn read(stream: &mut TcpStream, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    stream.read_exact(&mut data).unwrap();
    data
}

#[test]
fn seeder() {
    let example = Example::start("seeder", &[]);
    let mut peer = peer(example.port(), 1);
    assert_eq!(read(&mut peer, 1 << 20), vec![0; 1 << 20]);
    assert_eq!(peer.read(&mut [0]).unwrap(), 0, "the end of the blob");
    drop(peer);
    example.end();
}

#[test]
fn chat() {
    let mut ann = Example::start("chat", &["ann", "room"]);
    let at = format!("127.0.0.1:{}", ann.port());
    let mut bob = Example::start("chat", &["bob", "room", &at]);
    ann.wait_for("is here");
    bob.wait_for("is here");
    bob.write("hello\n");
    assert_eq!(ann.line(), "bob: hello");
    ann.write("good \u{7} day\n");
    assert_eq!(
        bob.line(),
        "ann: good  day",
        "what controls terminals is left out"
    );
    bob.end();
    ann.wait_for("left");
    ann.end();
}

#[test]
fn embed() {
    let said = Example::start("embed", &["who", "why"]).end();
    for part in ["who? WHO", "why? WHY", "connected to", "connection closed"] {
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn handler() {
    let mut example = Example::start("handler", &["0", "1"]);
    let port = example.port();
    let (mut one, mut two) = (peer(port, 1), peer(port, 2));
    for peer in [&mut one, &mut two] {
        peer.write_all(b"echo").unwrap();
        assert_eq!(read(peer, 4), b"echo");
    }
    example.write("to all\n");
    for peer in [&mut one, &mut two] {
        assert_eq!(read(peer, 7), b"to all\n");
    }
    // It says goodbye to who says nothing.
    assert_eq!(one.read(&mut [0]).unwrap(), 0);
    drop((one, two));
    example.wait_for("4 bytes");
    example.end();
}

#[test]
fn noise() {
    let said = Example::start("noise", &["0.1"]).end();
    assert!(said.contains("both keys proved"), "{said}");
}
