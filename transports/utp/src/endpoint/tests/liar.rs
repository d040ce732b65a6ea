//! A peer that acknowledges what it has not seen.

use super::scripted::{Scripted, packet};
use crate::wire::Kind;
use crate::{Config, Congestion};
use bytes::Bytes;
use std::time::Duration;

/// What the peer's packets say that it has room for.
const WINDOW: u32 = 1 << 17;

/// The round trip that it feigns.
const ROUND: Duration = Duration::from_millis(1);

/// Acknowledges all that was sent, at once, `rounds` times; the bytes of each round.
fn acknowledge_unseen(congestion: Congestion, rounds: usize) -> Vec<u64> {
    let mut it = Scripted::new(Config {
        congestion,
        ..Config::default()
    });
    let (key, isn) = it.accepted();
    let chunk = Bytes::from(vec![0; 1 << 16]);
    let (mut last, mut all) = (isn.wrapping_sub(1), Vec::new());
    for _ in 0..rounds {
        let before = it.side.endpoint.counters().bytes_out;
        while it.side.endpoint.queued(key) < 2 * u64::from(WINDOW) {
            it.side.endpoint.send(key, chunk.clone()).unwrap();
        }
        let mut ack = packet(Kind::State, 41, 101, last);
        ack.window = WINDOW;
        let mut sent = it.give(&ack, b"");
        sent.extend(it.wait(ROUND).into_iter().map(|(_, header)| header));
        for header in sent.iter().filter(|header| header.kind == Kind::Data) {
            last = header.seq.get();
        }
        all.push(it.side.endpoint.counters().bytes_out - before);
    }
    assert_eq!(it.closed(), None);
    all
}

#[test]
fn acknowledging_the_unseen_gains_a_window_a_round_at_most() {
    let target = Duration::from_millis(60);
    for congestion in [
        Congestion::default(),
        Congestion::LedbatPlusPlus { target },
        Congestion::Cubic,
    ] {
        let rounds = acknowledge_unseen(congestion, 300);
        let (mut most, window) = (16 * 1_500, u64::from(WINDOW));
        for &bytes in &rounds {
            // Headers, and probes of the path MTU, which the window does not count.
            assert!(bytes <= window + window / 16, "{congestion:?}: {bytes}");
            assert!(
                bytes <= 2 * most + 2 * 1_500,
                "{congestion:?}: {bytes} after {most}"
            );
            most = most.max(bytes);
        }
        assert!(
            most > window / 2,
            "{congestion:?}: {most}, the window is never met"
        );
    }
}

#[test]
fn acknowledging_the_unsent_gains_nothing() {
    let mut it = Scripted::new(Config::default());
    let (key, isn) = it.accepted();
    let sent = Bytes::from(vec![0; 1 << 18]);
    it.side.endpoint.send(key, sent).unwrap();
    let first = it.drain().len();
    for ahead in [first, first + 1, 1_000, 0x7000] {
        let ack = isn.wrapping_add(u16::try_from(ahead).unwrap());
        let answers = it.give(&packet(Kind::State, 41, 101, ack), b"");
        assert_eq!(answers, [], "{ahead}");
        assert_eq!(it.side.endpoint.acked(key), 0, "{ahead}");
    }
    assert_eq!(it.side.endpoint.counters().invalid, 4);
}
