use super::pair::Pair;
use super::scripted::{Scripted, packet};
use crate::wire::Kind;
use crate::{Config, Event, SendRefused};
use flock_transport::CloseReason;
use std::time::Duration;

#[test]
fn half_a_close_leaves_the_other_direction_open() {
    let mut pair = Pair::new(1);
    let [first, second] = pair.establish();
    pair.sides[0].endpoint.end(first);
    let refused = pair.sides[0].endpoint.send(first, "x".into());
    assert_eq!(refused, Err(SendRefused::Closed("x".into())));
    let eof = Event::Eof { key: second };
    pair.run_until(|pair| pair.sides[1].events.contains(&eof));
    let data = vec![5; 1 << 20];
    pair.sides[1].endpoint.send(second, data.into()).unwrap();
    pair.sides[1].endpoint.end(second);
    pair.run_until(|pair| pair.sides.iter().all(|side| side.endpoint.is_empty()));
    assert_eq!(pair.sides[0].stream.len(), 1 << 20);
}

#[test]
fn both_ends_close_at_once_through_loss() {
    for seed in 0..30 {
        let mut pair = Pair::new(seed);
        let keys = pair.establish();
        pair.loss = 0.2;
        let now = pair.now;
        for (side, key) in pair.sides.iter_mut().zip(keys) {
            side.endpoint.send(key, vec![1; 5000].into()).unwrap();
            side.endpoint.close(now, key);
        }
        pair.run_until(|pair| pair.sides.iter().all(|side| side.endpoint.is_empty()));
        for (side, key) in pair.sides.iter().zip(keys) {
            let reason = CloseReason::Local;
            assert_eq!(side.events.last().unwrap().closed(), Some((key, reason)));
            assert!(side.stream.is_empty(), "nothing is delivered any more");
        }
    }
}

#[test]
fn a_repeated_fin_is_acknowledged_after_the_end_and_forgotten_later() {
    let mut it = Scripted::new(Config::default());
    let (key, isn) = it.accepted();
    it.side.endpoint.end(key);
    assert_eq!(it.drain()[0].kind, Kind::Fin);
    let fin = packet(Kind::Fin, 41, 101, isn);
    let ack = it.give(&fin, b"");
    assert_eq!((ack[0].kind, ack[0].ack.get()), (Kind::State, 101));
    let reason = CloseReason::PeerClosed;
    assert_eq!(it.closed(), Some((key, reason)));
    let again = it.give(&fin, b"");
    assert_eq!((again[0].kind, again[0].ack.get()), (Kind::State, 101));
    assert_eq!(again[0].id, 40);
    assert_eq!(it.give(&packet(Kind::State, 41, 102, isn), b""), []);
    assert_eq!(it.give(&packet(Kind::Reset, 41, 102, isn), b""), []);
    it.now = it.now + Duration::from_secs(60);
    assert_eq!(it.give(&fin, b"")[0].kind, Kind::Reset);
}

#[test]
fn what_a_closed_connection_sent_is_delivered_once_its_end_is_acknowledged() {
    let mut it = Scripted::new(Config::default());
    let (key, isn) = it.accepted();
    it.side.endpoint.send(key, "last words".into()).unwrap();
    it.side.endpoint.close(it.now, key);
    it.drain();
    let delivered = Event::Delivered { key };
    it.give(&packet(Kind::State, 41, 101, isn), b"");
    assert!(
        !it.side.events.contains(&delivered),
        "the end is on its way"
    );
    assert!(!it.side.endpoint.delivered(key));
    for _ in 0..2 {
        it.give(&packet(Kind::State, 41, 101, isn.wrapping_add(1)), b"");
        let events = it.side.events.iter().filter(|&event| *event == delivered);
        assert_eq!((events.count(), it.closed()), (1, None));
        assert!(it.side.endpoint.delivered(key));
    }
    it.give(&packet(Kind::Fin, 41, 101, isn.wrapping_add(1)), b"");
    assert_eq!(it.closed(), Some((key, CloseReason::Local)));
}

#[test]
fn who_has_said_everything_ends_without_another_word() {
    let mut it = Scripted::new(Config::default());
    let (key, isn) = it.accepted();
    it.give(&packet(Kind::Fin, 41, 101, isn.wrapping_sub(1)), b"");
    it.side.endpoint.end(key);
    let fin = it.drain();
    assert_eq!((fin[0].kind, fin[0].ack.get()), (Kind::Fin, 101));
    assert_eq!(it.give(&packet(Kind::State, 41, 102, isn), b""), []);
    assert!(it.closed().is_some());
}

#[test]
fn a_peer_may_use_its_ids_again_at_once() {
    let mut it = Scripted::new(Config::default());
    for round in 0..2 {
        it.side.events.clear();
        let (key, isn) = it.accepted();
        assert!(it.side.endpoint.peer(key).is_some(), "round {round}");
        it.side.endpoint.end(key);
        let fin = it.drain();
        assert_eq!(fin[0].kind, Kind::Fin, "round {round}");
        let fin = packet(Kind::Fin, 41, 101, isn);
        for _ in 0..2 {
            // Once to end it, and once more to be acknowledged with this life's numbers.
            let ack = it.give(&fin, b"");
            assert_eq!((ack[0].kind, ack[0].ack.get()), (Kind::State, 101));
            assert_eq!(ack[0].seq.get(), isn.wrapping_add(1), "round {round}");
        }
    }
}

#[test]
fn a_fin_may_carry_what_is_no_part_of_the_stream() {
    let mut it = Scripted::new(Config::default());
    let (key, isn) = it.accepted();
    it.give(&packet(Kind::Fin, 41, 102, isn.wrapping_sub(1)), b"junk");
    assert!(!it.side.events.contains(&Event::Eof { key }));
    it.give(&packet(Kind::Data, 41, 101, isn.wrapping_sub(1)), b"a");
    assert_eq!(it.side.stream, b"a");
    assert!(it.side.events.contains(&Event::Eof { key }));
}

#[test]
fn a_reset_counts_with_either_id_and_a_plausible_number() {
    for (id, ack, counts) in [
        (41, 0, true),
        (40, 0, true),
        (41, 1, true),
        (41, 2, false),
        (42, 0, false),
    ] {
        let mut it = Scripted::new(Config::default());
        let (key, isn) = it.accepted();
        let ack = isn.wrapping_sub(1).wrapping_add(ack);
        assert_eq!(it.give(&packet(Kind::Reset, id, 7, ack), b""), []);
        let reason = CloseReason::PeerReset;
        let closed = counts.then_some((key, reason));
        assert_eq!(it.closed(), closed, "{id} {ack}");
        let counters = it.side.endpoint.counters();
        let counted = (counters.resets_received, counters.resets_ignored);
        let expected = if counts { (1, 0) } else { (0, 1) };
        assert_eq!(counted, expected, "{id} {ack}");
    }
    let mut it = Scripted::new(Config::default());
    it.side.endpoint.connect(it.now, it.peer).unwrap();
    let syn = it.drain()[0];
    it.give(
        &packet(Kind::Reset, syn.id, 7, syn.seq.get().wrapping_add(1)),
        b"",
    );
    assert_eq!(it.side.endpoint.len(), 1);
    it.give(&packet(Kind::Reset, syn.id, 7, syn.seq.get()), b"");
    assert_eq!(it.side.endpoint.len(), 0);
}

#[test]
fn strays_are_reset_at_a_limited_rate_and_a_reset_never() {
    let mut it = Scripted::new(Config::default());
    let reset = it.give(&packet(Kind::Data, 77, 9, 3), b"x")[0];
    assert_eq!(
        (reset.kind, reset.id, reset.ack.get()),
        (Kind::Reset, 77, 9)
    );
    assert_eq!(it.give(&packet(Kind::Reset, 77, 9, 3), b""), []);
    let answers: usize = (0..100)
        .map(|n| it.give(&packet(Kind::Data, n, 9, 3), b"x").len())
        .sum();
    assert_eq!(answers, 9, "ten a second for one network");
    assert_eq!(it.side.endpoint.counters().resets_withheld, 91);
}

/// A peer that was killed and started again at its port says nothing by itself. What finds out is
/// the next packet that we send, at the latest a keepalive: a peer that does not know its id answers
/// with a RESET of the same id and its number.
#[test]
fn a_keepalive_finds_out_that_the_peer_has_forgotten_us() {
    let mut it = Scripted::new(Config::default());
    let (key, _) = it.accepted();
    let sent = it.wait(Duration::from_secs(30));
    let [(after, keepalive)] = &sent[..] else {
        panic!("{sent:?}");
    };
    assert!((25_000..=29_000).contains(after), "{after}");
    assert_eq!((keepalive.kind, keepalive.id), (Kind::State, 40));
    let reset = packet(Kind::Reset, keepalive.id, 7, keepalive.seq.get());
    assert_eq!(it.give(&reset, b""), []);
    assert_eq!(it.closed(), Some((key, CloseReason::PeerReset)));
}

#[test]
fn an_abort_resets_and_says_so() {
    let mut pair = Pair::new(1);
    let [first, second] = pair.establish();
    let now = pair.now;
    pair.sides[0].endpoint.abort(now, first);
    pair.run_until(|pair| pair.sides[1].endpoint.is_empty());
    let reason = CloseReason::PeerReset;
    let last = pair.sides[1].events.last();
    assert_eq!(last.unwrap().closed(), Some((second, reason)));
    assert!(
        pair.sides[0].endpoint.send(first, "x".into()).is_err(),
        "stale"
    );
}

#[test]
fn a_close_does_not_wait_for_ever() {
    let mut pair = Pair::new(1);
    let [first, _] = pair.establish();
    let now = pair.now;
    pair.sides[0].endpoint.close(now, first);
    pair.run_until(|pair| pair.sides[0].endpoint.is_empty());
    assert_eq!(pair.now.since(now), Config::default().linger);
    pair.run_until(|pair| pair.sides[1].endpoint.is_empty());
}

#[test]
fn a_peer_that_vanished_is_given_up_but_not_soon() {
    let mut pair = Pair::new(1);
    let [first, _] = pair.establish();
    pair.loss = 1.0;
    pair.sides[0].endpoint.send(first, "x".into()).unwrap();
    let now = pair.now;
    pair.run_until(|pair| pair.sides[0].endpoint.is_empty());
    assert!(pair.now.since(now) > Duration::from_secs(20));
    let last = pair.sides[0].events.last();
    assert!(matches!(
        last,
        Some(Event::Closed {
            reason: CloseReason::Io(_),
            ..
        })
    ));
}
