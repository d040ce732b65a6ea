//! What the embedder puts between the network and everything else of a connection.

use super::files::{block_on, meet, read_to_end};
use super::peers::{Ground, PATIENCE, RawPeer, engine, local, next_event, wait_for};
use bytes::{Bytes, BytesMut};
use flock_engine::io::Backend;
use flock_engine::session::{Connector, ConnectorError, ToLocal, ToPeer};
use flock_engine::{
    Bandwidth, Builder, CloseReason, ConnCx, ConnectionInfo, Event, Flock, Handler, JoinOptions,
    SendLimits, SendRefused, ShardCounters,
};
use std::io::{Read, Write};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

super::on_every_ground!(
    bytes_pass_through_both_ends,
    a_connector_on_one_end_alone_meets_nobody,
    a_stream_may_change_its_length_and_speak_at_its_ends,
    a_file_passes_through_and_keeps_to_the_limit,
    a_handler_ends_and_what_the_connector_left_arrives,
    a_connector_that_panics_loses_one_connection,
    what_a_connector_refuses_resets_the_connection,
    a_bomb_goes_no_further,
    a_connector_that_only_looks_on_changes_nothing,
    a_full_queue_refuses_before_the_connector_is_asked,
);
super::on_both_backends!(the_network_sees_what_the_connector_makes);

const LEN: usize = 3_000_000;

fn content() -> Bytes {
    (0..=250_u8).cycle().take(LEN).collect()
}

/// Both directions with every byte changed, by its place.
#[derive(Default)]
struct Mask {
    sent: usize,
    received: usize,
}

fn mask(bytes: &mut [u8], at: &mut usize) {
    for byte in bytes {
        *byte ^= u8::try_from(*at % 251).unwrap() | 1;
        *at += 1;
    }
}

impl Connector for Mask {
    fn outgoing(&mut self, bytes: Bytes, peer: &mut ToPeer<'_>) -> Result<(), ConnectorError> {
        let mut bytes = BytesMut::from(bytes);
        mask(&mut bytes, &mut self.sent);
        peer.put(bytes)
    }

    fn incoming(
        &mut self,
        bytes: &[u8],
        local: &mut ToLocal<'_>,
        _: &mut ToPeer<'_>,
    ) -> Result<(), ConnectorError> {
        mask(local.put(bytes)?, &mut self.received);
        Ok(())
    }
}

fn masked(ground: impl Into<Ground>) -> Builder {
    engine(ground).connector(|_| Mask::default())
}

fn bytes_pass_through_both_ends(ground: Ground) {
    let [(a, here), (b, there)] = meet(masked(ground), masked(ground));
    assert_eq!(here.info().peer_id.as_ref(), Some(b.id()));
    assert_eq!(there.info().peer_id.as_ref(), Some(a.id()));
    let content = content();
    std::thread::scope(|scope| {
        for conn in [&here, &there] {
            let content = content.clone();
            scope.spawn(move || {
                conn.send_timeout(content, PATIENCE).unwrap();
                conn.end();
            });
        }
        for conn in [&here, &there] {
            let content = &content;
            scope.spawn(move || assert!(read_to_end(conn).unwrap() == *content));
        }
    });
    end([a, b]);
}

fn end(flocks: [Flock; 2]) {
    for flock in flocks {
        flock.shutdown(PATIENCE);
    }
}

fn a_connector_on_one_end_alone_meets_nobody(ground: Ground) {
    for (with, without) in [(true, false), (false, true)] {
        let build = |with: bool| match with {
            true => masked(ground),
            false => engine(ground).handshake_timeout(Duration::from_millis(300)),
        };
        let (a, b) = (
            build(with).start().unwrap(),
            build(without).start().unwrap(),
        );
        let addr = local(b.listen(0).unwrap());
        let mut events = a.events().unwrap();
        a.join("c", JoinOptions { announce: false }).unwrap();
        a.add_peer("c", addr).unwrap();
        next_event(&mut events, "connection-closed", |event| {
            matches!(event, Event::ConnectionClosed { .. }).then_some(())
        });
        assert_eq!((a.stats().connected, b.stats().connected), (0, 0));
        end([a, b]);
    }
}

/// What every stream begins with, and ends with.
const HELLO: &[u8] = b"hello";
const BYE: u8 = b'B';
const ESCAPE: u8 = b'\\';
const QUOTED: u8 = b'Q';

/// Bytes between a word at the beginning, answered by the other side, and a mark at the end; what
/// looks like the mark is escaped. Ours wait for the peer's word.
#[derive(Default)]
struct Framed {
    hello: usize,
    escaped: bool,
    over: bool,
    waiting: Vec<Bytes>,
    ended: bool,
}

impl Framed {
    fn send(bytes: &[u8], peer: &mut ToPeer<'_>) -> Result<(), ConnectorError> {
        let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 64);
        for byte in bytes {
            match *byte {
                ESCAPE => out.extend_from_slice(&[ESCAPE, QUOTED]),
                byte => out.push(byte),
            }
        }
        peer.put(out)
    }

    fn end(peer: &mut ToPeer<'_>) -> Result<(), ConnectorError> {
        peer.put(&[ESCAPE, BYE][..])
    }
}

impl Connector for Framed {
    fn start(&mut self, peer: &mut ToPeer<'_>) -> Result<(), ConnectorError> {
        peer.put(HELLO)
    }

    fn outgoing(&mut self, bytes: Bytes, peer: &mut ToPeer<'_>) -> Result<(), ConnectorError> {
        if self.hello == HELLO.len() {
            return Self::send(&bytes, peer);
        }
        self.waiting.push(bytes);
        Ok(())
    }

    fn outgoing_ended(&mut self, peer: &mut ToPeer<'_>) -> Result<(), ConnectorError> {
        assert!(!std::mem::replace(&mut self.ended, true), "told twice");
        Self::end(peer)
    }

    fn incoming(
        &mut self,
        bytes: &[u8],
        local: &mut ToLocal<'_>,
        peer: &mut ToPeer<'_>,
    ) -> Result<(), ConnectorError> {
        let mut plain = Vec::with_capacity(bytes.len());
        for byte in bytes {
            if let Some(expected) = HELLO.get(self.hello) {
                if byte != expected {
                    return Err(ConnectorError::Refused);
                }
                self.hello += 1;
                if self.hello == HELLO.len() {
                    for bytes in self.waiting.drain(..) {
                        Self::send(&bytes, peer)?;
                    }
                }
            } else if self.over {
                return Err(ConnectorError::Refused);
            } else if std::mem::take(&mut self.escaped) {
                match *byte {
                    QUOTED => plain.push(ESCAPE),
                    BYE => self.over = true,
                    _ => return Err(ConnectorError::Refused),
                }
            } else if *byte == ESCAPE {
                self.escaped = true;
            } else {
                plain.push(*byte);
            }
        }
        local.put(&plain).map(|_| ())
    }

    fn incoming_ended(
        &mut self,
        local: &mut ToLocal<'_>,
        _: &mut ToPeer<'_>,
    ) -> Result<(), ConnectorError> {
        if !self.over {
            return Err(ConnectorError::Refused);
        }
        local.put(b"(over)").map(|_| ())
    }
}

fn framed(ground: impl Into<Ground>) -> Builder {
    engine(ground).connector(|_| Framed::default())
}

/// The content, and what the other side's connector adds when it has seen all of it.
fn with_end(content: &[u8]) -> Vec<u8> {
    [content, b"(over)"].concat()
}

fn a_stream_may_change_its_length_and_speak_at_its_ends(ground: Ground) {
    let [(a, here), (b, there)] = meet(framed(ground), framed(ground));
    let content = content();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            here.send_timeout(content.clone(), PATIENCE).unwrap();
            here.end();
        });
        assert!(read_to_end(&there).unwrap() == with_end(&content));
    });
    // The other direction is still open.
    there.send_timeout("back", PATIENCE).unwrap();
    there.end();
    assert_eq!(read_to_end(&here).unwrap(), with_end(b"back"));
    end([a, b]);
}

fn a_file_passes_through_and_keeps_to_the_limit(ground: Ground) {
    const RATE: u64 = 8_000_000;
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&content()).unwrap();
    let slow = framed(ground).bandwidth(Bandwidth::both(RATE));
    let [(a, here), (b, there)] = meet(slow, framed(ground));
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            block_on(here.send_file(Arc::new(file), 0..LEN as u64)).unwrap();
            here.close();
        });
        assert!(read_to_end(&there).unwrap() == with_end(&content()));
    });
    let took = start.elapsed();
    let least = Duration::from_millis((LEN as u64 - 500_000) * 1000 / RATE);
    assert!(took >= least, "{took:?}");
    end([a, b]);
}

/// Says one thing to everybody, and ends.
struct Brief;

impl Handler for Brief {
    type Conn = ();
    type Msg = ();

    fn on_connection(&mut self, cx: &mut ConnCx<'_>, _: &ConnectionInfo) {
        cx.send(Bytes::from_static(b"one thing")).unwrap();
        cx.end();
        assert!(matches!(
            cx.send(Bytes::from_static(b"too late")),
            Err(SendRefused::Closed(_))
        ));
    }

    fn on_data(&mut self, _: &mut ConnCx<'_>, (): &mut (), _: &[u8]) {}
}

fn a_handler_ends_and_what_the_connector_left_arrives(ground: Ground) {
    let brief = framed(ground).start_with(|_| Brief).unwrap();
    let addr = local(brief.listen(0).unwrap());
    let peer = framed(ground).start().unwrap();
    peer.add_peer("c", addr).unwrap();
    let conn = peer.accept_timeout(PATIENCE).unwrap();
    assert_eq!(read_to_end(&conn).unwrap(), with_end(b"one thing"));
    assert_eq!(brief.counters().counters.handler_panics, 0);
    brief.shutdown(PATIENCE);
    peer.shutdown(PATIENCE);
}

/// Passes everything on, and does what the first byte of what came in says.
#[derive(Default)]
struct Odd {
    bytes: Arc<Mutex<Vec<u8>>>,
}

const PANIC: u8 = 1;
const REFUSE: u8 = 2;
const BOMB: u8 = 3;

impl Connector for Odd {
    fn outgoing(&mut self, bytes: Bytes, peer: &mut ToPeer<'_>) -> Result<(), ConnectorError> {
        peer.put(bytes)
    }

    fn incoming(
        &mut self,
        bytes: &[u8],
        local: &mut ToLocal<'_>,
        _: &mut ToPeer<'_>,
    ) -> Result<(), ConnectorError> {
        self.bytes.lock().unwrap().extend_from_slice(bytes);
        match bytes[0] {
            PANIC => panic!("on purpose"),
            REFUSE => Err(ConnectorError::Refused),
            BOMB => loop {
                local.put(&[0; 4096])?;
            },
            _ => local.pass(),
        }
    }
}

/// What ends a connection whose peer sends `byte`, and alone it.
fn odd_byte(ground: Ground, byte: u8, expected: CloseReason) -> ShardCounters {
    let odd = engine(ground).connector(|_| Odd::default());
    let [(a, here), (b, there)] = meet(engine(ground), odd);
    let mut events = b.events().unwrap();
    // A third, which stays.
    let c = engine(ground).start().unwrap();
    let addr = local(b.listen(0).unwrap());
    c.add_peer("c", addr).unwrap();
    let (stays, far) = (
        c.accept_timeout(PATIENCE).unwrap(),
        b.accept_timeout(PATIENCE).unwrap(),
    );
    here.send_timeout(vec![byte], PATIENCE).unwrap();
    let reason = next_event(&mut events, "connection-closed", |event| match event {
        Event::ConnectionClosed { reason, .. } => Some(*reason),
        _ => None,
    });
    assert_eq!(reason, expected);
    assert!(
        there.recv_timeout(PATIENCE).is_err(),
        "nothing of it is delivered"
    );
    assert!(here.recv_timeout(PATIENCE).is_err(), "a reset");
    stays.send_timeout("still here", PATIENCE).unwrap();
    assert_eq!(
        &far.recv_timeout(PATIENCE).unwrap().unwrap()[..],
        b"still here"
    );
    wait_for("the counts", || b.counters().peers.connected == 1);
    let counters = b.counters().counters;
    c.shutdown(PATIENCE);
    end([a, b]);
    counters
}

fn a_connector_that_panics_loses_one_connection(ground: Ground) {
    let counters = odd_byte(ground, PANIC, CloseReason::HandlerPanicked);
    assert_eq!(counters.handler_panics, 1);
}

fn what_a_connector_refuses_resets_the_connection(ground: Ground) {
    let counters = odd_byte(ground, REFUSE, CloseReason::ConnectorRefused);
    assert_eq!(counters.connectors_refused, 1);
}

fn a_bomb_goes_no_further(ground: Ground) {
    let counters = odd_byte(ground, BOMB, CloseReason::ConnectorOverflow);
    assert_eq!(counters.connectors_overflowed, 1);
}

/// It sees the handshake, and the other side need not know of it.
fn a_connector_that_only_looks_on_changes_nothing(ground: Ground) {
    let seen: Arc<Mutex<Vec<u8>>> = Arc::default();
    let bytes = seen.clone();
    let odd = engine(ground).connector(move |_| Odd {
        bytes: bytes.clone(),
    });
    let [(a, here), (b, there)] = meet(odd, engine(ground));
    there.send_timeout("hello", PATIENCE).unwrap();
    there.end();
    assert_eq!(read_to_end(&here).unwrap(), b"hello");
    let expected = [&[32][..], b.id().as_bytes(), b"hello"].concat();
    assert_eq!(*seen.lock().unwrap(), expected);
    end([a, b]);
}

/// Sends to a peer that does not read until it is refused, and tells how often it was taken.
struct Filler(mpsc::Sender<usize>);

const PIECE: usize = 50_000;

impl Handler for Filler {
    type Conn = ();
    type Msg = ();

    fn on_connection(&mut self, cx: &mut ConnCx<'_>, _: &ConnectionInfo) {
        let mut taken = 0;
        while cx.send(Bytes::from(vec![7; PIECE])).is_ok() {
            taken += 1;
        }
        cx.end();
        self.0.send(taken).unwrap();
    }

    fn on_data(&mut self, _: &mut ConnCx<'_>, (): &mut (), _: &[u8]) {}
}

/// Were a piece given to the connector and refused then, the mask would be out of step.
fn a_full_queue_refuses_before_the_connector_is_asked(ground: Ground) {
    const MAX: u32 = 1_000_000;
    let (sender, taken) = mpsc::channel();
    let limits = SendLimits {
        high: 100_000,
        low: 50_000,
        max: MAX,
    };
    let filler = masked(ground).send_limits(limits);
    let filler = filler.start_with(move |_| Filler(sender.clone())).unwrap();
    let addr = local(filler.listen(0).unwrap());
    let peer = masked(ground).start().unwrap();
    peer.add_peer("c", addr).unwrap();
    let conn = peer.accept_timeout(PATIENCE).unwrap();
    let got = read_to_end(&conn).unwrap();
    let taken = taken.recv().unwrap();
    assert!(taken * PIECE <= MAX as usize, "{taken}");
    assert!(got.len() == taken * PIECE && got.iter().all(|byte| *byte == 7));
    filler.shutdown(PATIENCE);
    peer.shutdown(PATIENCE);
}

fn the_network_sees_what_the_connector_makes(backend: Backend) {
    let flock = framed(backend).start().unwrap();
    let mut peer = RawPeer::connect(local(flock.listen(0).unwrap()));
    let mut hello = [0; HELLO.len()];
    peer.stream.read_exact(&mut hello).unwrap();
    assert_eq!(hello, HELLO);
    // Escaped anywhere, cut anywhere: the id has a byte that has to be.
    let mut id = [7; 32];
    id[5] = ESCAPE;
    let mut said = [HELLO, &[32], &id[..5], &[ESCAPE, QUOTED], &id[6..], b"more"].concat();
    said.extend_from_slice(&[ESCAPE, BYE]);
    for byte in &said {
        peer.stream.write_all(&[*byte]).unwrap();
    }
    peer.stream.shutdown(std::net::Shutdown::Write).unwrap();
    let conn = flock.accept_timeout(PATIENCE).unwrap();
    let peer_id = conn.info().peer_id.clone().unwrap();
    assert_eq!(peer_id.as_bytes(), id);
    assert_eq!(read_to_end(&conn).unwrap(), with_end(b"more"));
    let mut events = flock.events().unwrap();
    conn.close();
    let mut rest = Vec::new();
    peer.stream.read_to_end(&mut rest).unwrap();
    assert_eq!(rest[rest.len() - 2..], [ESCAPE, BYE]);
    // Counts are the network's.
    let (bytes_in, bytes_out) = next_event(&mut events, "connection-closed", |event| match event {
        Event::ConnectionClosed {
            bytes_in,
            bytes_out,
            ..
        } => Some((*bytes_in, *bytes_out)),
        _ => None,
    });
    assert_eq!(bytes_in, said.len() as u64);
    assert_eq!(bytes_out, (HELLO.len() + rest.len()) as u64);
    flock.shutdown(PATIENCE);
}
