//! A handshake of the application's own on both sides: `Builder::protocol` here, the option
//! `stream` of the original there, which puts a stream of the application's between the wire and
//! the swarm and has no exchange of ids.
//!
//! The protocol is that of `node/framed.js`: frames of two bytes of length and what they count, of
//! which the first states the id.

use crate::cases::peer_id;
use crate::engine::{Engine, id, on_each_backend, pattern, receive, until};
use crate::node::{NodePeer, PATIENCE};
use flock_engine::session::{Progress, Protocol};
use flock_engine::{Builder, Connection, Flock, HandshakeError, IdChoice, PeerId, Transport};
use serde_json::json;

const OURS: u8 = 0x80;
const BULK: usize = 200_000;

/// Our end of a connection: what has come of the first frame.
struct Framed {
    first: Vec<u8>,
}

/// `body` with its length before it.
fn frame(body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(body.len()).expect("frames are short");
    [&len.to_be_bytes()[..], body].concat()
}

impl Protocol for Framed {
    fn start(&mut self, out: &mut Vec<u8>) {
        out.extend(frame(id(OURS).as_bytes()));
    }

    fn handshake(&mut self, input: &[u8], _: &mut Vec<u8>) -> Progress {
        for (at, &byte) in input.iter().enumerate() {
            self.first.push(byte);
            let Some((len, body)) = self.first.split_first_chunk() else {
                continue;
            };
            if body.len() == usize::from(u16::from_be_bytes(*len)) {
                return match PeerId::new(body) {
                    Some(peer_id) => Progress::Done {
                        peer_id,
                        consumed: at + 1,
                    },
                    None => Progress::Reject(HandshakeError::Refused),
                };
            }
        }
        Progress::More
    }
}

/// An engine that speaks it, over one transport.
fn framed(over: Transport) -> Builder {
    let utp = over == Transport::Utp;
    let builder = Flock::builder().id(IdChoice::Fixed(id(OURS)));
    let transports = builder.tcp(!utp).utp(utp);
    transports.protocol(|_| Framed { first: Vec::new() })
}

/// Frames from us come back from Node as the same bytes in frames of its own.
fn node_echoes(conn: &Connection) {
    let sent = pattern(BULK);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for piece in sent.chunks(10_000) {
                conn.send_timeout(frame(piece), PATIENCE).unwrap();
            }
        });
        let mut received = Vec::new();
        let mut left = Vec::new();
        while received.len() < BULK {
            let data = conn.recv_timeout(PATIENCE).unwrap();
            left.extend_from_slice(&data.expect("Node goes on"));
            while let Some((len, body)) = left.split_first_chunk() {
                let len = usize::from(u16::from_be_bytes(*len));
                let Some(body) = body.get(..len) else { break };
                received.extend_from_slice(body);
                left.drain(..2 + len);
            }
        }
        assert!(received == sent && left.is_empty());
    });
}

/// Whoever dials: the ids are those of the frames, on both sides.
fn meet(node: &mut NodePeer, engine: &Engine, we_dial: bool, over: Transport) {
    let utp = over == Transport::Utp;
    let options = json!({"echo": we_dial, "framed": true, "tcp": !utp, "utp": utp});
    let peer = node.start(0, options);
    if we_dial {
        engine.dial(peer.port);
    } else {
        node.add_peer(0, engine.port);
    }
    let conn = engine.accept();
    assert_eq!(
        (conn.info().initiator, conn.info().transport),
        (we_dial, over)
    );
    assert_eq!(peer_id(&conn), peer.id);
    let seen = node.event("connection", |_| true);
    assert_eq!(seen["id"], id(OURS).to_string());
    assert_eq!(seen["initiator"], !we_dial);
    if we_dial {
        node_echoes(&conn);
    } else {
        // Frames come back as they went.
        node.command(&json!({"cmd": "verify", "conn": seen["conn"], "bytes": BULK}));
        let frames = BULK.div_ceil(usize::from(u16::MAX));
        let data = receive(&conn, BULK + 2 * frames);
        conn.send_timeout(data, PATIENCE).unwrap();
        let echoed = node.event("echoed", |_| true);
        assert_eq!(echoed["ok"], true, "{echoed}");
    }
    conn.close();
    node.event("connection-closed", |_| true);
    until("the engine forgets the peer", || {
        engine.flock.stats().connected == 0
    });
}

fn in_both_directions(over: Transport) {
    for we_dial in [true, false] {
        on_each_backend(&framed(over), |node, engine| {
            meet(node, engine, we_dial, over);
        });
    }
}

#[test]
fn a_protocol_of_our_own_meets_a_node_stream_over_tcp() {
    in_both_directions(Transport::Tcp);
}

#[test]
fn a_protocol_of_our_own_meets_a_node_stream_over_utp() {
    in_both_directions(Transport::Utp);
}
