//! uTP with libutp, through npm `utp-native`, in both roles.

use crate::node::NodePeer;
use crate::utp_host::Host;
use flock_transport::CloseReason;
use serde_json::{Value, json};
use std::time::Duration;

fn pattern(bytes: usize, seed: u8) -> Vec<u8> {
    (0..251_u8).cycle().skip(seed.into()).take(bytes).collect()
}

/// A libutp server and its port.
fn listen(node: &mut NodePeer, mode: &str, seed: u8) -> u16 {
    node.command(&json!({"cmd": "listen", "server": 0, "mode": mode, "seed": seed}));
    let listening = node.event("listening", |_| true);
    u16::try_from(listening["port"].as_u64().unwrap()).unwrap()
}

/// libutp dials us; the number of its connection.
fn dialled(node: &mut NodePeer, host: &Host, mode: &str, seed: u8) -> Value {
    let port = host.port();
    node.command(&json!({"cmd": "connect", "tag": 0, "port": port, "mode": mode, "seed": seed}));
    node.event("dialling", |_| true)["conn"].clone()
}

/// Runs our side until the process says so.
fn event(node: &mut NodePeer, host: &mut Host, name: &str) -> Value {
    let mut found = None;
    host.run_until(name, |_| {
        found = node.take(name);
        found.is_some()
    });
    found.expect("waited for")
}

#[test]
fn we_dial_and_are_echoed() {
    let Some(mut node) = NodePeer::spawn_libutp() else {
        return;
    };
    let port = listen(&mut node, "echo", 3);
    let mut host = Host::new(1);
    let key = host.dial(port);
    let sent = pattern(1_000_000, 3);
    host.send(key, sent.clone());
    host.end(key);
    host.run_until("the echo's end", |host| host.conn(key).ended);
    assert!(host.conn(key).received == sent);
    let ended = event(&mut node, &mut host, "ended");
    assert_eq!(
        (&ended["ok"], &ended["bytes"]),
        (&json!(true), &json!(1_000_000))
    );
    host.run_until("the close", |host| host.conn(key).closed.is_some());
    assert_eq!(host.conn(key).closed, Some(CloseReason::PeerClosed));
}

#[test]
fn it_dials_and_is_echoed() {
    let Some(mut node) = NodePeer::spawn_libutp() else {
        return;
    };
    let mut host = Host::new(2);
    host.echo = true;
    let conn = dialled(&mut node, &host, "manual", 9);
    node.command(&json!({"cmd": "send", "conn": conn, "bytes": 1_000_000, "seed": 9, "end": true}));
    let ended = event(&mut node, &mut host, "ended");
    assert_eq!(
        (&ended["ok"], &ended["bytes"]),
        (&json!(true), &json!(1_000_000))
    );
    event(&mut node, &mut host, "closed");
}

#[test]
fn sixty_four_mebibytes_go_each_way() {
    const BYTES: usize = 64 << 20;
    let Some(mut node) = NodePeer::spawn_libutp() else {
        return;
    };
    let port = listen(&mut node, "sink", 5);
    let mut host = Host::new(3);
    let there = host.dial(port);
    host.send(there, pattern(BYTES, 5));
    host.end(there);
    let ended = event(&mut node, &mut host, "ended");
    assert_eq!(
        (&ended["ok"], &ended["bytes"]),
        (&json!(true), &json!(BYTES))
    );
    let conn = dialled(&mut node, &host, "sink", 0);
    node.command(&json!({"cmd": "send", "conn": conn, "bytes": BYTES, "seed": 7, "end": true}));
    let back = host.accept();
    host.run_until("all of it", |host| host.conn(back).ended);
    assert!(host.conn(back).received == pattern(BYTES, 7));
}

#[test]
fn a_half_closed_connection_goes_on_in_the_other_direction() {
    let Some(mut node) = NodePeer::spawn_libutp() else {
        return;
    };
    let port = listen(&mut node, "manual", 1);
    let mut host = Host::new(4);
    let key = host.dial(port);
    host.send(key, pattern(10, 1));
    host.end(key);
    let conn = event(&mut node, &mut host, "connection")["conn"].clone();
    event(&mut node, &mut host, "ended");
    // Only after our end has arrived does it begin to speak.
    node.command(&json!({"cmd": "send", "conn": conn, "bytes": 300_000, "seed": 2, "end": true}));
    host.run_until("its end", |host| host.conn(key).ended);
    assert!(host.conn(key).received == pattern(300_000, 2));
    host.run_until("the close", |host| host.conn(key).closed.is_some());
}

#[test]
fn both_ends_write_at_once() {
    let Some(mut node) = NodePeer::spawn_libutp() else {
        return;
    };
    let mut host = Host::new(5);
    let conn = dialled(&mut node, &host, "manual", 6);
    node.command(&json!({"cmd": "send", "conn": conn, "bytes": 500_000, "seed": 4, "end": true}));
    let key = host.accept();
    host.send(key, pattern(500_000, 6));
    host.end(key);
    let ended = event(&mut node, &mut host, "ended");
    assert_eq!(
        (&ended["ok"], &ended["bytes"]),
        (&json!(true), &json!(500_000))
    );
    host.run_until("its end", |host| host.conn(key).ended);
    assert!(host.conn(key).received == pattern(500_000, 4));
}

#[test]
fn a_thousand_connections_one_after_another_and_beside_each_other() {
    let Some(mut node) = NodePeer::spawn_libutp() else {
        return;
    };
    let port = listen(&mut node, "echo", 0);
    let mut host = Host::new(6);
    for _ in 0..20 {
        let keys: Vec<_> = (0..50).map(|_| host.dial(port)).collect();
        for key in &keys {
            host.send(*key, pattern(33, 0));
            host.end(*key);
        }
        host.run_until("fifty echoes", |host| {
            keys.iter().all(|key| host.conn(*key).closed.is_some())
        });
        for key in keys {
            assert_eq!(host.conn(key).received, pattern(33, 0));
            assert_eq!(host.conn(key).closed, Some(CloseReason::PeerClosed));
        }
    }
}

#[test]
fn a_peer_that_closes_during_a_transfer_is_noticed() {
    let Some(mut node) = NodePeer::spawn_libutp() else {
        return;
    };
    let port = listen(&mut node, "destroy", 0);
    let mut host = Host::new(7);
    let key = host.dial(port);
    host.send(key, pattern(20_000_000, 0));
    host.run_until("the end", |host| {
        host.conn(key).closed.is_some() || host.conn(key).ended
    });
}

#[test]
fn a_peer_that_vanishes_is_given_up() {
    let Some(mut node) = NodePeer::spawn_libutp() else {
        return;
    };
    let port = listen(&mut node, "sink", 0);
    let mut host = Host::new(8);
    let key = host.dial(port);
    host.send(key, pattern(1000, 0));
    event(&mut node, &mut host, "connection");
    node.command(&json!({"cmd": "vanish"}));
    host.step(Duration::from_millis(100));
    host.send(key, pattern(5_000_000, 0));
    host.run_until("the end", |host| host.conn(key).closed.is_some());
    assert_ne!(host.conn(key).closed, Some(CloseReason::PeerClosed));
}
