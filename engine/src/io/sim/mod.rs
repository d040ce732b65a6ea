//! The simulated driver: TCP streams in virtual time, from one seed.
//!
//! A [`SimWorld`] holds nodes, the links between them and one clock. Each [`SimDriver`] belongs to
//! a node and keeps the contract of [`Driver`](super::Driver) as the drivers of a real system do,
//! but chooses by the seed wherever the contract leaves a choice: order across sockets, segment
//! sizes, delays, whether a cancellation was in time, who of a reuseport group accepts. The same
//! seed and the same calls give the same completions, byte by byte.
//!
//! Streams end as Linux ends them where programs can tell: closing with unread data resets, data
//! for a closed end is answered with RST, a reset is told once and then reads as end of stream.

mod datagrams;
mod deliver;
mod driver;
mod faults;
mod net;
mod stream;
mod table;
mod world;

#[cfg(test)]
mod tests;

pub use driver::SimDriver;
pub use faults::Faults;

use super::DriverConfig;
use flock_transport::Instant;
use net::Node;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;
use table::Station;
use world::World;

/// Names a node of a [`SimWorld`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(usize);

/// A simulated network with its clock. Clones are handles to the same world.
#[derive(Clone)]
pub struct SimWorld(Rc<RefCell<World>>);

impl fmt::Debug for SimWorld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimWorld")
    }
}

impl SimWorld {
    /// An empty world in which every choice follows from `seed`.
    #[must_use]
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self(Rc::new(RefCell::new(World::new(seed, faults))))
    }

    /// Makes each driver's `turn` move the clock and wait like a real one. For tests that call
    /// drivers in their own order instead of [`next`](Self::next)'s.
    #[must_use]
    pub fn self_driving(self) -> Self {
        self.0.borrow_mut().self_driving = true;
        self
    }

    /// Adds a node with its addresses. Loopback addresses belong to each node without being named,
    /// and reach only that node.
    #[must_use]
    pub fn node(&self, ips: &[IpAddr]) -> NodeId {
        let mut world = self.0.borrow_mut();
        let next_port = world.first_port();
        world.nodes.push(Node {
            ips: ips.to_vec(),
            files: None,
            next_port,
        });
        NodeId(world.nodes.len() - 1)
    }

    /// Adds a driver to a node.
    #[must_use]
    pub fn driver(&self, node: NodeId, config: DriverConfig) -> SimDriver {
        let mut world = self.0.borrow_mut();
        world.stations.push(Station::new(node.0, config));
        let (station, now) = (world.stations.len() - 1, world.now);
        SimDriver::new(self.clone(), station, now)
    }

    /// The driver whose turn it is, or `None` when nothing will happen before `limit`. Moves the
    /// clock when no driver has anything to do now, then at most to `limit`.
    #[must_use]
    pub fn next(&self, limit: Instant) -> Option<usize> {
        self.0.borrow_mut().next(limit)
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.0.borrow().now
    }

    /// Replaces the mishaps that happen from now on; buffer sizes apply to new sockets.
    pub fn set_faults(&self, faults: Faults) {
        self.0.borrow_mut().faults = faults;
    }

    /// Limits the sockets all drivers of a node may have open (`RLIMIT_NOFILE`).
    pub fn limit_files(&self, node: NodeId, limit: Option<usize>) {
        self.0.borrow_mut().nodes[node.0].files = limit;
    }

    /// Lets nothing pass between two nodes until then; what is sent meanwhile arrives later.
    pub fn partition(&self, a: NodeId, b: NodeId, until: Instant) {
        self.0.borrow_mut().cut(a.0, b.0, until);
    }

    /// Kills the node's processes: its drivers are dead, its sockets gone. A new driver on the
    /// node is its restart.
    pub fn crash(&self, node: NodeId) {
        self.0.borrow_mut().crash(node.0);
    }

    /// A digest of every completion delivered so far, and their number.
    #[must_use]
    pub fn trace(&self) -> (u64, u64) {
        self.0.borrow().trace()
    }

    /// Keeps the latest `lines` completions for [`log`](Self::log).
    pub fn keep_log(&self, lines: usize) {
        self.0.borrow_mut().log_limit = lines;
    }

    /// The latest completions, a line each.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        self.0.borrow().log()
    }

    /// How often rare branches were reached, by name.
    #[must_use]
    pub fn probes(&self) -> BTreeMap<&'static str, u64> {
        self.0.borrow().probes.clone()
    }

    /// Streams that are not gone yet at both ends, lingering closed ones included.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.0.borrow().streams.len()
    }
}
