//! The engine and Node over uTP (libutp on Node's side), alone and beside TCP.

use crate::cases::{peer_id, verify};
use crate::engine::{Engine, on_each_backend, pattern, receive, until};
use crate::node::{NodePeer, PATIENCE};
use flock_engine::{Builder, Flock, Transport};
use serde_json::json;

/// Less than over TCP: a Node process that gets no processor for a while loses what its socket
/// cannot hold, and LEDBAT takes that for a full path.
const BULK: usize = 200_000;

fn utp_alone() -> Builder {
    Flock::builder().tcp(false).utp(true)
}

fn both() -> Builder {
    Flock::builder().utp(true)
}

/// We dial a Node peer that has these transports: bytes go both ways at once.
fn we_dial(node: &mut NodePeer, engine: &mut Engine, tcp: bool, over: Transport) {
    let peer = node.start(0, json!({"echo": true, "tcp": tcp, "utp": true}));
    engine.dial(peer.port);
    let conn = engine.accept();
    assert!(conn.info().initiator);
    assert_eq!(conn.info().transport, over);
    assert_eq!(peer_id(&conn), peer.id);
    let seen = node.event("connection", |_| true);
    assert_eq!(seen["id"], engine.flock.id().to_string());
    let sent = pattern(BULK);
    std::thread::scope(|scope| {
        scope.spawn(|| conn.send_timeout(sent.clone(), PATIENCE).unwrap());
        assert!(receive(&conn, BULK) == sent);
    });
    conn.close();
    node.event("connection-closed", |_| true);
    until("the engine forgets the peer", || {
        engine.flock.stats().connected == 0
    });
}

/// Such a peer dials us.
fn node_dials(node: &mut NodePeer, engine: &mut Engine, tcp: bool, over: Transport) {
    let peer = node.start(0, json!({"tcp": tcp, "utp": true}));
    node.add_peer(0, engine.port);
    let conn = engine.accept();
    assert!(!conn.info().initiator);
    assert_eq!(conn.info().transport, over);
    assert_eq!(peer_id(&conn), peer.id);
    let seen = node.event("connection", |_| true);
    assert_eq!(seen["initiator"], true);
    assert_eq!(seen["id"], engine.flock.id().to_string());
    verify(node, &seen, &conn, BULK);
    // The loser of Node's race was silent, or is gone.
    until("one connection to be left", || {
        engine.flock.stats().connected == 1
    });
    node.command(&json!({"cmd": "destroy", "conn": seen["conn"]}));
    until("the engine to forget the peer", || {
        while let Ok(Some(_)) = conn.recv_timeout(PATIENCE) {}
        conn.close();
        engine.flock.stats().connected == 0
    });
}

#[test]
fn over_utp_alone_we_dial_node() {
    on_each_backend(&utp_alone(), |node, engine| {
        we_dial(node, engine, false, Transport::Utp);
    });
}

#[test]
fn over_utp_alone_node_dials_us() {
    on_each_backend(&utp_alone(), |node, engine| {
        node_dials(node, engine, false, Transport::Utp);
    });
}

#[test]
fn with_both_transports_we_reach_a_node_that_has_one() {
    on_each_backend(&both(), |node, engine| {
        we_dial(node, engine, false, Transport::Utp);
    });
}

#[test]
fn with_both_transports_tcp_is_preferred() {
    on_each_backend(&both(), |node, engine| {
        we_dial(node, engine, true, Transport::Tcp);
    });
    on_each_backend(&both(), |node, engine| {
        node_dials(node, engine, true, Transport::Tcp);
    });
}
