use flock_transport::Instant;
use hashbrown::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Bounds of UDP payload to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MtuLimits {
    /// What every path is taken to carry.
    pub(crate) floor: u16,
    /// Never larger than this.
    pub(crate) cap: u16,
}

/// The search for the largest UDP payload that the path carries (RFC 8899).
///
/// A probe is an ordinary segment, sent with DF. A segment that was numbered cannot be cut, so one
/// that was lost goes again without DF, and may be fragmented.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mtu {
    good: u16,
    /// The smallest size that failed.
    bad: u16,
    /// Losses of the size being tried.
    failures: u8,
    /// Whether a probe is on its way.
    probing: bool,
    /// Timeouts in a row without anything getting through at this size.
    black: u8,
    search_again: Instant,
}

/// Sizes worth trying: 1,500 less tunnels, PPPoE (RFC 2516), Ethernet with IPv6 and with IPv4,
/// jumbo frames.
const LADDER: [u16; 6] = [1232, 1402, 1444, 1452, 1472, 8952];
/// Losses that make a size too large, since one may be chance.
const FAILURES: u8 = 2;
/// Timeouts in a row that make a size that was good a black hole.
const BLACK: u8 = 2;
/// Paths change: a search that ended is repeated.
const AGAIN: Duration = Duration::from_secs(30 * 60);

impl Mtu {
    /// A search that begins with what is `known` of the path, if anything.
    pub(crate) fn new(limits: MtuLimits, known: Option<u16>) -> Self {
        let good = known.unwrap_or(limits.floor);
        Self {
            good: good.clamp(limits.floor.min(limits.cap), limits.cap),
            bad: u16::MAX,
            failures: 0,
            probing: false,
            black: 0,
            search_again: Instant::ZERO,
        }
    }

    /// UDP payload of ordinary packets.
    pub(crate) fn size(&self) -> u16 {
        self.good
    }

    /// The size to try now, if any.
    pub(crate) fn probe(&self, now: Instant, limits: MtuLimits) -> Option<u16> {
        if self.probing {
            return None;
        }
        // What failed long ago may be worth another try.
        let bad = if now >= self.search_again {
            u16::MAX
        } else {
            self.bad
        };
        let next = |size: &u16| *size > self.good && *size < bad && *size <= limits.cap;
        LADDER
            .iter()
            .copied()
            .chain([limits.cap])
            .filter(next)
            .min()
    }

    /// A probe was sent.
    pub(crate) fn probed(&mut self) {
        self.probing = true;
    }

    /// A probe of `size` arrived; whether ordinary packets are larger now.
    pub(crate) fn arrived(&mut self, size: u16) -> bool {
        self.probing = false;
        self.failures = 0;
        let larger = size > self.good;
        self.good = self.good.max(size);
        larger
    }

    /// A probe of `size` was lost, or the system refused it as too large (`certain`).
    pub(crate) fn lost(&mut self, now: Instant, size: u16, certain: bool) {
        self.probing = false;
        self.failures += 1;
        if size > self.good && (certain || self.failures >= FAILURES) {
            self.failures = 0;
            self.bad = size;
            self.search_again = now + AGAIN;
        }
    }

    /// Something of the present size was acknowledged.
    pub(crate) fn on_progress(&mut self) {
        self.black = 0;
    }

    /// A timeout: a path that swallows what it carried before is found by their number. Whether
    /// ordinary packets are smaller now.
    pub(crate) fn on_timeout(&mut self, now: Instant, limits: MtuLimits) -> bool {
        self.probing = false;
        self.black = self.black.saturating_add(1);
        let floor = limits.floor.min(limits.cap);
        if self.black < BLACK || self.good <= floor {
            return false;
        }
        self.bad = self.good;
        self.good = floor;
        self.search_again = now + AGAIN;
        self.black = 0;
        true
    }
}

/// What paths were found to carry, for connections to come: by /24 (IPv4) or /64 (IPv6).
#[derive(Debug)]
pub(crate) struct MtuCache {
    known: HashMap<u64, u16, ahash::RandomState>,
    limit: usize,
}

impl MtuCache {
    pub(crate) fn new(limit: usize, hasher: ahash::RandomState) -> Self {
        Self {
            known: HashMap::with_hasher(hasher),
            limit,
        }
    }

    fn network(addr: SocketAddr) -> u64 {
        match addr.ip() {
            IpAddr::V4(ip) => u64::from(u32::from(ip) >> 8),
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, g, h, ..] = ip.octets();
                u64::from_be_bytes([a, b, c, d, e, f, g, h]) | 1 << 63
            }
        }
    }

    pub(crate) fn get(&self, addr: SocketAddr) -> Option<u16> {
        self.known.get(&Self::network(addr)).copied()
    }

    /// Remembers a size; when the cache is full it starts over, since it only saves time.
    pub(crate) fn put(&mut self, addr: SocketAddr, size: u16) {
        let network = Self::network(addr);
        if self.known.len() >= self.limit && !self.known.contains_key(&network) {
            self.known.clear();
        }
        self.known.insert(network, size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: MtuLimits = MtuLimits {
        floor: 1232,
        cap: 1472,
    };

    fn at(secs: u64) -> Instant {
        Instant::from_nanos(secs * 1_000_000_000)
    }

    /// Searches a path that carries `carries`; the sizes tried.
    fn search(mtu: &mut Mtu, now: Instant, limits: MtuLimits, carries: u16) -> Vec<u16> {
        let mut tried = Vec::new();
        while let Some(size) = mtu.probe(now, limits) {
            assert!(tried.len() < 20, "{tried:?}");
            tried.push(size);
            mtu.probed();
            assert_eq!(mtu.probe(now, limits), None, "one at a time");
            if size <= carries {
                mtu.arrived(size);
            } else {
                mtu.lost(now, size, false);
            }
        }
        tried
    }

    #[test]
    fn the_search_climbs_until_it_fails_twice() {
        let mut mtu = Mtu::new(LIMITS, None);
        assert_eq!(
            search(&mut mtu, at(0), LIMITS, 1472),
            [1402, 1444, 1452, 1472]
        );
        assert_eq!(mtu.size(), 1472);
        let mut mtu = Mtu::new(LIMITS, None);
        assert_eq!(
            search(&mut mtu, at(0), LIMITS, 1450),
            [1402, 1444, 1452, 1452]
        );
        assert_eq!(mtu.size(), 1444);
        assert_eq!(search(&mut mtu, at(60), LIMITS, 1472), [0; 0]);
        assert_eq!(search(&mut mtu, at(1801), LIMITS, 1472), [1452, 1472]);
        let jumbo = MtuLimits {
            cap: 8952,
            ..LIMITS
        };
        let mut mtu = Mtu::new(jumbo, None);
        search(&mut mtu, at(0), jumbo, 9000);
        assert_eq!(mtu.size(), 8952);
    }

    #[test]
    fn a_cap_below_the_floor_counts() {
        let low = MtuLimits {
            floor: 1232,
            cap: 600,
        };
        let mtu = Mtu::new(low, None);
        assert_eq!((mtu.size(), mtu.probe(at(0), low)), (600, None));
    }

    #[test]
    fn a_black_hole_is_left() {
        let mut mtu = Mtu::new(LIMITS, Some(1472));
        assert!(!mtu.on_timeout(at(0), LIMITS));
        mtu.on_progress();
        assert!(!mtu.on_timeout(at(1), LIMITS));
        assert!(mtu.on_timeout(at(2), LIMITS));
        assert_eq!(mtu.size(), 1232);
        assert_eq!(mtu.probe(at(3), LIMITS), Some(1402));
    }

    #[test]
    fn paths_are_remembered_by_network_and_bounded() {
        let mut cache = MtuCache::new(2, ahash::RandomState::with_seeds(1, 2, 3, 4));
        let addr = |text: &str| text.parse::<SocketAddr>().unwrap();
        cache.put(addr("10.0.0.1:1"), 1400);
        assert_eq!(cache.get(addr("10.0.0.200:9")), Some(1400));
        assert_eq!(cache.get(addr("10.0.1.1:1")), None);
        cache.put(addr("[2001:db8::1]:1"), 1300);
        assert_eq!(cache.get(addr("[2001:db8::ffff]:1")), Some(1300));
        cache.put(addr("10.0.2.1:1"), 1);
        assert_eq!(cache.known.len(), 1);
    }
}
