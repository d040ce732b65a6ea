//! Limits: buffers, batches, tables, queues.

use super::{Fixture, Rig, pattern};
use flock_engine::io::{
    ConnectOptions, Driver, DriverConfig, Op, OpKey, Outcome, QueueFull, SocketId, Token, Verb,
};
use flock_transport::CloseHow;
use std::collections::HashSet;
use std::time::Duration;

/// A hundred streams share two buffers: receives are parked, no stream is harmed.
pub fn starved_receives_wait_their_turn<F: Fixture>() {
    let mut rig = Rig::with::<F>(&DriverConfig {
        sockets: 256,
        buffers: 2,
        buffer_size: 1024,
        ..DriverConfig::default()
    });
    let (listener, addr) = rig.listen::<F>();
    let pairs: Vec<_> = (0..100).map(|_| rig.pair(listener, addr)).collect();
    let bytes = pattern(8, 20_000);
    for (dialled, accepted) in &pairs {
        rig.send(*dialled, &bytes);
        rig.recv(*accepted);
    }
    rig.until("all", |rig| {
        pairs
            .iter()
            .all(|(_, accepted)| rig.record(*accepted).data.len() >= bytes.len())
    });
    for (dialled, accepted) in &pairs {
        let record = rig.record(*accepted);
        assert!(record.data == bytes, "bytes changed");
        assert!(record.outcomes.is_empty(), "{record:?}");
        assert!(rig.outstanding(*accepted, Verb::Recv));
        assert_eq!(rig.record(*dialled).sent(), 20_000);
    }
    assert!(rig.driver.counters().receives_parked > 0);
}

/// No turn delivers more than the batch, and what is left comes in the next.
pub fn batch_is_respected<F: Fixture>() {
    let mut rig = Rig::with::<F>(&DriverConfig {
        sockets: 256,
        buffers: 64,
        batch: 3,
        ..DriverConfig::default()
    });
    let (listener, addr) = rig.listen::<F>();
    let pairs: Vec<_> = (0..20).map(|_| rig.pair(listener, addr)).collect();
    for (dialled, accepted) in &pairs {
        rig.send(*dialled, b"one of many");
        rig.recv(*accepted);
    }
    for _ in 0..200 {
        rig.turn(Duration::from_millis(5));
        assert!(rig.latest.len() <= 3, "{}", rig.latest.len());
    }
    for (dialled, accepted) in &pairs {
        assert_eq!(rig.record(*accepted).data, b"one of many");
        assert_eq!(rig.record(*dialled).sent(), 11);
    }
    for (dialled, accepted) in &pairs {
        rig.close(*dialled);
        rig.close(*accepted);
    }
    rig.until("closed", |rig| {
        assert!(rig.latest.len() <= 3);
        pairs.iter().all(|(dialled, accepted)| {
            rig.record(*dialled).has(Outcome::Closed) && rig.record(*accepted).has(Outcome::Closed)
        })
    });
}

/// A full table refuses dials and closes what it would accept, and takes both again later.
pub fn full_table_refuses<F: Fixture>() {
    let mut rig = Rig::with::<F>(&DriverConfig {
        sockets: 4,
        buffers: 4,
        ..DriverConfig::default()
    });
    let (listener, addr) = rig.listen::<F>();
    let (dialled, accepted) = rig.pair(listener, addr);
    let third = rig.connect(addr);
    let refused = rig.driver.submit(Op::Connect {
        to: addr,
        options: ConnectOptions::default(),
        token: Token(9),
    });
    assert_eq!(refused, Err(QueueFull));
    rig.until("end of dial", |rig| !rig.outstanding(third, Verb::Connect));
    // The refusal may be there before the success is told.
    if rig.record(third).has(Outcome::Connected) {
        rig.recv(third);
        rig.until("refusal", |rig| !rig.outstanding(third, Verb::Recv));
        rig.finish(&[third]);
    }
    assert_eq!(rig.record(listener).accepted.len(), 1);
    assert_eq!(rig.driver.counters().accepts_refused, 1);
    rig.finish(&[dialled, accepted]);
    rig.pair(listener, addr);
}

/// A name that outlived its socket reaches nobody, also when the slot is in use again.
pub fn stale_names_are_ignored<F: Fixture>() {
    let mut rig = Rig::with::<F>(&DriverConfig {
        sockets: 3,
        buffers: 4,
        ..DriverConfig::default()
    });
    let (listener, addr) = rig.listen::<F>();
    let (old_dialled, old_accepted) = rig.pair(listener, addr);
    rig.finish(&[old_dialled, old_accepted]);
    // The table has room for these two only, so both slots are used again.
    let (dialled, accepted) = rig.pair(listener, addr);
    assert!(![old_dialled, old_accepted].contains(&dialled));
    assert!(![old_dialled, old_accepted].contains(&accepted));
    rig.recv(dialled);
    rig.recv(accepted);
    for socket in [old_dialled, old_accepted] {
        abuse(&mut rig.driver, socket);
    }
    rig.send(dialled, b"ping");
    rig.until("ping", |rig| rig.record(accepted).data == b"ping");
    rig.linger(Duration::from_millis(20));
    assert_eq!(rig.record(old_dialled).outcomes.len(), 2);
    assert!(rig.record(accepted).outcomes.is_empty());
}

fn abuse<D: Driver>(driver: &mut D, socket: SocketId) {
    driver.assign(socket, Token(666));
    for verb in [Verb::Recv, Verb::Send, Verb::Connect, Verb::Accept] {
        driver.cancel(OpKey { socket, verb });
    }
    let how = CloseHow::Rst;
    for op in [
        Op::Recv { socket },
        Op::ShutdownWrite { socket },
        Op::Close { socket, how },
    ] {
        assert!(driver.submit(op).is_ok());
    }
}

/// Thousands of short lives in few slots: names never repeat, every stream gets its own bytes.
pub fn churn_never_confuses_names<F: Fixture>() {
    const LIVES: usize = 2_000;
    const AT_ONCE: usize = 50; // pairs, hence twice as many slots and the listener's
    let mut rig = Rig::with::<F>(&DriverConfig {
        sockets: 101,
        buffers: 16,
        ..DriverConfig::default()
    });
    let (listener, addr) = rig.listen::<F>();
    let mut names = HashSet::new();
    for round in 0..LIVES / AT_ONCE {
        let before = round * AT_ONCE;
        let dialled: Vec<_> = (0..AT_ONCE).map(|_| rig.connect(addr)).collect();
        rig.until("connections", |rig| {
            rig.record(listener).accepted.len() == before + AT_ONCE
                && dialled
                    .iter()
                    .all(|one| rig.record(*one).has(Outcome::Connected))
        });
        let accepted: Vec<_> = rig.record(listener).accepted[before..]
            .iter()
            .map(|(socket, _)| *socket)
            .collect();
        for (seed, socket) in dialled.iter().enumerate() {
            rig.send(*socket, &pattern((before + seed) as u64, 33));
        }
        for socket in &accepted {
            rig.recv(*socket);
        }
        rig.until("data", |rig| {
            accepted
                .iter()
                .all(|socket| rig.record(*socket).data.len() == 33)
        });
        let mut expected: Vec<_> = (before..before + AT_ONCE)
            .map(|seed| pattern(seed as u64, 33))
            .collect();
        let mut got: Vec<_> = accepted
            .iter()
            .map(|socket| rig.record(*socket).data.clone())
            .collect();
        expected.sort();
        got.sort();
        assert_eq!(got, expected);
        for socket in dialled.iter().chain(&accepted) {
            assert!(names.insert(*socket), "{socket:?} was used before");
            rig.close_how(*socket, CloseHow::Rst);
        }
        rig.until("closed", |rig| {
            dialled
                .iter()
                .chain(&accepted)
                .all(|socket| rig.record(*socket).has(Outcome::Closed))
        });
    }
}

/// Queues of eight entries under two hundred streams: slower, and nothing is lost.
pub fn tiny_queues_lose_nothing<F: Fixture>() {
    let mut rig = Rig::with::<F>(&DriverConfig {
        sockets: 512,
        submissions: 4,
        completions: 8,
        buffers: 8,
        buffer_size: 2048,
        ..DriverConfig::default()
    });
    let (listener, addr) = rig.listen::<F>();
    let dialled: Vec<_> = (0..200).map(|_| rig.connect(addr)).collect();
    rig.until("connections", |rig| {
        rig.record(listener).accepted.len() == 200
            && dialled
                .iter()
                .all(|one| rig.record(*one).has(Outcome::Connected))
    });
    let accepted: Vec<_> = rig.record(listener).accepted.clone();
    for (socket, _) in &accepted {
        rig.recv(*socket);
    }
    for (seed, socket) in dialled.iter().enumerate() {
        rig.send(*socket, &pattern(seed as u64, 5_000));
    }
    rig.until("data", |rig| {
        accepted
            .iter()
            .all(|(socket, _)| rig.record(*socket).data.len() == 5_000)
    });
    for socket in &dialled {
        assert_eq!(rig.record(*socket).sent(), 5_000);
    }
    rig.finish(&dialled);
    rig.until("ends", |rig| {
        accepted
            .iter()
            .all(|(socket, _)| rig.record(*socket).has(Outcome::Eof))
    });
}

/// A shutdown ends what is outstanding and leaks nothing.
pub fn shutdown_closes_everything<F: Fixture>() {
    let mut rig = Rig::new::<F>();
    let (listener, addr) = rig.listen::<F>();
    let pairs: Vec<_> = (0..20).map(|_| rig.pair(listener, addr)).collect();
    for (dialled, accepted) in &pairs {
        rig.recv(*accepted);
        rig.send(*dialled, &pattern(9, 8 << 20));
    }
    rig.turn(Duration::ZERO);
    rig.connect(addr);
    let drained = rig.driver.shutdown(Duration::from_secs(5));
    assert_eq!(drained.leaked, 0, "{drained:?}");
    assert!(drained.ended > 0, "{drained:?}");
}

/// One stream with an endless supply does not keep the others from being served.
pub fn nobody_starves<F: Fixture>() {
    let mut rig = Rig::with::<F>(&DriverConfig {
        sockets: 64,
        buffers: 16,
        batch: 8,
        ..DriverConfig::default()
    });
    let (listener, addr) = rig.listen::<F>();
    let (loud, loud_end) = rig.pair(listener, addr);
    let quiet: Vec<_> = (0..5).map(|_| rig.pair(listener, addr)).collect();
    rig.recv(loud_end);
    rig.send(loud, &pattern(10, 64 << 20));
    rig.until("a start", |rig| rig.record(loud_end).data.len() > 1 << 20);
    for (dialled, accepted) in &quiet {
        rig.recv(*accepted);
        rig.send(*dialled, b"me too");
    }
    rig.until("the quiet ones", |rig| {
        quiet
            .iter()
            .all(|(_, accepted)| rig.record(*accepted).data == b"me too")
    });
    assert!(rig.record(loud_end).data.len() < 64 << 20, "served last");
}
