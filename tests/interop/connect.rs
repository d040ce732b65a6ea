//! The engine's connector against the original's options `stream` and `connect`: the same mask
//! between network and swarm on both sides.

use crate::cases::peer_id;
use crate::engine::{Engine, pattern, until};
use crate::node::{NodePeer, PATIENCE};
use bytes::{Bytes, BytesMut};
use flock_engine::io::Backend;
use flock_engine::session::{Connector, ConnectorError, ToLocal, ToPeer};
use flock_engine::{Builder, CloseReason, Connection, Event, Flock, Transport};
use serde_json::json;
use std::time::Duration;

const BULK: usize = 200_000;
/// What Node's connector adds at the end.
const GOODBYE: &str = "goodbye";

/// Every byte changed by its place.
#[derive(Default)]
struct Mask {
    sent: usize,
    received: usize,
}

fn mask(bytes: &mut [u8], at: &mut usize) {
    for byte in bytes {
        *byte ^= u8::try_from(*at % 251).unwrap() | 1;
        *at += 1;
    }
}

impl Connector for Mask {
    fn outgoing(&mut self, bytes: Bytes, peer: &mut ToPeer<'_>) -> Result<(), ConnectorError> {
        let mut bytes = BytesMut::from(bytes);
        mask(&mut bytes, &mut self.sent);
        peer.put(bytes)
    }

    fn incoming(
        &mut self,
        bytes: &[u8],
        local: &mut ToLocal<'_>,
        _: &mut ToPeer<'_>,
    ) -> Result<(), ConnectorError> {
        mask(local.put(bytes)?, &mut self.received);
        Ok(())
    }
}

fn over(transport: Transport) -> Builder {
    Flock::builder()
        .tcp(transport == Transport::Tcp)
        .utp(transport == Transport::Utp)
}

/// Runs `case` on both backends and over both transports, with a Node process whose swarms use
/// `connect`.
fn on_every_ground(
    builder: fn(Transport) -> Builder,
    case: fn(&mut NodePeer, &mut Engine, Transport),
) {
    for transport in [Transport::Tcp, Transport::Utp] {
        for backend in [Backend::Uring, Backend::Poll] {
            let Some(mut node) = NodePeer::spawn_connect() else {
                return;
            };
            match Engine::start(builder(transport).backend(backend)) {
                Ok(mut engine) => case(&mut node, &mut engine, transport),
                Err(error) if backend == Backend::Uring => {
                    eprintln!("skipped on io_uring, which this host refuses: {error}");
                }
                Err(error) => panic!("the engine does not start: {error}"),
            }
        }
    }
}

fn masked(transport: Transport) -> Builder {
    over(transport).connector(|_| Mask::default())
}

fn options(transport: Transport) -> serde_json::Value {
    let (tcp, utp) = (transport == Transport::Tcp, transport == Transport::Utp);
    json!({"tcp": tcp, "utp": utp, "bytes": BULK, "goodbye": GOODBYE})
}

/// Bytes go both ways at once, and the end comes with what Node's connector adds.
fn exchange(conn: &Connection) {
    let sent = pattern(BULK);
    let mut got = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| conn.send_timeout(sent.clone(), PATIENCE).unwrap());
        while let Some(data) = conn.recv_timeout(PATIENCE).unwrap() {
            got.extend_from_slice(&data);
        }
    });
    let expected = [&sent[..], GOODBYE.as_bytes()].concat();
    assert!(got == expected, "{} bytes", got.len());
}

#[test]
fn we_dial_node_through_connectors() {
    on_every_ground(masked, |node, engine, transport| {
        let peer = node.start(0, options(transport));
        engine.dial(peer.port);
        let conn = engine.accept();
        assert_eq!(conn.info().transport, transport);
        assert_eq!(peer_id(&conn), peer.id);
        let seen = node.event("connection", |_| true);
        assert_eq!(seen["initiator"], false);
        assert_eq!(seen["id"], engine.flock.id().to_string());
        exchange(&conn);
        drop(conn);
        until("the engine forgets the peer", || {
            engine.flock.stats().connected == 0
        });
    });
}

#[test]
fn node_dials_us_through_connectors() {
    on_every_ground(masked, |node, engine, transport| {
        let peer = node.start(0, options(transport));
        node.add_peer(0, engine.port);
        let conn = engine.accept();
        assert_eq!(conn.info().transport, transport);
        assert_eq!(peer_id(&conn), peer.id);
        let seen = node.event("connection", |_| true);
        assert_eq!(seen["initiator"], true);
        assert_eq!(seen["id"], engine.flock.id().to_string());
        exchange(&conn);
    });
}

/// An engine without one sees no handshake, and neither does Node.
#[test]
fn a_node_peer_with_a_connector_is_nobody_to_an_engine_without() {
    let plain = |transport| over(transport).handshake_timeout(Duration::from_millis(500));
    on_every_ground(plain, |node, engine, transport| {
        let peer = node.start(0, options(transport));
        engine.dial(peer.port);
        let closed = engine.event(|event| matches!(event, Event::ConnectionClosed { .. }));
        let Event::ConnectionClosed { reason, .. } = closed else {
            unreachable!("it was asked for");
        };
        assert!(
            !matches!(reason, CloseReason::HandlerPanicked | CloseReason::Local),
            "{reason}"
        );
        let seen = node.event("connection-closed", |_| true);
        assert_eq!(seen["met"], false);
        assert_eq!(engine.flock.stats().connected, 0);
    });
}
