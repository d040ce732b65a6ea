//! One side ends and starts again at the same port.

use crate::cases::{peer_id, verify};
use crate::engine::{Engine, id, on_each_backend, until, with_id};
use crate::node::NodePeer;
use flock_engine::io::Backend;
use serde_json::json;
use std::time::Duration;

/// The options of a Node peer at `port` whose id stays.
fn options(port: u16, utp: bool) -> serde_json::Value {
    json!({"id": id(0x42).to_string(), "port": port, "tcp": !utp, "utp": utp})
}

/// We dialled Node; it ends without a word and comes back.
fn node_restarts(utp: bool) {
    on_each_backend(&with_id(0).tcp(!utp).utp(utp), |first, engine| {
        let peer = first.start(0, options(0, utp));
        engine.dial(peer.port);
        let conn = engine.accept();
        first.event("connection", |_| true);
        first.command(&json!({"cmd": "exit"}));
        let mut second = NodePeer::spawn().expect("Node was there a moment ago");
        assert_eq!(second.start(0, options(peer.port, utp)).port, peer.port);
        // Over TCP its system has told us; over uTP the new process does, once it hears of a
        // connection that it does not know.
        until("we notice", || {
            let sent = conn.send_timeout("anybody?", Duration::ZERO);
            sent.is_err() || conn.is_closed()
        });
        drop(conn);
        let conn = engine.accept();
        assert!(conn.info().initiator, "nobody told Node of us");
        assert_eq!(peer_id(&conn), peer.id);
        let seen = second.event("connection", |_| true);
        verify(&mut second, &seen, &conn, 1_000);
    });
}

#[test]
fn after_node_restarts_at_its_port_we_reconnect_over_tcp() {
    node_restarts(false);
}

#[test]
fn after_node_restarts_at_its_port_we_reconnect_over_utp() {
    node_restarts(true);
}

/// Node dialled us and is back at its port, knowing nobody: our next word over uTP tells us, and
/// its next announcement brings it.
#[test]
fn after_node_restarts_what_we_say_over_utp_tells_us_whoever_had_dialled() {
    on_each_backend(&with_id(0).tcp(false).utp(true), |first, engine| {
        let peer = first.start(0, options(0, true));
        first.add_peer(0, engine.port);
        let conn = engine.accept();
        assert!(!conn.info().initiator);
        first.event("connection", |_| true);
        first.command(&json!({"cmd": "exit"}));
        let mut second = NodePeer::spawn().expect("Node was there a moment ago");
        assert_eq!(second.start(0, options(peer.port, true)).port, peer.port);
        until("we notice", || {
            let sent = conn.send_timeout("anybody?", Duration::ZERO);
            sent.is_err() || conn.is_closed()
        });
        until("we forget it", || engine.flock.stats().connected == 0);
        drop(conn);
        second.add_peer(0, engine.port);
        let conn = engine.accept();
        assert_eq!(peer_id(&conn), peer.id);
        let seen = second.event("connection", |_| true);
        verify(&mut second, &seen, &conn, 1_000);
    });
}

/// Node dialled us; we end and come back, and it finds us by its retries.
#[test]
fn after_we_restart_at_our_port_node_reconnects() {
    for backend in [Backend::Uring, Backend::Poll] {
        let Some(mut node) = NodePeer::spawn() else {
            return;
        };
        let builder = with_id(0).backend(backend);
        let Ok(first) = Engine::start(builder.clone()) else {
            assert_eq!(backend, Backend::Uring, "the portable backend starts");
            continue;
        };
        let port = first.port;
        node.start(0, json!({"utp": true}));
        node.add_peer(0, port);
        let conn = first.accept();
        node.event("connection", |_| true);
        drop(conn);
        drop(first);
        node.event("connection-closed", |_| true);
        let second = Engine::start_at(port, builder).expect("the port is free again");
        let conn = second.accept();
        let seen = node.event("connection", |_| true);
        verify(&mut node, &seen, &conn, 1_000);
        assert_eq!(node.status(0).met, 2);
    }
}
