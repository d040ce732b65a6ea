//! A flood of uTP handshakes that nobody means to finish.

use super::peers::{PATIENCE, engine, id, local, wait_for};
use flock_engine::io::Backend;
use flock_engine::{Connection, Flock, IdChoice, JoinOptions, Transport};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};

super::on_both_backends!(peers_get_through_a_flood_of_syns);

/// SYNs of a flood; on two processors it takes about as long as the peers need.
const SYNS: u32 = 100_000;
const PEERS: u8 = 12;

/// What a flood sent and got back, in bytes.
#[derive(Default)]
struct Traffic {
    sent: usize,
    received: usize,
}

/// Sends SYNs with ever new ids from several addresses, until all are sent and `met` is set.
fn flood(to: SocketAddr, met: &AtomicBool) -> Traffic {
    let sockets: Vec<UdpSocket> = (1..=8)
        .map(|host| UdpSocket::bind((Ipv4Addr::new(127, 66, 0, host), 0)).unwrap())
        .collect();
    for socket in &sockets {
        socket.set_nonblocking(true).unwrap();
    }
    let mut traffic = Traffic::default();
    let mut answer = [0; 2048];
    for (number, socket) in (0..SYNS).zip(sockets.iter().cycle()) {
        let [_, _, high, low] = number.to_be_bytes();
        let mut syn = [0_u8; 20];
        syn[..4].copy_from_slice(&[0x41, 0, high, low]);
        syn[16..18].copy_from_slice(&[1, 1]);
        traffic.sent += socket.send_to(&syn, to).unwrap_or(0);
        while let Ok((length, _)) = socket.recv_from(&mut answer) {
            traffic.received += length;
        }
    }
    wait_for("the peers", || met.load(Ordering::Acquire));
    for socket in &sockets {
        while let Ok((length, _)) = socket.recv_from(&mut answer) {
            traffic.received += length;
        }
    }
    traffic
}

fn dial(backend: Backend, number: u8, to: SocketAddr) -> (Flock, Connection) {
    let options = engine(backend).tcp(false).utp(true).shards(1);
    let flock = options.id(IdChoice::Fixed(id(number))).start().unwrap();
    flock.join("c", JoinOptions { announce: false }).unwrap();
    flock.add_peer("c", to).unwrap();
    let conn = flock.accept_timeout(PATIENCE).expect("a connection");
    assert_eq!(conn.info().transport, Transport::Utp);
    (flock, conn)
}

fn peers_get_through_a_flood_of_syns(backend: Backend) {
    let target = engine(backend).tcp(false).utp(true).start().unwrap();
    let to = local(target.listen(0).unwrap());
    let met = AtomicBool::new(false);
    let traffic = std::thread::scope(|scope| {
        let flooding = scope.spawn(|| flood(to, &met));
        let peers: Vec<_> = (1..=PEERS).map(|n| dial(backend, n, to)).collect();
        wait_for("all to be counted", || {
            target.stats().connected == u64::from(PEERS)
        });
        met.store(true, Ordering::Release);
        for (flock, _) in peers {
            flock.shutdown(PATIENCE);
        }
        flooding.join().unwrap()
    });
    let counted = target.counters().counters.utp;
    assert!(counted.cookies > 0, "the table never filled: {counted:?}");
    assert!(
        traffic.received <= traffic.sent,
        "{} bytes for {}",
        traffic.received,
        traffic.sent
    );
    target.shutdown(PATIENCE);
}
