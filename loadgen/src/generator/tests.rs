//! The generator on a simulated network, in virtual time: what it says is compared with what the
//! network was told to do.

use super::*;
use bytes::Bytes;
use flock_engine::io::DriverConfig;
use flock_engine::io::ListenOptions;
use flock_engine::io::sim::{Faults, NodeId, SimDriver, SimWorld};
use std::net::IpAddr;

/// Far beyond the end of every run here.
const LATEST: Instant = Instant::from_nanos(3_600_000_000_000);

/// A target that states a 32-byte id in two pieces and closes when its peer does.
struct Target {
    driver: SimDriver,
    done: Completions,
}

impl Target {
    fn new(mut driver: SimDriver, at: SocketAddr) -> Self {
        let (listener, _) = driver
            .listen(at, &ListenOptions::default(), Token(0))
            .unwrap();
        driver.submit(Op::Accept { listener }).unwrap();
        Self {
            driver,
            done: Completions::new(),
        }
    }

    fn turn(&mut self) {
        let mut done = std::mem::take(&mut self.done);
        self.driver.turn(None, &mut done).unwrap();
        for completion in &done {
            let socket = completion.socket;
            match completion.outcome {
                Outcome::Accepted { socket, .. } => {
                    let mut chunks = Chunks::new();
                    chunks.push(Bytes::from_static(&[32]));
                    chunks.push(Bytes::from_static(&[7; 32]));
                    self.submit(Op::Send { socket, chunks });
                    self.submit(Op::Recv { socket });
                }
                Outcome::Eof | Outcome::RecvEnded(_) => {
                    self.submit(Op::Close {
                        socket,
                        how: CloseHow::Fin,
                    });
                }
                _ => {}
            }
        }
        self.done = done;
    }

    fn submit(&mut self, op: Op) {
        self.driver.submit(op).unwrap();
    }
}

/// What happens to the network between the generator's node and the target's.
type Event = fn(&SimWorld, [NodeId; 2]);

/// A generator's node, a target's, and what happens to the network at some time.
struct Scene {
    world: SimWorld,
    nodes: [NodeId; 2],
    target: Target,
    event: Option<(Instant, Event)>,
}

impl Scene {
    fn new(seed: u64, faults: Faults) -> Self {
        let world = SimWorld::new(seed, faults);
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        let nodes = [world.node(&[ip("10.0.0.1")]), world.node(&[ip("10.0.0.2")])];
        let driver = world.driver(nodes[1], DriverConfig::default());
        let target = Target::new(driver, "10.0.0.2:3282".parse().unwrap());
        Self {
            world,
            nodes,
            target,
            event: None,
        }
    }

    fn run(self, load: Load) -> Stats {
        self.run_with(DriverConfig::default(), load)
    }

    fn run_with(mut self, config: DriverConfig, load: Load) -> Stats {
        let (progress, stop) = (
            Progress::new(std::thread::current()),
            AtomicBool::new(false),
        );
        let driver = self.world.driver(self.nodes[0], config);
        let mine = driver.id();
        let mut generator = Generator::new(driver, load, &progress, &stop).expect("sockets");
        while let Some(next) = self.world.next(LATEST) {
            if let Some((_, event)) = self.event.take_if(|(at, _)| self.world.now() >= *at) {
                event(&self.world, self.nodes);
            }
            if next != mine {
                self.target.turn();
            } else if !generator.turn().unwrap() {
                return generator.end().stats;
            }
        }
        panic!("the run did not end: {:?}", generator.course);
    }
}

fn load(peers: u32, room: usize) -> Load {
    Load {
        targets: vec!["10.0.0.2:3282".parse().unwrap()],
        sources: Sources::Kernel,
        frames: Frames::generate(1, peers),
        peers,
        lane: 0,
        lanes: 1,
        pace: Pace::Closed,
        duration: None,
        room,
        dialling: room,
        lazy_ack: false,
        transport: Transport::Tcp,
        close: CloseHow::Fin,
        hold: None,
        timeouts: Timeouts {
            connect: Duration::from_secs(3),
            handshake: Duration::from_secs(5),
        },
    }
}

/// A network with a round trip of two milliseconds and no surprises.
fn calm() -> Faults {
    Faults {
        latency: Duration::from_millis(1)..=Duration::from_millis(1),
        jitter: Duration::ZERO,
        ..Faults::default()
    }
}

fn check_sums(stats: &Stats) {
    let of = |stage| {
        let errors = stats.errors.iter().filter(|((at, _), _)| *at == stage);
        errors.map(|(_, count)| count).sum::<u64>()
    };
    assert_eq!(
        stats.started,
        stats.closed + stats.failed() + stats.abandoned
    );
    assert_eq!(stats.connected, stats.started - of(Stage::Connect));
    assert_eq!(stats.handshaken, stats.connected - of(Stage::Handshake));
    assert_eq!(stats.connect.count(), stats.connected);
    assert_eq!(stats.handshake.count(), stats.handshaken);
    assert_eq!(stats.ready.count(), stats.handshaken);
    assert_eq!(stats.close.count(), stats.closed);
}

#[test]
fn each_peer_lives_once_however_the_network_cuts_its_frames() {
    for seed in 0..30 {
        let stats = Scene::new(seed, Faults::default()).run(load(60, 8));
        check_sums(&stats);
        assert_eq!(
            (stats.closed, stats.failed(), stats.peak),
            (60, 0, 8),
            "seed {seed}"
        );
        assert_eq!(stats.bytes_in, 60 * 33);
    }
}

#[test]
fn latencies_are_those_of_the_network() {
    let stats = Scene::new(1, calm()).run(load(100, 4));
    let near = |latency: Duration| (1_900..2_600).contains(&latency.as_micros());
    assert!(
        near(stats.connect.quantile(0.5)),
        "{:?}",
        stats.connect.quantile(0.5)
    );
    // The target speaks once it has accepted: its id is one way behind the connect.
    assert!(stats.handshake.quantile(0.5) < Duration::from_millis(3));
    assert_eq!(stats.window_handshaken, 100);
    assert!(stats.handshake_rate() > 500.0, "{}", stats.handshake_rate());
}

#[test]
fn a_hostile_network_loses_no_peer_from_the_counts() {
    let (mut failed, mut closed) = (0, 0);
    for seed in 0..60 {
        let stats = Scene::new(seed, Faults::hostile()).run(load(60, 16));
        check_sums(&stats);
        assert_eq!(stats.started, 60, "seed {seed}");
        (failed, closed) = (failed + stats.failed(), closed + stats.closed);
    }
    assert!(
        failed > 60 && closed > 600,
        "{failed} failed, {closed} closed"
    );
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = || {
        let stats = Scene::new(5, Faults::hostile()).run(load(80, 16));
        (
            stats.errors.clone(),
            stats.ready.max(),
            stats.window,
            stats.bytes_in,
        )
    };
    assert_eq!(run(), run());
}

#[test]
fn unanswered_dials_time_out_on_time() {
    let deaf = Faults {
        blackhole: 1.0,
        ..calm()
    };
    let stats = Scene::new(1, deaf).run(load(20, 20));
    check_sums(&stats);
    assert_eq!(stats.errors[&(Stage::Connect, Failure::Timeout)], 20);
    let window = stats.window.as_secs_f64();
    assert!((3.0..3.3).contains(&window), "{window}");
}

/// For a second nothing passes, a second after the first peer starts.
fn frozen(pace: Pace, room: usize, seconds: f64) -> Stats {
    let mut scene = Scene::new(3, calm());
    scene.event = Some((
        Instant::ZERO + Duration::from_secs(2),
        |world, [one, other]| {
            world.partition(one, other, world.now() + Duration::from_secs(1));
        },
    ));
    scene.run(Load {
        pace,
        duration: Some(Duration::from_secs_f64(seconds)),
        ..load(4_000, room)
    })
}

#[test]
fn an_open_loop_shows_a_freeze_to_every_peer_that_met_it() {
    let rate = "500/s".parse().unwrap();
    let pace = Pace::Open {
        rate,
        lane: 0,
        lanes: 1,
    };
    // With room for all, and with so little that most arrivals cannot even dial: the wait shows.
    for room in [4_000, 10] {
        let stats = frozen(pace, room, 4.0);
        assert_eq!(stats.failed(), 0, "{:?}", stats.errors);
        assert_eq!(stats.started + stats.missed, 2_000);
        for latency in [&stats.connect, &stats.ready] {
            let p90 = latency.quantile(0.9);
            assert!(p90 > Duration::from_millis(500), "room {room}: {p90:?}");
        }
        assert!(stats.ready.quantile(0.5) < Duration::from_millis(50));
        let late = stats.lag.quantile(0.9) > Duration::from_millis(100);
        assert_eq!(late, room == 10, "lag {:?}", stats.lag.quantile(0.9));
    }
    let closed = frozen(Pace::Closed, 10, 4.0);
    assert!(closed.ready.quantile(0.99) < Duration::from_millis(50));
    // Over in the middle of it: most of what was due then never started.
    let stats = frozen(pace, 10, 1.5);
    assert_eq!(stats.started + stats.missed, 750);
    assert!((200..250).contains(&stats.missed), "{}", stats.missed);
}

#[test]
fn held_connections_stay_for_the_whole_hold() {
    let hold = Some(Duration::from_secs(30));
    let stats = Scene::new(1, calm()).run(Load {
        hold,
        dialling: 5,
        ..load(40, 40)
    });
    check_sums(&stats);
    assert_eq!((stats.survived, stats.peak, stats.closed), (40, 40, 40));
}

#[test]
fn connections_lost_during_a_hold_are_failures() {
    let mut scene = Scene::new(1, calm());
    scene.event = Some((
        Instant::ZERO + Duration::from_secs(5),
        |world, [_, target]| {
            world.crash(target);
        },
    ));
    let hold = Some(Duration::from_secs(30));
    let stats = scene.run(Load {
        hold,
        ..load(40, 40)
    });
    check_sums(&stats);
    assert_eq!(
        (stats.handshaken, stats.survived, stats.failed()),
        (40, 0, 40)
    );
    assert!(
        stats.errors.keys().all(|(stage, _)| *stage == Stage::Hold),
        "{:?}",
        stats.errors
    );
}

#[test]
fn a_driver_without_room_fails_peers_and_ends() {
    let config = DriverConfig {
        sockets: 4,
        ..DriverConfig::default()
    };
    let load = Load {
        duration: Some(Duration::from_millis(50)),
        ..load(100, 20)
    };
    let stats = Scene::new(1, calm()).run_with(config, load);
    check_sums(&stats);
    assert!(stats.errors[&(Stage::Connect, Failure::NoRoom)] > 0);
    assert!(stats.closed > 0);
}
