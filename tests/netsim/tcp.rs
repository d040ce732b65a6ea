//! The reference flow over the same paths: the network itself is in order.

use crate::case::{Case, MS, mbit};
use crate::matrix;
use flock_tests::net::{Host, Network, Pair, TcpReceiver, TcpSender};
use flock_transport::Instant;
use std::time::Duration;

fn at(seconds: u64) -> Instant {
    Instant::ZERO + Duration::from_secs(seconds)
}

/// Goodput over the first seconds, in bytes per second.
fn goodput(case: &Case, seconds: u64, window: usize) -> f64 {
    let mut network = Network::new(1);
    let sender = TcpSender::new(Pair::right_address(), Instant::ZERO..at(seconds), window);
    let left = (Host::default(), sender);
    let right = (Host::default(), TcpReceiver::default());
    let (there, back) = (case.there.clone(), case.back.clone());
    let pair = Pair::build(&mut network, left, right, there, back);
    network.act(pair.left, |_: &mut TcpSender, _| ());
    network.run_until(at(seconds));
    let receiver = network.node::<TcpReceiver>(pair.right);
    receiver.received.rate(Instant::ZERO, at(seconds))
}

#[test]
fn something_passes_on_every_path() {
    for case in matrix::fixed() {
        if !case.there.fragments {
            continue; // Its segments of 1,500 bytes are too long there.
        }
        let goodput = goodput(&case, 5, 4 << 20);
        assert!(goodput > 10_000.0, "{}: {goodput:.0} bytes/s", case.name);
    }
}

#[test]
fn a_long_fat_path_can_be_filled() {
    let case = Case::clean(MS * 100, mbit(1_000));
    let goodput = goodput(&case, 5, 16 << 20);
    assert!(goodput > 0.7 * mbit(1_000) as f64, "{goodput:.0} bytes/s");
}
