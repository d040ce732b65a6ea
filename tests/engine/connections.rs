//! Connecting, exchanging bytes, ending.

use super::peers::{Ground, PATIENCE, RawPeer, engine, id, local, next_event, wait_for};
use bytes::Bytes;
use flock_engine::io::Backend;
use flock_engine::{
    CloseReason, ConnCx, ConnectionInfo, Event, Handler, IdChoice, JoinOptions, Transport,
};
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

super::on_every_ground!(
    two_engines_meet_and_echo,
    events_come_in_the_order_of_the_seed,
    a_taken_port_is_refused,
);
super::on_both_backends!(
    a_split_handshake_with_bytes_behind_it,
    half_close_delivers_what_follows,
    a_slow_reader_holds_the_sender_back,
    a_panicking_handler_loses_one_connection,
    shutdown_says_goodbye,
    shutdown_does_not_wait_long_for_who_has_everything,
);

fn two_engines_meet_and_echo(ground: Ground) {
    let (a, b) = (
        engine(ground).start().unwrap(),
        engine(ground).start().unwrap(),
    );
    let addr = local(a.listen(0).unwrap());
    b.join("chat", JoinOptions { announce: false }).unwrap();
    b.add_peer("chat", addr).unwrap();
    let (inbound, outbound) = (
        a.accept_timeout(PATIENCE).unwrap(),
        b.accept_timeout(PATIENCE).unwrap(),
    );
    assert_eq!(inbound.info().peer_id.as_ref(), Some(b.id()));
    assert_eq!(outbound.info().peer_id.as_ref(), Some(a.id()));
    assert!(outbound.info().initiator && !inbound.info().initiator);
    let blob = Bytes::from(
        (0..3_000_000u32)
            .map(|i| i.to_le_bytes()[0])
            .collect::<Vec<u8>>(),
    );
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while let Some(data) = inbound.recv_timeout(PATIENCE).unwrap() {
                inbound.send_timeout(data, PATIENCE).unwrap();
            }
            inbound.end();
        });
        scope.spawn(|| {
            outbound.send_timeout(blob.clone(), PATIENCE).unwrap();
            outbound.end();
        });
        let mut back = Vec::new();
        while let Some(data) = outbound.recv_timeout(PATIENCE).unwrap() {
            back.extend_from_slice(&data);
        }
        assert!(
            back == blob,
            "{} bytes came back of {}",
            back.len(),
            blob.len()
        );
    });
    drop((inbound, outbound));
    wait_for("both to be empty", || {
        a.stats().connected == 0 && b.stats().connected == 0
    });
    a.shutdown(PATIENCE);
    b.shutdown(PATIENCE);
}

fn events_come_in_the_order_of_the_seed(ground: Ground) {
    let (a, b) = (
        // It waits for the other's end for longer than that waits for somebody to accept.
        engine(ground).linger(PATIENCE).start().unwrap(),
        engine(ground).start().unwrap(),
    );
    let addr = local(a.listen(0).unwrap());
    let mut events = b.events().unwrap();
    b.join("chat", JoinOptions { announce: false }).unwrap();
    b.add_peer("chat", addr).unwrap();
    let mut names = Vec::new();
    next_event(&mut events, "connection", |event| {
        names.push(event.name());
        matches!(event, Event::Connection(_)).then_some(())
    });
    assert_eq!(names, ["peer", "connecting", "handshaking", "connection"]);
    a.shutdown(PATIENCE);
    let reason = next_event(&mut events, "connection-closed", |event| match event {
        Event::ConnectionClosed { reason, .. } => Some(*reason),
        _ => None,
    });
    assert_eq!(reason, CloseReason::PeerClosed);
    b.shutdown(PATIENCE);
}

fn a_split_handshake_with_bytes_behind_it(backend: Backend) {
    let flock = engine(backend).start().unwrap();
    let addr = local(flock.listen(0).unwrap());
    let mut peer = RawPeer::connect(addr);
    assert_eq!(&peer.read_id(), flock.id());
    let mut frame = vec![32];
    frame.extend_from_slice(&[7; 32]);
    frame.extend_from_slice(b"and then");
    for byte in &frame[..20] {
        peer.stream.write_all(&[*byte]).unwrap();
    }
    peer.stream.write_all(&frame[20..]).unwrap();
    let conn = flock.accept_timeout(PATIENCE).unwrap();
    assert_eq!(conn.info().peer_id, Some(id(7)));
    assert_eq!(
        &conn.recv_timeout(PATIENCE).unwrap().unwrap()[..],
        b"and then"
    );
    flock.shutdown(PATIENCE);
}

fn half_close_delivers_what_follows(backend: Backend) {
    let flock = engine(backend).start().unwrap();
    let mut peer = RawPeer::handshake(local(flock.listen(0).unwrap()), &id(7));
    let conn = flock.accept_timeout(PATIENCE).unwrap();
    peer.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(conn.recv_timeout(PATIENCE).unwrap(), None);
    conn.send_timeout(Bytes::from_static(b"still here"), PATIENCE)
        .unwrap();
    drop(conn);
    assert_eq!(peer.read_to_end(), b"still here");
    wait_for("no connection", || flock.stats().connected == 0);
    flock.shutdown(PATIENCE);
}

fn a_slow_reader_holds_the_sender_back(backend: Backend) {
    let flock = engine(backend).start().unwrap();
    let mut peer = RawPeer::handshake(local(flock.listen(0).unwrap()), &id(7));
    let conn = flock.accept_timeout(PATIENCE).unwrap();
    // Far more than sockets and queues hold: the send must not complete by itself.
    let blob = Bytes::from(vec![5; 64 << 20]);
    let refused = conn
        .send_timeout(blob.clone(), Duration::from_millis(300))
        .unwrap_err();
    assert!(refused.reason.is_none() && refused.unsent.len() > 16 << 20);
    let rest = refused.unsent;
    let reader = std::thread::spawn(move || {
        let mut total = 0;
        let mut buffer = vec![0; 1 << 20];
        loop {
            match peer.stream.read(&mut buffer).unwrap() {
                0 => return total,
                n => total += n,
            }
        }
    });
    conn.send_timeout(rest, PATIENCE).unwrap();
    drop(conn);
    assert_eq!(reader.join().unwrap(), blob.len());
    flock.shutdown(PATIENCE);
}

struct Touchy(Arc<AtomicU64>);

impl Handler for Touchy {
    type Conn = ();
    type Msg = ();

    fn on_connection(&mut self, _: &mut ConnCx<'_>, _: &ConnectionInfo) {}

    fn on_data(&mut self, cx: &mut ConnCx<'_>, (): &mut (), data: &[u8]) {
        assert_ne!(data, b"boom", "this panic is part of the test");
        cx.send(Bytes::copy_from_slice(data)).unwrap();
    }

    fn on_closed(
        &mut self,
        _: &mut flock_engine::ShardCx<'_>,
        _: flock_engine::ConnId,
        (): (),
        reason: CloseReason,
    ) {
        if reason == CloseReason::HandlerPanicked {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn a_panicking_handler_loses_one_connection(backend: Backend) {
    let panics = Arc::new(AtomicU64::new(0));
    let seen = panics.clone();
    let flock = engine(backend)
        .shards(1)
        .start_with(move |_| Touchy(seen.clone()))
        .unwrap();
    let addr = local(flock.listen(0).unwrap());
    let (mut victim, mut other) = (
        RawPeer::handshake(addr, &id(1)),
        RawPeer::handshake(addr, &id(2)),
    );
    victim.stream.write_all(b"boom").unwrap();
    victim.read_to_end();
    other.stream.write_all(b"fine").unwrap();
    let mut echo = [0; 4];
    other.stream.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"fine");
    wait_for("the panic to be counted", || {
        flock.counters().counters.handler_panics == 1
    });
    assert_eq!(panics.load(Ordering::Relaxed), 1);
    flock.shutdown(PATIENCE);
}

fn shutdown_says_goodbye(backend: Backend) {
    let flock = engine(backend).id(IdChoice::Random).start().unwrap();
    let addr = local(flock.listen(0).unwrap());
    let mut peer = RawPeer::handshake(addr, &id(1));
    wait_for("the peer", || flock.stats().connected == 1);
    let closer = std::thread::spawn(move || flock.shutdown(PATIENCE));
    assert_eq!(peer.read_to_end(), b"");
    drop(peer);
    closer.join().unwrap();
    assert!(std::net::TcpStream::connect(addr).is_err());
}

/// The peer has read everything, the end included, and does not end its direction.
fn shutdown_does_not_wait_long_for_who_has_everything(backend: Backend) {
    let transport = Transport::Utp;
    let ground = Ground { backend, transport };
    let start = || engine(ground).linger(PATIENCE).start().unwrap();
    let (a, b) = (start(), start());
    b.add_peer("chat", local(a.listen(0).unwrap())).unwrap();
    let near = a.accept_timeout(PATIENCE).unwrap();
    let far = b.accept_timeout(PATIENCE).unwrap();
    near.send_timeout("last words", PATIENCE).unwrap();
    let begun = Instant::now();
    a.begin_shutdown(PATIENCE);
    assert_eq!(
        &far.recv_timeout(PATIENCE).unwrap().unwrap()[..],
        b"last words"
    );
    assert_eq!(far.recv_timeout(PATIENCE).unwrap(), None);
    a.shutdown(PATIENCE);
    let took = begun.elapsed();
    assert!(took < PATIENCE / 2, "{took:?}");
    wait_for("it is told", || far.is_closed());
    b.shutdown(PATIENCE);
}

fn a_taken_port_is_refused(ground: Ground) {
    let first = engine(ground).start().unwrap();
    let port = first.listen(0).unwrap().port();
    let second = engine(ground).start().unwrap();
    let error = second.listen(port).unwrap_err();
    assert!(
        matches!(
            &error,
            flock_engine::FlockError::Io(error) if error.kind() == std::io::ErrorKind::AddrInUse
        ),
        "{error}"
    );
    first.shutdown(PATIENCE);
    second.shutdown(PATIENCE);
}
