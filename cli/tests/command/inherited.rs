//! `revelation join` on sockets that somebody else made.

use crate::peer::{Peer, run};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

/// Passes its stdin and stderr as the descriptors 3 and 4, as a service manager does.
const PASS: &str = "exec 3<&0 4<&2 </dev/null 2>/dev/null; LISTEN_FDS=2 LISTEN_PID=$$ exec \"$@\"";

fn passing(script: &str, args: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_revelation"), "join"]);
    command.args(args).stdout(Stdio::piped());
    command
}

/// Dials, says who it is, and reads who is there.
fn greet(mut stream: &TcpStream) -> [u8; 33] {
    stream.write_all(&[&[32][..], &[7; 32]].concat()).unwrap();
    let mut frame = [0; 33];
    stream.read_exact(&mut frame).unwrap();
    frame
}

#[test]
fn a_successor_serves_who_dialled_before_it_started() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let socket = UdpSocket::bind(addr).unwrap();
    for _ in 0..2 {
        let early = TcpStream::connect(addr).unwrap();
        let mut command = passing(PASS, &["news", "--json", "--shards", "2"]);
        command
            .stdin(OwnedFd::from(listener.try_clone().unwrap()))
            .stderr(OwnedFd::from(socket.try_clone().unwrap()));
        let mut peer = Peer::spawn(command);
        assert_eq!(peer.port, addr.port());
        assert_eq!(greet(&early)[0], 32);
        assert_eq!(peer.wait_for("connection")["type"], "tcp");
        let mut dialler = Peer::start(&["news", "--no-tcp", "--peer", &addr.to_string()]);
        assert_eq!(peer.wait_for("connection")["type"], "utp");
        dialler.signal("TERM");
        assert_eq!(dialler.status(), Some(0));
        drop(early);
        peer.signal("TERM");
        assert_eq!(peer.status(), Some(0));
    }
}

#[test]
fn what_it_cannot_listen_on_is_said() {
    let tell = |script: &str, args: &[&str]| {
        let mut command = passing(script, args);
        command.stdin(Stdio::piped()).stderr(Stdio::piped());
        let (_, said, status) = run(command, b"");
        (said, status)
    };
    let script = "exec 3</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"";
    let (said, status) = tell(script, &["news"]);
    assert_eq!(status, Some(1));
    assert!(said.contains("neither a TCP nor a UDP socket"), "{said}");

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let pass_stdin = "exec 3<&0; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"";
    let output = passing(pass_stdin, &["news", "--port", "1"])
        .stdin(OwnedFd::from(listener))
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("--port"), "{said}");

    // Meant for somebody else, so not even looked at.
    let script = "exec 3</dev/null; LISTEN_FDS=1 LISTEN_PID=1 exec \"$@\"";
    let (said, status) = tell(script, &["--control", "--json", "--host", "127.0.0.1"]);
    assert_eq!(status, Some(0), "{said}");
}
