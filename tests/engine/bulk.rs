//! Much to send waits for its turn, so that little does not wait for it.

use super::peers::{RawPeer, id, local, wait_for};
use super::watched::{Watch, Watched};
use bytes::Bytes;
use flock_engine::io::{Clock, ListenOptions};
use flock_engine::{ConnCx, ConnectionInfo, Flock, Handler, ShardCx};
use std::io::Read;

const PEERS: u8 = 32;
/// Bytes for each.
const EACH: usize = 1 << 20;
/// What a turn may give the driver of such streams, and one operation more.
const TURN: usize = (2 << 20) + (256 << 10);

/// Sends to everybody when told to.
struct Seeder;

impl Handler for Seeder {
    type Conn = ();
    type Msg = ();

    fn on_connection(&mut self, _: &mut ConnCx<'_>, _: &ConnectionInfo) {}

    fn on_data(&mut self, _: &mut ConnCx<'_>, (): &mut (), _: &[u8]) {}

    fn on_message(&mut self, cx: &mut ShardCx<'_>, (): ()) {
        let sent = cx.broadcast(&Bytes::from(vec![7; EACH]));
        assert_eq!(sent, usize::from(PEERS));
    }
}

#[test]
fn a_turn_sends_a_part_of_what_waits_and_all_get_theirs() {
    let watch = Watch::default();
    let driver = Watched::new(Clock::start(), &watch);
    let options = Flock::builder().utp(false);
    let (flock, mut shards) = options.assemble(vec![driver], |_| Seeder).unwrap();
    let addr = shards[0]
        .listen("127.0.0.1:0".parse().unwrap(), &ListenOptions::default())
        .unwrap();
    let peers: Vec<_> = (1..=PEERS)
        .map(|n| {
            std::thread::spawn(move || {
                let mut peer = RawPeer::handshake(local(addr), &id(n));
                peer.stream.read_exact(&mut vec![0; EACH]).unwrap();
                peer
            })
        })
        .collect();
    wait_for("everybody", || {
        shards[0].step();
        flock.stats().connected == u64::from(PEERS)
    });
    watch.most.set(0);
    flock.send_message(0, ()).unwrap();
    wait_for("all bytes", || {
        shards[0].step();
        peers.iter().all(std::thread::JoinHandle::is_finished)
    });
    let most = watch.most.get();
    assert!((1 << 20..=TURN).contains(&most), "{most} in a turn");
    for peer in peers {
        peer.join().unwrap();
    }
}
