//! Accepting a connection without remembering its SYN.

use flock_transport::Instant;
use std::net::{IpAddr, SocketAddr};

/// SipHash-2-4 (Aumasson and Bernstein, 2012): a keyed hash that cannot be predicted from its
/// outputs.
fn siphash(key: [u64; 2], words: &[u64]) -> u64 {
    let mut v = [
        key[0] ^ 0x736f_6d65_7073_6575,
        key[1] ^ 0x646f_7261_6e64_6f6d,
        key[0] ^ 0x6c79_6765_6e65_7261,
        key[1] ^ 0x7465_6462_7974_6573,
    ];
    let length = (words.len() as u64 * 8) << 56;
    for &word in words.iter().chain(&[length]) {
        v[3] ^= word;
        rounds(&mut v, 2);
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    rounds(&mut v, 4);
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

fn rounds(v: &mut [u64; 4], count: u32) {
    for _ in 0..count {
        v[0] = v[0].wrapping_add(v[1]);
        v[1] = v[1].rotate_left(13) ^ v[0];
        v[0] = v[0].rotate_left(32);
        v[2] = v[2].wrapping_add(v[3]);
        v[3] = v[3].rotate_left(16) ^ v[2];
        v[0] = v[0].wrapping_add(v[3]);
        v[3] = v[3].rotate_left(21) ^ v[0];
        v[2] = v[2].wrapping_add(v[1]);
        v[1] = v[1].rotate_left(17) ^ v[2];
        v[2] = v[2].rotate_left(32);
    }
}

/// Seconds that one key is used for. A cookie is good for one to two of them.
const EPOCH_SECONDS: u64 = 16;
const EPOCH_NANOS: u64 = EPOCH_SECONDS * 1_000_000_000;

/// First sequence numbers that only we can compute from what the peer sends back: its address,
/// its connection id and the number of its SYN (the idea of SYN cookies, RFC 4987 section 3.6).
pub(crate) struct Cookies {
    key: [u64; 2],
    /// The last epoch in which one was given; guessing is impossible at other times.
    last_given: Option<u64>,
}

impl Cookies {
    pub(crate) fn new(key: [u64; 2]) -> Self {
        Self {
            key,
            last_given: None,
        }
    }

    /// The first sequence number for this SYN, received on `recv_id - 1`.
    pub(crate) fn give(&mut self, now: Instant, from: &SocketAddr, recv_id: u16, syn: u16) -> u16 {
        let epoch = now.as_nanos() / EPOCH_NANOS;
        self.last_given = Some(epoch);
        self.compute(epoch, from, recv_id, syn)
    }

    /// Whether cookies were given recently enough for one to come back.
    pub(crate) fn expected(&self, now: Instant) -> bool {
        let epoch = now.as_nanos() / EPOCH_NANOS;
        self.last_given
            .is_some_and(|last| epoch - last.min(epoch) <= 1)
    }

    /// Whether `isn` was given for this SYN in this epoch or the one before.
    pub(crate) fn check(
        &self,
        now: Instant,
        from: &SocketAddr,
        recv_id: u16,
        syn: u16,
        isn: u16,
    ) -> bool {
        let epoch = now.as_nanos() / EPOCH_NANOS;
        // Both are computed whatever the first says, so that the time taken tells nothing.
        let this = self.compute(epoch, from, recv_id, syn) ^ isn;
        let before = self.compute(epoch.wrapping_sub(1), from, recv_id, syn) ^ isn;
        self.expected(now) && (this == 0) | (before == 0)
    }

    fn compute(&self, epoch: u64, from: &SocketAddr, recv_id: u16, syn: u16) -> u16 {
        let ip = match from.ip() {
            IpAddr::V4(ip) => u128::from(ip.to_ipv6_mapped()),
            IpAddr::V6(ip) => u128::from(ip),
        };
        let [high, low] =
            [ip >> 64, ip & u128::from(u64::MAX)].map(|half| u64::try_from(half).unwrap_or(0));
        let rest = u64::from(from.port()) << 32 | u64::from(recv_id) << 16 | u64::from(syn);
        let hash = siphash(self.key, &[epoch, high, low, rest]);
        u16::try_from(hash & 0xffff).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn siphash_agrees_with_its_authors() {
        // The reference implementation's vectors for 8 bytes 00..07.
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        assert_eq!(
            siphash(key, &[0x0706_0504_0302_0100]),
            0x93f5_f579_9a93_2462
        );
        assert_eq!(siphash(key, &[]), 0x726f_db47_dd0e_0e31);
    }

    #[test]
    fn a_cookie_is_good_for_its_syn_only_and_not_for_long() {
        let mut cookies = Cookies::new([3, 4]);
        let from: SocketAddr = "192.0.2.1:9".parse().unwrap();
        let now = Instant::ZERO + Duration::from_secs(1000);
        assert!(!cookies.expected(now));
        let isn = cookies.give(now, &from, 7, 100);
        assert!(cookies.check(now, &from, 7, 100, isn));
        let next = now + Duration::from_secs(EPOCH_SECONDS);
        assert!(cookies.check(next, &from, 7, 100, isn));
        assert!(!cookies.check(
            next + Duration::from_secs(EPOCH_SECONDS),
            &from,
            7,
            100,
            isn
        ));
        let others = [
            cookies.check(now, &from, 8, 100, isn),
            cookies.check(now, &from, 7, 101, isn),
            cookies.check(now, &"192.0.2.1:10".parse().unwrap(), 7, 100, isn),
            cookies.check(now, &"192.0.2.2:9".parse().unwrap(), 7, 100, isn),
        ];
        assert_eq!(others, [false; 4]);
    }
}
