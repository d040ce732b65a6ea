//! Sets of networks, asked about once for every accept and every discovered address.

use hashbrown::HashMap;
use ipnet::{IpNet, Ipv4Net};
use std::net::IpAddr;

/// Networks with a value each. A look-up costs one probe for each length of prefix in use,
/// however many networks there are.
pub(super) struct Nets<V> {
    nets: HashMap<IpNet, V, ahash::RandomState>,
    /// Networks of each prefix length, IPv4 and IPv6.
    lengths: [Lengths; 2],
}

/// How many networks have a prefix length; only those in use are listed.
type Lengths = Vec<(u8, u32)>;

fn family(net: &IpNet) -> usize {
    usize::from(matches!(net, IpNet::V6(_)))
}

fn count_length(lengths: &mut [Lengths; 2], net: &IpNet) {
    let (lengths, used) = (&mut lengths[family(net)], net.prefix_len());
    match lengths.iter_mut().find(|(length, _)| *length == used) {
        Some((_, count)) => *count += 1,
        None => lengths.push((used, 1)),
    }
}

/// The bits before the IPv4 address in an IPv4-mapped one (RFC 4291, section 2.5.5.2).
const MAPPED: u8 = 96;

/// The network as peers are asked about: one within `::ffff:0:0/96` becomes plain IPv4, since
/// that is what addresses in it are turned into.
pub(super) fn canonical_net(net: IpNet) -> IpNet {
    let IpNet::V6(six) = net else { return net };
    let length = six.prefix_len().checked_sub(MAPPED);
    let four = six.addr().to_ipv4_mapped().zip(length);
    four.and_then(|(addr, length)| Ipv4Net::new(addr, length).ok())
        .map_or(net, IpNet::V4)
}

impl<V> Nets<V> {
    pub(super) fn new(hasher: ahash::RandomState) -> Self {
        Self {
            nets: HashMap::with_hasher(hasher),
            lengths: [Lengths::new(), Lengths::new()],
        }
    }

    pub(super) fn len(&self) -> usize {
        self.nets.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.nets.is_empty()
    }

    /// Adds a network or replaces its value. Host bits mean nothing.
    pub(super) fn insert(&mut self, net: IpNet, value: V) {
        let net = canonical_net(net).trunc();
        if self.nets.insert(net, value).is_some() {
            return;
        }
        count_length(&mut self.lengths, &net);
    }

    pub(super) fn remove(&mut self, net: IpNet) {
        let net = canonical_net(net).trunc();
        if self.nets.remove(&net).is_some() {
            self.forget_length(&net);
        }
    }

    /// Keeps the networks whose value `keep` wants.
    pub(super) fn retain(&mut self, keep: impl Fn(&V) -> bool) {
        self.nets.retain(|_, value| keep(value));
        self.lengths = [Lengths::new(), Lengths::new()];
        for net in self.nets.keys() {
            count_length(&mut self.lengths, net);
        }
    }

    /// All networks, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (IpNet, &V)> {
        self.nets.iter().map(|(net, value)| (*net, value))
    }

    /// The values of the networks that contain `ip`.
    pub(super) fn containing(&self, ip: IpAddr) -> impl Iterator<Item = &V> {
        let host = IpNet::from(ip);
        self.lengths[family(&host)]
            .iter()
            .filter_map(move |(length, _)| {
                let net = IpNet::new(ip, *length).ok()?.trunc();
                self.nets.get(&net)
            })
    }

    fn forget_length(&mut self, net: &IpNet) {
        let lengths = &mut self.lengths[family(net)];
        if let Some(at) = lengths
            .iter()
            .position(|(length, _)| *length == net.prefix_len())
        {
            lengths[at].1 -= 1;
            if lengths[at].1 == 0 {
                lengths.swap_remove(at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net() -> impl Strategy<Value = IpNet> {
        // Few distinct bits, so that networks overlap and repeat.
        (any::<bool>(), 0u8..4, 0u8..4, 0u8..=32).prop_map(|(six, high, low, length)| {
            let ip = if six {
                IpAddr::from([u16::from(high), 0, 0, 0, 0, 0, 0, u16::from(low)])
            } else {
                IpAddr::from([high, 0, 0, low])
            };
            IpNet::new(ip, length).unwrap()
        })
    }

    #[test]
    fn mapped_networks_are_ipv4() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let mut nets = Nets::new(ahash::RandomState::with_seeds(1, 2, 3, 4));
        nets.insert(net("::ffff:10.1.0.0/112"), ());
        let finds = |nets: &Nets<()>, ip: &str| nets.containing(ip.parse().unwrap()).count();
        assert_eq!((finds(&nets, "10.1.2.3"), finds(&nets, "10.2.2.3")), (1, 0));
        nets.remove(net("10.1.0.0/16"));
        assert!(nets.is_empty());
        // It holds more than mapped addresses.
        assert_eq!(canonical_net(net("::/0")), net("::/0"));
        assert_eq!(canonical_net(net("::ffff:0:0/96")), net("0.0.0.0/0"));
    }

    proptest! {
        #[test]
        fn finds_what_a_search_through_all_finds(
            ops in proptest::collection::vec((0u8..8, net(), 0u8..4), 1..60),
            asked in proptest::collection::vec(net(), 20),
        ) {
            let mut nets = Nets::new(ahash::RandomState::with_seeds(1, 2, 3, 4));
            let mut model: Vec<(IpNet, u8)> = Vec::new();
            for (op, net, value) in ops {
                match op {
                    0 | 1 => {
                        nets.remove(net);
                        model.retain(|(other, _)| *other != net.trunc());
                    }
                    2 => {
                        nets.retain(|kept| *kept != value);
                        model.retain(|(_, kept)| *kept != value);
                    }
                    _ => {
                        nets.insert(net, value);
                        model.retain(|(other, _)| *other != net.trunc());
                        model.push((net.trunc(), value));
                    }
                }
                prop_assert_eq!(nets.len(), model.len());
            }
            for ip in asked.iter().map(IpNet::addr) {
                let mut found: Vec<u8> = nets.containing(ip).copied().collect();
                let mut expected: Vec<u8> = model
                    .iter()
                    .filter(|(net, _)| net.contains(&ip))
                    .map(|(_, value)| *value)
                    .collect();
                found.sort_unstable();
                expected.sort_unstable();
                prop_assert_eq!(found, expected);
            }
        }
    }
}
