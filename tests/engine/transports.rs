//! Both transports at once.

use super::peers::{PATIENCE, engine, local, next_event, wait_for};
use bytes::Bytes;
use flock_engine::io::Backend;
use flock_engine::{CloseReason, Connection, Event, JoinOptions, ListenOptions, Transport};
use std::net::UdpSocket;
use std::time::Duration;

super::on_both_backends!(
    tcp_is_preferred,
    utp_wins_where_tcp_is_refused,
    a_reset_arrives,
    a_reset_with_the_other_id_finds_its_shard,
    what_was_queued_before_a_close_arrives,
    a_slow_reader_holds_the_sender_back,
    who_listens_on_ipv6_alone_dials_ipv4,
);

/// The transports each engine speaks.
struct Speaks {
    tcp: bool,
    utp: bool,
}

const BOTH: Speaks = Speaks {
    tcp: true,
    utp: true,
};
const UTP: Speaks = Speaks {
    tcp: false,
    utp: true,
};

/// Two engines, the second dialled by the first, with their ends of the connection.
fn meet(
    backend: Backend,
    dialler: Speaks,
    acceptor: Speaks,
) -> [(flock_engine::Flock, Connection); 2] {
    let start = |speaks: Speaks| {
        let options = engine(backend).tcp(speaks.tcp).utp(speaks.utp);
        options.start().unwrap()
    };
    let (a, b) = (start(dialler), start(acceptor));
    let addr = local(b.listen(0).unwrap());
    a.join("c", JoinOptions { announce: false }).unwrap();
    a.add_peer("c", addr).unwrap();
    let there = b.accept_timeout(PATIENCE).expect("the acceptor's end");
    let here = a.accept_timeout(PATIENCE).expect("the dialler's end");
    [(a, here), (b, there)]
}

fn tcp_is_preferred(backend: Backend) {
    for _ in 0..5 {
        let [(a, here), (b, there)] = meet(backend, BOTH, BOTH);
        assert_eq!(here.info().transport, Transport::Tcp);
        assert_eq!(there.info().transport, Transport::Tcp);
        // The loser was silent, so it never was a connection.
        wait_for("the acceptor to count it", || b.stats().connected == 1);
        let counted = b.counters().counters;
        assert_eq!(counted.swarm.handshakes_inbound, 1);
        a.shutdown(PATIENCE);
        b.shutdown(PATIENCE);
    }
}

fn utp_wins_where_tcp_is_refused(backend: Backend) {
    let [(a, here), (b, there)] = meet(backend, BOTH, UTP);
    assert_eq!(here.info().transport, Transport::Utp);
    assert_eq!(there.info().transport, Transport::Utp);
    there
        .send_timeout(Bytes::from_static(b"hello"), PATIENCE)
        .unwrap();
    assert_eq!(here.recv_timeout(PATIENCE).unwrap().unwrap(), "hello");
    a.shutdown(PATIENCE);
    b.shutdown(PATIENCE);
}

fn a_reset_arrives(backend: Backend) {
    let [(a, here), (b, there)] = meet(backend, UTP, UTP);
    let mut events = b.events().unwrap();
    here.abort();
    let reason = next_event(&mut events, "the end", |event| match event {
        Event::ConnectionClosed { reason, .. } => Some(*reason),
        _ => None,
    });
    assert_eq!(reason, CloseReason::PeerReset);
    drop(there);
    a.shutdown(PATIENCE);
    b.shutdown(PATIENCE);
}

fn what_was_queued_before_a_close_arrives(backend: Backend) {
    let [(a, here), (b, there)] = meet(backend, UTP, UTP);
    let blob = Bytes::from(vec![7; 2_000_000]);
    here.send_timeout(blob.clone(), PATIENCE).unwrap();
    here.close();
    let mut got = 0;
    while let Some(data) = there.recv_timeout(PATIENCE).unwrap() {
        assert!(data.iter().all(|byte| *byte == 7));
        got += data.len();
    }
    assert_eq!(got, blob.len());
    there.close();
    wait_for("both to be empty", || {
        a.stats().connected == 0 && b.stats().connected == 0
    });
    a.shutdown(PATIENCE);
    b.shutdown(PATIENCE);
}

fn a_slow_reader_holds_the_sender_back(backend: Backend) {
    let [(a, here), (b, there)] = meet(backend, UTP, UTP);
    let piece = Bytes::from(vec![3; 1 << 20]);
    let mut sent = 0;
    // The peer's engine keeps what its limits say, its endpoint a window, ours a queue.
    while here
        .send_timeout(piece.clone(), Duration::from_millis(300))
        .is_ok()
    {
        sent += piece.len();
        assert!(sent < 100 << 20, "nothing holds the sender back");
    }
    let mut got = 0;
    while got < sent {
        let data = there.recv_timeout(PATIENCE).unwrap().expect("more");
        got += data.len();
    }
    here.send_timeout(piece, PATIENCE).unwrap();
    a.shutdown(PATIENCE);
    b.shutdown(PATIENCE);
}

/// Types of packets (BEP 29).
const STATE: u8 = 2;
const RESET: u8 = 3;
const SYN: u8 = 4;

fn bare_packet(kind: u8, id: u16, seq: u16, ack: u16) -> [u8; 20] {
    let mut packet = [0; 20];
    packet[0] = kind << 4 | 1;
    packet[2..4].copy_from_slice(&id.to_be_bytes());
    packet[12..16].copy_from_slice(&(1_u32 << 20).to_be_bytes());
    packet[16..18].copy_from_slice(&seq.to_be_bytes());
    packet[18..20].copy_from_slice(&ack.to_be_bytes());
    packet
}

/// Some stacks reset with the id of the packets that they answer, which is another shard's.
fn a_reset_with_the_other_id_finds_its_shard(backend: Backend) {
    let target = engine(backend).tcp(false).utp(true).start().unwrap();
    let to = local(target.listen(0).unwrap());
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let say = |kind, id, seq, ack| {
        let sent = socket.send_to(&bare_packet(kind, id, seq, ack), to);
        assert_eq!(sent.unwrap(), 20);
    };
    let begin = |id| {
        say(SYN, id, 100, 0);
        let mut answer = [0; 20];
        socket.recv_from(&mut answer).unwrap();
        u16::from_be_bytes([answer[16], answer[17]]).wrapping_sub(1)
    };
    let counted = || target.counters().counters.utp;
    for (nth, id) in [(1, 40), (2, 41)] {
        let ack = begin(id);
        say(STATE, id + 1, 101, ack);
        wait_for("the connection", || counted().accepted == nth);
        say(RESET, id, 7, ack);
        wait_for("its end", || counted().resets_received == nth);
    }
    // One that no shard knows ends with the second: each of the others was not known to one.
    say(RESET, 900, 7, 9);
    wait_for("both to look", || counted().resets_ignored >= 4);
    begin(50);
    begin(51);
    assert_eq!(counted().resets_ignored, 4);
    target.shutdown(PATIENCE);
}

fn who_listens_on_ipv6_alone_dials_ipv4(backend: Backend) {
    let listen = ListenOptions {
        dual_stack: false,
        ..ListenOptions::default()
    };
    let start = || {
        let options = engine(backend).tcp(false).utp(true).listen(listen);
        options.start().unwrap()
    };
    let (a, b) = (start(), start());
    a.listen_at("[::]:0".parse().unwrap()).unwrap();
    let addr = b.listen_at("127.0.0.1:0".parse().unwrap()).unwrap();
    a.join("c", JoinOptions { announce: false }).unwrap();
    a.add_peer("c", addr).unwrap();
    let there = b.accept_timeout(PATIENCE).expect("the acceptor's end");
    assert!(there.info().addr.is_ipv4());
}
