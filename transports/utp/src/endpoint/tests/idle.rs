//! Many connections on which nothing happens.

use super::scripted::packet;
use crate::wire::{Kind, decode};
use crate::{Config, Endpoint};
use flock_transport::{Instant, Train};
use std::net::SocketAddr;
use std::time::Duration;

/// An endpoint that accepted `count` connections, one every `apart`, and the time then.
fn accepted(count: u32, apart: Duration) -> (Endpoint, Instant) {
    let mut now = Instant::ZERO + Duration::from_secs(50);
    let mut endpoint = Endpoint::new(Config::default(), 0, 1, [7; 32]);
    let mut train = Train::default();
    for n in 0..count {
        let from = SocketAddr::from(((0x0a00_0000 + n).to_be_bytes(), 4000));
        // Initiators draw their ids; these are as far apart as drawn ones.
        let id = u16::try_from(n * 40_503 % 65_535).unwrap();
        let syn = packet(Kind::Syn, id, 100, 0).encode(0);
        endpoint.handle(now, from, now, syn.len(), &syn);
        assert!(endpoint.poll_transmit(now, &mut train));
        let answer: Vec<u8> = train.parts().flatten().copied().collect();
        let isn = decode(&answer).unwrap().header.seq.get();
        let first = packet(Kind::State, id.wrapping_add(1), 101, isn.wrapping_sub(1)).encode(0);
        endpoint.handle(now, from, now, first.len(), &first);
        endpoint.end_batch(now);
        while endpoint.poll_event().is_some() {}
        while endpoint.poll_transmit(now, &mut train) {}
        now = now + apart;
    }
    assert_eq!(endpoint.len(), count as usize);
    (endpoint, now)
}

/// Lets time pass; packets sent, and the most that were due in one call.
fn pass(endpoint: &mut Endpoint, now: Instant, span: Duration) -> (u64, u64) {
    let mut train = Train::default();
    let (mut sent, mut most) = (0, 0);
    while let Some(at) = endpoint.next_deadline().filter(|&at| at <= now + span) {
        let now = now.max(at);
        endpoint.on_deadline(now);
        let before = sent;
        while endpoint.poll_transmit(now, &mut train) {
            endpoint.sent(train.tag, now);
            sent += 1;
        }
        most = most.max(sent - before);
    }
    (sent, most)
}

#[test]
fn connections_made_at_once_do_not_all_speak_at_once() {
    const COUNT: u32 = 5_000;
    let (mut endpoint, now) = accepted(COUNT, Duration::ZERO);
    let (sent, most) = pass(&mut endpoint, now, Duration::from_secs(29));
    assert_eq!(sent, u64::from(COUNT));
    assert!(most < 10, "{most} at once");
}

#[test]
fn one_call_serves_some_deadlines_and_the_next_call_others() {
    const COUNT: u32 = 3_000;
    let (mut endpoint, now) = accepted(COUNT, Duration::ZERO);
    let late = now + Duration::from_secs(30);
    let mut train = Train::default();
    let mut sent = Vec::new();
    while endpoint.next_deadline().is_some_and(|at| at <= late) {
        endpoint.on_deadline(late);
        sent.push(0);
        while endpoint.poll_transmit(late, &mut train) {
            endpoint.sent(train.tag, late);
            *sent.last_mut().unwrap() += 1;
        }
    }
    assert_eq!(sent, [1_024, 1_024, 952]);
}

#[test]
#[ignore = "a measurement, for a release build: cargo test -p flock-utp --release idle -- --ignored --nocapture"]
fn what_two_hundred_thousand_idle_connections_cost() {
    const COUNT: u32 = 200_000;
    for apart in [Duration::ZERO, Duration::from_micros(145)] {
        let (mut endpoint, now) = accepted(COUNT, apart);
        let start = std::time::Instant::now();
        let (sent, most) = pass(&mut endpoint, now, Duration::from_secs(290));
        let each = start.elapsed() / u32::try_from(sent).unwrap();
        println!("{sent} packets in 290 s, {each:?} each, at most {most} at once");
    }
}
