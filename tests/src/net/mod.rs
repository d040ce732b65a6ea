//! A network of nodes in virtual time: links with a rate, a delay, a queue and faults, and the
//! nodes that send and receive over them. A seed decides everything that happens, so that a run
//! replays byte for byte.
//!
//! [`Network`] moves the packets, a [`Link`](LinkConfig) is one direction of a path, a [`Node`] is
//! what sits behind an address. Time is [`flock_transport::Instant`]; nothing here waits.

mod clock;
mod codel;
mod content;
mod cubic;
mod digest;
mod fault;
mod link;
mod meter;
mod network;
mod node;
mod pcap;
mod queue;
mod tcp;
mod topology;
mod traffic;
mod utp;

#[cfg(test)]
mod tests;

pub use clock::Clock;
pub use content::Content;
pub use digest::Digest;
pub use fault::{Damage, DamageKind, Loss, Reorder};
pub use link::{Change, LinkConfig, LinkReport, Policer};
pub use meter::{Meter, jain};
pub use network::{LinkId, Network, NodeCounts, NodeId};
pub use node::{Host, Node};
pub use pcap::Capture;
pub use queue::Discipline;
pub use tcp::{TcpReceiver, TcpSender};
pub use topology::{Dumbbell, Pair};
pub use traffic::{Echo, Steady};
pub use utp::{Flow, Job, UtpNode};
