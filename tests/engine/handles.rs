//! The connection level: waiting, backlog, ends.

use super::peers::{PATIENCE, RawPeer, engine, id, local, wait_for};
use bytes::Bytes;
use flock_engine::io::Backend;
use flock_engine::{CloseReason, Connection, Flock, SendLimits};
use std::future::Future;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::pin::pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

super::on_both_backends!(
    nothing_is_sent_after_the_end,
    an_unhurried_peer_gets_everything_after_close,
    a_busy_engine_does_not_keep_a_sender_beyond_its_time,
    every_waiting_task_is_woken,
    the_backlog_is_bounded,
    a_peer_that_half_closed_is_still_accepted,
    the_longest_timeout_is_one,
    a_failed_listen_leaves_what_was,
);

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        thread::park();
    }
}

/// An engine, a raw peer, and the connection between them.
fn pair(flock: &Flock, byte: u8) -> (RawPeer, Connection) {
    let addr = local(flock.listening()[0]);
    let peer = RawPeer::handshake(addr, &id(byte));
    (peer, flock.accept_timeout(PATIENCE).unwrap())
}

fn every_waiting_task_is_woken(backend: Backend) {
    let flock = engine(backend).start().unwrap();
    let addr = local(flock.listen(0).unwrap());
    let (tell, told) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..3 {
            let (flock, tell) = (flock.clone(), tell.clone());
            scope.spawn(move || tell.send(block_on(flock.accept())).unwrap());
        }
        let _peers: Vec<_> = (1..=3).map(|n| RawPeer::handshake(addr, &id(n))).collect();
        for _ in 0..3 {
            assert!(told.recv_timeout(PATIENCE).unwrap().is_some());
        }
    });
    let (mut peer, connection) = pair(&flock, 9);
    let (tell, told) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..3 {
            let (connection, tell) = (&connection, tell.clone());
            scope.spawn(move || tell.send(block_on(connection.recv())).unwrap());
        }
        peer.stream.write_all(b"one").unwrap();
        assert!(matches!(told.recv_timeout(PATIENCE).unwrap(), Ok(Some(_))));
        peer.stream.shutdown(Shutdown::Write).unwrap();
        for _ in 0..2 {
            assert!(matches!(told.recv_timeout(PATIENCE).unwrap(), Ok(None)));
        }
    });
}

fn the_backlog_is_bounded(backend: Backend) {
    let flock = engine(backend).accept_backlog(2).start().unwrap();
    let addr = local(flock.listen(0).unwrap());
    let _first = RawPeer::handshake(addr, &id(1));
    wait_for("the first", || flock.stats().connected == 1);
    let second = RawPeer::handshake(addr, &id(2));
    wait_for("the second", || flock.stats().connected == 2);
    let mut third = RawPeer::handshake(addr, &id(3));
    third.read_to_end();
    assert_eq!(flock.accepts_missed(), 1, "nobody had left");
    // One whose peer has gone makes room.
    second.stream.shutdown(Shutdown::Both).unwrap();
    drop(second);
    let gone = std::iter::repeat_with(|| RawPeer::handshake(addr, &id(4)));
    for (tries, mut fourth) in gone.enumerate() {
        assert!(tries < 10_000, "the peer that left never makes room");
        fourth.stream.set_nonblocking(true).unwrap();
        wait_for("a verdict", || {
            let open = fourth
                .stream
                .read(&mut [0])
                .is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock);
            !open
                || flock
                    .connections()
                    .unwrap()
                    .iter()
                    .any(|c| c.peer_id == Some(id(4)))
        });
        if flock
            .connections()
            .unwrap()
            .iter()
            .any(|c| c.peer_id == Some(id(4)))
        {
            break;
        }
    }
    let accepted: Vec<_> = (0..2)
        .map(|_| flock.accept_timeout(PATIENCE).unwrap())
        .collect();
    let ids: Vec<_> = accepted.iter().map(|c| c.info().peer_id.clone()).collect();
    assert_eq!(ids, [Some(id(1)), Some(id(4))]);
}

fn a_peer_that_half_closed_is_still_accepted(backend: Backend) {
    let flock = engine(backend).start().unwrap();
    let addr = local(flock.listen(0).unwrap());
    let mut peer = RawPeer::handshake(addr, &id(1));
    peer.stream.write_all(b"question").unwrap();
    peer.stream.shutdown(Shutdown::Write).unwrap();
    wait_for("admission", || flock.stats().connected == 1);
    let connection = flock.accept_timeout(PATIENCE).unwrap();
    let mut question = Vec::new();
    while let Some(data) = connection.recv_timeout(PATIENCE).unwrap() {
        question.extend_from_slice(&data);
    }
    assert_eq!(question, b"question");
    connection.send_timeout(&b"answer"[..], PATIENCE).unwrap();
    connection.close();
    assert_eq!(peer.read_to_end(), b"answer");
}

fn nothing_is_sent_after_the_end(backend: Backend) {
    let flock = engine(backend).start().unwrap();
    flock.listen(0).unwrap();
    let (_peer, ended) = pair(&flock, 1);
    let (_other, closed) = pair(&flock, 2);
    ended.end();
    closed.close();
    for connection in [ended, closed] {
        let refused = connection.send_timeout(&b"late"[..], PATIENCE).unwrap_err();
        assert_eq!(refused.unsent, &b"late"[..]);
        assert_eq!(refused.reason, Some(CloseReason::Local));
    }
}

fn the_longest_timeout_is_one(backend: Backend) {
    let flock = engine(backend).start().unwrap();
    let addr = local(flock.listen(0).unwrap());
    let mut peer = RawPeer::handshake(addr, &id(1));
    let connection = flock.accept_timeout(Duration::MAX).unwrap();
    peer.stream.write_all(b"x").unwrap();
    assert!(connection.recv_timeout(Duration::MAX).unwrap().is_some());
    connection.send_timeout(&b"y"[..], Duration::MAX).unwrap();
    peer.stream.read_exact(&mut [0]).unwrap();
}

fn an_unhurried_peer_gets_everything_after_close(backend: Backend) {
    // As much as the linger many times over, and much more than the kernel buffers.
    const BYTES: usize = 24 << 20;
    let limits = SendLimits {
        high: 32 << 20,
        low: 1 << 20,
        max: 64 << 20,
    };
    let flock = engine(backend)
        .linger(Duration::from_millis(300))
        .send_limits(limits);
    let flock = flock.start().unwrap();
    flock.listen(0).unwrap();
    let (mut peer, connection) = pair(&flock, 1);
    connection
        .send_timeout(Bytes::from(vec![7; BYTES]), PATIENCE)
        .unwrap();
    connection.close();
    let began = std::time::Instant::now();
    let (mut got, mut block) = (0, vec![0; 64 * 1024]);
    while let Ok(len @ 1..) = peer.stream.read(&mut block) {
        got += len;
        // Some twenty megabytes a second, in steps: slow, but never idle.
        wait_for("the pace", || {
            began.elapsed() > Duration::from_micros((got / 20) as u64)
        });
    }
    assert_eq!(got, BYTES);
    assert!(
        began.elapsed() > Duration::from_millis(600),
        "slower than the linger"
    );
}

fn a_busy_engine_does_not_keep_a_sender_beyond_its_time(backend: Backend) {
    let flock = engine(backend).start().unwrap();
    flock.listen(0).unwrap();
    let (_never_reads, connection) = pair(&flock, 1);
    let began = std::time::Instant::now();
    let much = Bytes::from(vec![0; 64 << 20]);
    let refused = connection
        .send_timeout(much, Duration::from_millis(200))
        .unwrap_err();
    assert_eq!(refused.reason, None);
    assert!(!refused.unsent.is_empty() && began.elapsed() < PATIENCE / 2);
}

fn a_failed_listen_leaves_what_was(backend: Backend) {
    let flock = engine(backend).start().unwrap();
    let addr = local(flock.listen(0).unwrap());
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let before = flock.listening();
    flock.listen_at(other.local_addr().unwrap()).unwrap_err();
    assert_eq!(flock.listening(), before);
    let _peers: Vec<_> = (1..=8).map(|n| RawPeer::handshake(addr, &id(n))).collect();
    wait_for("all of them", || flock.stats().connected == 8);
}
