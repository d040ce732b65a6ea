//! A shard that cannot go on takes the engine down in good order.

use super::peers::{PATIENCE, RawPeer, engine, id, local, next_event, wait_for};
use super::watched::{ENOMEM, GIVEN, Watch, Watched};
use flock_engine::io::{Backend, Clock, DatagramOptions, ListenOptions};
use flock_engine::{Errno, Event, Flock, FlockError, Ignore, JoinOptions, ShardFailure, Step};
use std::time::Duration;

super::on_both_backends!(a_shard_that_panics_ends_the_engine);

fn a_shard_that_panics_ends_the_engine(backend: Backend) {
    let flock = engine(backend).start_with(|shard| {
        assert_ne!(shard, 1, "this shard panics, as the test wants");
        Ignore
    });
    let flock = flock.unwrap();
    wait_for("the end", || {
        matches!(flock.connections(), Err(FlockError::ShutDown))
    });
    assert!(matches!(flock.listen(0), Err(FlockError::ShutDown)));
    let mut events = flock.events().unwrap();
    while events.next_timeout(PATIENCE).is_some() {}
    flock.shutdown(Duration::ZERO);
}

#[test]
fn a_driver_that_fails_ends_the_engine() {
    let clock = Clock::start();
    let watches = [Watch::default(), Watch::default()];
    let drivers = watches.iter().map(|watch| Watched::new(clock, watch));
    let options = Flock::builder().linger(Duration::from_millis(100));
    let (flock, mut shards) = options.assemble(drivers.collect(), |_| Ignore).unwrap();
    let mut events = flock.events().unwrap();
    let options = ListenOptions::default();
    let addr = shards[0]
        .listen("127.0.0.1:0".parse().unwrap(), &options)
        .unwrap();
    let dialling = std::thread::spawn(move || RawPeer::handshake(local(addr), &id(1)));
    wait_for("the peer", || {
        shards
            .iter_mut()
            .for_each(|shard| assert_eq!(shard.step(), Step::Running));
        flock.stats().connected == 1
    });
    let mut peer = dialling.join().unwrap();
    watches[0].broken.set(true);
    let mut running = shards;
    wait_for("both to end", || {
        running.retain_mut(|shard| shard.step() == Step::Running);
        running.is_empty()
    });
    let failed = next_event(&mut events, "shard-failed", |event| match event {
        Event::ShardFailed { shard, reason } => Some((*shard, *reason)),
        _ => None,
    });
    assert_eq!(failed, (0, ShardFailure::Driver(Errno(ENOMEM))));
    next_event(&mut events, "connection-closed", |event| {
        matches!(event, Event::ConnectionClosed { .. }).then_some(())
    });
    peer.read_to_end();
    assert!(matches!(
        flock.join("c", JoinOptions { announce: false }),
        Err(FlockError::ShutDown)
    ));
}

#[test]
fn capped_buffers_are_said_once() {
    let clock = Clock::start();
    let drivers = (0..2).map(|_| Watched::new(clock, &Watch::default()));
    let options = Flock::builder().linger(Duration::ZERO);
    let (flock, mut shards) = options.assemble(drivers.collect(), |_| Ignore).unwrap();
    let mut events = flock.events().unwrap();
    for shard in &mut shards {
        let options = ListenOptions::default();
        shard
            .listen("127.0.0.1:0".parse().unwrap(), &options)
            .unwrap();
        assert_eq!(shard.step(), Step::Running);
    }
    let wanted = DatagramOptions::default().recv_buffer;
    let capped = Event::BuffersCapped {
        wanted,
        got: GIVEN,
        sysctl: "net.core.rmem_max",
    };
    assert_eq!(events.next_timeout(PATIENCE), Some(capped));
    assert_eq!(events.try_next(), None, "once for both shards");
}
