use super::scripted::{Scripted, packet};
use crate::wire::Kind;
use crate::{Config, Event};
use flock_transport::Instant;
use std::time::Duration;

#[test]
fn one_acknowledgement_for_a_batch() {
    let mut it = Scripted::new(Config::default());
    let (key, isn) = it.accepted();
    let mut bytes = Vec::new();
    for n in 0..10 {
        let header = packet(Kind::Data, 41, 101 + n, isn.wrapping_sub(1));
        bytes.extend_from_slice(&header.encode(0));
        bytes.extend_from_slice(&[u8::try_from(n).unwrap(); 100]);
    }
    // The last is shorter.
    bytes.truncate(bytes.len() - 60);
    let (now, peer) = (it.now, it.peer);
    it.side.endpoint.handle(now, peer, now, 120, &bytes);
    let first = it.side.endpoint.poll_event();
    assert_eq!(
        first,
        Some(Event::Data {
            key,
            range: 20..120
        })
    );
    it.side.take_events(&bytes);
    assert_eq!(it.side.stream.len(), 8 * 100 + 40);
    it.side.endpoint.end_batch(now);
    let acks = it.drain();
    assert_eq!(acks.len(), 1);
    assert_eq!(acks[0].ack.get(), 110);
}

#[test]
fn a_new_gap_is_told_four_times_and_then_once_a_batch() {
    let mut it = Scripted::new(Config::default());
    let (_, isn) = it.accepted();
    let mut batch = |numbers: std::ops::Range<u16>| {
        let mut bytes = Vec::new();
        for n in numbers {
            let header = packet(Kind::Data, 41, n, isn.wrapping_sub(1));
            bytes.extend_from_slice(&header.encode(0));
            bytes.push(1);
        }
        let (now, peer) = (it.now, it.peer);
        it.side.endpoint.handle(now, peer, now, 21, &bytes);
        it.side.take_events(&bytes);
        it.side.endpoint.end_batch(now);
        it.drain().len()
    };
    assert_eq!(batch(102..110), 4);
    assert_eq!(batch(110..120), 1);
    assert_eq!(batch(101..102), 1);
    assert_eq!(batch(122..124), 2, "a gap that is new again");
    assert_eq!(it.side.stream.len(), 19);
}

#[test]
fn the_time_is_taken_when_the_packet_came() {
    let mut it = Scripted::new(Config::default());
    let (_, isn) = it.accepted();
    let mut header = packet(Kind::Data, 41, 101, isn.wrapping_sub(1));
    header.timestamp = 49_000_000;
    let bytes = header.encode(0);
    let received = Instant::from_nanos(49_500_000_000);
    it.side
        .endpoint
        .handle(it.now, it.peer, received, 20, &bytes);
    it.now = it.now + Duration::from_millis(30);
    it.side.endpoint.end_batch(it.now);
    let ack = it.drain()[0];
    assert_eq!((ack.timestamp_diff, ack.timestamp), (500_000, 50_030_000));
}

#[test]
fn acknowledgements_of_what_was_never_sent_are_dropped_with_their_packet() {
    let mut it = Scripted::new(Config::default());
    let (_, isn) = it.accepted();
    assert_eq!(it.give(&packet(Kind::Data, 41, 101, isn), b"x"), []);
    assert!(it.side.stream.is_empty());
    assert_eq!(it.side.endpoint.counters().invalid, 1);
    let old = isn.wrapping_sub(1);
    assert_eq!(it.give(&packet(Kind::Data, 41, 101, old), b"x").len(), 1);
    assert_eq!(
        it.give(&packet(Kind::Data, 41, 101, old), b"x").len(),
        1,
        "again"
    );
    assert_eq!(it.side.stream, b"x");
    assert_eq!(it.give(&packet(Kind::State, 41, 102, old), b""), []);
}

#[test]
fn a_selective_acknowledgement_of_what_was_never_sent_is_not_taken() {
    let mut it = Scripted::new(Config::default());
    let (key, isn) = it.accepted();
    let data = bytes::Bytes::from(vec![1; 3 * 1212]);
    it.side.endpoint.send(key, data).unwrap();
    let sent = it.drain();
    assert_eq!(sent.len(), 3);
    let mut give = |bits: u8| {
        let mut bytes = packet(Kind::State, 41, 101, isn.wrapping_sub(1))
            .encode(1)
            .to_vec();
        bytes.extend([0, 4, bits, 0, 0, 0]);
        let (now, peer) = (it.now, it.peer);
        let endpoint = &mut it.side.endpoint;
        endpoint.handle(now, peer, now, bytes.len(), &bytes);
        endpoint.end_batch(now);
        (endpoint.counters().invalid, endpoint.queued(key))
    };
    assert_eq!(give(0b100), (1, 3 * 1212), "the fourth of three");
    assert_eq!(give(0b11), (1, 3 * 1212));
    let last = packet(Kind::State, 41, 101, isn.wrapping_add(2));
    it.give(&last, b"");
    assert_eq!(it.side.endpoint.queued(key), 0);
}

#[test]
fn silence_is_broken_before_the_path_is_forgotten() {
    let mut it = Scripted::new(Config::default());
    it.accepted();
    let sent = it.wait(Duration::from_secs(60));
    // The id is among the first of 2^16, and so the packet late among those it may be.
    let times: Vec<u128> = sent.iter().map(|(at, _)| at.div_ceil(10) * 10).collect();
    assert_eq!(times, [29_000, 58_000]);
    assert_eq!((sent[0].1.kind, sent[0].1.ack.get()), (Kind::State, 99));
}

#[test]
fn beyond_the_window_nothing_is_kept() {
    let config = Config {
        receive_window: 10_000,
        ..Config::default()
    };
    let mut it = Scripted::new(config);
    let (key, isn) = it.accepted();
    it.side.endpoint.pause(key);
    let mut last = 0;
    for n in 0..30 {
        let header = packet(Kind::Data, 41, 101 + n, isn.wrapping_sub(1));
        last = it.give(&header, &[1; 1000])[0].ack.get();
    }
    assert_eq!(last, 112, "the window and some tolerance");
    assert_eq!(it.side.endpoint.counters().beyond_window, 18);
    it.side.endpoint.resume(it.now, key);
    let update = it.drain();
    assert_eq!(update[0].window, 10_000, "told at once");
    assert_eq!(it.side.stream.len(), 12_000);
    assert_eq!(it.side.endpoint.held, 0);
}

#[test]
fn what_is_no_packet_is_counted() {
    let mut it = Scripted::new(Config::default());
    let (now, peer) = (it.now, it.peer);
    for bytes in [
        &b""[..],
        b"d1:ad2:id20:abcdefghij0123456789e",
        &[0x41; 19],
        &[0x51; 20],
    ] {
        it.side.endpoint.handle(now, peer, now, 1500, bytes);
    }
    assert_eq!(it.side.endpoint.counters().malformed, 3);
    assert_eq!(it.drain(), []);
}
