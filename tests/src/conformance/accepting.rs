//! Listening and accepting.

use super::{CANCELED, Fixture, Rig};
use flock_engine::io::{Driver, Op, Outcome, Token, Verb};
use flock_tcp::ListenOptions;
use std::io;
use std::time::Duration;

/// A burst is accepted whole.
pub fn accepts_many<F: Fixture>() {
    let mut rig = Rig::new::<F>();
    let (listener, addr) = rig.listen::<F>();
    let dialled: Vec<_> = (0..300).map(|_| rig.connect(addr)).collect();
    rig.until("300 connections", |rig| {
        rig.record(listener).accepted.len() == 300
            && dialled
                .iter()
                .all(|one| rig.record(*one).has(Outcome::Connected))
    });
}

/// A cancelled accept ends once, whatever arrives at that moment.
pub fn cancelled_accept_ends_once<F: Fixture>() {
    for turns in 0..4 {
        let mut rig = Rig::new::<F>();
        let (listener, addr) = rig.listen::<F>();
        let dialled = rig.connect(addr);
        for _ in 0..turns {
            rig.turn(Duration::ZERO);
        }
        rig.cancel(listener, Verb::Accept);
        rig.cancel(listener, Verb::Accept);
        rig.until("end of accept", |rig| {
            !rig.outstanding(listener, Verb::Accept)
        });
        assert_eq!(
            rig.record(listener).outcomes,
            [Outcome::AcceptEnded(CANCELED)]
        );
        rig.until("connected", |rig| {
            rig.record(dialled).has(Outcome::Connected)
        });
        let accepted = rig.record(listener).accepted.len();
        rig.linger(Duration::from_millis(20));
        assert_eq!(rig.record(listener).accepted.len(), accepted);
    }
}

/// What waits in the backlog while no accept is outstanding is accepted by the next.
pub fn accept_goes_on_after_a_cancel<F: Fixture>() {
    let mut rig = Rig::new::<F>();
    let (listener, addr) = rig.listen::<F>();
    rig.cancel(listener, Verb::Accept);
    rig.until("end of accept", |rig| {
        !rig.outstanding(listener, Verb::Accept)
    });
    let dialled: Vec<_> = (0..5).map(|_| rig.connect(addr)).collect();
    rig.until("connected", |rig| {
        dialled
            .iter()
            .all(|one| rig.record(*one).has(Outcome::Connected))
    });
    assert!(rig.record(listener).accepted.is_empty());
    rig.submit(Op::Accept { listener });
    rig.until("accepted", |rig| rig.record(listener).accepted.len() == 5);
}

/// Closing a listener ends its accept without a word, frees the port, and harms no connection.
pub fn listener_closes_silently<F: Fixture>() {
    let mut rig = Rig::new::<F>();
    let (listener, addr) = rig.listen::<F>();
    let (dialled, accepted) = rig.pair(listener, addr);
    rig.recv(accepted);
    rig.finish(&[listener]);
    assert_eq!(rig.record(listener).outcomes, [Outcome::Closed]);
    rig.send(dialled, b"still here");
    rig.until("data", |rig| rig.record(accepted).data == b"still here");
    let late = rig.connect(addr);
    rig.until("refusal", |rig| !rig.outstanding(late, Verb::Connect));
    let refused = rig.record(late).outcomes[0];
    assert!(
        matches!(refused, Outcome::ConnectFailed(errno)
            if errno.kind() == io::ErrorKind::ConnectionRefused),
        "{refused:?}"
    );
}

/// Accepted sockets carry the listener's token until they get their own.
pub fn accepted_sockets_carry_the_listeners_token<F: Fixture>() {
    let mut rig = Rig::new::<F>();
    let (listener, addr) = rig.listen::<F>();
    rig.driver.assign(listener, Token(77));
    let (dialled, accepted) = rig.pair(listener, addr);
    rig.recv(accepted);
    rig.send(dialled, b"a");
    rig.until("data", |rig| rig.record(accepted).data == b"a");
    let token_of = |rig: &Rig<F::Driver>| {
        rig.latest
            .iter()
            .find(|one| one.socket == accepted)
            .map(|one| one.token)
    };
    assert_eq!(token_of(&rig), Some(Token(77)));
    rig.driver.assign(accepted, Token(78));
    rig.send(dialled, b"b");
    rig.until("data", |rig| rig.record(accepted).data == b"ab");
    assert_eq!(token_of(&rig), Some(Token(78)));
}

/// An accepted connection is named by the address it was dialled from, and the listener by the
/// port it really got.
pub fn accepted_peers_are_named<F: Fixture>() {
    let mut rig = Rig::new::<F>();
    let options = ListenOptions::default();
    let (listener, addr) = rig
        .driver
        .listen(F::local(), &options, Token(0))
        .expect("free");
    assert_ne!(addr.port(), 0);
    rig.submit(Op::Accept { listener });
    rig.pair(listener, addr);
    rig.pair(listener, addr);
    let [(_, one), (_, other)] = rig.record(listener).accepted[..] else {
        panic!("two connections");
    };
    assert_eq!(one.ip(), addr.ip());
    assert_ne!(one.port(), other.port());
    assert_ne!(one.port(), addr.port());
}
