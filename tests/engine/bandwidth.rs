//! Limits of bandwidth, over both transports.

use super::peers::{Ground, PATIENCE, engine, local, wait_for};
use bytes::Bytes;
use flock_engine::{Bandwidth, Builder, Connection, Flock, JoinOptions};
use std::time::{Duration, Instant};

super::on_every_ground!(
    what_is_sent_keeps_to_the_limit,
    what_is_received_keeps_to_the_limit,
    peers_share_a_limit_alike,
    a_limit_changes_while_bytes_wait,
    a_channel_and_a_connection_have_limits_of_their_own,
    a_close_waits_for_what_waits,
    a_reset_does_not,
);

const RATE: u64 = 2_000_000;

/// What a limit lets through beyond its rate, for a moment: what goes in 20 ms, a quantum of each
/// shard, and downwards a receive buffer.
const SLACK: u64 = 80_000 + 5_000;
const SLACK_DOWN: u64 = SLACK + 65_536;
/// The same for a limit of a connection's own: what goes in 100 ms, and a quantum.
const SLACK_OWN: u64 = 200_000 + 20_000 + 5_000;

fn blob(len: usize) -> Bytes {
    (0..=250_u8).cycle().take(len).collect()
}

/// Two engines, the first of which dialled the second, and their ends.
fn meet(dialler: Builder, acceptor: Builder) -> [(Flock, Connection); 2] {
    let (a, b) = (dialler.start().unwrap(), acceptor.start().unwrap());
    let addr = local(b.listen(0).unwrap());
    a.join("c", JoinOptions { announce: false }).unwrap();
    a.add_peer("c", addr).unwrap();
    let there = b.accept_timeout(PATIENCE).expect("the acceptor's end");
    let here = a.accept_timeout(PATIENCE).expect("the dialler's end");
    [(a, here), (b, there)]
}

/// Sends `data` one way and then the end; how long it took to arrive.
fn carry(from: &Connection, to: &Connection, data: &Bytes) -> Duration {
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            from.send_timeout(data.clone(), PATIENCE).unwrap();
            from.end();
        });
        let mut got = Vec::new();
        while let Some(piece) = to.recv_timeout(PATIENCE).unwrap() {
            got.extend_from_slice(&piece);
        }
        assert!(got == *data, "{} of {} bytes", got.len(), data.len());
    });
    start.elapsed()
}

fn least(bytes: usize, slack: u64) -> Duration {
    Duration::from_millis((bytes as u64 - slack) * 1000 / RATE)
}

fn what_is_sent_keeps_to_the_limit(ground: Ground) {
    let data = blob(1_500_000);
    let limit = Bandwidth::both(RATE);
    for (options, slack) in [
        (engine(ground).bandwidth(limit), SLACK),
        (engine(ground).peer_bandwidth(limit), SLACK_OWN),
    ] {
        let [(a, here), (b, there)] = meet(options, engine(ground));
        let took = carry(&here, &there, &data);
        assert!(took >= least(data.len(), slack), "{took:?}");
        a.shutdown(PATIENCE);
        b.shutdown(PATIENCE);
    }
}

fn what_is_received_keeps_to_the_limit(ground: Ground) {
    let data = blob(4_000_000);
    let limited = engine(ground).bandwidth(Bandwidth::both(RATE));
    let [(a, here), (b, there)] = meet(engine(ground), limited);
    let took = carry(&here, &there, &data);
    assert!(took >= least(data.len(), SLACK_DOWN), "{took:?}");
    a.shutdown(PATIENCE);
    b.shutdown(PATIENCE);
}

fn peers_share_a_limit_alike(ground: Ground) {
    const PEERS: usize = 5;
    let seeder = engine(ground)
        .bandwidth(Bandwidth::both(RATE))
        .start()
        .unwrap();
    let addr = local(seeder.listen(0).unwrap());
    let peers: Vec<Flock> = (0..PEERS)
        .map(|_| engine(ground).start().unwrap())
        .collect();
    let mut received = Vec::new();
    let data = blob(2_000_000);
    for peer in &peers {
        peer.add_peer("c", addr).unwrap();
        let end = seeder.accept_timeout(PATIENCE).expect("a peer");
        end.send_timeout(data.slice(..1000), PATIENCE).unwrap();
        received.push((peer.accept_timeout(PATIENCE).expect("its end"), end));
    }
    let start = Instant::now();
    let until = start + Duration::from_secs(2);
    std::thread::scope(|scope| {
        for (_, end) in &received {
            scope.spawn(|| end.send_timeout(data.clone(), PATIENCE));
        }
        let readers = received.iter().map(|(there, _)| {
            scope.spawn(move || {
                let mut got = 0;
                while Instant::now() < until {
                    let left = until.saturating_duration_since(Instant::now());
                    if let Ok(Some(piece)) = there.recv_timeout(left) {
                        got += piece.len();
                    }
                }
                got
            })
        });
        let got: Vec<usize> = readers
            .collect::<Vec<_>>()
            .into_iter()
            .map(|r| r.join().unwrap())
            .collect();
        let most = RATE as f64 * start.elapsed().as_secs_f64() + SLACK as f64;
        seeder.shutdown(Duration::ZERO);
        let sum: usize = got.iter().sum();
        assert!(sum as f64 <= most, "{got:?}, {most}");
        assert!(got.iter().all(|one| one * PEERS * 2 >= sum), "{got:?}");
    });
}

fn a_limit_changes_while_bytes_wait(ground: Ground) {
    let slow = engine(ground).bandwidth(Bandwidth::both(20_000));
    let [(a, here), (b, there)] = meet(slow, engine(ground));
    let data = blob(3_000_000);
    std::thread::scope(|scope| {
        scope.spawn(|| here.send_timeout(data.clone(), PATIENCE).unwrap());
        let mut got = there.recv_timeout(PATIENCE).unwrap().unwrap().len();
        assert!(got < 200_000, "{got}");
        // At that rate it would take minutes.
        a.set_bandwidth(Bandwidth::UNLIMITED).unwrap();
        while got < data.len() {
            got += there.recv_timeout(PATIENCE).unwrap().unwrap().len();
        }
    });
    // The same for what is received, limited later.
    b.set_peer_bandwidth(Bandwidth::both(RATE)).unwrap();
    // Mail to a shard keeps its order: the limit holds once this has come.
    there.send_timeout(data.slice(..1), PATIENCE).unwrap();
    here.recv_timeout(PATIENCE).unwrap();
    let took = carry(&here, &there, &data);
    assert!(took >= least(data.len(), SLACK_OWN + 65_536), "{took:?}");
    a.shutdown(PATIENCE);
    b.shutdown(PATIENCE);
}

fn a_channel_and_a_connection_have_limits_of_their_own(ground: Ground) {
    let data = blob(1_500_000);
    let [(a, here), (b, there)] = meet(engine(ground), engine(ground));
    let channel = a.join("c", JoinOptions { announce: false }).unwrap();
    channel.set_bandwidth(Bandwidth::both(RATE)).unwrap();
    // The limit is there before what is sent after it: mail to a shard keeps its order.
    let took = carry(&here, &there, &data);
    assert!(took >= least(data.len(), SLACK), "{took:?}");
    let conn = there.id();
    b.set_connection_bandwidth(conn, Bandwidth::both(RATE))
        .unwrap();
    channel.set_bandwidth(Bandwidth::UNLIMITED).unwrap();
    let took = carry(&there, &here, &data);
    assert!(took >= least(data.len(), SLACK_OWN), "{took:?}");
    a.shutdown(PATIENCE);
    b.shutdown(PATIENCE);
}

fn a_close_waits_for_what_waits(ground: Ground) {
    let data = blob(1_000_000);
    let slow = engine(ground).bandwidth(Bandwidth::both(RATE / 2));
    let [(a, here), (b, there)] = meet(slow, engine(ground));
    here.send_timeout(data.clone(), PATIENCE).unwrap();
    drop(here);
    let mut got = Vec::new();
    while let Some(piece) = there.recv_timeout(PATIENCE).unwrap() {
        got.extend_from_slice(&piece);
    }
    assert!(got == data, "{} bytes", got.len());
    drop(there);
    wait_for("both to be empty", || {
        a.stats().connected + b.stats().connected == 0
    });
    a.shutdown(PATIENCE);
    b.shutdown(PATIENCE);
}

fn a_reset_does_not(ground: Ground) {
    let slow = engine(ground).bandwidth(Bandwidth::both(1_000));
    let [(a, here), (b, there)] = meet(slow, engine(ground));
    here.send_timeout(blob(200_000), PATIENCE).unwrap();
    here.abort();
    wait_for("the end", || a.stats().connected + b.stats().connected == 0);
    assert!(there.recv_timeout(PATIENCE).is_err() || there.is_closed());
    a.shutdown(PATIENCE);
    b.shutdown(PATIENCE);
}
