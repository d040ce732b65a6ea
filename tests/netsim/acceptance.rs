//! How fast, and at what delay to others: figures that must be met.

use crate::case::{Case, MS, mbit};
use flock_tests::net::{Host, Job, Network, Pair, UtpNode};
use flock_transport::Instant;
use flock_utp::{Config, Congestion};
use std::time::Duration;

/// Share of the rate that is payload: 1,452 bytes of 1,500.
const PAYLOAD: f64 = 0.96;

fn at(millis: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(millis)
}

/// An endless transfer over a path for some time.
fn endless(case: &Case, controller: Congestion, millis: u64) -> (Network, Pair) {
    let mut network = Network::new(1);
    let (job, reverse) = Job::pair(1, [u64::MAX / 2, 0]);
    let pair = Pair::build(
        &mut network,
        (
            Host::default(),
            UtpNode::new(
                Config {
                    congestion: controller,
                    ..Config::default()
                },
                1,
                job,
            ),
        ),
        (
            Host::default(),
            UtpNode::new(
                Config {
                    congestion: controller,
                    ..Config::default()
                },
                2,
                reverse,
            ),
        ),
        case.there.clone(),
        case.back.clone(),
    );
    network.act(pair.left, |node: &mut UtpNode, now| {
        node.connect(now, Pair::right_address());
    });
    network.run_until(at(millis));
    (network, pair)
}

#[test]
fn the_ramp_to_80_percent_takes_less_than_one_and_a_half_seconds() {
    let case = Case::clean(MS * 50, mbit(100));
    for controller in [
        Congestion::Ledbat { target: MS * 100 },
        Congestion::LedbatPlusPlus { target: MS * 60 },
        Congestion::Cubic,
    ] {
        let (network, pair) = endless(&case, controller, 5_000);
        let received = network.node::<UtpNode>(pair.right).received();
        let reached = received.reached(0.8 * PAYLOAD * mbit(100) as f64, MS * 100);
        println!("{controller:?}: 80 % of 100 Mbit/s at 50 ms after {reached:?}");
        assert!(
            reached.is_some_and(|when| when < at(1_500)),
            "{controller:?}: {reached:?}"
        );
    }
}

#[test]
fn clean_paths_are_filled() {
    for (rtt, rate, millis) in [
        (1, 10, 6_000),
        (20, 10, 6_000),
        (50, 100, 6_000),
        (100, 100, 8_000),
        (20, 1_000, 4_000),
        (100, 1_000, 8_000),
    ] {
        let case = Case::clean(MS * rtt, mbit(rate));
        let (network, pair) = endless(&case, Congestion::Ledbat { target: MS * 100 }, millis);
        let received = network.node::<UtpNode>(pair.right).received();
        let goodput = received.rate(at(millis / 2), at(millis));
        let share = goodput / mbit(rate) as f64;
        println!(
            "{}: goodput is {:.1} % of the rate",
            case.name,
            share * 100.0
        );
        assert!(share >= 0.9, "{}: {share:.3}", case.name);
    }
}

#[test]
fn the_queue_stays_near_the_target() {
    for (controller, target) in [
        (Congestion::Ledbat { target: MS * 100 }, 100),
        (Congestion::LedbatPlusPlus { target: MS * 60 }, 60),
    ] {
        for rate in [5, 20, 100] {
            let case = Case::clean(MS * 40, mbit(rate)).queued(50.0);
            let (network, pair) = endless(&case, controller, 20_000);
            let waited = network.report(pair.there).waited_p95();
            println!("{controller:?} at {rate} Mbit/s: p95 of the queueing delay is {waited:?}");
            let most = Duration::from_millis(target + 20);
            assert!(
                waited <= most,
                "{controller:?} at {rate} Mbit/s: {waited:?}"
            );
        }
    }
}
