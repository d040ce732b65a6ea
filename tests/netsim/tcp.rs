//! The reference flow over the same paths: the network itself is in order, and the figures that
//! uTP is compared with.

use crate::case::{Case, MS, mbit};
use crate::{golden, matrix};
use flock_tests::net::{Host, Network, Pair, TcpReceiver, TcpSender};
use flock_transport::Instant;
use std::time::Duration;

fn at(seconds: u64) -> Instant {
    Instant::ZERO + Duration::from_secs(seconds)
}

/// The reference flow over a path for some seconds.
struct Run {
    network: Network,
    pair: Pair,
    seconds: u64,
}

impl Run {
    fn new(case: &Case, seed: u64, seconds: u64, window: usize) -> Self {
        let mut network = Network::new(seed);
        let sender = TcpSender::new(Pair::right_address(), Instant::ZERO..at(seconds), window);
        let left = (Host::default(), sender);
        let right = (Host::default(), TcpReceiver::default());
        let (there, back) = (case.there.clone(), case.back.clone());
        let pair = Pair::build(&mut network, left, right, there, back);
        network.act(pair.left, |_: &mut TcpSender, _| ());
        network.run_until(at(seconds).min(Instant::ZERO + case.limit));
        Self {
            network,
            pair,
            seconds,
        }
    }

    /// Bytes of payload per second.
    fn goodput(&self) -> f64 {
        let receiver = self.network.node::<TcpReceiver>(self.pair.right);
        receiver.received.rate(Instant::ZERO, at(self.seconds))
    }
}

#[test]
fn the_reference_flow_has_its_golden_figures() {
    let mut rows = Vec::new();
    for case in matrix::links() {
        let run = Run::new(&case, 1, 5, 2 << 20);
        let sender = run.network.node::<TcpSender>(run.pair.left);
        rows.push(format!(
            "{:40}| {:8.3} Mbit/s, {:6} packets, {:4} resent, {} timeouts, waited {:5} ms",
            case.name,
            run.goodput() * 8.0 / 1e6,
            run.network.counts(run.pair.left).sent,
            sender.resent,
            sender.timeouts,
            run.network.report(run.pair.there).waited_p95().as_millis(),
        ));
    }
    golden::compare("tcp.txt", &rows);
}

#[test]
fn a_long_fat_path_can_be_filled() {
    let case = Case::clean(MS * 100, mbit(1_000));
    let goodput = Run::new(&case, 1, 5, 16 << 20).goodput();
    assert!(goodput > 0.7 * mbit(1_000) as f64, "{goodput:.0} bytes/s");
}

#[test]
fn drawn_paths_replay() {
    for seed in 0..20 {
        let run = || {
            let run = Run::new(&matrix::drawn(seed), seed, 3, 1 << 20);
            (run.network.trace(), run.network.counts(run.pair.right))
        };
        assert_eq!(run(), run(), "seed {seed}");
    }
}
