//! Several flows over one bottleneck.

use crate::case::{MS, mbit};
use flock_tests::net::{
    Dumbbell, Job, LinkConfig, Meter, Network, NodeId, TcpReceiver, TcpSender, UtpNode, jain,
};
use flock_transport::Instant;
use flock_utp::{Config, Congestion};
use std::net::SocketAddr;
use std::time::Duration;

/// Whose flow it is.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Tcp,
    Utp(Congestion),
}

/// A flow, active between two times in milliseconds, and its extra delay each way.
#[derive(Clone, Copy, Debug)]
struct Flow {
    kind: Kind,
    active: (u64, u64),
    extra: Duration,
}

impl Flow {
    fn always(kind: Kind) -> Self {
        Self {
            kind,
            active: (0, u64::MAX),
            extra: Duration::ZERO,
        }
    }

    fn between(kind: Kind, from: u64, to: u64) -> Self {
        Self {
            active: (from, to),
            ..Self::always(kind)
        }
    }
}

fn at(millis: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(millis)
}

/// A bottleneck of this rate and round-trip time with a queue of so much time.
fn bottleneck(rate: u64, rtt: Duration, queue: Duration) -> LinkConfig {
    let bytes = queue.as_nanos() * u128::from(rate) / 1_000_000_000;
    LinkConfig {
        rate,
        delay: rtt / 2,
        queue: usize::try_from(bytes).unwrap_or(usize::MAX),
        ..LinkConfig::default()
    }
}

/// What the flows got.
struct Shares {
    meters: Vec<Meter>,
}

impl Shares {
    /// Bytes per second of each between two times in milliseconds.
    fn rates(&self, from: u64, to: u64) -> Vec<f64> {
        let meters = self.meters.iter();
        meters.map(|meter| meter.rate(at(from), at(to))).collect()
    }
}

/// Lets the flows contend for so many milliseconds.
fn contend(seed: u64, link: &LinkConfig, flows: &[Flow], millis: u64) -> Shares {
    let mut network = Network::new(seed);
    let back = LinkConfig {
        delay: link.delay,
        ..LinkConfig::default()
    };
    let mut dumbbell = Dumbbell::build(&mut network, link.clone(), back);
    let mut starts: Vec<(u64, NodeId, SocketAddr)> = Vec::new();
    let mut receivers = Vec::new();
    for (index, flow) in flows.iter().enumerate() {
        let (_, to) = dumbbell.next_addresses();
        let receiver = match flow.kind {
            Kind::Tcp => {
                let active = at(flow.active.0)..at(flow.active.1.min(millis));
                let sender = TcpSender::new(to, active, 64 << 20);
                let sink = TcpReceiver::default();
                let pair = dumbbell.add(&mut network, sender, sink, flow.extra);
                network.act(pair.0, |_: &mut TcpSender, _| ());
                pair.1
            }
            Kind::Utp(controller) => {
                let (job, reverse) = Job::pair(index as u64, [u64::MAX / 2, 0]);
                let sender = UtpNode::new(
                    Config {
                        congestion: controller,
                        ..Config::default()
                    },
                    seed + 2 * index as u64,
                    job,
                );
                let sink = UtpNode::new(
                    Config {
                        congestion: controller,
                        ..Config::default()
                    },
                    seed + 2 * index as u64 + 1,
                    reverse,
                );
                let pair = dumbbell.add(&mut network, sender, sink, flow.extra);
                starts.push((flow.active.0, pair.0, to));
                pair.1
            }
        };
        receivers.push((flow.kind, receiver));
    }
    starts.sort_unstable();
    for (start, node, to) in starts {
        network.run_until(at(start));
        network.act(node, |node: &mut UtpNode, now| node.connect(now, to));
    }
    network.run_until(at(millis));
    let meters = receivers.iter().map(|(kind, id)| match kind {
        Kind::Tcp => network.node::<TcpReceiver>(*id).received.clone(),
        Kind::Utp(_) => network.node::<UtpNode>(*id).received(),
    });
    Shares {
        meters: meters.collect(),
    }
}

/// `back`: the share of the rate that uTP is to have again some seconds after TCP stopped.
fn yields_to_tcp(controller: Congestion, rate: u64, back: f64) {
    let link = bottleneck(rate, MS * 40, MS * 1_000);
    let tcp = Flow::between(Kind::Tcp, 10_000, 40_000);
    let alone = contend(1, &link, &[tcp], 40_000).rates(15_000, 40_000)[0];
    let utp = Flow::always(Kind::Utp(controller));
    let shares = contend(1, &link, &[tcp, utp], 50_000);
    let beside = shares.rates(15_000, 40_000);
    let share = beside[0] / alone;
    println!(
        "{controller:?} beside TCP on {} Mbit/s: TCP keeps {:.1} % of {:.2} Mbit/s, uTP has {:.2}",
        rate / mbit(1),
        share * 100.0,
        alone * 8.0 / 1e6,
        beside[1] * 8.0 / 1e6,
    );
    assert!(share >= 0.9, "TCP keeps only {share:.3} of its rate");
    let after = shares.rates(45_000, 50_000)[1];
    assert!(
        after >= back * rate as f64,
        "uTP takes what is free again: {after:.0}"
    );
}

#[test]
fn tcp_keeps_its_rate_beside_ledbat() {
    yields_to_tcp(Congestion::Ledbat { target: MS * 100 }, mbit(10), 0.8);
    yields_to_tcp(Congestion::Ledbat { target: MS * 100 }, mbit(50), 0.8);
}

#[test]
fn tcp_keeps_its_rate_beside_ledbat_plus_plus() {
    // It grows by a third of a segment a round trip here, and slows down now and then.
    let target = MS * 60;
    yields_to_tcp(Congestion::LedbatPlusPlus { target }, mbit(10), 0.7);
}

#[test]
fn flows_of_ledbat_plus_plus_share_evenly() {
    let link = bottleneck(mbit(50), MS * 40, MS * 500);
    // Slowdowns of few flows that started far apart seldom fall together.
    for (count, spread, least) in [(2, 5_000, 0.92), (4, 2_000, 0.85), (16, 500, 0.95)] {
        let flows: Vec<_> = (0..count)
            .map(|index| {
                let kind = Kind::Utp(Congestion::LedbatPlusPlus { target: MS * 60 });
                Flow::between(kind, index * spread, u64::MAX)
            })
            .collect();
        let shares = contend(1, &link, &flows, 90_000);
        let rates = shares.rates(60_000, 90_000);
        let index = jain(&rates);
        println!("{count} flows: Jain's index {index:.3}, {rates:.0?}");
        assert!(index >= least, "{index:.3}: {rates:.0?}");
    }
}
