//! Dials that nobody answers.

use crate::backends::{Backend, Poll, Uring};
use flock_engine::io::{Driver, Outcome, Token, Verb};
use flock_tcp::ListenOptions;
use flock_tests::conformance::Rig;
use flock_transport::Errno;
use std::time::Duration;

flock_tests::both_backends!(unanswered_dials_can_be_given_up);

/// A listener whose backlog is full drops SYNs, so dials hang; a cancel and a close end them
/// promptly all the same.
fn unanswered_dials_can_be_given_up<B: Backend>() {
    let mut rig = Rig::new::<B>();
    let options = ListenOptions {
        backlog: 1,
        ..ListenOptions::default()
    };
    let (_, addr) = rig
        .driver
        .listen(B::local(), &options, Token(0))
        .expect("a free port");
    let dialled: Vec<_> = (0..8).map(|_| rig.connect(addr)).collect();
    rig.linger(Duration::from_millis(100));
    let hanging: Vec<_> = dialled
        .into_iter()
        .filter(|one| rig.outstanding(*one, Verb::Connect))
        .collect();
    assert!(hanging.len() >= 4, "{} hang", hanging.len());
    let started = rig.driver.now();
    let (cancelled, closed) = hanging.split_at(2);
    for one in cancelled {
        rig.cancel(*one, Verb::Connect);
    }
    rig.until("cancels", |rig| {
        cancelled
            .iter()
            .all(|one| rig.record(*one).has(Outcome::ConnectFailed(Errno(125))))
    });
    rig.finish(closed);
    for one in closed {
        assert_eq!(rig.record(*one).outcomes, [Outcome::Closed]);
    }
    assert!(rig.driver.now() - started < Duration::from_millis(900));
}
