//! A Node peer dials again, at each of its announcements, whom it is connected to.

use crate::cases::verify;
use crate::engine::{Engine, id, on_each_backend, stays, until, with_id};
use crate::node::NodePeer;
use flock_engine::{Builder, Connection};
use serde_json::{Value, json};

const ROUNDS: u64 = 10;

/// The id of the Node peer, between our low and our high one.
const MIDDLE: u8 = 0x80;

/// A Node peer of these transports finds us once and connects.
fn meet(node: &mut NodePeer, engine: &Engine, tcp: bool, utp: bool) -> (Connection, Value) {
    node.start(
        0,
        json!({"id": id(MIDDLE).to_string(), "tcp": tcp, "utp": utp}),
    );
    node.announce(0, engine.port);
    let conn = engine.accept();
    assert!(!conn.info().initiator);
    (conn, node.event("connection", |_| true))
}

/// It finds us once more, and dials; returns when that has led to something.
fn again(node: &mut NodePeer, engine: &Engine, round: u64) {
    node.announce(0, engine.port);
    // Node counts a uTP connection for half a second after its end.
    until("one connection is left on both sides", || {
        let stats = engine.flock.stats();
        let status = node.status(0);
        assert_eq!(status.dials, 1 + round, "Node dials once a round");
        engine.flock.counters().counters.swarm.handshakes_inbound == 1 + round
            && status.connected == 1
            && (stats.connected, stats.connecting) == (1, 0)
    });
}

/// Waits until Node has forgotten what ended.
fn rest(node: &mut NodePeer) {
    until("Node forgets what ended", || {
        let status = node.status(0);
        (status.connected, status.connecting) == (1, 0)
    });
}

/// With a lower id than Node's, the connection there is stays, and Node's new ones go.
fn nothing_happens_to_a_low_id(builder: &Builder, tcp: bool, utp: bool) {
    on_each_backend(builder, |node, engine| {
        let (conn, seen) = meet(node, engine, tcp, utp);
        for round in 1..=ROUNDS {
            again(node, engine, round);
            assert!(!conn.is_closed(), "torn down in round {round}");
        }
        rest(node);
        stays("nobody dials again by itself", || {
            let status = node.status(0);
            (status.dials, status.met, status.connected) == (1 + ROUNDS, 1, 1)
        });
        let counters = engine.flock.counters().counters.swarm;
        assert_eq!(counters.claims_granted, 1);
        assert_eq!(counters.redundant_replaced, 0);
        verify(node, &seen, &conn, 100_000);
    });
}

/// With a higher id than Node's, each round replaces the connection: Node has ended the old one
/// before we could choose otherwise.
fn a_high_id_is_replaced(builder: &Builder, tcp: bool, utp: bool) {
    on_each_backend(builder, |node, engine| {
        let (mut conn, mut seen) = meet(node, engine, tcp, utp);
        for round in 1..=ROUNDS {
            again(node, engine, round);
            until("the old connection ends", || conn.is_closed());
            conn = engine.accept();
            seen = node.event("connection", |_| true);
        }
        rest(node);
        stays("nobody dials again by itself", || {
            let status = node.status(0);
            (status.dials, status.met, status.connected) == (1 + ROUNDS, 1 + ROUNDS, 1)
        });
        let counters = engine.flock.counters().counters.swarm;
        assert_eq!(counters.claims_granted, 1 + ROUNDS);
        assert_eq!(counters.redundant_refused, 0);
        verify(node, &seen, &conn, 100_000);
    });
}

#[test]
fn ten_announcements_leave_a_connection_over_tcp_alone() {
    nothing_happens_to_a_low_id(&with_id(0).utp(false), true, false);
}

#[test]
fn ten_announcements_leave_a_connection_over_utp_alone() {
    nothing_happens_to_a_low_id(&with_id(0).tcp(false), false, true);
}

#[test]
fn ten_announcements_leave_a_connection_with_both_transports() {
    nothing_happens_to_a_low_id(&with_id(0), true, true);
}

#[test]
fn ten_announcements_replace_the_connection_of_a_high_id() {
    a_high_id_is_replaced(&with_id(0xff).utp(false), true, false);
    a_high_id_is_replaced(&with_id(0xff).tcp(false), false, true);
}
