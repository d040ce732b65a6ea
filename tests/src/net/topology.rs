use super::link::LinkConfig;
use super::network::{LinkId, Network, NodeId};
use super::node::{Host, Node};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// The address of the `index`th node of a topology.
fn address(index: usize) -> SocketAddr {
    let [.., high, low] = index.to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(10, 0, high, low), 6_881))
}

/// Two nodes and a link each way.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// The first node.
    pub left: NodeId,
    /// The second.
    pub right: NodeId,
    /// The link from the first to the second.
    pub there: LinkId,
    /// The link back.
    pub back: LinkId,
}

impl Pair {
    /// Where the first node is.
    #[must_use]
    pub fn left_address() -> SocketAddr {
        address(1)
    }

    /// Where the second is.
    #[must_use]
    pub fn right_address() -> SocketAddr {
        address(2)
    }

    /// Builds it.
    pub fn build(
        network: &mut Network,
        left: (Host, impl Node),
        right: (Host, impl Node),
        there: LinkConfig,
        back: LinkConfig,
    ) -> Self {
        let left = network.add_node(Self::left_address(), left.0, left.1);
        let right = network.add_node(Self::right_address(), right.0, right.1);
        let there = network.add_link(there);
        let back = network.add_link(back);
        network.route(left, right, &[there]);
        network.route(right, left, &[back]);
        Self {
            left,
            right,
            there,
            back,
        }
    }
}

/// Senders and receivers in pairs, all over one bottleneck each way.
#[derive(Clone, Debug)]
pub struct Dumbbell {
    /// The bottleneck from senders to receivers.
    pub there: LinkId,
    /// The way back, shared too.
    pub back: LinkId,
    pairs: usize,
}

impl Dumbbell {
    /// A dumbbell without nodes.
    pub fn build(network: &mut Network, there: LinkConfig, back: LinkConfig) -> Self {
        Self {
            there: network.add_link(there),
            back: network.add_link(back),
            pairs: 0,
        }
    }

    /// Where the sender and the receiver of the pair to be added next will be.
    #[must_use]
    pub fn next_addresses(&self) -> (SocketAddr, SocketAddr) {
        (address(1 + 2 * self.pairs), address(2 + 2 * self.pairs))
    }

    /// Adds a pair whose packets need `extra` longer, each way, to the bottleneck.
    pub fn add(
        &mut self,
        network: &mut Network,
        sender: impl Node,
        receiver: impl Node,
        extra: Duration,
    ) -> (NodeId, NodeId) {
        let (from, to) = self.next_addresses();
        self.pairs += 1;
        let from = network.add_node(from, Host::default(), sender);
        let to = network.add_node(to, Host::default(), receiver);
        let access = || LinkConfig {
            delay: extra,
            ..LinkConfig::default()
        };
        let there = network.add_link(access());
        let back = network.add_link(access());
        network.route(from, to, &[there, self.there]);
        network.route(to, from, &[self.back, back]);
        (from, to)
    }
}
