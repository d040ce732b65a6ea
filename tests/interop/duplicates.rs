//! Two connections between an engine and a Node peer, in every combination of who dialled which
//! over what.

use crate::engine::{Engine, id, on_each_backend, stays, until};
use crate::node::{NodePeer, Started};
use crate::relay::Relay;
use flock_engine::{Connection, Flock, IdChoice, PeerId, Transport};
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// One dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Dial {
    ours: bool,
    over: Transport,
}

const DIALS: [Dial; 4] = [
    dial(true, Transport::Tcp),
    dial(true, Transport::Utp),
    dial(false, Transport::Tcp),
    dial(false, Transport::Utp),
];

const fn dial(ours: bool, over: Transport) -> Dial {
    Dial { ours, over }
}

/// A Node peer of its own for each case.
struct Pair {
    swarm: u32,
    peer: Started,
    dials: [Dial; 2],
    /// Whether Node's id is the smaller one.
    node_is_smaller: bool,
    /// Node's second address over uTP, where we dial it twice.
    relay: Option<Relay>,
}

impl Pair {
    fn start(node: &mut NodePeer, swarm: u32, dials: [Dial; 2], node_is_smaller: bool) -> Self {
        let mut name = id(if node_is_smaller { 0x10 } else { 0xf0 })
            .as_bytes()
            .to_vec();
        name[1] = u8::try_from(swarm).unwrap();
        let name = PeerId::new(&name).unwrap().to_string();
        let peer = node.start(swarm, json!({"id": name, "utp": true}));
        let twice = dials == [dial(true, Transport::Utp); 2];
        Self {
            swarm,
            dials,
            node_is_smaller,
            relay: twice.then(|| Relay::to(peer.port)),
            peer,
        }
    }

    /// Which of the two stays. The rule, in its own words: TCP before uTP, else the newer one if
    /// the smaller id dialled it, else the older one.
    fn survivor(&self) -> usize {
        let [first, second] = self.dials;
        match (first.over, second.over) {
            (Transport::Utp, Transport::Tcp) => 1,
            (Transport::Tcp, Transport::Utp) => 0,
            _ => usize::from(second.ours != self.node_is_smaller),
        }
    }

    /// Where we dial Node. Two of ours go to two addresses, since we do not dial a connected
    /// candidate. Node listens at all of this host's over TCP, but its uTP answers come from the
    /// first alone.
    fn target(&self, turn: usize) -> SocketAddr {
        let host = match (self.dials[turn].over, &self.relay) {
            (Transport::Tcp, _) => Ipv4Addr::from([127, 0, 0, if turn == 0 { 2 } else { 3 }]),
            (Transport::Utp, Some(relay)) if turn == 1 => return relay.addr,
            (Transport::Utp, _) => Ipv4Addr::LOCALHOST,
        };
        (host, self.peer.port).into()
    }

    /// Has one side dial. To our dials Node is there over both transports, or over uTP alone.
    fn dial(&self, node: &mut NodePeer, engine: &Engine, turn: usize) {
        let (swarm, dial) = (self.swarm, self.dials[turn]);
        if !dial.ours {
            let over = dial.over.to_string().to_lowercase();
            node.command(&json!({
                "cmd": "announce", "swarm": swarm, "host": "127.0.0.1", "port": engine.port, "over": over,
            }));
            return;
        }
        // At the relay nobody is there over TCP.
        if dial.over == Transport::Utp && (turn == 0 || self.relay.is_none()) {
            node.command(&json!({"cmd": "shut", "swarm": swarm}));
            node.event("shut", |e| e["swarm"] == swarm);
        }
        let target = self.target(turn);
        let asked = engine.flock.add_peer("interop", target);
        asked.expect("the engine takes commands");
    }
}

/// Both orders of the ids, all first and all second dials.
fn pairs(node: &mut NodePeer) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for node_is_smaller in [true, false] {
        for first in DIALS {
            for second in DIALS {
                let swarm = u32::try_from(pairs.len()).unwrap();
                pairs.push(Pair::start(node, swarm, [first, second], node_is_smaller));
            }
        }
    }
    pairs
}

/// Takes what is new, lets go of what has ended.
fn look(engine: &Engine, conns: &mut Vec<Connection>) {
    while let Some(conn) = engine.flock.accept_timeout(Duration::ZERO) {
        conns.push(conn);
    }
    conns.retain(|conn| !conn.is_closed());
}

/// Whether engine and Node have one connection each to the other and nothing under way.
fn at_rest(node: &mut NodePeer, engine: &Engine, pairs: &[Pair]) -> bool {
    let stats = engine.flock.stats();
    let all = pairs.len() as u64;
    (stats.connected, stats.connecting, stats.queued) == (all, 0, 0)
        && pairs.iter().all(|pair| {
            let status = node.status(pair.swarm);
            (status.connected, status.connecting, status.queued) == (1, 0, 0)
        })
}

/// Both sides hold the same connection, which is that of the dial that `stays` says.
fn compare(node: &mut NodePeer, engine: &Engine, pairs: &[Pair], stays: impl Fn(&Pair) -> usize) {
    let conns = engine.flock.connections().unwrap();
    assert_eq!(conns.len(), pairs.len());
    for pair in pairs {
        let case = format!(
            "{:?}, Node's id smaller: {}",
            pair.dials, pair.node_is_smaller
        );
        let of_peer = |peer: &PeerId| peer.to_string() == pair.peer.id;
        let mut ours = conns
            .iter()
            .filter(|c| c.peer_id.as_ref().is_some_and(of_peer));
        let (Some(conn), None) = (ours.next(), ours.next()) else {
            panic!("not one connection: {case}");
        };
        let turn = stays(pair);
        let wanted = pair.dials[turn];
        assert_eq!(dial(conn.initiator, conn.transport), wanted, "{case}");
        if wanted.ours {
            assert_eq!(conn.addr, pair.target(turn), "{case}");
        }
        let seen = node.heard(pair.swarm);
        assert_eq!(seen.len(), 1, "{case}");
        let end = &seen[&engine.flock.id().to_string()];
        assert_eq!(end["initiator"], !wanted.ours, "{case}");
        assert_eq!(
            end["type"],
            wanted.over.to_string().to_lowercase(),
            "{case}"
        );
    }
}

#[test]
fn whoever_dialled_over_whatever_one_connection_stays() {
    let builder = Flock::builder().id(IdChoice::Fixed(id(0x80)));
    on_each_backend(&builder, |node, engine| {
        let pairs = pairs(node);
        let mut conns = Vec::new();
        for pair in &pairs {
            pair.dial(node, engine, 0);
        }
        until("the first connections", || {
            look(engine, &mut conns);
            at_rest(node, engine, &pairs)
        });
        compare(node, engine, &pairs, |_| 0);
        for pair in pairs.iter().filter(|p| p.dials == [DIALS[1], DIALS[0]]) {
            node.command(&json!({"cmd": "open", "swarm": pair.swarm, "port": pair.peer.port}));
            node.event("opened", |e| e["swarm"] == pair.swarm);
        }
        for pair in &pairs {
            pair.dial(node, engine, 1);
        }
        until("one connection of two", || {
            look(engine, &mut conns);
            let counters = engine.flock.counters().counters.swarm;
            let begun = counters.handshakes_inbound + counters.handshakes_outbound;
            begun == 2 * pairs.len() as u64 && at_rest(node, engine, &pairs)
        });
        let dialled = |engine: &Engine| {
            let counters = engine.flock.counters().counters.swarm;
            counters.dials_tcp + counters.dials_utp
        };
        let before = dialled(engine);
        stays("nobody dials again", || {
            look(engine, &mut conns);
            dialled(engine) == before && at_rest(node, engine, &pairs)
        });
        for pair in &pairs {
            let by_node = pair.dials.iter().filter(|d| !d.ours).count();
            assert_eq!(node.status(pair.swarm).dials, by_node as u64);
        }
        compare(node, engine, &pairs, Pair::survivor);
    });
}
