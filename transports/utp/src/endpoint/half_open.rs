//! Handshakes that a peer began and has not confirmed: apart from connections, small, and not
//! for ever.

use super::cookie::Cookies;
use super::network::{Buckets, host, network};
use super::ring::{Flow, Ring};
use crate::config::Config;
use crate::wire::Seq;
use ahash::RandomState;
use flock_transport::Instant;
use hashbrown::HashMap;
use rand::Rng;
use rand::rngs::StdRng;
use std::net::SocketAddr;
use std::time::Duration;

/// Answers to repetitions of one SYN, so that what is sent never exceeds what was received.
const REPLAYS_MAX: u8 = 3;

/// Wrong confirmations that one handshake survives.
const WRONG_MAX: u8 = 3;

/// Wrong cookies a second from one network, before its packets are not looked at.
const WRONG_COOKIES: u32 = 128;

/// A handshake to be confirmed.
struct Pending {
    isn: u16,
    syn: u16,
    replays: u8,
    wrong: u8,
}

/// What a packet that belongs to no connection is to the handshakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Confirmation {
    /// It confirms the handshake in which the peer's SYN was `syn` and our answer `isn`.
    Confirmed {
        /// Number of the peer's SYN.
        syn: Seq,
        /// Our first number.
        isn: Seq,
        /// Time since our answer, if there was only one and it is known.
        took: Option<Duration>,
    },
    /// Not yet, but it may be of a handshake: it is to be dropped silently.
    Refused,
    /// There is no such handshake.
    Unknown,
}

/// Counts of what was refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HalfOpenCounts {
    /// SYNs answered without remembering them.
    pub(crate) cookies: u64,
    /// Repeated SYNs that were answered.
    pub(crate) replayed: u64,
    /// SYNs not answered: repeated too often, or for a handshake with another number.
    pub(crate) ignored: u64,
    /// Packets that tried to confirm a handshake with the wrong number.
    pub(crate) wrong: u64,
    /// Handshakes never confirmed.
    pub(crate) expired: u64,
}

/// The handshakes that peers began.
pub(crate) struct HalfOpen {
    ring: Ring<Pending>,
    /// Handshakes of each host and of each network.
    sources: HashMap<u64, u32, RandomState>,
    cookies: Cookies,
    guesses: Buckets,
    threshold: usize,
    per_host: u32,
    pub(crate) counts: HalfOpenCounts,
}

impl HalfOpen {
    pub(crate) fn new(config: &Config, hash: &RandomState, rng: &mut StdRng) -> Self {
        let max = config.half_open_max.max(4);
        Self {
            ring: Ring::new(max, config.half_open_life, hash.clone()),
            sources: HashMap::with_hasher(hash.clone()),
            cookies: Cookies::new(rng.random()),
            guesses: Buckets::new(hash.clone()),
            threshold: usize::try_from(max / 4 * 3).unwrap_or(usize::MAX),
            per_host: config.half_open_per_host,
            counts: HalfOpenCounts::default(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.ring.len()
    }

    /// A SYN came for a flow without a connection. Returns the number that our answer carries;
    /// `None`: no answer.
    pub(crate) fn on_syn(
        &mut self,
        now: Instant,
        from: &SocketAddr,
        recv_id: u16,
        syn: Seq,
        rng: &mut StdRng,
    ) -> Option<Seq> {
        self.expire(now);
        let flow = Flow::new(from, recv_id);
        if let Some(pending) = self.ring.get_mut(&flow) {
            if pending.syn != syn.get() || pending.replays >= REPLAYS_MAX {
                self.counts.ignored += 1;
                return None;
            }
            pending.replays += 1;
            self.counts.replayed += 1;
            return Some(Seq::new(pending.isn));
        }
        if self.ring.len() >= self.threshold || self.is_crowded(from) {
            self.counts.cookies += 1;
            let isn = self.cookies.give(now, from, recv_id, syn.get());
            return Some(Seq::new(isn));
        }
        let isn = rng.random();
        let pending = Pending {
            isn,
            syn: syn.get(),
            replays: 0,
            wrong: 0,
        };
        for source in [host(from), network(from)] {
            *self.sources.entry(source).or_default() += 1;
        }
        if let Some((flow, _)) = self.ring.insert(now, flow, pending) {
            self.forget_source(&flow.addr());
        }
        Some(Seq::new(isn))
    }

    /// A packet other than a SYN came for a flow without a connection.
    pub(crate) fn confirm(
        &mut self,
        now: Instant,
        from: &SocketAddr,
        recv_id: u16,
        seq: Seq,
        ack: Seq,
    ) -> Confirmation {
        self.expire(now);
        let flow = Flow::new(from, recv_id);
        let isn = ack.next();
        let age = self.ring.age(now, &flow);
        if let Some(pending) = self.ring.get_mut(&flow) {
            if pending.isn == isn.get() {
                let syn = Seq::new(pending.syn);
                let took = age.filter(|_| pending.replays == 0);
                self.remove(from, &flow);
                return Confirmation::Confirmed { syn, isn, took };
            }
            pending.wrong += 1;
            self.counts.wrong += 1;
            if pending.wrong >= WRONG_MAX {
                self.remove(from, &flow);
            }
            return Confirmation::Refused;
        }
        if !self.cookies.expected(now) {
            return Confirmation::Unknown;
        }
        if !self.guesses.has(now, from, WRONG_COOKIES) {
            return Confirmation::Refused;
        }
        // The first packet after a SYN; if it is lost, its repetition confirms.
        let syn = seq.previous();
        if self.cookies.check(now, from, recv_id, syn.get(), isn.get()) {
            let took = None;
            return Confirmation::Confirmed { syn, isn, took };
        }
        self.counts.wrong += 1;
        self.guesses.take(now, from, WRONG_COOKIES);
        Confirmation::Refused
    }

    /// The peer gives up a handshake that it began; whether it proves that it saw our answer.
    pub(crate) fn on_reset(&mut self, from: &SocketAddr, recv_id: u16, ack: Seq) -> bool {
        let flow = Flow::new(from, recv_id);
        let known = self.ring.get_mut(&flow);
        let isn = known.map(|pending| Seq::new(pending.isn));
        let proven = isn.is_some_and(|isn| ack == isn || ack.next() == isn);
        if proven {
            self.remove(from, &flow);
        }
        proven
    }

    fn is_crowded(&self, from: &SocketAddr) -> bool {
        let count = |source| self.sources.get(&source).copied().unwrap_or(0);
        count(host(from)) >= self.per_host
            || count(network(from)) >= self.per_host.saturating_mul(4)
    }

    fn remove(&mut self, from: &SocketAddr, flow: &Flow) {
        if self.ring.remove(flow).is_some() {
            self.forget_source(from);
        }
    }

    fn expire(&mut self, now: Instant) {
        let (sources, counts) = (&mut self.sources, &mut self.counts);
        self.ring.expire(now, |flow, _| {
            counts.expired += 1;
            decrement(sources, &flow.addr());
        });
    }

    fn forget_source(&mut self, from: &SocketAddr) {
        decrement(&mut self.sources, from);
    }
}

fn decrement(sources: &mut HashMap<u64, u32, RandomState>, from: &SocketAddr) {
    for source in [host(from), network(from)] {
        if let Some(count) = sources.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                sources.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn half_open(max: u32, per_host: u32) -> (HalfOpen, StdRng) {
        let config = Config {
            half_open_max: max,
            half_open_per_host: per_host,
            ..Config::default()
        };
        let mut rng = StdRng::seed_from_u64(1);
        let hash = RandomState::with_seeds(1, 2, 3, 4);
        (HalfOpen::new(&config, &hash, &mut rng), rng)
    }

    fn addr(n: u32) -> SocketAddr {
        SocketAddr::from((n.to_be_bytes(), 99))
    }

    const NOW: Instant = Instant::from_nanos(77_000_000_000);

    #[test]
    fn a_repeated_syn_gets_the_same_number_three_times() {
        let (mut table, mut rng) = half_open(100, 100);
        let syn = Seq::new(500);
        let isn = table.on_syn(NOW, &addr(1), 8, syn, &mut rng).unwrap();
        for _ in 0..3 {
            assert_eq!(table.on_syn(NOW, &addr(1), 8, syn, &mut rng), Some(isn));
        }
        assert_eq!(table.on_syn(NOW, &addr(1), 8, syn, &mut rng), None);
        assert_eq!(table.on_syn(NOW, &addr(1), 8, syn.next(), &mut rng), None);
        assert_eq!((table.counts.replayed, table.counts.ignored), (3, 2));
        let confirmed = table.confirm(NOW, &addr(1), 8, syn.next(), isn.previous());
        let took = None;
        assert_eq!(confirmed, Confirmation::Confirmed { syn, isn, took });
        assert_eq!((table.len(), table.sources.len()), (0, 0));
    }

    #[test]
    fn only_the_exact_number_confirms_and_three_guesses_end_it() {
        let (mut table, mut rng) = half_open(100, 100);
        let syn = Seq::new(500);
        let isn = table.on_syn(NOW, &addr(1), 8, syn, &mut rng).unwrap();
        assert_eq!(
            table.confirm(NOW, &addr(2), 8, syn.next(), isn.previous()),
            Confirmation::Unknown
        );
        for wrong in [isn, isn.next(), isn.previous().previous()] {
            let answer = table.confirm(NOW, &addr(1), 8, syn.next(), wrong);
            assert_eq!(answer, Confirmation::Refused);
        }
        assert_eq!(
            table.confirm(NOW, &addr(1), 8, syn.next(), isn.previous()),
            Confirmation::Unknown
        );
    }

    #[test]
    fn handshakes_expire() {
        let (mut table, mut rng) = half_open(100, 100);
        let isn = table
            .on_syn(NOW, &addr(1), 8, Seq::new(1), &mut rng)
            .unwrap();
        let later = NOW + Duration::from_secs(13);
        let answer = table.confirm(later, &addr(1), 8, Seq::new(2), isn.previous());
        assert_eq!(answer, Confirmation::Unknown);
        assert_eq!((table.len(), table.sources.len()), (0, 0));
        assert_eq!(table.counts.expired, 1);
    }

    #[test]
    fn a_reset_that_knows_our_number_ends_a_handshake() {
        let (mut table, mut rng) = half_open(100, 100);
        let isn = table
            .on_syn(NOW, &addr(1), 8, Seq::new(1), &mut rng)
            .unwrap();
        table.on_reset(&addr(1), 8, isn.next());
        assert_eq!(table.len(), 1);
        table.on_reset(&addr(1), 8, isn);
        assert_eq!((table.len(), table.sources.len()), (0, 0));
    }

    #[test]
    fn a_flood_is_answered_without_memory_and_real_peers_get_through() {
        let (mut table, mut rng) = half_open(64, 8);
        for n in 0..10_000u32 {
            let from = addr(n.wrapping_mul(0x9e37_79b9));
            assert!(table.on_syn(NOW, &from, 8, Seq::new(3), &mut rng).is_some());
        }
        assert_eq!(table.len(), 48);
        let (from, syn) = (addr(0xc000_0201), Seq::new(700));
        let isn = table.on_syn(NOW, &from, 21, syn, &mut rng).unwrap();
        let wrong = table.confirm(NOW, &from, 21, syn.next(), isn);
        assert_eq!(wrong, Confirmation::Refused);
        let answer = table.confirm(NOW, &from, 21, syn.next(), isn.previous());
        let took = None;
        assert_eq!(answer, Confirmation::Confirmed { syn, isn, took });
        assert_eq!(table.len(), 48);
    }

    #[test]
    fn one_host_or_network_cannot_fill_the_table() {
        let (mut table, mut rng) = half_open(1000, 8);
        for port in 0..100 {
            let from = SocketAddr::from(([192, 0, 2, 1], port));
            table.on_syn(NOW, &from, 8, Seq::new(3), &mut rng);
        }
        assert_eq!(table.len(), 8);
        for last in 0..100 {
            let from = SocketAddr::from(([192, 0, 2, last], 1000));
            table.on_syn(NOW, &from, 8, Seq::new(3), &mut rng);
        }
        assert_eq!(table.len(), 32);
    }

    #[test]
    fn guessing_cookies_is_limited() {
        let (mut table, mut rng) = half_open(4, 1);
        for n in 0..100 {
            table.on_syn(NOW, &addr(n << 8), 8, Seq::new(3), &mut rng);
        }
        let (from, syn) = (addr(0xc000_0201), Seq::new(700));
        let isn = table.on_syn(NOW, &from, 21, syn, &mut rng).unwrap();
        for guess in 0..1000 {
            let guess = isn.next().next().get().wrapping_add(guess);
            table.confirm(NOW, &from, 21, syn.next(), Seq::new(guess));
        }
        assert_eq!(table.counts.wrong, u64::from(WRONG_COOKIES));
        let answer = table.confirm(NOW, &from, 21, syn.next(), isn.previous());
        assert_eq!(answer, Confirmation::Refused);
    }

    #[test]
    fn an_entry_takes_thirty_two_bytes() {
        assert_eq!(Ring::<Pending>::ENTRY_BYTES, 32);
    }
}
