use super::*;
use flock_transport::Instant;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);

fn at(millis: u64) -> Instant {
    Instant::ZERO + MS * u32::try_from(millis).unwrap()
}

/// What came of `count` datagrams of 1,000 bytes of IP, `burst` every `every`, over `link`.
fn received(link: LinkConfig, every: Duration, burst: usize, count: u64) -> (Network, Pair) {
    received_on(Host::default(), link, every, burst, count)
}

fn received_on(
    host: Host,
    link: LinkConfig,
    every: Duration,
    burst: usize,
    count: u64,
) -> (Network, Pair) {
    let mut network = Network::new(7);
    let sender = Steady::new(Pair::right_address(), 972, every, burst, count);
    let pair = Pair::build(
        &mut network,
        (host.clone(), sender),
        (host, Steady::sink()),
        link,
        LinkConfig::default(),
    );
    network.act(pair.left, |_: &mut Steady, _| ());
    network.run_until(at(100_000));
    (network, pair)
}

fn came(network: &Network, pair: Pair) -> &[(u64, Duration)] {
    &network.node::<Steady>(pair.right).came
}

#[test]
fn a_wire_adds_its_delay_and_the_time_of_its_rate() {
    let link = LinkConfig {
        rate: 1_000_000,
        delay: MS * 20,
        ..LinkConfig::default()
    };
    let (network, pair) = received(link, MS * 10, 3, 6);
    let delays: Vec<_> = came(&network, pair)
        .iter()
        .map(|(_, delay)| *delay)
        .collect();
    let train = [MS * 21, MS * 22, MS * 23];
    assert_eq!(delays, [train, train].concat());
    let report = network.report(pair.there);
    assert_eq!((report.passed, report.passed_bytes), (6, 6_000));
    assert_eq!(
        report.waited.max(),
        2_000,
        "the third waited for two others"
    );
}

#[test]
fn a_full_queue_drops_at_its_end() {
    let link = LinkConfig {
        rate: 1_000_000,
        queue: 3_500,
        ..LinkConfig::default()
    };
    let (network, pair) = received(link, MS * 100, 10, 10);
    let numbers: Vec<_> = came(&network, pair)
        .iter()
        .map(|(number, _)| *number)
        .collect();
    assert_eq!(numbers, [0, 1, 2, 3], "one on the wire, three in the queue");
    assert_eq!(network.report(pair.there).overflowed, 6);
    assert_eq!(network.report(pair.there).queue_peak, 3_000);
}

#[test]
fn losses_are_as_many_as_asked() {
    let uniform = LinkConfig {
        loss: Loss::Uniform(0.05),
        ..LinkConfig::default()
    };
    let (network, pair) = received(uniform, MS, 1, 20_000);
    let lost = network.report(pair.there).lost;
    assert!((900..1_100).contains(&lost), "{lost} of 20000 at 5 %");

    let bursts = LinkConfig {
        loss: Loss::Bursts {
            enter: 0.01,
            leave: 0.19,
            within: 1.0,
        },
        ..LinkConfig::default()
    };
    let (network, pair) = received(bursts, MS, 1, 20_000);
    let lost = network.report(pair.there).lost;
    assert!((850..1_150).contains(&lost), "{lost} of 20000 at 1 in 20");
    let numbers = came(&network, pair)
        .windows(2)
        .filter(|pair| pair[1].0 != pair[0].0 + 1);
    let gaps = numbers.count();
    assert!((140..260).contains(&gaps), "{gaps} bursts of about five");
}

#[test]
fn overtaken_packets_come_later_and_none_is_missing() {
    let link = LinkConfig {
        reorder: Some(Reorder {
            probability: 0.1,
            depth: 5,
        }),
        delay: MS * 5,
        ..LinkConfig::default()
    };
    let (network, pair) = received(link, MS, 1, 1_000);
    let came = came(&network, pair);
    let mut behind = 0;
    for (place, (number, _)) in came.iter().enumerate() {
        let late = place.saturating_sub(usize::try_from(*number).unwrap());
        behind = behind.max(late);
    }
    assert!((3..=8).contains(&behind), "at most {behind} behind");
    let mut numbers: Vec<_> = came.iter().map(|(number, _)| *number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..1_000).collect::<Vec<_>>());
    assert!(network.report(pair.there).reordered > 60);
}

#[test]
fn duplicates_and_damage_are_counted_and_seen() {
    let link = LinkConfig {
        duplicate: 0.1,
        damage: Some(Damage {
            probability: 0.1,
            kind: DamageKind::Garbage,
        }),
        ..LinkConfig::default()
    };
    let (network, pair) = received(link, MS, 1, 1_000);
    let report = network.report(pair.there);
    let node = network.node::<Steady>(pair.right);
    assert_eq!(
        node.came.len() as u64 + node.strange,
        1_000 + report.duplicated
    );
    assert!(report.duplicated > 60 && report.damaged > 60);
    assert!(node.strange >= report.damaged);

    let caught = LinkConfig {
        damage: Some(Damage {
            probability: 0.1,
            kind: DamageKind::Caught,
        }),
        ..LinkConfig::default()
    };
    let (network, pair) = received(caught, MS, 1, 1_000);
    let node = network.node::<Steady>(pair.right);
    assert_eq!(
        node.came.len() as u64,
        1_000 - network.report(pair.there).lost
    );
    assert_eq!(node.strange, 0);
}

#[test]
fn jitter_keeps_the_order_and_radio_frames_come_together() {
    let link = LinkConfig {
        delay: MS * 10,
        jitter: MS * 30,
        ..LinkConfig::default()
    };
    let (network, pair) = received(link, MS, 1, 500);
    let delays = came(&network, pair);
    assert!(delays.is_sorted_by_key(|(number, _)| *number));
    assert!(
        delays
            .iter()
            .all(|(_, delay)| *delay >= MS * 10 && *delay < MS * 40)
    );
    assert!(delays.iter().any(|(_, delay)| *delay > MS * 35));

    let link = LinkConfig {
        delay: MS * 10,
        aggregate: MS * 5,
        ..LinkConfig::default()
    };
    let (network, pair) = received(link, MS, 1, 500);
    let delays = came(&network, pair)
        .iter()
        .map(|(_, delay)| delay.as_millis());
    let delays: std::collections::BTreeSet<_> = delays.collect();
    assert_eq!(delays, (10..15).collect());
}

#[test]
fn too_long_packets_vanish_or_pass_in_fragments() {
    let link = |mtu, fragments| LinkConfig {
        mtu,
        fragments,
        ..LinkConfig::default()
    };
    for (mtu, fragments, passes) in [(1_000, false, 5), (999, false, 0), (999, true, 5)] {
        let (network, pair) = received(link(mtu, fragments), MS, 1, 5);
        assert_eq!(came(&network, pair).len(), passes, "mtu {mtu}, {fragments}");
    }
}

#[test]
fn blackouts_and_changes_happen_when_they_are_due() {
    let link = LinkConfig {
        rate: 1_000_000,
        blackouts: vec![at(100)..at(200)],
        changes: vec![
            (at(500), Change::Rate(100_000)),
            (at(800), Change::Delay(MS * 50)),
        ],
        ..LinkConfig::default()
    };
    let (network, pair) = received(link, MS * 10, 1, 100);
    let delay_of = |number: u64| {
        let came = came(&network, pair).iter();
        let mut found = came.filter(|(n, _)| *n == number).map(|(_, delay)| *delay);
        found.next()
    };
    assert_eq!(delay_of(9), Some(MS));
    assert_eq!((delay_of(10), delay_of(19)), (None, None), "dark");
    assert_eq!(delay_of(20), Some(MS));
    assert_eq!(delay_of(60), Some(MS * 10));
    assert_eq!(delay_of(90), Some(MS * 60));
    assert_eq!(network.report(pair.there).blacked_out, 10);
}

#[test]
fn a_policer_lets_its_rate_pass_and_queues_nothing() {
    let link = LinkConfig {
        policer: Some(Policer {
            rate: 500_000,
            burst: 10_000,
        }),
        ..LinkConfig::default()
    };
    let (network, pair) = received(link, MS, 1, 2_000);
    let passed = came(&network, pair).len();
    assert!(
        (1_005..1_015).contains(&passed),
        "{passed} of 2000 KB/s offered"
    );
    assert!(
        came(&network, pair)
            .iter()
            .all(|(_, delay)| delay.is_zero())
    );
}

#[test]
fn codel_keeps_the_standing_queue_short() {
    let link = |discipline| LinkConfig {
        rate: 1_000_000,
        queue: 200_000,
        discipline,
        ..LinkConfig::default()
    };
    let codel = Discipline::Codel {
        target: MS * 5,
        interval: MS * 100,
    };
    // A tenth too fast: what stands without control grows to the end of the queue.
    let every = Duration::from_micros(909);
    let (plain, pair) = received(link(Discipline::TailDrop), every, 1, 40_000);
    let (ruled, _) = received(link(codel), every, 1, 40_000);
    let (plain, ruled) = (plain.report(pair.there), ruled.report(pair.there));
    assert!(plain.waited_p95() > MS * 190);
    assert!(
        ruled.early > 0 && ruled.waited_p95() < MS * 100,
        "{:?}",
        ruled.waited_p95()
    );
}

#[test]
fn fair_queues_part_flows_and_red_drops_before_the_end() {
    let fair = Discipline::FairCodel {
        target: MS * 5,
        interval: MS * 100,
    };
    let mut network = Network::new(1);
    let link = LinkConfig {
        rate: 1_000_000,
        queue: 100_000,
        discipline: fair,
        ..LinkConfig::default()
    };
    let mut dumbbell = Dumbbell::build(&mut network, link, LinkConfig::default());
    let flows = [(MS, 4, 8_000), (MS * 10, 1, 200)].map(|(every, burst, count)| {
        let sender = Steady::new(dumbbell.next_addresses().1, 972, every, burst, count);
        let sink = Steady::sink();
        let pair = dumbbell.add(&mut network, sender, sink, Duration::ZERO);
        network.act(pair.0, |_: &mut Steady, _| ());
        pair.1
    });
    network.run_until(at(10_000));
    let polite = &network.node::<Steady>(flows[1]).came;
    assert_eq!(
        polite.len(),
        200,
        "four times too much of the other costs this one nothing"
    );
    assert!(
        polite.iter().all(|(_, delay)| *delay < MS * 10),
        "{polite:?}"
    );
    let report = network.report(dumbbell.there);
    assert!(report.early > 0 && report.overflowed > 0 && report.queue_peak <= 101_000);

    let red = LinkConfig {
        rate: 1_000_000,
        queue: 100_000,
        discipline: Discipline::Red {
            least: 5_000,
            most: 50_000,
        },
        ..LinkConfig::default()
    };
    let (network, pair) = received(red, Duration::from_micros(950), 1, 20_000);
    let report = network.report(pair.there);
    assert!(report.early > 500 && report.overflowed == 0);
    assert!(report.waited_p95() < MS * 60, "{:?}", report.waited_p95());
}

#[test]
fn clocks_of_nodes_differ_and_jump() {
    let clock = Clock {
        offset: Duration::from_secs(5),
        skew_ppm: 1_000,
        steps: vec![(at(2_000), Duration::from_secs(1))],
    };
    assert_eq!(clock.show(at(1_000)), at(6_001));
    assert_eq!(clock.show(at(2_000)), at(8_002));
    assert_eq!(clock.when(at(6_001)), at(1_000));
    assert_eq!(
        clock.when(at(7_500)),
        at(2_000),
        "shown only after the jump"
    );
    assert_eq!(clock.when(at(8_002)), at(2_000));
    for nanos in [0, 1, 999, 1_000_001, 123_456_789, 4_000_000_007] {
        let shown = Instant::from_nanos(5_000_000_000 + nanos);
        let when = clock.when(shown);
        assert!(clock.show(when) >= shown, "{nanos}");
        let before = Instant::from_nanos(when.as_nanos().saturating_sub(1));
        assert!(
            when == Instant::ZERO || clock.show(before) < shown,
            "{nanos}"
        );
    }
    let slow = Clock {
        skew_ppm: -1_000,
        ..Clock::default()
    };
    assert_eq!(slow.show(at(1_000)), at(999));
    assert_eq!(slow.when(at(999)), at(1_000));
}

#[test]
fn datagrams_gather_into_batches_and_trains_are_refused() {
    let host = Host {
        gather: MS * 3,
        refuse: 0.25,
        ..Host::default()
    };
    let (network, pair) = received_on(host, LinkConfig::default(), MS, 1, 1_000);
    let sent = network.counts(pair.left);
    assert!((250..420).contains(&sent.refused), "{}", sent.refused);
    assert_eq!(sent.refused, network.node::<Steady>(pair.left).refused);
    assert_eq!(sent.trains + sent.refused, 1_000);
    assert_eq!(came(&network, pair).len() as u64, sent.trains);
}

#[test]
fn a_seed_replays_byte_for_byte() {
    let run = |seed| {
        let mut network = Network::new(seed);
        let link = || LinkConfig {
            rate: 1_000_000,
            delay: MS * 10,
            queue: 20_000,
            loss: Loss::Uniform(0.02),
            duplicate: 0.02,
            jitter: MS * 3,
            reorder: Some(Reorder {
                probability: 0.05,
                depth: 9,
            }),
            damage: Some(Damage {
                probability: 0.02,
                kind: DamageKind::Garbage,
            }),
            ..LinkConfig::default()
        };
        let sender = Steady::new(Pair::right_address(), 972, MS * 2, 3, 3_000);
        let left = (Host::default(), sender);
        let right = (Host::default(), Echo::default());
        let pair = Pair::build(&mut network, left, right, link(), link());
        network.act(pair.left, |_: &mut Steady, _| ());
        network.run_until(at(10_000));
        assert_eq!(network.under_way(), 0);
        (network.trace(), network.counts(pair.left))
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1).0, run(2).0);
}

/// Rate that `flows` TCP flows, begun a second apart, reach over one bottleneck from 5 to 20 s.
fn tcp_rates(link: LinkConfig, flows: u64) -> (Vec<f64>, LinkReport) {
    let mut network = Network::new(3);
    let back = LinkConfig {
        delay: link.delay,
        ..LinkConfig::default()
    };
    let mut dumbbell = Dumbbell::build(&mut network, link, back);
    let receivers: Vec<_> = (0..flows)
        .map(|flow| {
            let (_, to) = dumbbell.next_addresses();
            let sender = TcpSender::new(to, at(flow * 1_000)..at(20_000), 6 << 20);
            let receiver = TcpReceiver::default();
            let pair = dumbbell.add(&mut network, sender, receiver, Duration::ZERO);
            network.act(pair.0, |_: &mut TcpSender, _| ());
            pair.1
        })
        .collect();
    network.run_until(at(20_000));
    let meters = receivers
        .iter()
        .map(|id| &network.node::<TcpReceiver>(*id).received);
    let rates = meters
        .map(|meter| meter.rate(at(5_000), at(20_000)))
        .collect();
    (rates, network.report(dumbbell.there).clone())
}

#[test]
fn a_tcp_flow_fills_its_bottleneck() {
    let mbit = 125_000;
    for (rate, delay, queue) in [
        (10 * mbit, 25, 62_500),
        (100 * mbit, 25, 625_000),
        (20 * mbit, 10, 2_500_000),
    ] {
        let link = LinkConfig {
            rate,
            delay: MS * delay,
            queue,
            ..LinkConfig::default()
        };
        let (rates, report) = tcp_rates(link, 1);
        let share = rates[0] / rate as f64;
        assert!(
            (0.85..0.97).contains(&share),
            "{share:.3} of {rate}, {report:?}"
        );
    }
}

#[test]
fn tcp_flows_share_and_react_to_losses_as_cubic_does() {
    let link = LinkConfig {
        rate: 2_500_000,
        delay: MS * 20,
        queue: 100_000,
        ..LinkConfig::default()
    };
    let (rates, _) = tcp_rates(link.clone(), 4);
    assert!(jain(&rates) > 0.9, "{rates:?}");
    let lossy = LinkConfig {
        loss: Loss::Uniform(0.01),
        ..link
    };
    // RFC 9438, 5.1: about sqrt(3/2/p) segments and a third more, at 40 ms.
    let (rates, _) = tcp_rates(lossy, 1);
    assert!((300_000.0..900_000.0).contains(&rates[0]), "{rates:?}");
}
