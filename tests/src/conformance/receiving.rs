//! Receiving.

use super::{CANCELED, Fixture, Rig, pattern};
use flock_engine::io::{DriverConfig, Outcome, Verb};
use std::time::Duration;

/// Bytes go both ways.
pub fn echo<F: Fixture>() {
    let mut rig = Rig::new::<F>();
    let (listener, addr) = rig.listen::<F>();
    let (dialled, accepted) = rig.pair(listener, addr);
    rig.recv(accepted);
    rig.recv(dialled);
    rig.send(dialled, b"ping");
    rig.until("ping", |rig| rig.record(accepted).data == b"ping");
    rig.send(accepted, b"pong");
    rig.until("pong", |rig| rig.record(dialled).data == b"pong");
    rig.until("both sent", |rig| {
        rig.record(dialled).sent() == 4 && rig.record(accepted).sent() == 4
    });
}

/// A stream has no message borders: many small sends arrive as one run of bytes, and a send
/// larger than a buffer in several pieces.
pub fn split_and_coalesced<F: Fixture>() {
    let mut rig = Rig::new::<F>();
    let (listener, addr) = rig.listen::<F>();
    let (dialled, accepted) = rig.pair(listener, addr);
    let bytes = pattern(1, 100_000);
    for piece in bytes[..1000].chunks(7) {
        let sent = rig.record(dialled).sent();
        rig.send(dialled, piece);
        rig.until("sent", |rig| rig.record(dialled).sent() > sent);
    }
    rig.send(dialled, &bytes[1000..]);
    rig.recv(accepted);
    rig.until("all", |rig| {
        rig.record(accepted).data.len() == bytes.len() && !rig.outstanding(dialled, Verb::Send)
    });
    assert!(rig.record(accepted).data == bytes, "bytes changed");
}

/// Receives that are cancelled and begun again lose and repeat nothing.
pub fn cancel_loses_no_byte<F: Fixture>() {
    let mut rig = Rig::new::<F>();
    let (listener, addr) = rig.listen::<F>();
    let (dialled, accepted) = rig.pair(listener, addr);
    let bytes = pattern(2, 40_000);
    rig.recv(accepted);
    for (round, piece) in bytes.chunks(100).enumerate() {
        let sent = rig.record(dialled).sent();
        rig.send(dialled, piece);
        for _ in 0..round % 3 {
            rig.turn(Duration::ZERO);
        }
        rig.cancel(accepted, Verb::Recv);
        rig.until("end of receive", |rig| {
            !rig.outstanding(accepted, Verb::Recv)
        });
        rig.recv(accepted);
        rig.until("sent", |rig| rig.record(dialled).sent() > sent);
    }
    rig.until("all", |rig| rig.record(accepted).data.len() >= bytes.len());
    assert!(rig.record(accepted).data == bytes, "bytes changed");
    assert_eq!(
        rig.record(accepted).count(Outcome::RecvEnded(CANCELED)),
        400
    );
}

/// A cancelled receive ends once, also when cancelled twice or with nothing to receive.
pub fn cancelled_receive_ends_once<F: Fixture>() {
    let mut rig = Rig::new::<F>();
    let (listener, addr) = rig.listen::<F>();
    let (_, accepted) = rig.pair(listener, addr);
    rig.recv(accepted);
    rig.turn(Duration::ZERO);
    rig.cancel(accepted, Verb::Recv);
    rig.cancel(accepted, Verb::Recv);
    rig.until("end of receive", |rig| {
        !rig.outstanding(accepted, Verb::Recv)
    });
    rig.cancel(accepted, Verb::Recv);
    rig.linger(Duration::from_millis(20));
    assert_eq!(
        rig.record(accepted).outcomes,
        [Outcome::RecvEnded(CANCELED)]
    );
}

/// What arrived before the receive was begun is not lost, nor is the end behind it.
pub fn data_before_recv_waits<F: Fixture>() {
    let mut rig = Rig::new::<F>();
    let (listener, addr) = rig.listen::<F>();
    let (dialled, accepted) = rig.pair(listener, addr);
    rig.send(dialled, b"early");
    rig.until("sent", |rig| rig.record(dialled).sent() == 5);
    rig.close(dialled);
    rig.linger(Duration::from_millis(20));
    assert!(rig.record(accepted).data.is_empty());
    rig.recv(accepted);
    rig.until("end", |rig| rig.record(accepted).has(Outcome::Eof));
    assert_eq!(rig.record(accepted).data, b"early");
}

/// A receive asked for once brings one buffer at the most and ends, whatever waits behind it; the
/// next goes on from there, and one that found nothing can be cancelled.
pub fn once_is_once<F: Fixture>() {
    const BUFFER: u32 = 4096;
    let mut rig = Rig::with::<F>(&DriverConfig {
        buffer_size: BUFFER,
        ..DriverConfig::default()
    });
    let (listener, addr) = rig.listen::<F>();
    let (dialled, accepted) = rig.pair(listener, addr);
    rig.recv_once(accepted);
    rig.turn(Duration::ZERO);
    rig.cancel(accepted, Verb::Recv);
    rig.until("end of receive", |rig| {
        !rig.outstanding(accepted, Verb::Recv)
    });
    let bytes = pattern(3, 100_000);
    rig.send(dialled, &bytes);
    let mut ends = 1;
    while rig.record(accepted).data.len() < bytes.len() {
        let had = rig.record(accepted).data.len();
        rig.recv_once(accepted);
        rig.until("end of receive", |rig| {
            !rig.outstanding(accepted, Verb::Recv)
        });
        ends += 1;
        let got = rig.record(accepted).data.len() - had;
        assert!((1..=BUFFER as usize).contains(&got), "{got}");
    }
    assert!(rig.record(accepted).data == bytes, "bytes changed");
    let record = rig.record(accepted);
    assert_eq!(record.count(Outcome::RecvEnded(CANCELED)), ends);
    rig.until("sent", |rig| rig.record(dialled).sent() == 100_000);
    rig.close(dialled);
    rig.recv_once(accepted);
    rig.until("end", |rig| rig.record(accepted).has(Outcome::Eof));
}
