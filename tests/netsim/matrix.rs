//! The fixed points of the matrix, each axis varied around one ordinary path, and points drawn at
//! random.

use crate::case::{CODEL, Case, FAIR_CODEL, MS, kbit, mbit};
use flock_tests::net::{
    Change, Clock, Damage, DamageKind, Discipline, Host, LinkConfig, Loss, Policer, Reorder,
};
use flock_transport::Instant;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::time::Duration;

fn at(millis: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(millis)
}

fn plain() -> Case {
    Case::clean(MS * 50, mbit(10))
}

const BURSTS: Loss = Loss::Bursts {
    enter: 0.002,
    leave: 0.2,
    within: 0.9,
};

/// All fixed points.
pub(crate) fn fixed() -> Vec<Case> {
    let mut cases = links();
    cases.extend(timing());
    cases.extend(directions());
    cases
}

/// Those that differ in their links, and so for any sender.
pub(crate) fn links() -> Vec<Case> {
    let groups = [
        rtts_and_rates(),
        queues(),
        losses(),
        order_and_damage(),
        events(),
    ];
    groups.into_iter().flatten().collect()
}

fn rtts_and_rates() -> Vec<Case> {
    let micros = [
        100, 1_000, 10_000, 30_000, 50_000, 100_000, 200_000, 350_000, 600_000,
    ];
    let rtts = micros.map(|micros| Case::clean(Duration::from_micros(micros), mbit(10)));
    let rates = [
        kbit(256),
        mbit(1),
        mbit(50),
        mbit(100),
        mbit(500),
        mbit(1_000),
        mbit(10_000),
    ];
    let rates = rates.map(|rate| Case::clean(MS * 50, rate));
    rtts.into_iter().chain(rates).collect()
}

fn queues() -> Vec<Case> {
    vec![
        plain().queued(0.25).with("queue 1/4", |_| ()),
        plain().queued(4.0).with("queue 4", |_| ()),
        plain().both("queue of 10 s", |link| link.queue = 12_500_000),
        plain().both("CoDel", |link| link.discipline = CODEL),
        plain().both("fair CoDel", |link| link.discipline = FAIR_CODEL),
        plain().both("RED", |link| {
            link.discipline = Discipline::Red {
                least: 15_000,
                most: 45_000,
            };
        }),
        plain().both("policer", |link| {
            link.policer = Some(Policer {
                rate: mbit(5),
                burst: 30_000,
            });
        }),
    ]
}

fn losses() -> Vec<Case> {
    let uniform = [0.0001, 0.001, 0.01, 0.05, 0.2].map(|loss| {
        let name = format!("loss {} %", loss * 100.0);
        plain().both(&name, |link| link.loss = Loss::Uniform(loss))
    });
    let mut cases: Vec<_> = uniform.into();
    cases.push(plain().both("bursts", |link| link.loss = BURSTS));
    cases.push(plain().with("ACK loss 50 %", |case| case.back.loss = Loss::Uniform(0.5)));
    cases
}

fn order_and_damage() -> Vec<Case> {
    let reorder = |probability, depth| {
        let name = format!("reorder {} % by {depth}", probability * 100.0);
        plain().both(&name, |link| {
            link.reorder = Some(Reorder { probability, depth });
        })
    };
    let damage = |name, kind| {
        let damage = Damage {
            probability: 0.01,
            kind,
        };
        plain().both(name, |link| link.damage = Some(damage))
    };
    vec![
        reorder(0.01, 3),
        reorder(0.1, 3),
        reorder(0.01, 50),
        reorder(0.1, 50),
        plain().both("duplicates 1 %", |link| link.duplicate = 0.01),
        plain().both("duplicates 10 %", |link| link.duplicate = 0.1),
        damage("bad checksums 1 %", DamageKind::Caught),
        damage("truncated 1 %", DamageKind::Truncated),
        damage("garbage 1 %", DamageKind::Garbage),
        plain().both("MTU 1500", |link| link.mtu = 1_500),
        plain().both("MTU 1280", |link| link.mtu = 1_280),
        plain().both("MTU 1500, no fragments", |link| {
            link.mtu = 1_500;
            link.fragments = false;
        }),
    ]
}

fn timing() -> Vec<Case> {
    let skew = |ppm| {
        plain().with(&format!("skew {ppm} ppm"), |case| {
            case.hosts[1].clock.skew_ppm = ppm;
        })
    };
    vec![
        plain().both("jitter 5 ms", |link| link.jitter = MS * 5),
        plain().both("jitter 30 ms", |link| link.jitter = MS * 30),
        plain().both("radio frames of 5 ms", |link| link.aggregate = MS * 5),
        skew(100),
        skew(-100),
        skew(1_000),
        skew(-1_000),
        plain().with("initiator's clock jumps", |case| {
            case.hosts[0].clock.steps = vec![(at(1_500), Duration::from_secs(2))];
        }),
        plain().with("acceptor's clock jumps", |case| {
            case.hosts[1].clock.steps = vec![(at(1_500), Duration::from_secs(2))];
        }),
        plain().with("stamps wrap", |case| {
            case.hosts[0].clock.offset = Duration::from_micros(u64::from(u32::MAX) - 500_000);
        }),
        plain().with("batches of 1 ms", |case| {
            for host in &mut case.hosts {
                host.gather = MS;
            }
        }),
        plain().with("refused trains 10 %", |case| case.hosts[0].refuse = 0.1),
        plain().with("late deadlines", |case| {
            for host in &mut case.hosts {
                host.lateness = MS * 4;
            }
        }),
    ]
}

fn events() -> Vec<Case> {
    let change = |name, change| plain().both(name, |link| link.changes = vec![(at(1_000), change)]);
    let dark = |millis: u64| {
        let name = format!("dark for {millis} ms");
        plain().both(&name, |link| {
            link.blackouts = vec![at(1_000)..at(1_000 + millis)];
        })
    };
    vec![
        change("delay doubles", Change::Delay(MS * 50)),
        change("delay halves", Change::Delay(MS * 13)),
        change("rate falls to a tenth", Change::Rate(mbit(1))),
        change("rate grows tenfold", Change::Rate(mbit(100))),
        change("MTU falls to 1200", Change::Mtu(1_200)),
        dark(1_000),
        dark(5_000),
        dark(20_000),
    ]
}

fn directions() -> Vec<Case> {
    vec![
        plain().with("acceptor sends", |case| case.bytes.reverse()),
        plain().with("both send", |case| case.bytes = [2_000_000, 2_000_000]),
        plain().with("up 1 : down 20", |case| {
            case.there.rate = kbit(500);
            case.bytes = [0, 3_000_000];
        }),
        plain().with("up 1 : down 20, both send", |case| {
            case.there.rate = kbit(500);
            case.bytes = [300_000, 3_000_000];
        }),
    ]
}

/// A point drawn at random.
pub(crate) fn drawn(seed: u64) -> Case {
    let mut rng = SmallRng::seed_from_u64(seed);
    let micros = [
        100, 1_000, 10_000, 30_000, 50_000, 100_000, 200_000, 350_000, 600_000,
    ];
    let rates = [
        kbit(256),
        mbit(1),
        mbit(10),
        mbit(50),
        mbit(100),
        mbit(500),
        mbit(1_000),
    ];
    let rtt = Duration::from_micros(*pick(&mut rng, &micros));
    let rate = *pick(&mut rng, &rates);
    let mut case = Case::clean(rtt, rate).queued(*pick(&mut rng, &[0.25, 1.0, 4.0]));
    if rng.random_bool(0.2) {
        case.there.rate = (rate / 20).max(kbit(64));
    }
    if rng.random_bool(0.1) {
        case.there.queue = usize::try_from(rate * 10).unwrap_or(usize::MAX);
    }
    for link in [&mut case.there, &mut case.back] {
        spoil(&mut rng, link);
        disturb(&mut rng, link);
    }
    for host in &mut case.hosts {
        *host = machine(&mut rng);
    }
    let slowest = case.there.rate.min(case.back.rate);
    let bytes = |rng: &mut SmallRng| {
        let most = (slowest * 10).clamp(1_000, 1_500_000);
        rng.random_range(0..most)
    };
    case.bytes = [bytes(&mut rng), bytes(&mut rng)];
    if rng.random_bool(0.4) {
        case.bytes[rng.random_range(0..2)] = 0;
    }
    case.limit = Duration::from_secs(1_200);
    case
}

fn pick<'a, T>(rng: &mut SmallRng, from: &'a [T]) -> &'a T {
    from.choose(rng).expect("there is something to choose from")
}

/// Few faults at a time, as on real paths.
fn spoil(rng: &mut SmallRng, link: &mut LinkConfig) {
    if rng.random_bool(0.5) {
        link.loss = *pick(
            rng,
            &[
                Loss::Uniform(0.0001),
                Loss::Uniform(0.001),
                Loss::Uniform(0.01),
                Loss::Uniform(0.05),
                Loss::Uniform(0.2),
                BURSTS,
            ],
        );
    }
    if rng.random_bool(0.2) {
        link.discipline = *pick(rng, &[CODEL, FAIR_CODEL]);
    }
    if rng.random_bool(0.1) {
        link.policer = Some(Policer {
            rate: (link.rate / 2).max(kbit(64)),
            burst: *pick(rng, &[15_000, 60_000]),
        });
    }
    if rng.random_bool(0.2) {
        link.reorder = Some(Reorder {
            probability: *pick(rng, &[0.01, 0.1]),
            depth: rng.random_range(3..=50),
        });
    }
    if rng.random_bool(0.2) {
        link.duplicate = *pick(rng, &[0.01, 0.1]);
    }
    if rng.random_bool(0.2) {
        link.damage = Some(Damage {
            probability: *pick(rng, &[0.001, 0.02]),
            kind: *pick(
                rng,
                &[
                    DamageKind::Caught,
                    DamageKind::Truncated,
                    DamageKind::Garbage,
                ],
            ),
        });
    }
    if rng.random_bool(0.2) {
        link.jitter = *pick(rng, &[MS * 5, MS * 30]);
    }
    if rng.random_bool(0.1) {
        link.aggregate = MS * 5;
    }
    if rng.random_bool(0.2) {
        link.mtu = *pick(rng, &[1_280, 1_428, 1_492, 1_500]);
        // A numbered packet cannot be split: where a path is narrower than a probe and drops
        // fragments too, the connection is lost.
        link.fragments = link.mtu < 1_500 || rng.random_bool(0.5);
    }
}

/// Something happens on the way.
fn disturb(rng: &mut SmallRng, link: &mut LinkConfig) {
    if rng.random_bool(0.2) {
        let start = rng.random_range(0..10_000);
        let length = *pick(rng, &[1_000, 5_000, 15_000]);
        link.blackouts = vec![at(start)..at(start + length)];
    }
    if rng.random_bool(0.2) {
        let change = *pick(
            rng,
            &[
                Change::Rate((link.rate / 10).max(kbit(64))),
                Change::Delay(link.delay * 2),
                Change::Delay(link.delay / 2),
                Change::Mtu(1_280),
            ],
        );
        link.changes = vec![(at(rng.random_range(0..5_000)), change)];
    }
}

fn machine(rng: &mut SmallRng) -> Host {
    let mut host = Host {
        clock: Clock {
            offset: Duration::from_micros(rng.random_range(0..1 << 33)),
            skew_ppm: *pick(rng, &[0, 0, 100, -100, 1_000, -1_000]),
            steps: Vec::new(),
        },
        ..Host::default()
    };
    if rng.random_bool(0.1) {
        let by = Duration::from_millis(rng.random_range(1..3_000));
        host.clock.steps = vec![(at(rng.random_range(0..5_000)), by)];
    }
    if rng.random_bool(0.3) {
        host.gather = *pick(rng, &[MS / 10, MS, MS * 5]);
    }
    if rng.random_bool(0.2) {
        host.lateness = *pick(rng, &[MS / 10, MS, MS * 10]);
    }
    if rng.random_bool(0.1) {
        host.refuse = *pick(rng, &[0.01, 0.2]);
    }
    host
}

#[test]
fn every_path_has_a_name_of_its_own() {
    let names: std::collections::BTreeSet<_> = fixed().into_iter().map(|case| case.name).collect();
    assert_eq!(names.len(), fixed().len());
}
