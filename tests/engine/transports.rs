//! Both transports at once.

use super::peers::{PATIENCE, engine, local, next_event, wait_for};
use bytes::Bytes;
use flock_engine::io::Backend;
use flock_engine::{CloseReason, Connection, Event, JoinOptions, Transport};
use std::time::Duration;

super::on_both_backends!(
    tcp_is_preferred,
    utp_wins_where_tcp_is_refused,
    a_reset_arrives,
    what_was_queued_before_a_close_arrives,
    a_slow_reader_holds_the_sender_back,
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
