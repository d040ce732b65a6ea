use super::*;
use crate::sending::Fired;
use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BinaryHeap};

/// What a path does to packets, in both directions.
#[derive(Clone, Copy, Debug)]
struct Path {
    loss: f64,
    delay: Duration,
    jitter: Duration,
    window: u64,
}

enum Packet {
    Data { seq: Seq, data: Vec<u8>, fin: bool },
    Ack { ack: Seq, sack: Vec<u8> },
}

/// A receiver that acknowledges every packet, and the path to and from it.
struct World {
    path: Path,
    rng: SmallRng,
    now: Instant,
    events: BinaryHeap<std::cmp::Reverse<(Instant, u64)>>,
    packets: BTreeMap<u64, Packet>,
    count: u64,
    expected: Seq,
    early: BTreeMap<i32, (Vec<u8>, bool)>,
    received: Vec<u8>,
    ended: bool,
    sent_packets: u64,
}

impl World {
    fn new(path: Path, seed: u64, first: Seq) -> Self {
        Self {
            path,
            rng: SmallRng::seed_from_u64(seed),
            now: at(0),
            events: BinaryHeap::new(),
            packets: BTreeMap::new(),
            count: 0,
            expected: first,
            early: BTreeMap::new(),
            received: Vec::new(),
            ended: false,
            sent_packets: 0,
        }
    }

    fn carry(&mut self, packet: Packet) {
        if self.rng.random_bool(self.path.loss) {
            return;
        }
        let jitter = self.path.jitter.mul_f64(self.rng.random_range(0.0..=1.0));
        self.count += 1;
        let at = self.now + self.path.delay + jitter;
        self.events.push(std::cmp::Reverse((at, self.count)));
        self.packets.insert(self.count, packet);
    }

    fn receive(&mut self, seq: Seq, data: Vec<u8>, fin: bool) {
        let ahead = self.expected.distance_to(seq);
        if ahead >= 0 {
            self.early.insert(ahead, (data, fin));
        }
        while let Some((data, fin)) = self.early.remove(&0) {
            assert!(!self.ended, "nothing follows the FIN");
            self.received.extend(data);
            self.ended |= fin;
            self.expected = self.expected.next();
            let rest = std::mem::take(&mut self.early);
            self.early = rest.into_iter().map(|(at, what)| (at - 1, what)).collect();
        }
        let mut sack = Vec::new();
        if !self.early.is_empty() {
            sack = vec![0; 32];
            for ahead in self.early.keys() {
                let bit = usize::try_from(ahead - 1).unwrap();
                if bit < 256 {
                    sack[bit / 8] |= 1 << (bit % 8);
                }
            }
        }
        let ack = self.expected.previous();
        self.carry(Packet::Ack { ack, sack });
    }
}

/// The smoothed round trip, as the connection would keep it.
fn measure(timing: &mut Timing, rtt: Duration) {
    let srtt = timing.srtt.map_or(rtt, |srtt| (srtt * 7 + rtt) / 8);
    timing.srtt = Some(srtt);
    timing.min_rtt = timing.min_rtt.min(rtt);
    timing.rto = (srtt * 2).max(Duration::from_millis(250));
}

/// What the sums must be, counted anew.
fn check_sums(sending: &Sending) {
    let Some(active) = &sending.active else {
        return;
    };
    let fate = |fate| active.records.iter().filter(move |(_, r)| r.fate == fate);
    let bytes: u64 = fate(Fate::InFlight).map(|(_, r)| u64::from(r.size)).sum();
    assert_eq!(active.records.in_flight, bytes);
    assert_eq!(active.records.flying as usize, fate(Fate::InFlight).count());
    assert_eq!(active.records.sacked as usize, fate(Fate::Sacked).count());
    let waiting = fate(Fate::Lost).count() + fate(Fate::Unsent).count();
    assert_eq!(active.records.waiting as usize, waiting);
}

/// Transmissions in a row of which nothing is heard, and the silence, that allow to give up.
const UNHEARD_MIN: u64 = 5;
const PATIENCE: Duration = Duration::from_secs(30);
/// Silence that ends without an end of the transfer: patience, and one timeout more.
const STALL_MAX: Duration = Duration::from_secs(46);

/// Sends `bytes` over `path`; returns packets sent and the time it took.
fn transfer(path: Path, seed: u64, bytes: usize, checked: bool) -> (u64, Duration) {
    attempt(path, seed, bytes, checked).expect("the path is alive")
}

/// As [`transfer`]; `None` where so much was lost in a row that the sender had to give up.
fn attempt(path: Path, seed: u64, bytes: usize, checked: bool) -> Option<(u64, Duration)> {
    let first = Seq::new(0xfff0);
    let mut sending = Sending::new(
        first,
        SendLimits {
            max: u32::MAX,
            ..limits()
        },
    );
    let data: Vec<u8> = (0..=250_u8).cycle().take(bytes).collect();
    sending.send(Bytes::from(data.clone())).unwrap();
    sending.end();
    let mut world = World::new(path, seed, first);
    let mut timing = Timing {
        srtt: None,
        min_rtt: Duration::from_secs(1),
        rto: Duration::from_secs(1),
    };
    let mut last_progress = world.now;
    let mut unheard = 0;
    while !sending.is_over() {
        let allowance = Allowance {
            window: path.window,
            ..wide()
        };
        while let Some(segment) = sending.next_segment(&allowance) {
            let packet = Packet::Data {
                seq: segment.seq,
                data: payload(&sending, &segment),
                fin: segment.fin,
            };
            sending.commit(world.now, &segment, &timing);
            world.sent_packets += 1;
            unheard += 1;
            world.carry(packet);
        }
        if checked {
            check_sums(&sending);
        }
        let arrival = world.events.peek().map(|event| event.0.0);
        let deadline = sending.deadline();
        world.now = arrival.into_iter().chain(deadline).min().expect("a way on");
        while let Some(fired) = sending.on_deadline(world.now, &timing) {
            if fired == Fired::GiveUp {
                assert!(unheard >= UNHEARD_MIN && world.now - last_progress >= PATIENCE);
                return None;
            }
        }
        if arrival != Some(world.now) {
            continue;
        }
        let std::cmp::Reverse((_, id)) = world.events.pop().unwrap();
        match world.packets.remove(&id).unwrap() {
            Packet::Data { seq, data, fin } => world.receive(seq, data, fin),
            Packet::Ack { ack, sack } => {
                let sack = (!sack.is_empty()).then_some(&sack[..]);
                let acked = sending.on_ack(world.now, ack, sack, true, &timing).unwrap();
                if let Some(rtt) = acked.rtt {
                    measure(&mut timing, rtt);
                }
                if acked.packets > 0 {
                    (last_progress, unheard) = (world.now, 0);
                }
            }
        }
        let silent = world.now - last_progress;
        assert!(silent < STALL_MAX, "stalled for {silent:?}");
    }
    assert!(
        world.ended && world.received == data,
        "the bytes as they were"
    );
    sending.rest();
    assert!(sending.active.is_none(), "nothing is kept");
    Some((world.sent_packets, world.now - at(0)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    /// Whatever the path does, the bytes arrive, or every transmission of half a minute was lost;
    /// and the sums hold at every step.
    #[test]
    fn any_path(seed: u64, loss in 0.0..0.2_f64, delay in 1_u64..200, jitter in 0_u64..50, window in 2_u64..100, kilobytes in 1_usize..150) {
        let path = Path {
            loss,
            delay: Duration::from_millis(delay),
            jitter: Duration::from_millis(jitter),
            window: window * 1000,
        };
        attempt(path, seed, kilobytes * 1000 + 7, true);
    }
}

#[test]
fn a_clean_path_repeats_nothing() {
    let path = Path {
        loss: 0.0,
        delay: Duration::from_millis(20),
        jitter: Duration::ZERO,
        window: 100_000,
    };
    let (packets, took) = transfer(path, 1, 10_000_000, false);
    assert_eq!(packets, 10_001);
    // 100 packets each 40 ms.
    assert!(took < Duration::from_millis(4_100), "{took:?}");
}

#[test]
fn reordering_alone_repeats_little() {
    let path = Path {
        loss: 0.0,
        delay: Duration::from_millis(20),
        jitter: Duration::from_millis(8),
        window: 100_000,
    };
    let (packets, _) = transfer(path, 2, 5_000_000, false);
    assert!(packets < 5_001 + 100, "{packets}");
}

#[test]
fn losses_cost_few_packets_and_little_time() {
    let path = Path {
        loss: 0.02,
        delay: Duration::from_millis(20),
        jitter: Duration::from_millis(1),
        window: 100_000,
    };
    let (packets, took) = transfer(path, 3, 10_000_000, false);
    assert!(packets < 10_500, "{packets}");
    assert!(took < Duration::from_millis(8_000), "{took:?}");
}

#[test]
fn numbers_wrap_many_times() {
    let path = Path {
        loss: 0.005,
        delay: Duration::from_millis(5),
        jitter: Duration::from_millis(2),
        window: 600_000,
    };
    let (packets, _) = transfer(path, 4, 210_000_000, false);
    assert!(packets > 200_000, "{packets}");
}
