//! Much to send waits for its turn, so that little does not wait for it.

use super::peers::{RawPeer, id, local, wait_for};
use super::watched::{Watch, Watched};
use bytes::Bytes;
use flock_engine::io::{Clock, ListenOptions};
use flock_engine::{ConnCx, ConnId, ConnectionInfo, Flock, Handler, ShardCx};
use std::io::Read;

const MUCH: usize = 1 << 20;
const LITTLE: usize = 48 << 10;
/// Bytes that a turn gives the driver of streams with much to send.
const TURN: usize = 2 << 20;
/// Bytes of an operation at the most.
const OPERATION: usize = 256 << 10;

/// How much each gets, by when it came.
type Shares = fn(usize) -> usize;

/// Sends to everybody when told to.
#[derive(Default)]
struct Seeder {
    peers: Vec<ConnId>,
}

impl Handler for Seeder {
    type Conn = ();
    type Msg = Shares;

    fn on_connection(&mut self, cx: &mut ConnCx<'_>, _: &ConnectionInfo) {
        self.peers.push(cx.id());
    }

    fn on_data(&mut self, _: &mut ConnCx<'_>, (): &mut (), _: &[u8]) {}

    fn on_message(&mut self, cx: &mut ShardCx<'_>, shares: Shares) {
        for (number, peer) in self.peers.iter().enumerate() {
            cx.send(*peer, Bytes::from(vec![7; shares(number)]))
                .unwrap();
        }
    }
}

/// Bytes that the fullest turn gave the driver when so many peers got their shares, which all got.
fn most_in_a_turn(peers: u8, shares: Shares) -> usize {
    let watch = Watch::default();
    let driver = Watched::new(Clock::start(), &watch);
    let options = Flock::builder().utp(false);
    let (flock, mut shards) = options
        .assemble(vec![driver], |_| Seeder::default())
        .unwrap();
    let addr = shards[0]
        .listen("127.0.0.1:0".parse().unwrap(), &ListenOptions::default())
        .unwrap();
    let readers: Vec<_> = (0..peers)
        .map(|number| {
            let reading = std::thread::spawn(move || {
                let mut peer = RawPeer::handshake(local(addr), &id(number + 1));
                let mut share = vec![0; shares(number.into())];
                peer.stream.read_exact(&mut share).unwrap();
                peer
            });
            wait_for("the peer", || {
                shards[0].step();
                flock.stats().connected == u64::from(number) + 1
            });
            reading
        })
        .collect();
    watch.most.set(0);
    flock.send_message(0, shares).unwrap();
    wait_for("all bytes", || {
        shards[0].step();
        readers.iter().all(std::thread::JoinHandle::is_finished)
    });
    for reader in readers {
        reader.join().unwrap();
    }
    watch.most.get()
}

#[test]
fn a_turn_sends_a_part_of_what_waits_and_all_get_theirs() {
    let most = most_in_a_turn(32, |_| MUCH);
    assert!((TURN / 2..=TURN + OPERATION).contains(&most), "{most}");
}

#[test]
fn little_to_send_does_not_take_the_turns_of_much() {
    let most = most_in_a_turn(64, |number| if number == 0 { MUCH } else { LITTLE });
    assert_eq!(most, 63 * LITTLE + OPERATION);
}
