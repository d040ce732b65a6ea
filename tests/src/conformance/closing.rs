//! Ends of streams.

use super::{Fixture, Rig, pattern};
use flock_engine::io::{Driver, Op, Outcome, Verb};
use flock_transport::CloseHow;
use std::io;
use std::time::Duration;

/// A close with everything outstanding: only `Closed` comes, for both kinds of close.
pub fn close_ends_with_closed_alone<F: Fixture>() {
    for how in [CloseHow::Fin, CloseHow::Rst] {
        let mut rig = Rig::new::<F>();
        let (listener, addr) = rig.listen::<F>();
        let (dialled, accepted) = rig.pair(listener, addr);
        rig.recv(dialled);
        rig.send(accepted, b"on its way");
        rig.send(dialled, &pattern(6, 32 << 20));
        rig.turn(Duration::ZERO);
        rig.close_how(dialled, how);
        rig.until("close", |rig| rig.record(dialled).has(Outcome::Closed));
        rig.linger(Duration::from_millis(50));
        let record = rig.record(dialled);
        assert_eq!(record.outcomes.last(), Some(&Outcome::Closed));
        assert_eq!(record.count(Outcome::Closed), 1);
        assert_eq!(record.sent(), 0);
    }
}

/// Each direction ends by itself.
pub fn half_close_works_both_ways<F: Fixture>() {
    let mut rig = Rig::new::<F>();
    let (listener, addr) = rig.listen::<F>();
    for swap in [false, true] {
        let (one, other) = rig.pair(listener, addr);
        let (first, second) = if swap { (other, one) } else { (one, other) };
        rig.recv(first);
        rig.recv(second);
        rig.send(first, b"last words");
        rig.until("sent", |rig| rig.record(first).sent() == 10);
        rig.submit(Op::ShutdownWrite { socket: first });
        rig.until("end", |rig| rig.record(second).has(Outcome::Eof));
        assert_eq!(rig.record(second).data, b"last words");
        rig.send(second, b"an answer");
        rig.until("answer", |rig| rig.record(first).data == b"an answer");
        rig.until("sent", |rig| rig.record(second).sent() == 9);
        rig.submit(Op::ShutdownWrite { socket: second });
        rig.until("end", |rig| rig.record(first).has(Outcome::Eof));
        rig.finish(&[first, second]);
    }
}

/// A reset is told as such, at once.
pub fn reset_reaches_the_peer<F: Fixture>() {
    let mut rig = Rig::new::<F>();
    let (listener, addr) = rig.listen::<F>();
    for _ in 0..2 {
        let (dialled, accepted) = rig.pair(listener, addr);
        rig.recv(accepted);
        rig.turn(Duration::ZERO);
        rig.close_how(dialled, CloseHow::Rst);
        rig.until("end of receive", |rig| {
            !rig.outstanding(accepted, Verb::Recv)
        });
        let errno = rig.record(accepted).recv_error().expect("an error");
        assert_eq!(errno.kind(), io::ErrorKind::ConnectionReset);
    }
}

/// A close with FIN is told as the end of the stream, and both sides can close.
pub fn fin_reaches_the_peer<F: Fixture>() {
    let mut rig = Rig::new::<F>();
    let (listener, addr) = rig.listen::<F>();
    let (dialled, accepted) = rig.pair(listener, addr);
    rig.recv(accepted);
    rig.close(dialled);
    rig.until("end", |rig| rig.record(accepted).has(Outcome::Eof));
    rig.finish(&[accepted]);
    assert_eq!(
        rig.record(accepted).outcomes,
        [Outcome::Eof, Outcome::Closed]
    );
}

/// The end of a stream comes after its bytes, however many there are.
pub fn data_before_the_end_is_delivered<F: Fixture>() {
    let mut rig = Rig::new::<F>();
    let (listener, addr) = rig.listen::<F>();
    for len in [1, 16 * 1024, 100_000, 1 << 20] {
        let (dialled, accepted) = rig.pair(listener, addr);
        let bytes = pattern(7, len);
        rig.recv(accepted);
        rig.send(dialled, &bytes);
        rig.until("sent", |rig| rig.record(dialled).sent() == len as u64);
        rig.close(dialled);
        rig.until("end", |rig| !rig.outstanding(accepted, Verb::Recv));
        assert!(rig.record(accepted).has(Outcome::Eof));
        assert!(rig.record(accepted).data == bytes, "bytes changed");
    }
}

/// A close right after a completed send with FIN loses nothing of it.
pub fn send_then_close_sends<F: Fixture>() {
    let mut rig = Rig::new::<F>();
    let (listener, addr) = rig.listen::<F>();
    for _ in 0..20 {
        let (dialled, accepted) = rig.pair(listener, addr);
        rig.send(dialled, b"bye");
        rig.until("sent", |rig| rig.record(dialled).sent() == 3);
        rig.close(dialled);
        rig.recv(accepted);
        rig.until("end", |rig| rig.record(accepted).has(Outcome::Eof));
        assert_eq!(rig.record(accepted).data, b"bye");
        rig.finish(&[accepted]);
    }
}

/// A second close is of a stale name, and nothing comes of it.
pub fn close_twice_is_once<F: Fixture>() {
    let mut rig = Rig::new::<F>();
    let (listener, addr) = rig.listen::<F>();
    let (dialled, _) = rig.pair(listener, addr);
    rig.close(dialled);
    let again = rig.driver.submit(Op::Close {
        socket: dialled,
        how: CloseHow::Rst,
    });
    assert!(again.is_ok());
    rig.linger(Duration::from_millis(20));
    assert_eq!(rig.record(dialled).count(Outcome::Closed), 1);
}

/// A close swallows also what is on its way already: ends of cancelled operations, and a dial
/// that failed at once.
pub fn close_swallows_what_is_pending<F: Fixture>() {
    let mut rig = Rig::new::<F>();
    let (listener, addr) = rig.listen::<F>();
    let (dialled, accepted) = rig.pair(listener, addr);
    rig.recv(dialled);
    rig.recv(accepted);
    rig.send(dialled, &pattern(11, 32 << 20));
    rig.turn(Duration::ZERO);
    let before = rig.record(dialled).outcomes.len();
    rig.cancel(dialled, Verb::Recv);
    rig.cancel(dialled, Verb::Send);
    rig.close_how(dialled, CloseHow::Rst);
    let dial = rig.connect(addr);
    rig.cancel(dial, Verb::Connect);
    rig.close(dial);
    rig.until("close", |rig| {
        rig.record(dialled).has(Outcome::Closed) && rig.record(dial).has(Outcome::Closed)
    });
    assert_eq!(rig.record(dialled).outcomes.len(), before + 1);
    assert_eq!(rig.record(dial).outcomes, [Outcome::Closed]);
}
