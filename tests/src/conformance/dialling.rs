//! Connecting, and giving it up.

use super::{CANCELED, Fixture, Rig};
use flock_engine::io::{Driver, Op, Outcome, Verb};
use flock_transport::CloseHow;
use std::io;
use std::time::Duration;

/// Nobody listens: the dial fails with that error and its name is stale.
pub fn refused<F: Fixture>() {
    let mut rig = Rig::new::<F>();
    let dialled = rig.connect(F::nobody());
    rig.until("refusal", |rig| !rig.outstanding(dialled, Verb::Connect));
    let [Outcome::ConnectFailed(errno)] = rig.record(dialled).outcomes[..] else {
        panic!("{:?}", rig.record(dialled));
    };
    assert_eq!(errno.kind(), io::ErrorKind::ConnectionRefused);
    let how = CloseHow::Fin;
    let dropped = rig.driver.submit(Op::Close {
        socket: dialled,
        how,
    });
    assert!(dropped.is_ok());
    rig.linger(Duration::from_millis(20));
    assert_eq!(rig.record(dialled).outcomes.len(), 1);
}

/// A cancel races the connection: exactly one of both wins, and the loser leaves nothing behind.
pub fn cancelled_at_any_moment<F: Fixture>() {
    let mut rig = Rig::new::<F>();
    let (_, addr) = rig.listen::<F>();
    for round in 0..40 {
        let dialled = rig.connect(addr);
        for _ in 0..round % 4 {
            rig.turn(Duration::ZERO);
        }
        rig.cancel(dialled, Verb::Connect);
        rig.until("end of dial", |rig| {
            !rig.outstanding(dialled, Verb::Connect)
        });
        match rig.record(dialled).outcomes[..] {
            // On loopback io_uring connects while it submits: this may win every time.
            [Outcome::Connected] => rig.close_how(dialled, CloseHow::Rst),
            [Outcome::ConnectFailed(errno)] => assert_eq!(errno, CANCELED),
            ref other => panic!("{other:?}"),
        }
    }
    rig.linger(Duration::from_millis(20));
}

/// A socket that is still connecting can be closed; only `Closed` comes.
pub fn closed_at_once<F: Fixture>() {
    let mut rig = Rig::new::<F>();
    let (_, addr) = rig.listen::<F>();
    for turns in 0..6 {
        let dialled = rig.connect(addr);
        if turns > 0 {
            for _ in 1..turns {
                rig.turn(Duration::ZERO);
            }
        }
        let before = rig.record(dialled).outcomes.len();
        rig.close(dialled);
        rig.until("close", |rig| rig.record(dialled).has(Outcome::Closed));
        rig.linger(Duration::from_millis(5));
        assert_eq!(rig.record(dialled).outcomes.len(), before + 1);
    }
    let refused = rig.connect(F::nobody());
    rig.close(refused);
    rig.until("close", |rig| rig.record(refused).has(Outcome::Closed));
    assert_eq!(rig.record(refused).outcomes, [Outcome::Closed]);
}
