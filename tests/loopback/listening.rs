//! Listeners that share a port, and those that must not.

use crate::backends::{Backend, Poll, Uring};
use flock_engine::io::{Driver, Op, Outcome, Token};
use flock_tcp::ListenOptions;
use flock_tests::conformance::Rig;
use socket2::SockRef;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

flock_tests::both_backends!(
    shared_listeners_share,
    exclusive_listeners_refuse,
    resets_in_the_backlog_harm_nobody,
    dual_stack_names_ipv4_plainly,
);

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

/// Connections that were reset before they were accepted are counted or end at once; the others
/// are well.
fn resets_in_the_backlog_harm_nobody<B: Backend>() {
    let mut rig = Rig::<B::Driver>::new::<B>();
    let (listener, addr) = rig.listen::<B>();
    let mut clients: Vec<_> = (0..20)
        .map(|_| TcpStream::connect(addr).expect("the backlog has room"))
        .collect();
    for client in clients.drain(..10) {
        let linger = SockRef::from(&client).set_linger(Some(Duration::ZERO));
        linger.expect("a socket option");
    }
    rig.until("all", |rig| {
        let aborted = usize::try_from(rig.driver.counters().accepts_aborted).expect("few");
        rig.record(listener).accepted.len() + aborted == 20
    });
    let accepted = rig.record(listener).accepted.clone();
    for (socket, _) in &accepted {
        rig.recv(*socket);
    }
    let well: Vec<_> = clients
        .iter()
        .map(|client| client.local_addr().expect("connected"))
        .collect();
    rig.until("ends of the others", |rig| {
        accepted
            .iter()
            .all(|(socket, peer)| well.contains(peer) != rig.record(*socket).recv_error().is_some())
    });
    let alive = accepted.iter().filter(|(_, peer)| well.contains(peer));
    assert_eq!(alive.count(), clients.len());
    rig.pair(listener, addr);
}

/// A listener at `[::]` takes IPv4 too, and names such peers by their IPv4 address.
fn dual_stack_names_ipv4_plainly<B: Backend>() {
    let mut rig = Rig::<B::Driver>::new::<B>();
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    let options = ListenOptions::default();
    let Ok((listener, addr)) = rig.driver.listen(any, &options, Token(0)) else {
        return; // a host without IPv6
    };
    rig.submit(Op::Accept { listener });
    let client = TcpStream::connect((Ipv4Addr::LOCALHOST, addr.port())).expect("dual stack");
    rig.until("a connection", |rig| {
        !rig.record(listener).accepted.is_empty()
    });
    let peer = rig.record(listener).accepted[0].1;
    assert_eq!(peer, client.local_addr().expect("connected"));
    assert!(peer.is_ipv4());
}
