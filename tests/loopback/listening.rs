//! Listeners that share a port, and those that must not.

use crate::backends::{Backend, Poll, Uring};
use flock_engine::io::{Driver, Op, Outcome, Token};
use flock_tcp::ListenOptions;
use flock_tests::conformance::Rig;
use std::io::ErrorKind;
use std::net::TcpListener;

flock_tests::both_backends!(shared_listeners_share, exclusive_listeners_refuse);

const SHARED: ListenOptions = ListenOptions {
    shared: true,
    exclusive: true,
    backlog: 1024,
    dual_stack: true,
    defer_accept: None,
    stream: flock_tcp::StreamOptions {
        nodelay: true,
        keepalive: None,
        notsent_lowat: None,
        congestion: None,
        send_buffer: None,
        recv_buffer: None,
        lazy_handshake_ack: false,
    },
};

/// Two members of a group on one port both get connections.
fn shared_listeners_share<B: Backend>() {
    let mut rig = Rig::new::<B>();
    let (one, addr) = rig
        .driver
        .listen(B::local(), &SHARED, Token(1))
        .expect("a free port");
    let later = ListenOptions {
        exclusive: false,
        ..SHARED
    };
    let (other, same) = rig
        .driver
        .listen(addr, &later, Token(2))
        .expect("a member of the group");
    assert_eq!(addr, same);
    for listener in [one, other] {
        rig.submit(Op::Accept { listener });
    }
    let dialled: Vec<_> = (0..200).map(|_| rig.connect(addr)).collect();
    let accepted = |rig: &Rig<B::Driver>, listener| rig.record(listener).accepted.len();
    rig.until("200 connections", |rig| {
        accepted(rig, one) + accepted(rig, other) == 200
            && dialled
                .iter()
                .all(|socket| rig.record(*socket).has(Outcome::Connected))
    });
    assert!(accepted(&rig, one) > 20 && accepted(&rig, other) > 20);
}

/// A port that somebody serves, sharing or not, is refused to an exclusive listener.
fn exclusive_listeners_refuse<B: Backend>() {
    let mut first = Rig::new::<B>();
    let mut second = Rig::new::<B>();
    let (_, addr) = first
        .driver
        .listen(B::local(), &SHARED, Token(0))
        .expect("a free port");
    let plain = TcpListener::bind(B::local()).expect("a free port");
    let taken = plain.local_addr().expect("bound");
    for (at, options) in [
        (addr, SHARED),
        (addr, ListenOptions::default()),
        (taken, SHARED),
        (taken, ListenOptions::default()),
    ] {
        let refused = second.driver.listen(at, &options, Token(0));
        assert_eq!(
            refused.expect_err("the port is taken").kind(),
            ErrorKind::AddrInUse
        );
    }
}
