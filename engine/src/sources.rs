//! How many connections there are with one address and one network.

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Connections and dials by where the peer is, shared by all shards: which shard the kernel gives
/// a connection to says nothing about where it is from. Each place has as many entries as there
/// are connections, at most.
///
/// Stripes are locked for one look-up, and only where there is a limit: shards meet in one when
/// they accept from networks of the same hash at the same instant.
#[derive(Debug)]
pub(crate) struct Sources {
    per_ip: u32,
    per_subnet: u32,
    hasher: ahash::RandomState,
    stripes: Vec<Mutex<Stripe>>,
}

type Stripe = HashMap<IpNet, u32, ahash::RandomState>;

/// Which limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crowded {
    Ip,
    Subnet,
}

/// A power of two, well above the number of cores.
const STRIPES: usize = 64;

/// The network whose connections count together: what one customer of a provider, or one rack,
/// usually has.
fn subnet(ip: IpAddr) -> IpNet {
    let length = if ip.is_ipv4() { 24 } else { 64 };
    let net = IpNet::new(ip, length).expect("shorter than an address");
    net.trunc()
}

impl Sources {
    /// Limits of 0 are none; `seed` keys the hash, so that nobody can choose a stripe.
    pub(crate) fn new(per_ip: u32, per_subnet: u32, seed: u64) -> Self {
        let hasher = ahash::RandomState::with_seeds(seed, !seed, 1, seed.rotate_left(11));
        let limited = per_ip > 0 || per_subnet > 0;
        let stripe = |_| Mutex::new(Stripe::with_hasher(hasher.clone()));
        Self {
            per_ip,
            per_subnet,
            stripes: (0..if limited { STRIPES } else { 0 }).map(stripe).collect(),
            hasher,
        }
    }

    /// Counts a connection with `ip`, if both limits allow one more.
    pub(crate) fn take(&self, ip: IpAddr) -> Result<(), Crowded> {
        if !self.count(ip.into(), self.per_ip) {
            return Err(Crowded::Ip);
        }
        if !self.count(subnet(ip), self.per_subnet) {
            self.forget(ip.into(), self.per_ip);
            return Err(Crowded::Subnet);
        }
        Ok(())
    }

    /// The connection is over.
    pub(crate) fn release(&self, ip: IpAddr) {
        self.forget(ip.into(), self.per_ip);
        self.forget(subnet(ip), self.per_subnet);
    }

    fn count(&self, net: IpNet, limit: u32) -> bool {
        if limit == 0 {
            return true;
        }
        let mut stripe = self.stripe(&net);
        let count = stripe.entry(net).or_insert(0);
        let room = *count < limit;
        *count += u32::from(room);
        room
    }

    fn forget(&self, net: IpNet, limit: u32) {
        if limit == 0 {
            return;
        }
        if let Entry::Occupied(mut entry) = self.stripe(&net).entry(net) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        } else {
            debug_assert!(false, "a connection was released twice");
        }
    }

    fn stripe(&self, net: &IpNet) -> MutexGuard<'_, Stripe> {
        let at = self.hasher.hash_one(net) % (STRIPES as u64);
        let at = usize::try_from(at).expect("below the number of stripes");
        let stripe = self.stripes[at].lock();
        stripe.unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn is_unused(&self) -> bool {
        let empty = |stripe: &Mutex<Stripe>| stripe.lock().unwrap().is_empty();
        self.stripes.iter().all(empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_and_its_network_have_a_limit_each() {
        let sources = Sources::new(1, 2, 7);
        assert_eq!(sources.take(ip("10.0.0.1")), Ok(()));
        assert_eq!(sources.take(ip("10.0.0.1")), Err(Crowded::Ip));
        assert_eq!(sources.take(ip("10.0.0.2")), Ok(()));
        assert_eq!(sources.take(ip("10.0.0.3")), Err(Crowded::Subnet));
        assert_eq!(sources.take(ip("10.0.1.3")), Ok(()));
        assert_eq!(sources.take(ip("2001:db8::1")), Ok(()));
        assert_eq!(sources.take(ip("2001:db8::2")), Ok(()));
        assert_eq!(
            sources.take(ip("2001:db8::ffff:0:0:3")),
            Err(Crowded::Subnet)
        );
        assert_eq!(sources.take(ip("2001:db8:0:1::1")), Ok(()));
        sources.release(ip("10.0.0.1"));
        assert_eq!(sources.take(ip("10.0.0.3")), Ok(()));
    }

    proptest! {
        #[test]
        fn counts_as_a_list_of_connections_does(
            ops in proptest::collection::vec((any::<bool>(), 0u8..3, 0u8..3), 0..200),
            (per_ip, per_subnet) in (0u32..4, 0u32..6),
        ) {
            let sources = Sources::new(per_ip, per_subnet, 7);
            let mut model: Vec<(u8, u8)> = Vec::new();
            for (take, net, host) in ops {
                let ip = IpAddr::from([10, 0, net, host]);
                let held = model.iter().position(|other| *other == (net, host));
                if take {
                    let same = model.iter().filter(|other| **other == (net, host)).count();
                    let near = model.iter().filter(|other| other.0 == net).count();
                    let full = |count: usize, limit: u32| limit > 0 && count >= limit as usize;
                    let expected = match (full(same, per_ip), full(near, per_subnet)) {
                        (true, _) => Err(Crowded::Ip),
                        (_, true) => Err(Crowded::Subnet),
                        _ => Ok(()),
                    };
                    prop_assert_eq!(sources.take(ip), expected);
                    model.extend(expected.is_ok().then_some((net, host)));
                } else if let Some(at) = held {
                    model.remove(at);
                    sources.release(ip);
                }
            }
            for (net, host) in model {
                sources.release(IpAddr::from([10, 0, net, host]));
            }
            prop_assert!(sources.is_unused());
        }
    }
}
