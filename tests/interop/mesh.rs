//! Five Node peers and five engines that all dial each other.

use crate::engine::{Engine, on_each_backend_with, until};
use crate::node::{NodePeer, PATIENCE, Started};
use flock_engine::{Builder, Connection, Flock};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const EACH: u32 = 5;
const OTHERS: u64 = 2 * EACH as u64 - 1;

/// An engine's connections by the id of the peer, and what came over each.
#[derive(Default)]
struct Party {
    conns: BTreeMap<String, (Connection, Vec<u8>)>,
}

impl Party {
    /// Takes what is new, and lets go of what has ended.
    fn look(&mut self, engine: &Engine) {
        while let Some(conn) = engine.flock.accept_timeout(Duration::ZERO) {
            let peer = crate::cases::peer_id(&conn);
            // One that was replaced has ended: only then its successor is shown.
            self.conns.insert(peer, (conn, Vec::new()));
        }
        self.conns.retain(|_, (conn, _)| !conn.is_closed());
    }

    fn greet(&self, own: &[u8]) {
        for (conn, _) in self.conns.values() {
            let sent = conn.send_timeout(own.to_vec(), PATIENCE);
            sent.expect("settled connections last");
        }
    }

    /// Whether every connected peer has said its id, and nothing else.
    fn heard(&mut self) -> bool {
        for (conn, received) in self.conns.values_mut() {
            while let Ok(Some(data)) = conn.recv_timeout(Duration::ZERO) {
                received.extend_from_slice(&data);
            }
        }
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let said = |peer: &String, received: &[u8]| {
            let received = hex(received);
            assert!(peer.starts_with(&received), "{received} from {peer}");
            received == *peer
        };
        self.conns
            .iter()
            .all(|(peer, (_, said_))| said(peer, said_))
    }
}

/// Every counter there is: nothing has changed while these are the same.
fn picture(node: &mut NodePeer, engines: &[Engine]) -> Vec<[u64; 4]> {
    let nodes = (0..EACH).map(|swarm| {
        let status = node.status(swarm);
        [
            status.connected,
            status.connecting,
            status.queued,
            status.met,
        ]
    });
    let mut all: Vec<_> = nodes.collect();
    all.extend(engines.iter().map(|engine| {
        let stats = engine.flock.stats();
        let granted = engine.flock.counters().counters.swarm.claims_granted;
        [stats.connected, stats.connecting, stats.queued, granted]
    }));
    all
}

/// Waits until everybody is connected to everybody and nothing has changed for longer than a
/// retry would take.
fn settle(node: &mut NodePeer, engines: &[Engine], parties: &mut [Party]) {
    let (mut before, mut polls) = (Vec::new(), 0);
    until("everybody is connected to everybody", || {
        for (party, engine) in parties.iter_mut().zip(engines) {
            party.look(engine);
        }
        let now = picture(node, engines);
        let complete = now.iter().all(|counts| counts[..3] == [OTHERS, 0, 0]);
        polls = if complete && before == now {
            polls + 1
        } else {
            0
        };
        before = now;
        std::thread::sleep(Duration::from_millis(20));
        polls == 70
    });
}

/// The two ends of each connection between an engine and Node agree on what it is.
fn compare(node: &mut NodePeer, nodes: &[Started], engines: &[Engine], parties: &[Party]) {
    for (swarm, peer) in (0..).zip(nodes) {
        let seen = node.heard(swarm);
        for (engine, party) in engines.iter().zip(parties) {
            let (conn, _) = &party.conns[&peer.id];
            let end = &seen[&engine.flock.id().to_string()];
            assert_eq!(end["initiator"], !conn.info().initiator);
            assert_eq!(
                end["type"],
                conn.info().transport.to_string().to_lowercase()
            );
        }
    }
}

fn mesh(builder: &Builder, tcp: bool, utp: bool) {
    on_each_backend_with(EACH as usize, builder, |node, engines| {
        let nodes: Vec<Started> = (0..EACH)
            .map(|swarm| node.start(swarm, json!({"tcp": tcp, "utp": utp})))
            .collect();
        let ports: Vec<u16> = nodes.iter().map(|peer| peer.port).collect();
        let ports = [ports, engines.iter().map(|engine| engine.port).collect()].concat();
        for port in ports {
            for (swarm, _) in (0..).zip(&nodes).filter(|(_, peer)| peer.port != port) {
                node.add_peer(swarm, port);
            }
            for engine in engines.iter().filter(|engine| engine.port != port) {
                engine.dial(port);
            }
        }
        let mut parties: Vec<Party> = engines.iter().map(|_| Party::default()).collect();
        settle(node, engines, &mut parties);
        compare(node, &nodes, engines, &parties);

        let mut everybody: BTreeSet<String> = nodes.into_iter().map(|peer| peer.id).collect();
        everybody.extend(engines.iter().map(|engine| engine.flock.id().to_string()));
        for (party, engine) in parties.iter().zip(&*engines) {
            party.greet(engine.flock.id().as_bytes());
        }
        for swarm in 0..EACH {
            node.command(&json!({"cmd": "greet", "swarm": swarm}));
        }
        let before = picture(node, engines);
        until("each has heard each", || {
            let engines = parties.iter_mut().all(Party::heard);
            engines
                && (0..EACH).all(|swarm| {
                    let heard = node.heard(swarm);
                    heard.iter().all(|(peer, end)| end["received"] == **peer)
                })
        });
        for party in &parties {
            assert_eq!(party.conns.len() as u64, OTHERS);
            assert!(party.conns.keys().all(|peer| everybody.contains(peer)));
        }
        for swarm in 0..EACH {
            let heard = node.heard(swarm);
            assert_eq!(heard.len() as u64, OTHERS);
            assert!(heard.keys().all(|peer| everybody.contains(peer)));
        }
        assert_eq!(picture(node, engines), before, "nobody connected anew");
    });
}

#[test]
fn five_and_five_meet_over_tcp_alone() {
    mesh(&Flock::builder().utp(false), true, false);
}

#[test]
fn five_and_five_meet_over_utp_alone() {
    mesh(&Flock::builder().tcp(false), false, true);
}

#[test]
fn five_and_five_meet_with_both_transports() {
    mesh(&Flock::builder(), true, true);
}
