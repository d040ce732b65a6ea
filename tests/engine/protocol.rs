//! A handshake of the embedder's own in place of the exchange of ids.

use super::peers::{Ground, PATIENCE, RawPeer, engine, id, local, next_event, wait_for};
use flock_engine::io::Backend;
use flock_engine::session::{Progress, Protocol};
use flock_engine::{
    CloseReason, ConnectionInfo, Event, Flock, HandshakeError, JoinOptions, PeerId,
};
use std::io::{Read, Write};

super::on_every_ground!(
    a_protocol_of_the_embedders_own_replaces_the_exchange_of_ids,
    a_protocol_may_depend_on_the_channel,
);
super::on_both_backends!(
    a_protocol_is_fed_what_comes_however_it_is_cut,
    a_protocol_that_panics_loses_one_connection,
);

/// Three messages: who dialled states the word of its channel and its id, the other side its own
/// id, and a last byte ends it.
struct ThreeWay {
    word: u8,
    id: PeerId,
    initiator: bool,
    got: Vec<u8>,
}

/// The word that is accepted.
const RIGHT: u8 = b'c';

const PANIC: u8 = b'!';

impl ThreeWay {
    fn of(info: &ConnectionInfo, own: u8) -> Self {
        let channel = info.channel.as_ref();
        Self {
            word: channel.map_or(0, |channel| channel.as_bytes()[0]),
            id: id(own),
            initiator: info.initiator,
            got: Vec::new(),
        }
    }

    /// One more byte; the peer's id with the last.
    fn take(&mut self, byte: u8, out: &mut Vec<u8>) -> Result<Option<PeerId>, HandshakeError> {
        self.got.push(byte);
        match (self.got.len(), self.initiator) {
            (1, false) if byte == PANIC => panic!("on purpose"),
            (1, false) if byte != RIGHT => Err(HandshakeError::Refused),
            (33, true) => {
                out.push(b'3');
                Ok(PeerId::new(&self.got[1..]))
            }
            (33, false) => {
                out.push(b'2');
                out.extend_from_slice(self.id.as_bytes());
                Ok(None)
            }
            (34, false) => Ok(PeerId::new(&self.got[1..33])),
            _ => Ok(None),
        }
    }
}

impl Protocol for ThreeWay {
    fn start(&mut self, out: &mut Vec<u8>) {
        if self.initiator {
            out.push(self.word);
            out.extend_from_slice(self.id.as_bytes());
        }
    }

    fn handshake(&mut self, input: &[u8], out: &mut Vec<u8>) -> Progress {
        for (at, byte) in input.iter().enumerate() {
            match self.take(*byte, out) {
                Ok(None) => {}
                Ok(Some(peer_id)) => {
                    let consumed = at + 1;
                    return Progress::Done { peer_id, consumed };
                }
                Err(error) => return Progress::Reject(error),
            }
        }
        Progress::More
    }
}

fn speaker(ground: impl Into<Ground>, own: u8) -> Flock {
    let flock = engine(ground).protocol(move |info| ThreeWay::of(info, own));
    flock.start().unwrap()
}

fn a_protocol_of_the_embedders_own_replaces_the_exchange_of_ids(ground: Ground) {
    let (dials, listens) = (speaker(ground, 1), speaker(ground, 2));
    let addr = local(listens.listen(0).unwrap());
    dials.join("c", JoinOptions::default()).unwrap();
    dials.add_peer("c", addr).unwrap();
    let near = dials.accept_timeout(PATIENCE).unwrap();
    let far = listens.accept_timeout(PATIENCE).unwrap();
    assert_eq!(near.info().peer_id, Some(id(2)));
    assert_eq!(far.info().peer_id, Some(id(1)));
    near.send_timeout("ping", PATIENCE).unwrap();
    assert_eq!(&far.recv_timeout(PATIENCE).unwrap().unwrap()[..], b"ping");
    far.send_timeout("pong", PATIENCE).unwrap();
    assert_eq!(&near.recv_timeout(PATIENCE).unwrap().unwrap()[..], b"pong");
    for flock in [dials, listens] {
        flock.shutdown(PATIENCE);
    }
}

/// The word of the wrong channel is refused, and that is a failed attempt like any other.
fn a_protocol_may_depend_on_the_channel(ground: Ground) {
    let (dials, listens) = (speaker(ground, 1), speaker(ground, 2));
    let addr = local(listens.listen(0).unwrap());
    let mut events = listens.events().unwrap();
    dials.join("other", JoinOptions::default()).unwrap();
    dials.add_peer("other", addr).unwrap();
    next_event(&mut events, "connection-closed", |event| {
        let refused = CloseReason::Handshake(HandshakeError::Refused);
        matches!(event, Event::ConnectionClosed { reason, .. } if *reason == refused).then_some(())
    });
    assert_eq!(listens.stats().connected, 0);
    for flock in [dials, listens] {
        flock.shutdown(PATIENCE);
    }
}

fn a_protocol_is_fed_what_comes_however_it_is_cut(backend: Backend) {
    let flock = speaker(backend, 2);
    let addr = local(flock.listen(0).unwrap());
    let mut peer = RawPeer::connect(addr);
    peer.stream.write_all(&[RIGHT]).unwrap();
    peer.stream.write_all(&[7; 31]).unwrap();
    peer.stream.write_all(&[7]).unwrap();
    let mut answer = [0; 33];
    peer.stream.read_exact(&mut answer).unwrap();
    assert_eq!((answer[0], &answer[1..]), (b'2', id(2).as_bytes()));
    // What follows in the same segment is the application's.
    peer.stream.write_all(b"3and more").unwrap();
    let conn = flock.accept_timeout(PATIENCE).unwrap();
    assert_eq!(conn.info().peer_id, Some(id(7)));
    assert_eq!(
        &conn.recv_timeout(PATIENCE).unwrap().unwrap()[..],
        b"and more"
    );
    flock.shutdown(PATIENCE);
}

fn a_protocol_that_panics_loses_one_connection(backend: Backend) {
    let flock = speaker(backend, 2);
    let addr = local(flock.listen(0).unwrap());
    let mut events = flock.events().unwrap();
    let mut broken = RawPeer::connect(addr);
    broken.stream.write_all(&[PANIC]).unwrap();
    next_event(&mut events, "connection-closed", |event| {
        let panicked = CloseReason::HandlerPanicked;
        matches!(event, Event::ConnectionClosed { reason, .. } if *reason == panicked).then_some(())
    });
    wait_for("the count", || {
        flock.counters().counters.handler_panics == 1
    });
    let other = speaker(backend, 1);
    other.join("c", JoinOptions::default()).unwrap();
    other.add_peer("c", addr).unwrap();
    wait_for("another", || flock.stats().connected == 1);
    for flock in [flock, other] {
        flock.shutdown(PATIENCE);
    }
}
