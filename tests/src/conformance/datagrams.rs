//! Datagram sockets.

use super::{CANCELED, Fixture, Rig, pattern, train};
use flock_engine::io::{
    DatagramOptions, Driver, DriverConfig, Op, Outcome, QueueFull, SocketId, TRAINS_MAX, Token,
    Verb,
};
use flock_transport::TRAIN_DATAGRAMS_MAX;
use std::time::Duration;

fn payloads<D: Driver>(rig: &Rig<D>, socket: SocketId) -> Vec<Vec<u8>> {
    let datagrams = rig.record(socket).datagrams.iter();
    datagrams.map(|(_, _, bytes)| bytes.clone()).collect()
}

/// Each knows where it came from, and answers get back.
pub fn arrive_with_their_source<F: Fixture>() {
    let mut rig = Rig::new::<F>();
    let (one, one_addr) = rig.datagrams::<F>();
    let (other, other_addr) = rig.datagrams::<F>();
    rig.train(one, other_addr, 1, &[b"question"]);
    rig.until("the question", |rig| {
        !rig.record(other).datagrams.is_empty()
    });
    let (from, _, bytes) = rig.record(other).datagrams[0].clone();
    assert_eq!((from, bytes.as_slice()), (one_addr, &b"question"[..]));
    rig.train(other, from, 2, &[b"answer"]);
    rig.until("the answer", |rig| !rig.record(one).datagrams.is_empty());
    assert_eq!(rig.record(one).datagrams[0].0, other_addr);
    assert_eq!(payloads(&rig, one), [b"answer"]);
}

/// Trains of every length arrive as the datagrams they are made of, in order.
pub fn trains_keep_order_and_borders<F: Fixture>() {
    let mut rig = Rig::new::<F>();
    let (from, _) = rig.datagrams::<F>();
    let (to, addr) = rig.datagrams::<F>();
    let mut expected = Vec::new();
    for (count, last) in [(1, 1400), (2, 1400), (3, 17), (45, 5), (40, 1400), (1, 1)] {
        let bytes = pattern(count as u64, (count - 1) * 1400 + last);
        let datagrams: Vec<&[u8]> = bytes.chunks(1400).collect();
        rig.train(from, addr, 0, &datagrams);
        expected.extend(datagrams.iter().map(|one| one.to_vec()));
        let all = expected.len();
        rig.until("the train", |rig| rig.record(to).datagrams.len() == all);
    }
    let short: Vec<&[u8]> = (0..TRAIN_DATAGRAMS_MAX)
        .map(|_| &b"0123456789"[..])
        .collect();
    rig.train(from, addr, 0, &short);
    expected.extend(short.iter().map(|one| one.to_vec()));
    let all = expected.len();
    rig.until("short ones", |rig| rig.record(to).datagrams.len() == all);
    assert!(payloads(&rig, to) == expected, "borders or order changed");
}

/// Also many at once.
pub fn every_train_is_reported_once<F: Fixture>() {
    let mut rig = Rig::new::<F>();
    let (from, _) = rig.datagrams::<F>();
    let (_, addr) = rig.datagrams::<F>();
    for round in 0..5 {
        for tag in 0..100 {
            rig.train(from, addr, round * 100 + tag, &[b"datagram", b"another"]);
        }
        let all = (usize::try_from(round).expect("small") + 1) * 100;
        rig.until("reports", |rig| rig.record(from).outcomes.len() == all);
    }
    for tag in 0..500 {
        assert_eq!(
            rig.record(from).count(Outcome::TrainSent { tag }),
            1,
            "{tag}"
        );
    }
    assert_eq!(rig.driver.counters().trains, 500);
}

/// What is under way has a limit; a refused train stays the caller's.
pub fn too_many_trains_are_refused<F: Fixture>() {
    let mut rig = Rig::new::<F>();
    let (from, _) = rig.datagrams::<F>();
    let (_, addr) = rig.datagrams::<F>();
    for tag in 0..TRAINS_MAX as u64 {
        rig.train(from, addr, tag, &[b"datagram"]);
    }
    let mut one_more = train(addr, 7, &[b"datagram"]);
    assert_eq!(rig.driver.send_train(from, &mut one_more), Err(QueueFull));
    assert_eq!(one_more.datagrams(), 1);
    rig.until("reports", |rig| {
        rig.record(from).outcomes.len() == TRAINS_MAX
    });
    assert!(rig.driver.send_train(from, &mut one_more).is_ok());
}

/// More than there are buffers for: nothing of it is lost.
pub fn floods_park_and_go_on<F: Fixture>() {
    let mut rig = Rig::with::<F>(&DriverConfig {
        datagram_buffers: 4,
        ..DriverConfig::default()
    });
    let (from, _) = rig.datagrams::<F>();
    let (to, addr) = rig.datagrams::<F>();
    let mut expected = Vec::new();
    for round in 0..4_u8 {
        for number in 0..50_u8 {
            let bytes = vec![round * 50 + number; 40 + usize::from(number)];
            rig.train(from, addr, 0, &[&bytes]);
            expected.push(bytes);
        }
        let all = expected.len();
        rig.until("all of a round", |rig| {
            rig.record(to).datagrams.len() == all
        });
    }
    assert!(payloads(&rig, to) == expected, "order or bytes changed");
}

/// A cancelled receive ends once; what comes meanwhile is there for the next one.
pub fn a_cancelled_receive_goes_on_later<F: Fixture>() {
    let mut rig = Rig::new::<F>();
    let (from, _) = rig.datagrams::<F>();
    let (to, addr) = rig.datagrams::<F>();
    rig.turn(Duration::ZERO);
    rig.cancel(to, Verb::Recv);
    rig.cancel(to, Verb::Recv);
    rig.until("the end", |rig| !rig.outstanding(to, Verb::Recv));
    rig.train(from, addr, 0, &[b"meanwhile"]);
    rig.linger(Duration::from_millis(20));
    assert_eq!(rig.record(to).outcomes, [Outcome::RecvEnded(CANCELED)]);
    assert!(rig.record(to).datagrams.is_empty());
    rig.recv(to);
    rig.until("the datagram", |rig| !rig.record(to).datagrams.is_empty());
    assert_eq!(payloads(&rig, to), [b"meanwhile"]);
}

/// Nothing but `Closed` follows a close, whatever was under way, and the name is stale.
pub fn closing_forgets_trains<F: Fixture>() {
    let mut rig = Rig::new::<F>();
    let (_, addr) = rig.datagrams::<F>();
    for _ in 0..20 {
        let (from, _) = rig.datagrams::<F>();
        for tag in 0..30 {
            rig.train(from, addr, tag, &[b"datagram"]);
        }
        rig.finish(&[from]);
        let mut late = train(addr, 0, &[b"late"]);
        assert_eq!(rig.driver.send_train(from, &mut late), Ok(()));
        assert!(late.is_empty());
    }
    rig.linger(Duration::from_millis(20));
}

/// A probe of the path is an ordinary datagram to its receiver, and others still may be longer
/// than the path.
pub fn unfragmented_datagrams_pass<F: Fixture>() {
    let mut rig = Rig::new::<F>();
    let (from, _) = rig.datagrams::<F>();
    let (to, addr) = rig.datagrams::<F>();
    let bytes = pattern(3, 1400);
    let mut probe = train(addr, 9, &[&bytes]);
    probe.dont_fragment = true;
    rig.driver.send_train(from, &mut probe).expect("room");
    let long = pattern(4, 65_000);
    rig.train(from, addr, 10, &[&long]);
    rig.until("both", |rig| rig.record(to).datagrams.len() == 2);
    let mut got = payloads(&rig, to);
    got.sort_by_key(Vec::len);
    assert!(got == [bytes, long], "bytes changed");
    rig.until("reports", |rig| rig.record(from).outcomes.len() == 2);
    for tag in [9, 10] {
        assert_eq!(rig.record(from).count(Outcome::TrainSent { tag }), 1);
    }
}

/// Of several sockets at one address each gets the connections of its shard, and the first what
/// is no uTP packet.
pub fn groups_are_steered<F: Fixture>() {
    const SHARDS: u16 = 3;
    let mut rig = Rig::new::<F>();
    let mut options = DatagramOptions {
        shared: true,
        ..DatagramOptions::default()
    };
    let mut addr = F::local();
    let mut group = Vec::new();
    for shard in 0..SHARDS {
        let token = Token(shard.into());
        let bound = rig.driver.bind_datagrams(addr, &options, token);
        let bound = bound.expect("the address is free");
        rig.submit(Op::Recv {
            socket: bound.socket,
        });
        addr = bound.addr;
        options.exclusive = false;
        group.push(bound.socket);
    }
    rig.driver.steer(group[2], SHARDS).expect("a group");
    let (from, _) = rig.datagrams::<F>();
    let mut expected = vec![0_usize; SHARDS.into()];
    for id in [0_u16, 1, 2, 3, 7000, 7001, 0xfffe, 0xffff] {
        let [high, low] = id.to_be_bytes();
        for first in [0x41, 0x01, 0x11, 0x21, 0x31, b'd', 0x51] {
            let datagram = [first, 0, high, low, 9, 9];
            expected[usize::from(flock_utp::steer(&datagram, SHARDS))] += 1;
            rig.train(from, addr, 0, &[&datagram]);
        }
    }
    rig.train(from, addr, 0, &[b"\x41"]);
    expected[0] += 1;
    let all: usize = expected.iter().sum();
    let got = |rig: &Rig<F::Driver>| -> Vec<usize> {
        let each = group
            .iter()
            .map(|socket| rig.record(*socket).datagrams.len());
        each.collect()
    };
    rig.until("all", |rig| got(rig).iter().sum::<usize>() == all);
    assert_eq!(got(&rig), expected);
    for (shard, socket) in (0..).zip(&group) {
        for bytes in payloads(&rig, *socket) {
            assert_eq!(flock_utp::steer(&bytes, SHARDS), shard, "{bytes:?}");
        }
    }
    let stranger = DatagramOptions {
        shared: true,
        ..DatagramOptions::default()
    };
    let refused = rig.driver.bind_datagrams(addr, &stranger, Token(0));
    assert!(refused.is_err(), "a stranger joined the group");
}

/// The time of a datagram is that of its arrival, though it is received later.
pub fn stamps_are_of_arrival<F: Fixture>() {
    let mut rig = Rig::new::<F>();
    let (from, _) = rig.datagrams::<F>();
    let (to, addr) = rig.datagrams::<F>();
    rig.cancel(to, Verb::Recv);
    rig.until("the end", |rig| !rig.outstanding(to, Verb::Recv));
    let before = rig.driver.now();
    rig.train(from, addr, 0, &[b"early"]);
    rig.until("the report", |rig| rig.record(from).outcomes.len() == 1);
    // The simulated network takes a moment even to oneself.
    let sent = rig.driver.now() + Duration::from_millis(5);
    rig.linger(Duration::from_millis(60));
    rig.recv(to);
    rig.until("the datagram", |rig| !rig.record(to).datagrams.is_empty());
    let (_, at, _) = rig.record(to).datagrams[0];
    // A wall clock that is being adjusted may be off by a little.
    let slack = Duration::from_millis(1);
    assert!(at + slack >= before, "before it was sent");
    assert!(at <= sent + slack, "{:?} after it was sent", at - sent);
}
