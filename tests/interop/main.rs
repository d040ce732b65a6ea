//! The engine against real npm `discovery-swarm` 6.1.0 peers in Node, over loopback.
//!
//! The packages are installed by the tests themselves, from the committed lock file. Without Node
//! the tests say so and pass; where `CI` is set they fail.

mod cases;
#[cfg(test)]
mod connect;
#[cfg(test)]
mod duplicates;
mod engine;
mod install;
#[cfg(test)]
mod librqbit;
#[cfg(test)]
mod libutp;
#[cfg(test)]
mod manners;
#[cfg(test)]
mod mesh;
mod node;
#[cfg(test)]
mod protocol;
#[cfg(test)]
mod reannounce;
#[cfg(test)]
mod relay;
#[cfg(test)]
mod restart;
#[cfg(test)]
mod shutdown;
#[cfg(test)]
mod transports;
#[cfg(test)]
mod utp_host;

use node::NodePeer;
use serde_json::json;

#[test]
fn the_harness_drives_two_node_swarms() {
    let Some(mut node) = NodePeer::spawn() else {
        return;
    };
    let first = node.start(0, json!({"echo": true}));
    node.start(1, json!({}));
    node.add_peer(1, first.port);
    let dialled = node.event("connection", |e| e["swarm"] == 1);
    assert_eq!(dialled["initiator"], true);
    assert_eq!(dialled["id"], first.id.as_str());
    node.event("connection", |e| e["swarm"] == 0);
    node.command(&json!({"cmd": "verify", "conn": dialled["conn"], "bytes": 300_000}));
    let echoed = node.event("echoed", |e| e["conn"] == dialled["conn"]);
    assert_eq!(echoed["ok"], true);
    node.command(&json!({"cmd": "end", "conn": dialled["conn"]}));
    node.event("connection-closed", |e| e["swarm"] == 0);
}
