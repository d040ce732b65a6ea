//! Serving sockets that somebody else made and keeps.

use super::peers::{Ground, PATIENCE, RawPeer, engine, id, wait_for};
use flock_engine::{
    Connection, Flock, FlockError, IdChoice, JoinOptions, PeerId, ShardCounters, Transport,
};
use socket2::{Domain, Protocol, Socket, Type};
use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

super::on_every_ground!(
    who_dials_while_nobody_serves_is_served_later,
    a_restart_loses_nobody,
    what_is_no_socket_of_ours_is_refused_and_left_alone,
    one_socket_serves_all_shards,
    each_shard_serves_a_socket_of_its_own,
    more_shards_than_sockets_share_them,
    a_socket_that_never_waits_is_served,
);

const LOCALHOST: &str = "127.0.0.1:0";

/// A socket as a parent makes it for this transport.
fn made(ground: Ground, addr: SocketAddr, shared: bool) -> Socket {
    let (kind, protocol) = match ground.transport {
        Transport::Tcp => (Type::STREAM, Protocol::TCP),
        Transport::Utp => (Type::DGRAM, Protocol::UDP),
    };
    let socket = Socket::new(Domain::IPV4, kind, Some(protocol)).unwrap();
    socket.set_reuse_port(shared).unwrap();
    socket.bind(&addr.into()).unwrap();
    if ground.transport == Transport::Tcp {
        socket.listen(1024).unwrap();
    }
    socket
}

fn one(ground: Ground) -> (Socket, SocketAddr) {
    let socket = made(ground, LOCALHOST.parse().unwrap(), false);
    let addr = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, addr)
}

/// Sockets at one address.
fn group(ground: Ground, count: usize) -> (Vec<Socket>, SocketAddr) {
    let first = made(ground, LOCALHOST.parse().unwrap(), true);
    let addr = first.local_addr().unwrap().as_socket().unwrap();
    let others = (1..count).map(|_| made(ground, addr, true));
    (std::iter::once(first).chain(others).collect(), addr)
}

/// An engine that dials `to`, under an id of its own.
fn dialler(ground: Ground, number: u8, to: SocketAddr) -> Flock {
    let options = engine(ground).id(IdChoice::Fixed(id(number))).shards(1);
    let flock = options.start().unwrap();
    flock.join("c", JoinOptions { announce: false }).unwrap();
    flock.add_peer("c", to).unwrap();
    flock
}

fn peer_of(connection: &Connection) -> PeerId {
    connection.info().peer_id.clone().unwrap()
}

/// Takes `count` connections, and sends something long both ways on each.
fn exchange(flock: &Flock, peers: &[Flock]) {
    let there: Vec<_> = peers
        .iter()
        .map(|peer| peer.accept_timeout(PATIENCE).expect("the dialler's end"))
        .collect();
    let here: Vec<_> = peers
        .iter()
        .map(|_| flock.accept_timeout(PATIENCE).expect("our end"))
        .collect();
    for ends in [[&there, &here], [&here, &there]] {
        for (n, from) in ends[0].iter().enumerate() {
            from.send_timeout(vec![u8::try_from(n).unwrap(); 100_000], PATIENCE)
                .unwrap();
        }
        for to in ends[1] {
            let mut bytes = Vec::new();
            while bytes.len() < 100_000 {
                bytes.extend_from_slice(&to.recv_timeout(PATIENCE).unwrap().expect("more"));
            }
            assert!(bytes.iter().all(|byte| *byte == bytes[0]));
        }
    }
    let mut ids: Vec<_> = here.iter().map(peer_of).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), peers.len());
}

fn end(flocks: impl IntoIterator<Item = Flock>) {
    for flock in flocks {
        flock.shutdown(Duration::ZERO);
    }
}

fn who_dials_while_nobody_serves_is_served_later(ground: Ground) {
    let (socket, addr) = one(ground);
    dials_are_served_later(ground, &socket, addr);
}

fn dials_are_served_later(ground: Ground, socket: &Socket, addr: SocketAddr) {
    let peers: Vec<_> = (1..=8).map(|n| dialler(ground, n, addr)).collect();
    wait_for("the dials", || {
        peers.iter().all(|peer| peer.stats().connecting == 1)
    });
    let flock = engine(ground).start().unwrap();
    assert_eq!(flock.listen_on([socket]).unwrap(), [addr]);
    assert_eq!(flock.listening(), [addr]);
    exchange(&flock, &peers);
    for peer in &peers {
        let failed = peer.counters().counters.swarm.dials_failed;
        assert_eq!(failed, 0, "the first dial went through");
    }
    end(peers);
    end([flock]);
}

fn a_restart_loses_nobody(ground: Ground) {
    match ground.transport {
        Transport::Tcp => a_restart_loses_no_stream(ground),
        Transport::Utp => a_restart_loses_no_dial(ground),
    }
}

/// Clients dial all the while, through one restart after the other, and none of them tries twice.
fn a_restart_loses_no_stream(ground: Ground) {
    const CLIENTS: usize = 1000;
    const RESTARTS: usize = 10;
    let (socket, addr) = one(ground);
    let start = || {
        let flock = engine(ground).start().unwrap();
        flock.listen_on([&socket]).unwrap();
        flock
    };
    let (begun, served) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let first = start();
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| {
                loop {
                    let number = begun.fetch_add(1, Ordering::Relaxed);
                    if number >= CLIENTS {
                        break;
                    }
                    let mut name = [7; 32];
                    name[..8].copy_from_slice(&number.to_le_bytes());
                    let peer = RawPeer::try_handshake(addr, &PeerId::new(&name).unwrap());
                    assert!(peer.is_ok(), "client {number}: {:?}", peer.err());
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut serving = first;
        for restart in 1..=RESTARTS {
            wait_for("its share to be served", || {
                served.load(Ordering::Relaxed) >= restart * CLIENTS / (2 * RESTARTS)
            });
            assert!(serving.drain(PATIENCE).unwrap());
            // Nobody serves, and whoever dials waits.
            serving = start();
        }
        wait_for("everybody", || served.load(Ordering::Relaxed) == CLIENTS);
        serving.shutdown(Duration::ZERO);
    });
}

fn a_restart_loses_no_dial(ground: Ground) {
    let (socket, addr) = one(ground);
    let first = engine(ground).start().unwrap();
    first.listen_on([&socket]).unwrap();
    let early = dialler(ground, 100, addr);
    let held = early.accept_timeout(PATIENCE).unwrap();
    first.shutdown(PATIENCE);
    assert!(!matches!(held.recv_timeout(PATIENCE), Ok(Some(_))));
    drop(held);
    end([early]);
    dials_are_served_later(ground, &socket, addr);
}

fn what_is_no_socket_of_ours_is_refused_and_left_alone(ground: Ground) {
    let (fit, addr) = one(ground);
    let listener = TcpListener::bind(LOCALHOST).unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let connected = UdpSocket::bind(LOCALHOST).unwrap();
    connected.connect(connected.local_addr().unwrap()).unwrap();
    let unbound = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    let other = Ground {
        transport: match ground.transport {
            Transport::Tcp => Transport::Utp,
            Transport::Utp => Transport::Tcp,
        },
        ..ground
    };
    let wrong: [(OwnedFd, &str); 7] = [
        (File::open("/dev/null").unwrap().into(), "not a socket"),
        (
            UnixListener::bind(dir.path().join("s")).unwrap().into(),
            "neither IPv4 nor IPv6",
        ),
        (stream.into(), "does not listen"),
        (
            Socket::new(Domain::IPV4, Type::STREAM, None)
                .unwrap()
                .into(),
            "does not listen",
        ),
        (connected.into(), "connected"),
        (unbound.into(), "not bound"),
        (one(other).0.into(), "switched off"),
    ];
    let flock = engine(ground).start().unwrap();
    for (wrong, why) in &wrong {
        let refused = flock.listen_on([fit.as_fd(), wrong.as_fd()]);
        let text = match refused {
            Err(FlockError::Option(text)) => text,
            other => panic!("{why}: {other:?}"),
        };
        assert!(text.contains("socket at 1") && text.contains(why), "{text}");
        assert!(!fit.nonblocking().unwrap() && flock.listening().is_empty());
    }
    let none: [&Socket; 0] = [];
    assert!(matches!(flock.listen_on(none), Err(FlockError::Option(_))));
    if ground.transport == Transport::Utp {
        let three = flock.listen_on([&fit, &fit, &fit]);
        assert!(matches!(three, Err(FlockError::Option(_))), "{three:?}");
    }
    // What was fit still is.
    flock.listen_on([&fit]).unwrap();
    let peers = [dialler(ground, 1, addr)];
    exchange(&flock, &peers);
    end(peers);
    flock.shutdown(PATIENCE);
    let over = flock.listen_on([&fit]);
    assert!(matches!(over, Err(FlockError::ShutDown)), "{over:?}");
}

/// What an engine on these sockets counts while it serves twelve peers.
fn serve(ground: Ground, shards: usize, sockets: &[Socket], addr: SocketAddr) -> ShardCounters {
    let flock = engine(ground).shards(shards).start().unwrap();
    assert_eq!(flock.listen_on(sockets).unwrap(), [addr]);
    let peers: Vec<_> = (1..=12).map(|n| dialler(ground, n, addr)).collect();
    exchange(&flock, &peers);
    let counters = flock.counters().counters;
    end(peers);
    end([flock]);
    counters
}

fn one_socket_serves_all_shards(ground: Ground) {
    let (socket, addr) = one(ground);
    let counters = serve(ground, 2, &[socket], addr);
    let forwards = ground.transport == Transport::Utp;
    assert_eq!(counters.datagrams_forwarded > 0, forwards);
}

fn each_shard_serves_a_socket_of_its_own(ground: Ground) {
    let (sockets, addr) = group(ground, 2);
    let counters = serve(ground, 2, &sockets, addr);
    assert_eq!(
        (counters.steering_failures, counters.datagrams_forwarded),
        (0, 0),
        "the kernel steers them"
    );
}

fn more_shards_than_sockets_share_them(ground: Ground) {
    let (sockets, addr) = group(ground, 2);
    serve(ground, 3, &sockets, addr);
}

fn a_socket_that_never_waits_is_served(ground: Ground) {
    let (socket, addr) = one(ground);
    socket.set_nonblocking(true).unwrap();
    let flock = engine(ground).start().unwrap();
    flock.listen_on([&socket]).unwrap();
    for round in 1..=3 {
        let peers = [dialler(ground, round, addr)];
        exchange(&flock, &peers);
        end(peers);
        wait_for("its end", || flock.stats().connected == 0);
    }
    // Where nothing comes, nothing is done. Counters are those of the latest turn, hence the calls.
    let waits = || {
        for _ in 0..2 {
            flock.connections().unwrap();
        }
        flock.counters().counters.driver.waits
    };
    let before = waits();
    assert!(flock.accept_timeout(Duration::from_millis(300)).is_none());
    let waits = waits() - before;
    assert!(waits < 1000, "{waits} waits while nothing came");
    assert!(socket.nonblocking().unwrap());
    end([flock]);
}
