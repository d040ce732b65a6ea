//! Node peers that limit themselves, and what that means for us.

use crate::cases::{peer_id, verify};
use crate::engine::{Engine, on_each_backend, on_each_backend_with, stays, until};
use crate::node::{NodePeer, PATIENCE};
use flock_engine::event::RefuseReason;
use flock_engine::{Connection, Event, Flock};
use serde_json::json;

/// We dial it and it takes the connection.
fn we_reach(node: &mut NodePeer, engine: &Engine, swarm: u32, port: u16) -> Connection {
    engine.dial(port);
    let conn = engine.accept();
    let seen = node.event("connection", |e| e["swarm"] == swarm);
    verify(node, &seen, &conn, 1_000);
    conn
}

/// Its `maxConnections` counts what it dials, and not who dials it.
#[test]
fn a_full_node_dials_nobody_and_takes_us_in() {
    on_each_backend_with(2, &Flock::builder(), |node, engines| {
        let peer = node.start(0, json!({"maxConnections": 1}));
        node.add_peer(0, engines[0].port);
        let first = engines[0].accept();
        node.event("connection", |_| true);
        node.add_peer(0, engines[1].port);
        stays("it queues whom it may not dial", || {
            let status = node.status(0);
            (status.dials, status.connected, status.queued) == (1, 1, 1)
        });
        let second = we_reach(node, &engines[1], 0, peer.port);
        assert_eq!(node.status(0).connected, 2, "more than it wants");
        assert!(!first.is_closed());
        // The end of a connection does not make it dial whom it has queued. Its own retry does, a
        // second later: the queue is served first come, first served, one at a time.
        second.close();
        until("we forget it", || engines[1].flock.stats().connected == 0);
        assert_eq!(node.status(0).queued, 1);
    });
}

/// A Node peer that is refused before its handshake does not try again by itself: it comes back
/// with its next announcement.
#[test]
fn a_node_that_found_us_full_comes_with_its_next_announcement() {
    on_each_backend(&Flock::builder().max_connections(1), |node, engine| {
        let first = node.start(0, json!({}));
        node.start(1, json!({}));
        node.add_peer(0, engine.port);
        let conn = engine.accept();
        assert_eq!(peer_id(&conn), first.id);
        node.event("connection", |e| e["swarm"] == 0);
        node.add_peer(1, engine.port);
        engine.event(|event| {
            let full = RefuseReason::TooManyConnections;
            matches!(event, Event::ConnectionRefused { reason, .. } if *reason == full)
        });
        conn.close();
        // Node had dialled it, and dials again after a second: that is soon enough to be first.
        node.command(&json!({
            "cmd": "removePeer", "swarm": 0, "host": "127.0.0.1", "port": engine.port,
        }));
        stays("the refused one does not try again", || {
            node.status(1).dials == 1
        });
        node.announce(1, engine.port);
        let conn = engine.accept();
        assert_ne!(peer_id(&conn), first.id);
        let seen = node.event("connection", |e| e["swarm"] == 1);
        verify(node, &seen, &conn, 1_000);
    });
}

/// Its whitelist is compared as text, and only with what it would dial.
#[test]
fn a_node_with_a_whitelist_dials_nobody_else() {
    on_each_backend(&Flock::builder(), |node, engine| {
        let peer = node.start(0, json!({"whitelist": ["127.0.0.2"]}));
        node.add_peer(0, engine.port);
        assert_eq!(node.status(0).dials, 0);
        we_reach(node, engine, 0, peer.port).close();
        until("we forget it", || engine.flock.stats().connected == 0);
        node.command(&json!({
            "cmd": "addPeer", "swarm": 0, "host": "127.0.0.2", "port": engine.port,
        }));
        let inbound = |conn: &Connection| !conn.info().initiator;
        // Our own retry may have come before.
        let mut conn = engine.accept();
        while !inbound(&conn) {
            conn = engine.accept();
        }
        assert_eq!(node.status(0).dials, 1);
    });
}

/// `removePeer` bans a candidate: the connection to it lives on, and is not dialled again.
#[test]
fn a_node_that_removed_us_stays_connected_and_dials_no_more() {
    on_each_backend(&Flock::builder(), |node, engine| {
        let peer = node.start(0, json!({}));
        node.add_peer(0, engine.port);
        let conn = engine.accept();
        let seen = node.event("connection", |_| true);
        node.command(&json!({
            "cmd": "removePeer", "swarm": 0, "host": "127.0.0.1", "port": engine.port,
        }));
        assert_eq!(node.event("peer-banned", |_| true)["reason"], "application");
        verify(node, &seen, &conn, 1_000);
        conn.close();
        node.event("connection-closed", |_| true);
        node.add_peer(0, engine.port);
        stays("it does not dial again", || node.status(0).dials == 1);
        // The ban is of a candidate; our dials come from another port.
        let conn = we_reach(node, engine, 0, peer.port);
        assert!(conn.send_timeout("still here", PATIENCE).is_ok());
    });
}
