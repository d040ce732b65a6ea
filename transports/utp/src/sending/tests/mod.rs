//! Rules one by one, and whole transfers against a model of the peer over a bad path.

mod rules;
mod transfers;

use super::acks::BadAck;
use super::*;
use std::net::SocketAddr;

const MSS: u16 = 1000;

fn timing() -> Timing {
    Timing {
        srtt: Some(Duration::from_millis(40)),
        min_rtt: Duration::from_millis(40),
        rto: Duration::from_millis(250),
    }
}

fn at(millis: u64) -> Instant {
    Instant::from_nanos(1_000_000 * (1_000 + millis))
}

fn wide() -> Allowance {
    Allowance {
        window: 1 << 30,
        peer_window: 1 << 30,
        packets: 700,
        mss: MSS,
        probe: None,
        hold_short: false,
    }
}

fn limits() -> SendLimits {
    SendLimits {
        high: 1 << 20,
        low: 1 << 18,
        max: 1 << 26,
    }
}

/// The payload of a segment.
fn payload(sending: &Sending, segment: &Segment) -> Vec<u8> {
    let mut train = Train::default();
    train.reset(SocketAddr::from(([127, 0, 0, 1], 1)));
    train.push_datagram(segment.size.into(), b"");
    sending.fill(&mut train, segment);
    train.parts().flatten().copied().collect()
}

/// Sends what may go at `now`.
fn flush(sending: &mut Sending, now: Instant, allowance: &Allowance) -> Vec<Segment> {
    let mut sent = Vec::new();
    while let Some(segment) = sending.next_segment(allowance) {
        sending.commit(now, &segment, &timing());
        sent.push(segment);
    }
    sent
}

fn numbers(segments: &[Segment]) -> Vec<u16> {
    segments.iter().map(|segment| segment.seq.get()).collect()
}
