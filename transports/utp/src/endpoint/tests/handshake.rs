use super::pair::Pair;
use super::scripted::{Scripted, packet};
use crate::wire::Kind;
use crate::{Config, Endpoint, Event};
use flock_transport::{CloseReason, Instant};
use std::net::SocketAddr;
use std::time::Duration;

#[test]
fn the_answer_to_a_syn_does_not_use_up_its_number() {
    let mut it = Scripted::new(Config::default());
    let answers = it.give(&packet(Kind::Syn, 40, 100, 0), b"");
    let [answer] = answers[..] else {
        panic!("one answer: {answers:?}");
    };
    assert_eq!(
        (answer.kind, answer.id, answer.ack.get()),
        (Kind::State, 40, 100)
    );
    assert!(it.side.events.is_empty(), "not before it is confirmed");
    assert_eq!(it.side.endpoint.len(), 0);
    let isn = answer.seq.get();
    let first = packet(Kind::Data, 41, 101, isn.wrapping_sub(1));
    let ack = it.give(&first, b"hello");
    assert_eq!(it.side.stream, b"hello");
    assert_eq!((ack[0].ack.get(), ack[0].seq.get()), (101, isn));
    let key = it.side.key().unwrap();
    it.side.endpoint.send(key, "x".into()).unwrap();
    let data = it.drain();
    assert_eq!((data[0].kind, data[0].seq.get()), (Kind::Data, isn));
}

#[test]
fn a_repeated_syn_gets_the_identical_answer() {
    let mut it = Scripted::new(Config::default());
    let syn = packet(Kind::Syn, 40, 100, 0);
    let first = it.give(&syn, b"");
    for _ in 0..3 {
        assert_eq!(it.give(&syn, b""), first);
    }
    assert_eq!(it.give(&syn, b""), []);
    it.give(
        &packet(Kind::Data, 41, 101, first[0].seq.get().wrapping_sub(1)),
        b"x",
    );
    assert_eq!(it.give(&syn, b""), [], "confirmed already");
    assert_eq!(it.side.endpoint.len(), 1);
}

#[test]
fn a_peer_may_take_ten_seconds_to_say_something() {
    let mut it = Scripted::new(Config::default());
    let isn = it.give(&packet(Kind::Syn, 40, 100, 0), b"")[0].seq.get();
    it.now = it.now + Duration::from_secs(10);
    it.give(&packet(Kind::Data, 41, 101, isn.wrapping_sub(1)), b"late");
    assert_eq!(it.side.stream, b"late");
}

#[test]
fn an_acceptor_learns_the_round_trip_from_the_handshake() {
    for (think, timeout) in [(20, 200), (900, 1_000)] {
        let mut it = Scripted::new(Config::default());
        let isn = it.give(&packet(Kind::Syn, 40, 100, 0), b"")[0].seq.get();
        it.now = it.now + Duration::from_millis(think);
        it.give(&packet(Kind::State, 41, 101, isn.wrapping_sub(1)), b"");
        let key = it.side.key().unwrap();
        it.side.endpoint.send(key, "x".into()).unwrap();
        assert_eq!(it.drain().len(), 1);
        let sent = it.wait(Duration::from_secs(3));
        // A tail loss probe after two round trips, or the timeout of an unknown path.
        let first = sent[0].0;
        assert!((timeout / 3..=timeout).contains(&first), "{think}: {first}");
    }
}

#[test]
fn a_dialler_with_nothing_to_say_confirms() {
    let mut pair = Pair::new(1);
    let first = pair.dial();
    pair.run_until(|pair| pair.sides[1].key().is_some());
    pair.run_for(Duration::from_secs(60));
    pair.sides[0].endpoint.send(first, "late".into()).unwrap();
    pair.run_until(|pair| pair.sides[1].stream == b"late");
}

#[test]
fn only_the_exact_number_confirms() {
    let mut it = Scripted::new(Config::default());
    let isn = it.give(&packet(Kind::Syn, 40, 100, 0), b"")[0].seq.get();
    assert_eq!(it.give(&packet(Kind::Data, 41, 101, isn), b"x"), []);
    assert!(it.side.events.is_empty() && it.side.stream.is_empty());
}

#[test]
fn the_dialler_starts_one_before_the_answers_number() {
    let mut it = Scripted::new(Config::default());
    let (key, id, next) = it.dialled();
    assert_eq!(it.side.events, [Event::Connected { key }]);
    assert_eq!(it.drain(), [], "the dialler's answer is its first data");
    it.side.endpoint.send(key, "x".into()).unwrap();
    let data = it.drain()[0];
    assert_eq!(data.id, id.wrapping_add(1));
    assert_eq!((data.seq.get(), data.ack.get()), (next, 499));
    let acks = it.give(&packet(Kind::Data, id, 500, next), b"y");
    assert_eq!(it.side.stream, b"y");
    assert_eq!(acks[0].ack.get(), 500);
}

#[test]
fn data_before_the_answer_is_left_to_be_repeated() {
    let mut it = Scripted::new(Config::default());
    let key = it.side.endpoint.connect(it.now, it.peer).unwrap();
    let syn = it.drain()[0];
    let (id, seq) = (syn.id, syn.seq.get());
    assert_eq!(it.give(&packet(Kind::Data, id, 500, seq), b"early"), []);
    it.give(&packet(Kind::State, id, 500, seq.wrapping_add(1)), b"");
    assert!(it.side.events.is_empty(), "it acknowledges something else");
    it.give(&packet(Kind::State, id, 500, seq), b"");
    assert_eq!(it.side.events, [Event::Connected { key }]);
    it.give(&packet(Kind::Data, id, 500, seq), b"early");
    assert_eq!(it.side.stream, b"early");
}

#[test]
fn syns_are_repeated_and_then_tried_with_another_id() {
    let mut it = Scripted::new(Config::default());
    let key = it.side.endpoint.connect(it.now, it.peer).unwrap();
    let first = it.drain()[0];
    assert_eq!((first.kind, first.ack.get()), (Kind::Syn, 0));
    let sent = it.wait(Duration::from_secs(30));
    let times: Vec<u128> = sent.iter().map(|(at, _)| *at).collect();
    assert_eq!(times, [1000, 3000, 5000, 6000, 8000, 12_000]);
    let ids: Vec<bool> = sent.iter().map(|(_, h)| h.id == first.id).collect();
    assert_eq!(ids, [true, true, false, false, false, false]);
    let reason = CloseReason::ConnectTimeout;
    assert_eq!(it.closed(), Some((key, reason)));
    assert!(it.side.endpoint.is_empty() && it.side.endpoint.next_deadline().is_none());
}

#[test]
fn either_attempt_may_be_answered() {
    for answer_first in [true, false] {
        let mut it = Scripted::new(Config::default());
        let key = it.side.endpoint.connect(it.now, it.peer).unwrap();
        let first = it.drain()[0];
        let sent = it.wait(Duration::from_millis(5500));
        let second = sent.last().unwrap().1;
        let (used, unused) = if answer_first {
            (first, second)
        } else {
            (second, first)
        };
        it.give(&packet(Kind::State, used.id, 500, used.seq.get()), b"");
        assert_eq!(it.side.events, [Event::Connected { key }]);
        let next = used.seq.get();
        it.give(&packet(Kind::Data, used.id, 500, next), b"y");
        assert_eq!(it.side.stream, b"y");
        let stray = it.give(&packet(Kind::State, unused.id, 900, next), b"");
        assert_eq!(stray[0].kind, Kind::Reset, "nobody has that id now");
    }
}

#[test]
fn a_lost_answer_or_confirmation_is_got_over() {
    for seed in 0..30 {
        let mut pair = Pair::new(seed);
        pair.loss = 0.1;
        pair.establish();
    }
}

#[test]
fn a_quiet_dial_says_nothing_until_released() {
    let mut it = Scripted::new(Config::default());
    let key = it.side.endpoint.connect_quiet(it.now, it.peer).unwrap();
    let syn = it.drain()[0];
    it.side.endpoint.send(key, "x".into()).unwrap();
    it.give(&packet(Kind::State, syn.id, 500, syn.seq.get()), b"");
    assert_eq!(it.wait(Duration::from_secs(60)), []);
    it.side.endpoint.release(key);
    assert_eq!(it.drain().len(), 1);
    let mut it = Scripted::new(Config::default());
    let key = it.side.endpoint.connect_quiet(it.now, it.peer).unwrap();
    let syn = it.drain()[0];
    it.give(&packet(Kind::State, syn.id, 500, syn.seq.get()), b"");
    it.side.endpoint.abort(it.now, key);
    assert_eq!(it.drain()[0].kind, Kind::Reset, "the loser of a race");
}

#[test]
fn ids_land_on_their_shard_and_are_never_the_last() {
    let now = Instant::ZERO;
    for (shard, shards) in [(0, 1), (2, 3), (15, 16), (0, 16)] {
        let mut endpoint = Endpoint::new(Config::default(), shard, shards, [3; 32]);
        for port in 1..2000 {
            let to = SocketAddr::from(([10, 0, 0, 2], port));
            let key = endpoint.connect(now, to).unwrap();
            let id = endpoint.connections.get(key).unwrap().recv_id();
            assert!(id % shards == shard && id != u16::MAX);
        }
    }
}

#[test]
fn dials_to_many_addresses_have_ids_of_their_own() {
    let mut endpoint = Endpoint::new(Config::default(), 1, 2, [5; 32]);
    let mut ids = std::collections::BTreeSet::new();
    for n in 0..12_000_u32 {
        let [_, b, c, d] = n.to_be_bytes();
        let to = SocketAddr::from(([127, b, c, d], 9));
        let key = endpoint.connect(Instant::ZERO, to).unwrap();
        ids.insert(endpoint.connections.get(key).unwrap().recv_id());
    }
    assert_eq!(ids.len(), 12_000);
}

#[test]
fn what_goes_to_the_unverified_never_exceeds_what_came() {
    let config = Config {
        half_open_max: 64,
        ..Config::default()
    };
    let mut it = Scripted::new(config);
    for n in 0..20_000u32 {
        it.peer = SocketAddr::from((n.wrapping_mul(0x9e37_79b9).to_be_bytes(), 9));
        let kind = [Kind::Syn, Kind::Syn, Kind::Data, Kind::State, Kind::Fin][n as usize % 5];
        it.give(&packet(kind, 40, 100, 7), b"");
        it.give(&packet(Kind::Syn, 40, 100, 7), b"");
        it.now = it.now + Duration::from_micros(10);
    }
    let late = it.wait(Duration::from_secs(100));
    assert_eq!(late, []);
    let counters = it.side.endpoint.counters();
    assert!(counters.bytes_out <= counters.bytes_in && counters.bytes_out > 0);
    assert!(counters.datagrams_out <= counters.datagrams_in);
    it.peer = SocketAddr::from(([192, 0, 2, 9], 9));
    let isn = it.give(&packet(Kind::Syn, 40, 100, 0), b"")[0].seq.get();
    it.give(&packet(Kind::Data, 41, 101, isn.wrapping_sub(1)), b"real");
    assert_eq!(it.side.stream, b"real");
}

#[test]
fn a_host_that_has_its_share_is_refused_and_may_come_back() {
    let config = Config {
        connections_per_host: 2,
        ..Config::default()
    };
    let mut it = Scripted::new(config);
    let mut kinds = Vec::new();
    for id in [40, 50, 60] {
        let isn = it.give(&packet(Kind::Syn, id, 100, 0), b"")[0].seq.get();
        let first = packet(Kind::Data, id + 1, 101, isn.wrapping_sub(1));
        kinds.push(it.give(&first, b"x")[0].kind);
    }
    assert_eq!(kinds, [Kind::State, Kind::State, Kind::Reset]);
    assert_eq!(it.side.endpoint.counters().accept_refused, 1);
    let key = it.side.key().unwrap();
    it.side.endpoint.abort(it.now, key);
    it.drain();
    let isn = it.give(&packet(Kind::Syn, 70, 100, 0), b"")[0].seq.get();
    it.give(&packet(Kind::Data, 71, 101, isn.wrapping_sub(1)), b"x");
    assert_eq!(it.side.endpoint.counters().accepted, 3);
}
