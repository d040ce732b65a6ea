//! What an engine holds for a hundred thousand candidates that wait to be dialled.

use super::config;
use super::counter::live;
use flock_engine::io::{Clock, PollDriver};
use flock_engine::{
    Assembled, Events, Flock, FlockError, Ignore, JoinOptions, Shard, SwarmCounters,
};
use std::net::SocketAddr;

const COUNT: u32 = 100_000;
/// Dials at a time, of each shard.
const DIALS: u32 = 2;
/// Bytes for a candidate, its channel included if that is its own.
const ALLOWED: i64 = 200;

/// An engine whose shards this thread steps, so that it answers for all they hold.
struct Engine {
    flock: Flock<()>,
    shards: Vec<Shard<PollDriver, Ignore>>,
    events: Events,
}

impl Engine {
    fn new(shards: usize) -> Self {
        let driver = |_| PollDriver::new(&config(), Clock::start()).expect("epoll");
        let (flock, shards): Assembled<PollDriver, Ignore> = Flock::builder()
            .seed(1)
            .utp(false)
            .dials(DIALS)
            .assemble((0..shards).map(driver).collect(), |_| Ignore)
            .expect("the options make sense");
        let events = flock.events().expect("nobody else listens");
        Self {
            flock,
            shards,
            events,
        }
    }

    fn step(&mut self) {
        for (number, shard) in self.shards.iter_mut().enumerate() {
            // With mail it does not sleep.
            self.flock.send_message(number, ()).expect("it runs");
            shard.step();
        }
        while self.events.try_next().is_some() {}
        let counters = self.flock.counters();
        assert!(counters.peers.connecting <= u64::from(DIALS) * self.shards.len() as u64);
    }

    /// Until the engine takes it.
    fn insist(&mut self, mut ask: impl FnMut(&Flock<()>) -> Result<(), FlockError>) {
        while let Err(error) = ask(&self.flock) {
            assert!(matches!(error, FlockError::Busy), "{error}");
            self.step();
        }
    }

    fn add(&mut self, channel: &str, addr: SocketAddr) {
        let options = JoinOptions { announce: false };
        self.insist(|flock| flock.join(channel, options).map(|_| ()));
        self.insist(|flock| flock.add_peer(channel, addr));
    }

    fn decided(&mut self) -> SwarmCounters {
        (0..20).for_each(|_| self.step());
        self.flock.counters().counters.swarm
    }
}

/// Where nobody listens: a dial fails at once.
fn addr(number: u32) -> SocketAddr {
    SocketAddr::from(((0x7f01_0000 + number).to_be_bytes(), 1))
}

/// A channel of its own, with a name as long as an infohash.
fn own(number: u32) -> String {
    format!("channel {number:012}")
}

/// Finds a candidate for a channel a hundred thousand times; what engines of 1 and of 8 shards hold
/// for each. Each is asked `judge` then.
fn find(find: impl Fn(u32) -> (String, SocketAddr), judge: impl Fn(&mut Engine)) {
    for shards in [1, 8] {
        let mut engine = Engine::new(shards);
        engine.step();
        let before = live();
        for number in 0..COUNT {
            let (channel, addr) = find(number);
            engine.add(&channel, addr);
            if number % 64 == 0 {
                engine.step();
            }
        }
        engine.decided();
        let each = (live() - before) / i64::from(COUNT);
        assert!(each <= ALLOWED, "{each} bytes at {shards} shards");
        judge(&mut engine);
    }
}

/// All were taken in, once, and some dialled.
fn taken_once(engine: &mut Engine, channel: impl Fn(u32) -> String) {
    let before = engine.decided();
    assert_eq!(before.candidates_added, COUNT.into());
    assert_eq!(before.candidates_duplicate, 0);
    assert!(before.dials_tcp > 1_000, "{before:?}");
    for number in (0..COUNT).step_by(100) {
        engine.add(&channel(number), addr(number));
    }
    let after = engine.decided();
    assert_eq!(after.candidates_added, COUNT.into());
    assert_eq!(after.candidates_duplicate, u64::from(COUNT / 100));
}

#[test]
fn a_hundred_thousand_candidates_of_one_channel() {
    let all = |_| "all".to_owned();
    find(
        |number| (all(number), addr(number)),
        |engine| taken_once(engine, all),
    );
}

#[test]
fn a_hundred_thousand_channels_of_a_candidate_each() {
    find(
        |number| (own(number), addr(number)),
        |engine| taken_once(engine, own),
    );
}

#[test]
fn a_hundred_thousand_channels_of_the_same_candidate() {
    find(
        |number| (own(number), addr(1)),
        |engine| {
            let decided = engine.decided();
            assert_eq!(decided.candidates_added, 1);
            // It remembers 256 names, and is one candidate to dial.
            assert_eq!(decided.channels_refused, u64::from(COUNT) - 256);
            assert!((1..=5).contains(&decided.dials_tcp), "{decided:?}");
        },
    );
}
