//! Limits per source network, in a fixed amount of memory.

use ahash::RandomState;
use flock_transport::Instant;
use std::net::{IpAddr, SocketAddr};

/// The addresses that one party usually holds: an IPv4 address or an IPv6 /64.
pub(crate) fn host(addr: &SocketAddr) -> u64 {
    match addr.ip() {
        IpAddr::V4(ip) => u64::from(u32::from(ip)),
        IpAddr::V6(ip) => high(u128::from(ip)),
    }
}

/// The network around it: a /24 or a /48.
pub(crate) fn network(addr: &SocketAddr) -> u64 {
    match addr.ip() {
        // The top bits keep networks apart from hosts where both share a table.
        IpAddr::V4(ip) => u64::from(u32::from(ip) >> 8) | 1 << 40,
        IpAddr::V6(ip) => high(u128::from(ip)) >> 16 | 1 << 63,
    }
}

fn high(ip: u128) -> u64 {
    u64::try_from(ip >> 64).unwrap_or(u64::MAX)
}

/// Lets through so many a second on average, and as many at once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bucket {
    /// When it would be full again.
    full_at: u64,
}

impl Bucket {
    /// Takes one of `rate` a second; false: none is left.
    pub(crate) fn take(&mut self, now: Instant, rate: u32) -> bool {
        if rate == 0 {
            return false;
        }
        if !self.has(now, rate) {
            return false;
        }
        self.full_at = self.full_at.max(now.as_nanos()) + SECOND / u64::from(rate);
        true
    }

    /// Whether one of `rate` a second is left; the rate is not zero.
    pub(crate) fn has(&self, now: Instant, rate: u32) -> bool {
        let full_at = self.full_at.max(now.as_nanos());
        full_at - now.as_nanos() + SECOND / u64::from(rate) <= SECOND
    }
}

const SECOND: u64 = 1_000_000_000;

const BUCKETS: usize = 1024;

/// A bucket for each network. Networks may share one: what an attacker can do with that he can do
/// with the global bucket too.
pub(crate) struct Buckets {
    hash: RandomState,
    buckets: Box<[Bucket]>,
}

impl Buckets {
    pub(crate) fn new(hash: RandomState) -> Self {
        Self {
            hash,
            buckets: vec![Bucket::default(); BUCKETS].into(),
        }
    }

    /// Takes one of `rate` a second for the network of `addr`.
    pub(crate) fn take(&mut self, now: Instant, addr: &SocketAddr, rate: u32) -> bool {
        let place = self.place(addr);
        self.buckets[place].take(now, rate)
    }

    /// Whether one of `rate` a second is left for the network of `addr`.
    pub(crate) fn has(&self, now: Instant, addr: &SocketAddr, rate: u32) -> bool {
        self.buckets[self.place(addr)].has(now, rate)
    }

    fn place(&self, addr: &SocketAddr) -> usize {
        let hash = self.hash.hash_one(network(addr));
        usize::try_from(hash % BUCKETS as u64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_bucket_lets_a_second_through_at_once_and_then_the_rate() {
        let mut bucket = Bucket::default();
        let mut now = Instant::ZERO + Duration::from_secs(9);
        assert_eq!((0..100).filter(|_| bucket.take(now, 10)).count(), 10);
        now = now + Duration::from_millis(100);
        assert_eq!((0..100).filter(|_| bucket.take(now, 10)).count(), 1);
        now = now + Duration::from_secs(60);
        assert_eq!((0..100).filter(|_| bucket.take(now, 10)).count(), 10);
        assert!(!bucket.take(now + Duration::from_secs(9), 0));
    }

    #[test]
    fn neighbours_share_a_network_and_not_a_host() {
        let (a, b) = (addr("10.1.2.3:1"), addr("10.1.2.4:2"));
        assert_ne!(host(&a), host(&b));
        assert_eq!(network(&a), network(&b));
        let (a, b) = (addr("[2001:db8:1:2::1]:1"), addr("[2001:db8:1:2::2]:1"));
        assert_eq!(host(&a), host(&b));
        let c = addr("[2001:db8:1:3::2]:1");
        assert_ne!(host(&a), host(&c));
        assert_eq!(network(&a), network(&c));
        assert_ne!(network(&a), network(&addr("[2001:db8:2:3::2]:1")));
    }
}
