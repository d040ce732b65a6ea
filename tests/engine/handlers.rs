//! What handlers may ask of the engine they run in, and what asks beside them.

use super::peers::{Ground, PATIENCE, RawPeer, engine, id, local, next_event, wait_for};
use bytes::Bytes;
use flock_engine::io::Backend;
use flock_engine::{
    ConnCx, ConnectionInfo, Event, Flock, FlockError, Handler, JoinOptions, ShardCx,
};
use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Barrier, OnceLock, mpsc};

super::on_every_ground!(joining_at_once_listens_once);
super::on_both_backends!(
    a_handler_may_ask_while_somebody_listens,
    a_connection_is_over_when_both_directions_are,
    unread_events_are_bounded,
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
