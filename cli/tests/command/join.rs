//! `revelation join` as a user and a controlling program run it.

use crate::peer::{Peer, join, run};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;

const TRANSPORTS: [&str; 2] = ["--no-utp", "--no-tcp"];

fn add(peer: &mut Peer, port: u16) {
    let host = "127.0.0.1";
    peer.say(&json!({"cmd": "add_peer", "channel": "news", "host": host, "port": port}));
}

/// Two peers, the first of which dialled the second, and the numbers of their connection.
fn pair(args: &[&str], transport: &str) -> (Peer, u64, Peer, u64) {
    let mut serving = vec!["news", transport];
    serving.extend(args);
    let mut other = Peer::controlled(&serving);
    let mut peer = Peer::controlled(&["news", transport]);
    add(&mut peer, other.port);
    let conn = |line: Value| line["conn"].as_u64().unwrap();
    let (here, there) = (
        conn(peer.wait_for("connection")),
        conn(other.wait_for("connection")),
    );
    (peer, here, other, there)
}

fn events(lines: &[Value]) -> Vec<&str> {
    let name = |line: &'_ Value| line["event"].as_str().is_some();
    assert!(lines.iter().all(name));
    lines
        .iter()
        .filter_map(|line| line["event"].as_str())
        .collect()
}

#[test]
fn a_life_is_told_in_order_with_the_fields_of_the_interface() {
    for (transport, kind) in TRANSPORTS.into_iter().zip(["tcp", "utp"]) {
        let (mut peer, here, mut other, there) = pair(&[], transport);
        peer.say(&json!({"cmd": "send", "conn": here, "hex": "68690a"}));
        peer.say(&json!({"cmd": "end", "conn": here}));
        let data = other.wait_for("data");
        assert_eq!(
            data,
            json!({"event": "data", "conn": there, "hex": "68690a"})
        );
        assert_eq!(
            other.wait_for("end"),
            json!({"event": "end", "conn": there})
        );
        other.say(&json!({"cmd": "close", "conn": there}));
        let closed = peer.wait_for("connection-closed");
        peer.hang_up();
        peer.rest();
        assert_eq!(peer.status(), Some(0));
        let all = events(&peer.said);
        let life = [
            "listening",
            "joined",
            "peer",
            "connecting",
            "handshaking",
            "connection",
            "end",
            "connection-closed",
        ];
        assert_eq!(all[..life.len()], life, "{:#?}", peer.said);
        assert_eq!(all.last(), Some(&"closed"));
        let address = format!("127.0.0.1:{}@6e657773", other.port);
        let found = json!({"event": "peer", "channel": "6e657773", "host": "127.0.0.1", "port": other.port, "id": address, "retries": 0});
        assert_eq!(peer.said[2], found);
        assert_eq!(
            (&closed["type"], &closed["initiator"]),
            (&json!(kind), &json!(true))
        );
        assert_eq!(
            (&closed["channel"], &closed["port"]),
            (&json!("6e657773"), &json!(other.port))
        );
        assert_eq!(
            (&closed["bytes_in"], &closed["bytes_out"]),
            (&json!(33), &json!(36))
        );
        assert_eq!(closed["id"].as_str().map(str::len), Some(64));
        assert_eq!(peer.said[4]["id"], Value::Null);
    }
}

#[test]
fn who_is_paused_is_told_nothing_and_loses_nothing() {
    for transport in TRANSPORTS {
        let (mut peer, here, mut other, there) = pair(&[], transport);
        other.say(&json!({"cmd": "pause", "conn": there}));
        other.say(&json!({"cmd": "stats"}));
        other.wait_for("stats");
        let piece = vec![7_u8; 1 << 20];
        for _ in 0..15 {
            peer.say(&json!({"cmd": "send", "conn": here, "hex": hex::encode(&piece)}));
        }
        peer.say(&json!({"cmd": "end", "conn": here}));
        // More than the buffers in between hold.
        peer.say(&json!({"cmd": "stats"}));
        peer.wait_for("stats");
        other.say(&json!({"cmd": "stats"}));
        other.wait_for("stats");
        assert!(!events(&other.said).contains(&"data"), "paused");
        other.say(&json!({"cmd": "resume", "conn": there}));
        let bytes = other.collect(there, piece.len() * 15);
        assert!(bytes.len() == piece.len() * 15 && bytes.iter().all(|byte| *byte == 7));
        other.wait_for("end");
        peer.say(&json!({"cmd": "stats"}));
        peer.wait_for("stats");
        assert!(
            events(&peer.said).contains(&"writable"),
            "some sends were held back"
        );
    }
}

#[test]
fn what_waits_for_a_peer_has_a_limit() {
    let (mut peer, here, mut other, there) = pair(&[], "--no-utp");
    other.say(&json!({"cmd": "pause", "conn": there}));
    let piece = hex::encode(vec![1_u8; 4 << 20]);
    for _ in 0..16 {
        peer.say(&json!({"cmd": "send", "conn": here, "hex": piece}));
    }
    let error = peer.wait_for("error");
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("wait for the peer"),
        "{error}"
    );
}

#[test]
fn a_bad_line_changes_nothing_and_a_gone_connection_is_no_error() {
    let mut peer = Peer::controlled(&[]);
    peer.say(&json!("x".repeat(17 << 20)));
    let error = peer.wait_for("error");
    assert!(
        error["message"].as_str().unwrap().contains("16777216"),
        "{error}"
    );
    for line in [
        json!("nonsense"),
        json!({"cmd": "dance"}),
        json!({"cmd": "send", "conn": 1, "hex": "x"}),
    ] {
        peer.say(&line);
        peer.wait_for("error");
    }
    for cmd in ["pause", "resume", "end", "close"] {
        peer.say(&json!({"cmd": cmd, "conn": 99}));
    }
    peer.say(&json!({"cmd": "send", "conn": 99, "hex": "00"}));
    peer.say(&json!({"cmd": "join", "channel": "hex:00ff"}));
    let joined = peer.wait_for("joined");
    assert_eq!(
        joined,
        json!({"event": "joined", "channel": "00ff", "ok": true})
    );
    peer.say(&json!({"cmd": "stats"}));
    let stats = json!({"event": "stats", "connecting": 0, "queued": 0, "connected": 0});
    assert_eq!(peer.wait_for("stats"), stats);
    peer.say(&json!({"cmd": "shutdown"}));
    assert_eq!(events(&peer.rest()), ["closed"]);
    assert_eq!(peer.status(), Some(0));
    assert_eq!(
        events(&peer.said)
            .iter()
            .filter(|event| **event == "error")
            .count(),
        4
    );
}

#[test]
fn a_removed_peer_is_banned_until_it_is_not() {
    let mut other = Peer::start(&["news"]);
    let mut peer = Peer::controlled(&["news"]);
    let at = |cmd| json!({"cmd": cmd, "channel": "news", "host": "127.0.0.1", "port": other.port});
    peer.say(&at("remove_peer"));
    peer.say(&at("add_peer"));
    let rejected = peer.wait_for("peer-rejected");
    assert_eq!(rejected["reason"], "banned");
    peer.say(&at("unban"));
    peer.say(&at("add_peer"));
    peer.wait_for("connection");
    other.signal("TERM");
    assert_eq!(events(&other.rest()).last(), Some(&"closed"));
    assert_eq!(other.status(), Some(0));
}

#[test]
fn echo_sink_file_and_command_do_what_they_say() {
    let file = env!("CARGO_BIN_EXE_revelation");
    let content = std::fs::read(file).unwrap();
    let content = &content[..content.len().min(3 << 20)];
    let short = std::env::temp_dir().join(format!("revelation-send-{}", std::process::id()));
    std::fs::write(&short, content).unwrap();
    let path = short.to_str().unwrap();
    let upper = b"HELLO".to_vec();
    let cases: [(&[&str], &[u8], &[u8]); 4] = [
        (&["--echo"], b"hello", b"hello"),
        (&["--sink"], b"hello", b""),
        (&["--send", path], b"", content),
        (&["--exec", "tr a-z A-Z"], b"hello", &upper),
    ];
    for transport in TRANSPORTS {
        for (mode, input, output) in cases {
            let mut args = vec!["news", transport];
            args.extend(mode);
            let serving = Peer::start(&args);
            let mut command = join(&["news", transport, "--pipe", "--host", "127.0.0.1"]);
            command.args(["--peer", &format!("127.0.0.1:{}", serving.port)]);
            let (out, said, status) = run(command, input);
            assert_eq!(status, Some(0), "{args:?}: {said}");
            assert!(out == output, "{args:?}: {} bytes: {said}", out.len());
            assert!(said.contains("connected: "), "{said}");
        }
    }
    std::fs::remove_file(short).unwrap();
}

#[test]
fn networks_are_allowed_and_denied() {
    for (rule, reason) in [
        (["--allow", "10.0.0.0/8"], "whitelist"),
        (["--deny", "127.0.0.1"], "banned"),
    ] {
        let mut peer = Peer::controlled(&["news", rule[0], rule[1]]);
        add(&mut peer, 1);
        assert_eq!(peer.wait_for("peer-rejected")["reason"], reason);
        let mut stranger = TcpStream::connect(("127.0.0.1", peer.port)).unwrap();
        assert_eq!(peer.wait_for("connection-refused")["reason"], reason);
        let _reset = stranger.read(&mut [0; 64]);
    }
}

#[test]
fn counters_are_served() {
    let address = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().to_string()
    };
    let _peer = Peer::start(&["news", "--metrics", &address]);
    for (path, says) in [("/metrics", "flock_connected 0"), ("/", "404 Not Found")] {
        let mut stream = TcpStream::connect(&address).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains(says), "{answer}");
    }
}

#[test]
fn a_second_interrupt_ends_at_once() {
    let (mut peer, here, mut other, there) = pair(&[], "--no-utp");
    other.say(&json!({"cmd": "pause", "conn": there}));
    let piece = hex::encode(vec![0_u8; 1 << 20]);
    for _ in 0..15 {
        peer.say(&json!({"cmd": "send", "conn": here, "hex": piece}));
    }
    peer.say(&json!({"cmd": "stats"}));
    peer.wait_for("stats");
    // Its connection cannot end in order: the other side takes nothing any more.
    peer.signal("INT");
    peer.signal("TERM");
    assert_eq!(peer.status(), Some(130));
}

#[test]
fn wrong_arguments_are_usage_errors() {
    for args in [
        &[][..],
        &["news", "--no-tcp", "--no-utp"],
        &["news", "--echo", "--sink"],
        &["news", "--control"],
        &["news", "--json", "--pipe"],
        &["--control", "--json", "--echo"],
        &["--control", "--json", "--peer", "127.0.0.1:1"],
        &["hex:0"],
        &["news", "--allow", "10.0.0.0/40"],
        &["news", "--id", "xyz"],
        &["news", "--peer", "127.0.0.1"],
    ] {
        let (_, said, status) = run(join(args), b"");
        assert_eq!(status, Some(2), "{args:?}: {said}");
        assert!(said.starts_with("error: "), "{said}");
    }
}

#[test]
fn a_taken_port_is_an_error_in_one_line() {
    let peer = Peer::start(&["news"]);
    let port = peer.port.to_string();
    let (_, said, status) = run(join(&["news", "--host", "127.0.0.1", "--port", &port]), b"");
    assert_eq!(status, Some(1));
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn a_file_that_cannot_be_sent_is_an_error_in_one_line() {
    for file in ["/nonexistent", "/"] {
        let (_, said, status) = run(join(&["news", "--send", file]), b"");
        assert_eq!(status, Some(1), "{said}");
        let line = format!("revelation: {file}: ");
        assert!(
            said.starts_with(&line) && said.lines().count() == 1,
            "{said}"
        );
    }
}
