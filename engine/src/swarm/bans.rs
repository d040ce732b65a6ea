//! Whom not to have anything to do with, for good or for a while.

use super::nets::{Nets, canonical_net};
use crate::names::PeerId;
use flock_transport::Instant;
use hashbrown::HashMap;
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// What a ban names. It keeps from dialling, accepting and admitting; connections that are
/// admitted already stay.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BanTarget {
    /// One address with its port: not dialled, and refused when it dials.
    Addr(SocketAddr),
    /// All addresses of a network, whatever the port.
    Net(IpNet),
    /// A peer, by the id of its handshake.
    Peer(PeerId),
}

impl BanTarget {
    /// The target as addresses of peers are written here: IPv4-mapped ones as plain IPv4.
    pub(crate) fn canonical(self) -> Self {
        match self {
            Self::Addr(addr) => Self::Addr(flock_transport::canonical(addr)),
            Self::Net(net) => Self::Net(canonical_net(net)),
            Self::Peer(peer) => Self::Peer(peer),
        }
    }
}

impl From<SocketAddr> for BanTarget {
    fn from(addr: SocketAddr) -> Self {
        Self::Addr(addr).canonical()
    }
}

impl From<IpAddr> for BanTarget {
    fn from(ip: IpAddr) -> Self {
        Self::Net(ip.into()).canonical()
    }
}

impl From<IpNet> for BanTarget {
    fn from(net: IpNet) -> Self {
        Self::Net(net).canonical()
    }
}

impl From<PeerId> for BanTarget {
    fn from(peer: PeerId) -> Self {
        Self::Peer(peer)
    }
}

/// A ban that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    /// Whom it is for.
    pub target: BanTarget,
    /// How long it still holds; `None` is for good.
    pub expires_in: Option<Duration>,
}

/// The bans of an engine; each shard has all of them.
pub(super) struct Bans {
    /// When each ends; `FAR_FUTURE` for those that do not.
    exact: HashMap<BanTarget, Instant, ahash::RandomState>,
    nets: Nets<Instant>,
    refused: u64,
}

const EXACT_MAX: usize = 1 << 20;
const NETS_MAX: usize = 1 << 16;

impl Bans {
    pub(super) fn new(hasher: &ahash::RandomState) -> Self {
        Self {
            exact: HashMap::with_hasher(hasher.clone()),
            nets: Nets::new(hasher.clone()),
            refused: 0,
        }
    }

    /// Adds or replaces a ban; `false` when there is no room, which is counted.
    pub(super) fn add(&mut self, now: Instant, target: BanTarget, until: Instant) -> bool {
        if let BanTarget::Net(net) = target {
            if self.nets.len() >= NETS_MAX {
                self.nets.retain(|end| *end > now);
            }
            if self.nets.len() < NETS_MAX {
                self.nets.insert(net, until);
                return true;
            }
        } else {
            if self.exact.len() >= EXACT_MAX {
                self.exact.retain(|_, end| *end > now);
            }
            if self.exact.len() < EXACT_MAX {
                self.exact.insert(target, until);
                return true;
            }
        }
        self.refused += 1;
        false
    }

    pub(super) fn remove(&mut self, target: &BanTarget) {
        match target {
            BanTarget::Net(net) => self.nets.remove(*net),
            exact => {
                self.exact.remove(exact);
            }
        }
    }

    /// Those that hold at `now`, in no order.
    pub(super) fn list(&self, now: Instant) -> Vec<Ban> {
        let exact = self
            .exact
            .iter()
            .map(|(target, end)| (target.clone(), *end));
        let nets = self.nets.iter();
        let nets = nets.map(|(net, end)| (BanTarget::Net(net), *end));
        let holding = exact.chain(nets).filter(|(_, end)| *end > now);
        let ban = |(target, end): (_, Instant)| Ban {
            target,
            expires_in: (end != Instant::FAR_FUTURE).then(|| end.since(now)),
        };
        holding.map(ban).collect()
    }

    pub(super) fn addr(&self, now: Instant, addr: SocketAddr) -> bool {
        self.nets.containing(addr.ip()).any(|end| *end > now)
            || self.exact(now, &BanTarget::Addr(addr))
    }

    pub(super) fn peer(&self, now: Instant, peer: &PeerId) -> bool {
        !self.exact.is_empty() && self.exact(now, &BanTarget::Peer(peer.clone()))
    }

    /// Bans that found no room.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    fn exact(&self, now: Instant, target: &BanTarget) -> bool {
        !self.exact.is_empty() && self.exact.get(target).is_some_and(|end| *end > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn bans_end() {
        let mut bans = Bans::new(&ahash::RandomState::with_seeds(1, 2, 3, 4));
        let at = |s| Instant::ZERO + Duration::from_secs(s);
        let addr: SocketAddr = "10.1.2.3:4".parse().unwrap();
        bans.add(at(1), addr.into(), at(5));
        assert!(bans.addr(at(4), addr) && !bans.addr(at(5), addr));
        bans.add(at(1), addr.ip().into(), at(9));
        let other: SocketAddr = "10.1.2.3:5".parse().unwrap();
        assert!(bans.addr(at(8), other) && !bans.addr(at(9), other));
        let peer = PeerId::new(b"x").unwrap();
        bans.add(at(1), peer.clone().into(), Instant::FAR_FUTURE);
        assert!(bans.peer(at(1_000_000), &peer));
        bans.remove(&peer.clone().into());
        assert!(!bans.peer(at(2), &peer));
    }

    #[test]
    fn a_target_is_written_as_peers_are() {
        let written = |target: BanTarget| target.canonical();
        let plain: SocketAddr = "10.1.2.3:4".parse().unwrap();
        let mapped = BanTarget::Addr("[::ffff:10.1.2.3]:4".parse().unwrap());
        assert_eq!(written(mapped), BanTarget::Addr(plain));
        let net: IpNet = "::ffff:10.1.0.0/112".parse().unwrap();
        let four: IpNet = "10.1.0.0/16".parse().unwrap();
        assert_eq!(written(BanTarget::Net(net)), BanTarget::Net(four));
        assert_eq!(BanTarget::from(net), BanTarget::Net(four));
    }
}
