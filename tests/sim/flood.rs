//! Peers that open one connection after the other, and close none of them.

use bytes::Bytes;
use flock_engine::io::DriverConfig;
use flock_engine::io::sim::{Faults, SimWorld};
use flock_engine::{Flock, IdChoice, ListenOptions, PeerId};
use flock_tests::world::{
    Behaviour, Cast, Checker, Echo, EngineShard, Feed, Limits, Peer, Plan, seeds,
};
use std::cell::OnceCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

const ENGINE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 1));
const AT: SocketAddr = SocketAddr::new(ENGINE, 7000);

/// Unfinished handshakes at a time, and as many refused connections that linger.
const HALF_OPEN: u32 = 5;

/// The most sockets an engine had while somebody opened `flood` connections to it, and how many
/// it reset.
fn most_sockets(seed: u64, flood: u32) -> (usize, u64) {
    let world = SimWorld::new(seed, Faults::default());
    let node = world.node(&[ENGINE]);
    let options = Flock::builder()
        .seed(seed)
        .half_open(HALF_OPEN)
        .id(IdChoice::Fixed(PeerId::new(&[0; 32]).expect("32 bytes")));
    let feed_cell = Rc::new(OnceCell::new());
    let handler = |_| Echo::new(feed_cell.clone());
    let drivers = vec![world.driver(node, DriverConfig::default())];
    let (flock, mut shards) = options.assemble(drivers, handler).expect("good options");
    let events = flock.events().expect("nobody else listens");
    let limits = Limits {
        half_open: HALF_OPEN as usize,
        ..Limits::default()
    };
    let feed = Feed::new(events, Checker::new(limits));
    assert!(feed_cell.set(feed.clone()).is_ok());
    let mut cast = Cast::new(world.clone());
    let mut shard = shards.pop().expect("one driver, one shard");
    shard
        .listen(AT, &ListenOptions::default())
        .expect("the port is free");
    cast.add(EngineShard::new(shard, feed.clone()));
    // One id, so that all but one connection are redundant; they come one after the other, and
    // none is ever closed in answer to our end.
    let node = world.node(&[PEER]);
    for nth in 0..flood {
        let plan = Plan {
            id: Bytes::from_static(&[1; 32]),
            behaviour: Behaviour::Deaf {
                payload: 1,
                stay: Duration::from_secs(60),
            },
            dials: Some(AT),
            at_a_time: 1,
            again: 0,
            begins: Duration::from_millis((10 * nth).into()),
            listens: None,
        };
        let driver = world.driver(node, DriverConfig::default());
        let (now, seed) = (world.now(), seed + u64::from(nth));
        cast.add(Peer::new(driver, now, plan, &[0; 32], seed));
    }
    let mut most = 0;
    for _ in 0..3_000 {
        let limit = world.now() + Duration::from_millis(1);
        cast.run(limit, || {});
        let shards = cast.of::<EngineShard>();
        most = most.max(shards.map(|shard| shard.sim().sockets()).sum());
    }
    feed.check(|checker| {
        assert!(checker.violations().is_empty(), "seed {seed}: {checker:?}");
        assert_eq!(checker.admissions(), 1, "seed {seed}: they share an id");
    });
    (most, flock.counters().counters.endings_reset)
}

#[test]
fn refused_connections_do_not_pile_up() {
    for seed in seeds(20) {
        let (most, reset) = most_sockets(seed, 200);
        // The listener, the one that was admitted, handshakes, what lingers; and some that are
        // just being closed.
        let bound = 2 + 4 * HALF_OPEN as usize;
        assert!(most <= bound, "seed {seed}: {most} sockets, not {bound}");
        assert!(reset > 0, "seed {seed}: the limit was never met");
    }
}

#[test]
fn a_few_refused_connections_are_left_time_to_end() {
    for seed in seeds(20) {
        let (most, reset) = most_sockets(seed, HALF_OPEN);
        assert!(most <= 2 + HALF_OPEN as usize, "seed {seed}: {most}");
        assert_eq!(reset, 0, "seed {seed}");
    }
}
