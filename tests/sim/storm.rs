//! An engine that is killed and starts again at the same port, and five thousand peers that want
//! back, on the timers of the original. Without a spread they come in the same millisecond, and one
//! that is refused before its handshake never comes again.

use bytes::Bytes;
use flock_engine::io::sim::{Faults, NodeId, SimDriver, SimWorld};
use flock_engine::io::{
    Completion, Completions, ConnectOptions, Driver, DriverConfig, Op, Outcome, SocketId, Token,
};
use flock_engine::{
    ConnCx, ConnectionInfo, Flock, Handler, IdChoice, Instant, ListenOptions, PeerId, Shard,
};
use flock_tests::world::{Actor, Cast, Ended};
use flock_transport::CloseHow;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::any::Any;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

const PEERS: usize = 5_000;
const ENGINE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const CROWD: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 1));
const AT: SocketAddr = SocketAddr::new(ENGINE, 7000);

/// Length and id, as either side says them.
const FRAME: usize = 33;
const CONNECT: Duration = Duration::from_secs(3);
const HANDSHAKE: Duration = Duration::from_secs(5);
const RETRIES: [u64; 4] = [1, 1, 5, 15];

/// Connections that nobody says anything on.
struct Quiet;

impl Handler for Quiet {
    type Conn = ();
    type Msg = ();

    fn on_connection(&mut self, _: &mut ConnCx<'_>, _: &ConnectionInfo) {}
    fn on_data(&mut self, _: &mut ConnCx<'_>, (): &mut (), _: &[u8]) {}
}

struct Engine(Shard<SimDriver, Quiet>);

impl Actor for Engine {
    fn driver(&self) -> usize {
        self.0.driver().id()
    }

    fn step(&mut self) -> bool {
        self.0.step() == flock_engine::Step::Running
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// What a peer of the crowd is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Until its next attempt.
    Waiting,
    Dialling(SocketId),
    /// So many bytes of the engine's id have come.
    Greeting(SocketId, usize),
    Connected(SocketId),
    /// It has gone through its retries.
    Dropped,
    /// Its handshake failed, after which the original does not try again.
    Lost,
}

struct One {
    at: At,
    retries: usize,
    /// Names the deadline in force; others are stale.
    deadline: Option<Instant>,
}

/// Peers that behave as the original does, all on one driver.
struct Crowd {
    driver: SimDriver,
    rng: SmallRng,
    /// How far a wait may be from what the table says, as a share of it.
    spread: f64,
    peers: Vec<One>,
    deadlines: BTreeSet<(Instant, usize)>,
    out: Completions,
}

impl Crowd {
    /// Their first dials come within `begin`.
    fn new(driver: SimDriver, now: Instant, begin: Duration, spread: f64, seed: u64) -> Self {
        let mut crowd = Self {
            driver,
            rng: SmallRng::seed_from_u64(seed),
            spread,
            peers: Vec::new(),
            deadlines: BTreeSet::new(),
            out: Vec::new(),
        };
        for peer in 0..PEERS {
            crowd.peers.push(One {
                at: At::Waiting,
                retries: 0,
                deadline: None,
            });
            let wait = begin.mul_f64(crowd.rng.random());
            crowd.arm(peer, Some(now + wait));
        }
        crowd
    }

    fn count(&self, wanted: impl Fn(At) -> bool) -> usize {
        self.peers.iter().filter(|peer| wanted(peer.at)).count()
    }

    fn connected(&self) -> usize {
        self.count(|at| matches!(at, At::Connected(_)))
    }

    fn arm(&mut self, peer: usize, at: Option<Instant>) {
        if let Some(old) = std::mem::replace(&mut self.peers[peer].deadline, at) {
            self.deadlines.remove(&(old, peer));
        }
        self.deadlines.extend(at.map(|at| (at, peer)));
    }

    fn requeue(&mut self, now: Instant, peer: usize) {
        let Some(&wait) = RETRIES.get(self.peers[peer].retries) else {
            self.peers[peer].at = At::Dropped;
            return self.arm(peer, None);
        };
        self.peers[peer].retries += 1;
        self.peers[peer].at = At::Waiting;
        let share = 1.0 + self.spread * (2.0 * self.rng.random::<f64>() - 1.0);
        self.arm(peer, Some(now + Duration::from_secs(wait).mul_f64(share)));
    }

    fn expired(&mut self, now: Instant, peer: usize) {
        match self.peers[peer].at {
            At::Waiting => {
                let (options, token) = (ConnectOptions::default(), Token(peer as u64));
                let connect = Op::Connect {
                    to: AT,
                    options,
                    token,
                };
                let dialled = self.driver.submit(connect).expect("sockets enough");
                self.peers[peer].at = At::Dialling(dialled.socket);
                self.arm(peer, Some(now + CONNECT));
            }
            At::Dialling(socket) | At::Greeting(socket, _) => self.close(socket),
            At::Connected(_) | At::Dropped | At::Lost => {}
        }
    }

    fn close(&mut self, socket: SocketId) {
        let how = CloseHow::Rst;
        // One that is closing already says so.
        let _ = self.driver.submit(Op::Close { socket, how });
    }

    fn complete(&mut self, now: Instant, completion: &Completion) {
        let peer = usize::try_from(completion.token.0).expect("a peer's number");
        match (&completion.outcome, self.peers[peer].at) {
            (Outcome::Connected, At::Dialling(socket)) => {
                let mut frame = vec![0; FRAME];
                frame[0] = 32;
                frame[1] = 0x80;
                frame[2..10].copy_from_slice(&completion.token.0.to_be_bytes());
                let chunks = [Bytes::from(frame)].into_iter().collect();
                self.driver
                    .submit(Op::Send { socket, chunks })
                    .expect("connected");
                self.driver.submit(Op::Recv { socket }).expect("connected");
                self.peers[peer].at = At::Greeting(socket, 0);
                self.arm(peer, Some(now + HANDSHAKE));
            }
            (Outcome::ConnectFailed(_), _) => self.requeue(now, peer),
            (Outcome::Data(loan), At::Greeting(socket, greeted)) => {
                let greeted = greeted + self.driver.bytes(*loan).len();
                self.peers[peer].at = At::Greeting(socket, greeted);
                if greeted == FRAME {
                    self.peers[peer].at = At::Connected(socket);
                    self.peers[peer].retries = 0;
                    self.arm(peer, None);
                }
            }
            (
                Outcome::Eof | Outcome::RecvEnded(_) | Outcome::SendFailed(_),
                At::Greeting(socket, _) | At::Connected(socket),
            ) => self.close(socket),
            (Outcome::Closed, At::Connected(_) | At::Dialling(_)) => self.requeue(now, peer),
            (Outcome::Closed, At::Greeting(..)) => {
                self.peers[peer].at = At::Lost;
                self.arm(peer, None);
            }
            _ => {}
        }
    }
}

impl Actor for Crowd {
    fn driver(&self) -> usize {
        self.driver.id()
    }

    fn step(&mut self) -> bool {
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        let mut out = std::mem::take(&mut self.out);
        let turned = self.driver.turn(deadline, &mut out);
        let now = turned.expect("simulated turns do not fail");
        for completion in out.drain(..) {
            self.complete(now, &completion);
        }
        self.out = out;
        while let Some(&(at, peer)) = self.deadlines.first()
            && at <= now
        {
            self.arm(peer, None);
            self.expired(now, peer);
        }
        true
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn config() -> DriverConfig {
    DriverConfig {
        sockets: 16_384,
        ..DriverConfig::default()
    }
}

/// A listening engine of one shard; the handle keeps it running.
fn engine(world: &SimWorld, node: NodeId, seed: u64) -> (Flock<()>, Engine) {
    let options = Flock::builder()
        .seed(seed)
        .utp(false)
        .id(IdChoice::Fixed(PeerId::new(&[0; 32]).expect("32 bytes")));
    let drivers = vec![world.driver(node, config())];
    let (flock, mut shards) = options
        .assemble(drivers, |_| Quiet)
        .expect("the options make sense");
    let mut shard = shards.pop().expect("one driver, one shard");
    shard
        .listen(AT, &ListenOptions::default())
        .expect("the port is free");
    (flock, Engine(shard))
}

/// Runs until so many peers are connected, at most `patience`; the time it took.
fn until(cast: &mut Cast, world: &SimWorld, peers: usize, patience: Duration) -> Duration {
    let begun = world.now();
    let connected = |cast: &Cast| cast.of::<Crowd>().map(Crowd::connected).sum::<usize>();
    while connected(cast) < peers && world.now() - begun < patience {
        let limit = world.now() + Duration::from_millis(10);
        assert_ne!(cast.run(limit, || {}), Ended::Spinning);
    }
    let crowd = cast.of::<Crowd>().next().expect("it plays");
    let (dropped, lost) = (
        crowd.count(|at| at == At::Dropped),
        crowd.count(|at| at == At::Lost),
    );
    let now = crowd.connected();
    assert!(
        now >= peers,
        "{now} of {peers} after {patience:?}; {dropped} dropped, {lost} lost"
    );
    world.now() - begun
}

/// Seconds from the engine's return to 99 % of the peers and to all of them, after it was away
/// for `away`.
fn storm(seed: u64, away: Duration, spread: f64) -> (f64, f64) {
    let world = SimWorld::new(seed, Faults::default());
    let (node, crowd) = (world.node(&[ENGINE]), world.node(&[CROWD]));
    let mut cast = Cast::new(world.clone());
    let (first, shard) = engine(&world, node, seed);
    let killed = shard.driver();
    cast.add(shard);
    let begin = Duration::from_secs(5);
    let driver = world.driver(crowd, config());
    cast.add(Crowd::new(driver, world.now(), begin, spread, seed));
    until(&mut cast, &world, PEERS, Duration::from_secs(30));
    // As a process ends that is killed: its system resets what it had.
    world.crash(node);
    cast.remove(killed);
    drop(first);
    cast.run(world.now() + away, || {});
    let (second, shard) = engine(&world, node, seed + 1);
    cast.add(shard);
    let most = until(&mut cast, &world, PEERS * 99 / 100, Duration::from_secs(30));
    let all = most + until(&mut cast, &world, PEERS, Duration::from_secs(30));
    // Nor does any of them leave again.
    cast.run(world.now() + Duration::from_secs(20), || {});
    until(&mut cast, &world, PEERS, Duration::ZERO);
    assert_eq!(second.stats().connected, PEERS as u64);
    assert_eq!(
        second.counters().counters.swarm.claims_granted,
        PEERS as u64
    );
    (most.as_secs_f64(), all.as_secs_f64())
}

#[test]
fn after_a_restart_five_thousand_peers_are_back_at_their_next_retry() {
    // Their attempts come 1, 2, 7 and 22 s after the end.
    for (away, next) in [(0.5, 1.0), (3.0, 7.0), (10.0, 22.0)] {
        for spread in [0.0, 0.1] {
            let (most, all) = storm(7, Duration::from_secs_f64(away), spread);
            println!(
                "away {away} s, spread {spread}: 99 % after {most:.2} s, all after {all:.2} s"
            );
            let latest = next * (1.0 + spread) - away + 0.5;
            assert!(
                all <= latest,
                "{away} s away: all after {all} s, not {latest}"
            );
        }
    }
}
