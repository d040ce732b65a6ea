//! What must hold between the engine and real peers.

use crate::engine::{Engine, echo, id, on_each_backend, pattern, receive, until, with_id};
use crate::node::{NodePeer, PATIENCE};
use flock_engine::event::BanReason;
use flock_engine::{Connection, Event, Flock};
use serde_json::{Value, json};

const BULK: usize = 1 << 20;

#[test]
fn we_dial_node_and_bytes_come_back() {
    on_each_backend(&Flock::builder(), |node, engine| {
        let peer = node.start(0, json!({"echo": true}));
        engine.dial(peer.port);
        let conn = engine.accept();
        assert!(conn.info().initiator);
        assert_eq!(peer_id(&conn), peer.id);
        let seen = node.event("connection", |_| true);
        assert_eq!(seen["initiator"], false);
        assert_eq!(seen["id"], engine.flock.id().to_string());
        let sent = pattern(BULK);
        // Node echoes while we are still sending: both directions are full at once.
        std::thread::scope(|scope| {
            scope.spawn(|| conn.send_timeout(sent.clone(), PATIENCE).unwrap());
            assert!(receive(&conn, BULK) == sent);
        });
        conn.close();
        node.event("connection-closed", |_| true);
    });
}

#[test]
fn node_dials_us_and_bytes_come_back() {
    on_each_backend(&Flock::builder(), |node, engine| {
        let peer = node.start(0, json!({}));
        node.add_peer(0, engine.port);
        let conn = engine.accept();
        assert!(!conn.info().initiator);
        assert_eq!(peer_id(&conn), peer.id);
        let seen = node.event("connection", |_| true);
        assert_eq!(seen["initiator"], true);
        assert_eq!(seen["id"], engine.flock.id().to_string());
        verify(node, &seen, &conn, BULK);
        node.command(&json!({"cmd": "destroy", "conn": seen["conn"]}));
        // The peer has ended its direction; ours stays open until we close it.
        assert!(matches!(conn.recv_timeout(PATIENCE), Ok(None)));
        conn.close();
        engine.event(|event| matches!(event, Event::ConnectionClosed { .. }));
        until("the engine forgets the peer", || {
            engine.flock.stats().connected == 0
        });
    });
}

#[test]
fn two_hundred_node_peers_share_one_engine() {
    const PEERS: u32 = 200;
    on_each_backend(&Flock::builder(), |node, engine| {
        for swarm in 0..PEERS {
            let peer = node.start(swarm, json!({"echo": true}));
            if swarm % 2 == 0 {
                engine.dial(peer.port);
            } else {
                node.add_peer(swarm, engine.port);
            }
        }
        let conns: Vec<Connection> = (0..PEERS).map(|_| engine.accept()).collect();
        for conn in &conns {
            conn.send_timeout(peer_id(conn), PATIENCE).unwrap();
        }
        for conn in &conns {
            let text = peer_id(conn);
            assert_eq!(receive(conn, text.len()), text.as_bytes());
        }
        let dialled = conns.iter().filter(|conn| conn.info().initiator).count();
        assert_eq!(dialled, conns.len() / 2);
        until("every peer is counted as connected", || {
            let stats = engine.flock.stats();
            (stats.connected, stats.connecting, stats.queued) == (200, 0, 0)
        });
    });
}

/// Engine and Node dial each other one after the other; whoever has the smaller id initiated the
/// connection that stays, whichever came first.
#[test]
fn of_two_connections_both_sides_keep_the_same_one() {
    for (node_id, ours_stays) in [(0x10, false), (0xf0, true)] {
        for we_dial_first in [true, false] {
            on_each_backend(&with_id(0x80), |node, engine| {
                let options = json!({"id": id(node_id).to_string()});
                let peer = node.start(0, options);
                let mut conns = Vec::new();
                for turn in [we_dial_first, !we_dial_first] {
                    match turn {
                        true => engine.dial(peer.port),
                        false => node.add_peer(0, engine.port),
                    }
                    if conns.is_empty() {
                        conns.push((engine.accept(), node.event("connection", |_| true)));
                    }
                }
                node.event("redundant-connection", |_| true);
                if ours_stays != we_dial_first {
                    conns.push((engine.accept(), node.event("connection", |_| true)));
                }
                settle(node, engine);
                let (conn, seen) = conns.last().unwrap();
                assert_eq!(conn.info().initiator, ours_stays);
                assert!(!conn.is_closed());
                verify(node, seen, conn, BULK);
            });
        }
    }
}

#[test]
fn dialling_each_other_at_once_ends_with_one_connection() {
    for node_id in [0x10, 0xf0] {
        on_each_backend(&with_id(0x80), |node, engine| {
            let peer = node.start(0, json!({"id": id(node_id).to_string()}));
            engine.dial(peer.port);
            node.add_peer(0, engine.port);
            // One of the two is enough to be connected; let both be seen first.
            for _ in 0..2 {
                engine.event(|event| matches!(event, Event::Handshaking(_)));
            }
            settle(node, engine);
        });
    }
}

#[test]
fn we_ban_ourselves() {
    on_each_backend(&with_id(0x80), |node, engine| {
        engine.dial(engine.port);
        engine.event(is_self_ban);
        // To us, a Node peer with our id is ourselves too, whoever dials.
        let peer = node.start(0, json!({"id": id(0x80).to_string()}));
        engine.dial(peer.port);
        engine.event(is_self_ban);
        node.add_peer(0, engine.port);
        let banned = node.event("peer-banned", |_| true);
        assert_eq!(banned["reason"], "detected-self");
        until("no attempt is left", || {
            let stats = engine.flock.stats();
            (stats.connected, stats.connecting, stats.queued) == (0, 0, 0)
        });
    });
}

#[test]
fn a_handshake_may_come_in_pieces() {
    on_each_backend(&Flock::builder(), |node, engine| {
        let hex = id(0x42).to_string();
        let chunks = json!(["20", hex[..20], hex[20..]]);
        raw(node, engine, &chunks);
        assert_eq!(peer_id(&engine.accept()), hex);
    });
}

#[test]
fn application_bytes_may_share_a_segment_with_the_id() {
    on_each_backend(&Flock::builder(), |node, engine| {
        let chunk = format!("20{}{}", id(0x42), "68656c6c6f");
        raw(node, engine, &json!([chunk]));
        let conn = engine.accept();
        assert_eq!(receive(&conn, 5), b"hello");
        conn.send_timeout("world", PATIENCE).unwrap();
        let expected = format!("20{}{}", engine.flock.id(), "776f726c64");
        let mut received = String::new();
        while received.len() < expected.len() {
            let data = node.event("data", |_| true);
            received.push_str(data["hex"].as_str().unwrap());
        }
        assert_eq!(received, expected);
    });
}

fn is_self_ban(event: &Event) -> bool {
    matches!(
        event,
        Event::PeerBanned {
            reason: BanReason::DetectedSelf,
            ..
        }
    )
}

pub(crate) fn peer_id(conn: &Connection) -> String {
    let peer_id = conn.info().peer_id.as_ref();
    peer_id.expect("accepted peers have ids").to_string()
}

/// Node sends, we echo, Node compares.
pub(crate) fn verify(node: &mut NodePeer, seen: &Value, conn: &Connection, bytes: usize) {
    node.command(&json!({"cmd": "verify", "conn": seen["conn"], "bytes": bytes}));
    echo(conn, bytes);
    let echoed = node.event("echoed", |_| true);
    assert_eq!(echoed["ok"], true);
}

/// Waits until both sides have exactly one connection and no attempt under way.
fn settle(node: &mut NodePeer, engine: &Engine) {
    until("both sides have one connection", || {
        node.command(&json!({"cmd": "status", "swarm": 0}));
        let status = node.event("status", |_| true);
        let stats = engine.flock.stats();
        status["connected"] == 1
            && status["connecting"] == 0
            && (stats.connected, stats.connecting) == (1, 0)
    });
}

/// A plain Node socket that writes `chunks` to the engine, one segment each.
fn raw(node: &mut NodePeer, engine: &Engine, chunks: &Value) {
    node.command(&json!({
        "cmd": "raw", "conn": "raw", "host": "127.0.0.1", "port": engine.port,
        "chunks": chunks, "pause": 20,
    }));
}
