//! What handlers may ask of the engine they run in, and what asks beside them.

use super::peers::{Ground, PATIENCE, RawPeer, engine, id, local, next_event, wait_for};
use bytes::Bytes;
use flock_engine::io::Backend;
use flock_engine::{
    CloseReason, ConnCx, ConnId, ConnectionInfo, Event, Flock, FlockError, Handler, Ignore,
    JoinOptions, SendLimits, ShardCx,
};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Barrier, OnceLock, mpsc};
use std::time::Duration;

super::on_every_ground!(joining_at_once_listens_once);
super::on_both_backends!(
    a_handler_may_ask_while_somebody_listens,
    a_connection_is_over_when_both_directions_are,
    unread_events_are_bounded,
    a_timer_that_was_cleared_does_not_fire,
    a_message_reaches_all_connections_of_a_shard,
    who_is_sent_more_than_fits_is_given_up,
    nothing_starts_while_events_are_unread,
    a_shutdown_waits_no_longer_than_it_may,
);

/// Asks for the listeners once another shard listens at the address it is told.
struct Curious {
    flock: Arc<OnceLock<Flock<SocketAddr>>>,
    answer: mpsc::Sender<(Vec<SocketAddr>, bool)>,
}

impl Handler for Curious {
    type Conn = ();
    type Msg = SocketAddr;

    fn on_connection(&mut self, _: &mut ConnCx<'_>, _: &ConnectionInfo) {}

    fn on_data(&mut self, _: &mut ConnCx<'_>, (): &mut (), _: &[u8]) {}

    fn on_message(&mut self, _: &mut ShardCx<'_>, addr: SocketAddr) {
        wait_for("a listener", || TcpStream::connect(addr).is_ok());
        let flock = self.flock.get().unwrap();
        let refused = matches!(flock.listen(0), Err(FlockError::OnShard));
        self.answer.send((flock.listening(), refused)).unwrap();
    }
}

/// The one who listens waits for all shards: none of them may wait for it.
fn a_handler_may_ask_while_somebody_listens(backend: Backend) {
    let (answer, answers) = mpsc::channel();
    let shared = Arc::new(OnceLock::new());
    let for_handlers = shared.clone();
    let flock = engine(backend)
        .start_with(move |_| Curious {
            flock: for_handlers.clone(),
            answer: answer.clone(),
        })
        .unwrap();
    assert!(shared.set(flock.clone()).is_ok());
    let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    let addr = addr.unwrap();
    // Shards are asked in order: the first listens while the second is in its handler.
    flock.send_message(1, addr).unwrap();
    let (done, listened) = mpsc::channel();
    let listening = flock.clone();
    std::thread::spawn(move || done.send(listening.listen_at(addr)));
    let (seen, refused) = answers.recv_timeout(PATIENCE).expect("an answer");
    assert!(seen.is_empty() && refused);
    let bound = listened.recv_timeout(PATIENCE).expect("an address");
    assert_eq!(bound.unwrap(), addr);
    assert_eq!(flock.listening(), [addr]);
    flock.shutdown(PATIENCE);
}

fn joining_at_once_listens_once(ground: Ground) {
    for _ in 0..20 {
        let flock = engine(ground).start().unwrap();
        let all = Barrier::new(4);
        std::thread::scope(|scope| {
            for channel in ["a", "b", "c", "d"] {
                let (flock, all) = (&flock, &all);
                scope.spawn(move || {
                    all.wait();
                    flock.join(channel, JoinOptions::default()).unwrap()
                });
            }
        });
        assert_eq!(flock.listening().len(), 1);
        flock.shutdown(PATIENCE);
    }
}

/// Ends its own direction where the peer has, and never closes.
struct EndsToo;

impl Handler for EndsToo {
    type Conn = ();
    type Msg = ();

    fn on_connection(&mut self, _: &mut ConnCx<'_>, _: &ConnectionInfo) {}

    fn on_data(&mut self, cx: &mut ConnCx<'_>, (): &mut (), data: &[u8]) {
        cx.send(Bytes::copy_from_slice(data)).unwrap();
    }

    fn on_end(&mut self, cx: &mut ConnCx<'_>, (): &mut ()) {
        cx.end();
    }
}

fn a_connection_is_over_when_both_directions_are(backend: Backend) {
    let flock = engine(backend).start_with(|_| EndsToo).unwrap();
    let mut peer = RawPeer::handshake(local(flock.listen(0).unwrap()), &id(1));
    peer.stream.write_all(b"last words").unwrap();
    peer.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(peer.read_to_end(), b"last words");
    wait_for("the end", || flock.stats().connected == 0);
    assert_eq!(flock.counters().counters.peer_ends, 1);
    flock.shutdown(PATIENCE);
}

/// Who does not read what happens is not told of more, and says of it what it has to say.
fn unread_events_are_bounded(backend: Backend) {
    const LIMIT: usize = 1_000;
    let flock = engine(backend).events_limit(LIMIT).start().unwrap();
    let mut events = flock.events().unwrap();
    flock.join("c", JoinOptions { announce: false }).unwrap();
    let add = || flock.add_peer("c", "127.0.0.9:9".parse().unwrap());
    let refused = (0..50 * LIMIT).any(|_| {
        let busy = matches!(add(), Err(FlockError::Busy));
        // Not only for the moment: after all that was asked for has been done.
        flock.connections().unwrap();
        busy && matches!(add(), Err(FlockError::Busy))
    });
    assert!(refused, "{} events are unread", events.unread());
    assert!(events.unread() < 2 * LIMIT);
    while events.try_next().is_some() {}
    add().unwrap();
    next_event(&mut events, "peer-rejected", |event| {
        matches!(event, Event::PeerRejected { .. }).then_some(())
    });
    flock.shutdown(PATIENCE);
}

/// Two connections of one shard, and a timer of each for the same moment.
struct Racing {
    conns: Vec<ConnId>,
    fired: mpsc::Sender<ConnId>,
}

const SOON: Duration = Duration::from_millis(20);

impl Handler for Racing {
    type Conn = bool;
    type Msg = ();

    fn on_connection(&mut self, cx: &mut ConnCx<'_>, _: &ConnectionInfo) -> bool {
        // The later one counts.
        cx.set_timer(Duration::ZERO);
        cx.set_timer(Duration::MAX);
        self.conns.push(cx.id());
        if let [_, _] = self.conns[..] {
            for conn in &self.conns {
                cx.shard().conn(*conn).unwrap().set_timer(SOON);
            }
        }
        false
    }

    fn on_data(&mut self, _: &mut ConnCx<'_>, _: &mut bool, _: &[u8]) {}

    fn on_timer(&mut self, cx: &mut ConnCx<'_>, fired: &mut bool) {
        self.fired.send(cx.id()).unwrap();
        if !std::mem::replace(fired, true) {
            let other = self.conns.iter().find(|conn| **conn != cx.id()).unwrap();
            cx.shard().conn(*other).unwrap().clear_timer();
            cx.set_timer(SOON);
        }
    }
}

fn a_timer_that_was_cleared_does_not_fire(backend: Backend) {
    let (fired, timers) = mpsc::channel();
    let flock = engine(backend)
        .shards(1)
        .start_with(move |_| Racing {
            conns: Vec::new(),
            fired: fired.clone(),
        })
        .unwrap();
    let addr = local(flock.listen(0).unwrap());
    let _peers = [1, 2].map(|n| RawPeer::handshake(addr, &id(n)));
    let first = timers.recv_timeout(PATIENCE).unwrap();
    assert_eq!(timers.recv_timeout(PATIENCE), Ok(first), "the other's");
    flock.shutdown(PATIENCE);
    assert!(timers.try_recv().is_err(), "no more than twice");
}

/// Sends what it is told to everybody, and then to the last one alone.
#[derive(Default)]
struct Crier {
    last: Option<ConnId>,
}

impl Handler for Crier {
    type Conn = ();
    type Msg = mpsc::Sender<usize>;

    fn on_connection(&mut self, cx: &mut ConnCx<'_>, _: &ConnectionInfo) {
        self.last = Some(cx.id());
    }

    fn on_data(&mut self, _: &mut ConnCx<'_>, (): &mut (), _: &[u8]) {}

    fn on_message(&mut self, cx: &mut ShardCx<'_>, reached: mpsc::Sender<usize>) {
        reached
            .send(cx.broadcast(&Bytes::from_static(b"all")))
            .unwrap();
        cx.send(self.last.unwrap(), Bytes::from_static(b" and you"))
            .unwrap();
        assert_ne!(cx.shard(), 0, "this panic is part of the test");
    }
}

fn a_message_reaches_all_connections_of_a_shard(backend: Backend) {
    let flock = engine(backend)
        .shards(1)
        .start_with(|_| Crier::default())
        .unwrap();
    let addr = local(flock.listen(0).unwrap());
    let mut peers = [1, 2, 3].map(|n| {
        let peer = RawPeer::handshake(addr, &id(n));
        wait_for("a peer", || flock.stats().connected == u64::from(n));
        peer
    });
    let (reached, counts) = mpsc::channel();
    flock.send_message(0, reached).unwrap();
    assert_eq!(counts.recv_timeout(PATIENCE), Ok(3));
    wait_for("the panic", || {
        flock.counters().counters.handler_panics == 1
    });
    assert_eq!(flock.stats().connected, 3, "nobody pays for it");
    for conn in flock.connections().unwrap() {
        flock.disconnect(conn.conn).unwrap();
    }
    let heard = peers.each_mut().map(RawPeer::read_to_end);
    assert_eq!(heard, [&b"all"[..], b"all", b"all and you"]);
    flock.shutdown(PATIENCE);
}

fn who_is_sent_more_than_fits_is_given_up(backend: Backend) {
    let limits = SendLimits {
        high: 1_000,
        low: 100,
        max: 2_000,
    };
    let flock = engine(backend)
        .send_limits(limits)
        .start_with(|_| Ignore)
        .unwrap();
    let mut events = flock.events().unwrap();
    let _never_reads = RawPeer::handshake(local(flock.listen(0).unwrap()), &id(1));
    let conn = next_event(&mut events, "connection", |event| match event {
        Event::Connection(info) => Some(info.conn),
        _ => None,
    });
    // The first is taken whatever its size, and is more than the kernel takes.
    for _ in 0..2 {
        flock.send_to(conn, vec![0; 64 << 20]).unwrap();
    }
    let reason = next_event(&mut events, "connection-closed", |event| match event {
        Event::ConnectionClosed { reason, .. } => Some(*reason),
        _ => None,
    });
    assert_eq!(reason, CloseReason::SendQueueFull);
    wait_for("the count", || {
        flock.counters().counters.sends_overflowed == 1
    });
    flock.shutdown(PATIENCE);
}

fn nothing_starts_while_events_are_unread(backend: Backend) {
    let flock = engine(backend)
        .shards(1)
        .events_limit(1)
        .start_with(|_| Ignore)
        .unwrap();
    let addr = local(flock.listen(0).unwrap());
    let mut events = flock.events().unwrap();
    let somebody: SocketAddr = "127.0.0.9:9".parse().unwrap();
    flock.ban(somebody, None).unwrap();
    let some_turns = || {
        for _ in 0..10 {
            flock.connections().unwrap();
        }
    };
    some_turns();
    let mut peer = TcpStream::connect(addr).unwrap();
    some_turns();
    assert_eq!((events.unread(), flock.stats().connecting), (1, 0));
    next_event(&mut events, "peer-banned", |event| {
        matches!(event, Event::PeerBanned { .. }).then_some(())
    });
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(peer.read(&mut [0; 64]).unwrap(), 33, "the engine's id");
    flock.shutdown(Duration::ZERO);
}

fn a_shutdown_waits_no_longer_than_it_may(backend: Backend) {
    let flock = engine(backend)
        .linger(Duration::from_secs(600))
        .start_with(|_| Ignore)
        .unwrap();
    let _never_ends = RawPeer::handshake(local(flock.listen(0).unwrap()), &id(1));
    wait_for("the peer", || flock.stats().connected == 1);
    let (done, ended) = mpsc::channel();
    std::thread::spawn(move || {
        flock.begin_shutdown(Duration::from_secs(600));
        // Who has lost patience.
        flock.shutdown(Duration::from_millis(50));
        done.send(()).unwrap();
    });
    ended.recv_timeout(PATIENCE).expect("the end");
}
