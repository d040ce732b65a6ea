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

/// An address that floods: what it sent and what it got back, packets and bytes.
struct Source {
    socket: UdpSocket,
    sent: [usize; 2],
    received: [usize; 2],
}

impl Source {
    fn bind(host: u8) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::new(127, 66, 0, host), 0)).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self {
            socket,
            sent: [0; 2],
            received: [0; 2],
        }
    }

    fn send(&mut self, datagram: &[u8], to: SocketAddr) {
        if let Ok(bytes) = self.socket.send_to(datagram, to) {
            self.sent[0] += 1;
            self.sent[1] += bytes;
        }
    }

    /// Takes what came. It is never more than what was sent before it.
    fn look(&mut self) {
        let mut answer = [0; 2048];
        while let Ok((bytes, _)) = self.socket.recv_from(&mut answer) {
            self.received[0] += 1;
            self.received[1] += bytes;
        }
        let (sent, received) = (self.sent, self.received);
        let fair = received[0] <= sent[0] && received[1] <= sent[1];
        assert!(fair, "packets and bytes: {received:?} for {sent:?}");
    }
}

/// Sends SYNs with ever new ids from several addresses, until all are sent and `met` is set.
fn flood(to: SocketAddr, met: &AtomicBool) {
    let mut sources: Vec<Source> = (1..=8).map(Source::bind).collect();
    let among = sources.len();
    for number in 0..SYNS {
        let [_, _, high, low] = number.to_be_bytes();
        let mut syn = [0_u8; 20];
        syn[..4].copy_from_slice(&[0x41, 0, high, low]);
        syn[16..18].copy_from_slice(&[1, 1]);
        let source = &mut sources[number as usize % among];
        source.send(&syn, to);
        source.look();
    }
    wait_for("the peers", || met.load(Ordering::Acquire));
    for source in &mut sources {
        source.look();
    }
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
    std::thread::scope(|scope| {
        let flooding = scope.spawn(|| flood(to, &met));
        let peers: Vec<_> = (1..=PEERS).map(|n| dial(backend, n, to)).collect();
        wait_for("all to be counted", || {
            target.stats().connected == u64::from(PEERS)
        });
        met.store(true, Ordering::Release);
        for (flock, _) in peers {
            flock.shutdown(PATIENCE);
        }
        flooding.join().unwrap();
    });
    let counted = target.counters().counters.utp;
    assert!(counted.cookies > 0, "the table never filled: {counted:?}");
    target.shutdown(PATIENCE);
}
