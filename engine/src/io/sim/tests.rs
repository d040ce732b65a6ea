use super::*;
use crate::io::{
    Completion, Completions, ConnectOptions, Driver, LoanId, Op, Outcome, SocketId, Token,
};
use flock_tcp::ListenOptions;
use flock_transport::{Chunks, CloseHow, Errno};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

const SERVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));
const PORT: u16 = 7000;

fn at(ip: IpAddr) -> SocketAddr {
    SocketAddr::new(ip, PORT)
}

fn chunks(bytes: &[u8]) -> Chunks {
    [bytes::Bytes::copy_from_slice(bytes)].into_iter().collect()
}

fn far(world: &SimWorld) -> Instant {
    world.now() + Duration::from_secs(600)
}

/// Serves every connection by sending back what comes, and closing at its end.
struct Echo {
    driver: SimDriver,
    out: Completions,
    backlog: Vec<(SocketId, Vec<u8>, bool)>,
}

impl Echo {
    fn start(mut driver: SimDriver) -> Self {
        let options = ListenOptions::default();
        let (listener, _) = driver.listen(at(SERVER), &options, Token(1)).unwrap();
        driver.submit(Op::Accept { listener }).unwrap();
        Self {
            driver,
            out: Vec::new(),
            backlog: Vec::new(),
        }
    }

    fn step(&mut self) {
        self.driver.turn(None, &mut self.out).unwrap();
        for completion in std::mem::take(&mut self.out) {
            self.dispatch(completion);
        }
    }

    fn dispatch(
        &mut self,
        Completion {
            socket, outcome, ..
        }: Completion,
    ) {
        let position = self.backlog.iter().position(|(id, ..)| *id == socket);
        match (outcome, position) {
            (Outcome::Accepted { socket, .. }, _) => {
                self.backlog.push((socket, Vec::new(), false));
                self.driver.submit(Op::Recv { socket }).unwrap();
            }
            // Closed by an earlier completion of the same turn.
            (_, None) => {}
            (Outcome::Data(loan), Some(index)) => {
                let data = self.driver.bytes(loan);
                let entry = &mut self.backlog[index];
                entry.1.extend_from_slice(data);
                if !entry.2 {
                    self.send(index);
                }
            }
            (Outcome::Sent { .. }, Some(index)) => {
                self.backlog[index].2 = false;
                self.send(index);
            }
            (_, Some(index)) => {
                self.backlog.remove(index);
                let how = CloseHow::Fin;
                self.driver.submit(Op::Close { socket, how }).unwrap();
            }
        }
    }

    fn send(&mut self, index: usize) {
        let (socket, bytes, sending) = &mut self.backlog[index];
        if !bytes.is_empty() {
            let (socket, chunks) = (*socket, chunks(&std::mem::take(bytes)));
            *sending = true;
            self.driver.submit(Op::Send { socket, chunks }).unwrap();
        }
    }
}

/// What one dial of [`run`] came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Dialled {
    echoed: Vec<u8>,
    failed: Option<Errno>,
    ended: u32,
}

fn payload(len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| u8::try_from(i * 7 % 251).unwrap())
        .collect()
}

/// Ten clients send to an echo server, wait for all of it and close.
fn run(seed: u64, faults: Faults, len: usize) -> (SimWorld, Vec<Dialled>) {
    let world = SimWorld::new(seed, faults);
    world.keep_log(64);
    let (server, client) = (world.node(&[SERVER]), world.node(&[CLIENT]));
    let mut echo = Echo::start(world.driver(server, DriverConfig::default()));
    let mut dialler = world.driver(client, DriverConfig::default());
    let mut dials: Vec<Dialled> = (0..10).map(|_| Dialled::default()).collect();
    for token in 0..dials.len() as u64 {
        let (to, options) = (at(SERVER), ConnectOptions::default());
        let token = Token(token);
        let connect = Op::Connect { to, options, token };
        dialler.submit(connect).unwrap();
    }
    let (limit, mut out) = (far(&world), Vec::new());
    while let Some(id) = world.next(limit) {
        if id == echo.driver.id() {
            echo.step();
            continue;
        }
        dialler.turn(None, &mut out).unwrap();
        for Completion {
            token,
            socket,
            outcome,
        } in std::mem::take(&mut out)
        {
            let dial = &mut dials[usize::try_from(token.0).unwrap()];
            let done = match outcome {
                Outcome::Connected => {
                    dialler.submit(Op::Recv { socket }).unwrap();
                    let chunks = chunks(&payload(len));
                    dialler.submit(Op::Send { socket, chunks }).unwrap();
                    false
                }
                Outcome::Data(loan) => {
                    dial.echoed.extend_from_slice(dialler.bytes(loan));
                    dial.echoed.len() == len
                }
                Outcome::ConnectFailed(errno) => {
                    dial.failed = Some(errno);
                    dial.ended += 1;
                    false
                }
                Outcome::RecvEnded(errno) | Outcome::SendFailed(errno) => {
                    dial.failed = Some(errno);
                    true
                }
                Outcome::Eof => true,
                Outcome::Closed => {
                    dial.ended += 1;
                    false
                }
                _ => false,
            };
            if done {
                let how = CloseHow::Fin;
                dialler.submit(Op::Close { socket, how }).unwrap();
            }
        }
    }
    assert_eq!(dialler.sockets(), 0, "seed {seed}: {:#?}", world.log());
    assert_eq!(echo.driver.sockets(), 1, "seed {seed}: {:#?}", world.log());
    (world, dials)
}

#[test]
fn bytes_arrive_whole_and_in_order() {
    for seed in 0..100 {
        let faults = Faults {
            send_buffer: 700,
            receive_buffer: 500,
            segment: 1..=300,
            ..Faults::default()
        };
        let (world, dials) = run(seed, faults, 5_000);
        for dial in dials {
            assert_eq!(dial.failed, None, "seed {seed}");
            assert_eq!(dial.ended, 1, "seed {seed}");
            assert!(dial.echoed == payload(5_000), "seed {seed}");
        }
        assert_eq!(world.streams(), 0, "seed {seed}");
    }
}

#[test]
fn every_dial_ends_once_and_nothing_leaks_in_a_hostile_network() {
    let mut probes = BTreeMap::new();
    for seed in 0..300 {
        let (world, dials) = run(seed, Faults::hostile(), 3_000);
        for dial in dials {
            assert_eq!(dial.ended, 1, "seed {seed}");
            let whole = dial.echoed == payload(3_000);
            assert!(dial.failed.is_some() || whole, "seed {seed}: {dial:?}");
        }
        assert_eq!(world.streams(), 0, "seed {seed}");
        for (name, times) in world.probes() {
            *probes.entry(name).or_insert(0) += times;
        }
    }
    let expected = ["blackhole", "refused", "reset-in-flight", "delay-spike"];
    for name in expected {
        assert!(probes.contains_key(name), "{name} never happened");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let traces = |seed| run(seed, Faults::hostile(), 2_000).0.trace();
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..50 {
        let trace = traces(seed);
        assert_eq!(trace, traces(seed), "seed {seed}");
        seen.insert(trace);
    }
    assert_eq!(seen.len(), 50, "seeds make a difference");
}

/// One server and one client driver in a world that moves its own clock.
struct Pair {
    world: SimWorld,
    nodes: (NodeId, NodeId),
    server: SimDriver,
    client: SimDriver,
    listener: SocketId,
}

impl Pair {
    fn new(faults: Faults, config: DriverConfig) -> Self {
        let world = SimWorld::new(1, faults).self_driving();
        let (near, far) = (world.node(&[SERVER]), world.node(&[CLIENT]));
        let mut server = world.driver(near, config);
        let client = world.driver(far, config);
        let options = ListenOptions::default();
        let (listener, _) = server.listen(at(SERVER), &options, Token(1)).unwrap();
        Self {
            world,
            nodes: (near, far),
            server,
            client,
            listener,
        }
    }

    fn dial(&mut self) -> SocketId {
        let (to, options) = (at(SERVER), ConnectOptions::default());
        let token = Token(2);
        let key = self.client.submit(Op::Connect { to, options, token });
        key.unwrap().socket
    }

    /// Both drivers' completions of the next `time`.
    fn watch(&mut self, time: Duration) -> (Vec<Outcome>, Vec<Outcome>) {
        let end = self.world.now() + time;
        let (mut server, mut client, mut out) = (Vec::new(), Vec::new(), Vec::new());
        while self.world.now() < end {
            let soon = end.min(self.world.now() + Duration::from_millis(1));
            self.server.turn(Some(soon), &mut out).unwrap();
            server.extend(out.iter().map(|c| c.outcome));
            self.client.turn(Some(soon), &mut out).unwrap();
            client.extend(out.iter().map(|c| c.outcome));
        }
        (server, client)
    }

    fn connect(&mut self) -> (SocketId, SocketId) {
        let listener = self.listener;
        let _ = self.server.submit(Op::Accept { listener });
        let dialled = self.dial();
        let (server, client) = self.watch(Duration::from_secs(1));
        assert_eq!(client, [Outcome::Connected]);
        let [Outcome::Accepted { socket, peer }] = server[..] else {
            panic!("{server:?}");
        };
        assert_eq!(peer.ip(), CLIENT);
        (socket, dialled)
    }
}

#[test]
fn listening_needs_an_own_and_free_address() {
    let mut pair = Pair::new(Faults::default(), DriverConfig::default());
    let errno = |error: io::Error| error.raw_os_error().unwrap();
    let mut options = ListenOptions::default();
    let taken = pair.server.listen(at(SERVER), &options, Token(0));
    assert_eq!(errno(taken.unwrap_err()), libc::EADDRINUSE);
    let wildcard = "[::]:7000".parse().unwrap();
    let taken = pair.server.listen(wildcard, &options, Token(0));
    assert_eq!(errno(taken.unwrap_err()), libc::EADDRINUSE);
    let foreign = pair.server.listen(at(CLIENT), &options, Token(0));
    assert_eq!(errno(foreign.unwrap_err()), libc::EADDRNOTAVAIL);
    options.shared = true;
    let any = "0.0.0.0:0".parse().unwrap();
    let (_, addr) = pair.server.listen(any, &options, Token(0)).unwrap();
    assert!(pair.server.listen(addr, &options, Token(0)).is_err());
    options.exclusive = false;
    assert!(pair.server.listen(addr, &options, Token(0)).is_ok());
}

#[test]
fn a_reuseport_group_shares_the_dials() {
    let mut pair = Pair::new(Faults::default(), DriverConfig::default());
    let options = ListenOptions {
        shared: true,
        exclusive: false,
        ..ListenOptions::default()
    };
    let to: SocketAddr = SocketAddr::new(SERVER, 7100);
    for token in [10, 11] {
        let listener = pair.server.listen(to, &options, Token(token)).unwrap().0;
        let _ = pair.server.submit(Op::Accept { listener });
    }
    for _ in 0..40 {
        let (options, token) = (ConnectOptions::default(), Token(0));
        let _ = pair.client.submit(Op::Connect { to, options, token });
    }
    let end = pair.world.now() + Duration::from_secs(1);
    let (mut out, mut accepted) = (Vec::new(), [0; 2]);
    while pair.world.now() < end {
        pair.client.turn(Some(pair.world.now()), &mut out).unwrap();
        pair.server.turn(Some(end), &mut out).unwrap();
        for completion in &out {
            accepted[usize::try_from(completion.token.0 - 10).unwrap()] += 1;
        }
    }
    assert_eq!(accepted.iter().sum::<i32>(), 40);
    assert!(accepted.iter().all(|n| *n > 5), "{accepted:?}");
}

#[test]
fn dials_to_nobody_fail_as_on_linux() {
    let mut pair = Pair::new(Faults::default(), DriverConfig::default());
    let mut dial = |to: &str, source: Option<&str>| {
        let options = ConnectOptions {
            source: source.map(|ip| ip.parse().unwrap()),
            ..ConnectOptions::default()
        };
        let (to, token) = (to.parse().unwrap(), Token(0));
        let _ = pair.client.submit(Op::Connect { to, options, token });
        let (_, client) = pair.watch(Duration::from_secs(130));
        client
    };
    let failed = |errno| vec![Outcome::ConnectFailed(Errno(errno))];
    assert_eq!(dial("10.0.0.1:9", None), failed(libc::ECONNREFUSED));
    assert_eq!(dial("10.9.9.9:9", None), failed(libc::ETIMEDOUT));
    assert_eq!(dial("[2001:db8::1]:9", None), failed(libc::ENETUNREACH));
    let foreign = dial("10.0.0.1:7000", Some("10.3.3.3"));
    assert_eq!(foreign, failed(libc::EADDRNOTAVAIL));
    assert_eq!(pair.client.sockets(), 0);
}

#[test]
fn closing_with_unread_bytes_resets() {
    let mut pair = Pair::new(Faults::default(), DriverConfig::default());
    let (near, far) = pair.connect();
    let _ = pair.client.submit(Op::Recv { socket: far });
    let (socket, chunks) = (far, chunks(b"hello"));
    let _ = pair.client.submit(Op::Send { socket, chunks });
    pair.watch(Duration::from_secs(1));
    let (socket, how) = (near, CloseHow::Fin);
    let _ = pair.server.submit(Op::Close { socket, how });
    let (server, client) = pair.watch(Duration::from_secs(1));
    assert_eq!(server, [Outcome::Closed]);
    assert_eq!(client, [Outcome::RecvEnded(Errno(libc::ECONNRESET))]);
}

#[test]
fn accepting_pauses_without_descriptors_and_resumes() {
    let mut pair = Pair::new(Faults::default(), DriverConfig::default());
    let (near, far) = pair.connect();
    pair.world.limit_files(pair.nodes.0, Some(2));
    pair.dial();
    let (server, client) = pair.watch(Duration::from_secs(2));
    assert!(server.is_empty(), "{server:?}");
    assert_eq!(client, [Outcome::Connected]);
    assert!(pair.server.counters().accepts_paused > 5);
    for (driver, socket) in [(&mut pair.server, near), (&mut pair.client, far)] {
        let how = CloseHow::Fin;
        driver.submit(Op::Close { socket, how }).unwrap();
    }
    let (server, _) = pair.watch(Duration::from_secs(1));
    let accepted = |o: &Outcome| matches!(o, Outcome::Accepted { .. });
    assert_eq!(server.iter().filter(|o| accepted(o)).count(), 1);
}

#[test]
fn a_cut_link_delays_and_loses_nothing() {
    let mut pair = Pair::new(Faults::default(), DriverConfig::default());
    let (near, far) = pair.connect();
    let _ = pair.server.submit(Op::Recv { socket: near });
    let healed = pair.world.now() + Duration::from_secs(5);
    pair.world.partition(pair.nodes.0, pair.nodes.1, healed);
    let (socket, chunks) = (far, chunks(b"late"));
    let _ = pair.client.submit(Op::Send { socket, chunks });
    let (server, _) = pair.watch(Duration::from_millis(4_900));
    assert!(server.is_empty(), "{server:?}");
    let (server, _) = pair.watch(Duration::from_secs(1));
    assert!(matches!(server[..], [Outcome::Data(_), ..]), "{server:?}");
}

#[test]
fn a_crash_ends_the_streams_of_a_node() {
    let mut pair = Pair::new(Faults::default(), DriverConfig::default());
    let (_, far) = pair.connect();
    let _ = pair.client.submit(Op::Recv { socket: far });
    pair.world.crash(pair.nodes.0);
    let (server, client) = pair.watch(Duration::from_secs(1));
    assert!(server.is_empty());
    assert_eq!(client.len(), 1);
    let reset = Outcome::RecvEnded(Errno(libc::ECONNRESET));
    assert!(client[0] == Outcome::Eof || client[0] == reset);
    pair.server = pair.world.driver(pair.nodes.0, DriverConfig::default());
    let options = ListenOptions::default();
    let listened = pair.server.listen(at(SERVER), &options, Token(1));
    pair.listener = listened.unwrap().0;
    pair.connect();
}

#[test]
fn receives_wait_for_buffers() {
    let config = DriverConfig {
        buffers: 1,
        ..DriverConfig::default()
    };
    let mut pair = Pair::new(Faults::default(), config);
    let sides: Vec<_> = (0..3)
        .map(|_| {
            let dialled = pair.dial();
            let listener = pair.listener;
            let _ = pair.server.submit(Op::Accept { listener });
            let (server, _) = pair.watch(Duration::from_secs(1));
            let cancel = crate::io::OpKey {
                socket: listener,
                verb: crate::io::Verb::Accept,
            };
            pair.server.cancel(cancel);
            pair.watch(Duration::from_secs(1));
            let Outcome::Accepted { socket, .. } = server[0] else {
                panic!("{server:?}");
            };
            let chunks = chunks(b"x");
            let socket_far = dialled;
            let send = Op::Send {
                socket: socket_far,
                chunks,
            };
            pair.client.submit(send).unwrap();
            socket
        })
        .collect();
    pair.watch(Duration::from_secs(1));
    for socket in sides {
        pair.server.submit(Op::Recv { socket }).unwrap();
    }
    let (server, _) = pair.watch(Duration::from_secs(1));
    assert_eq!(server.len(), 3, "{server:?}");
    assert!(pair.server.counters().receives_parked > 0);
}

#[test]
#[should_panic(expected = "earlier turn")]
fn loans_end_with_their_turn() {
    let pair = Pair::new(Faults::default(), DriverConfig::default());
    let _ = pair.server.bytes(LoanId(0));
}

#[test]
fn deadlines_and_wakes_give_turns() {
    let world = SimWorld::new(3, Faults::default());
    let node = world.node(&[SERVER]);
    let mut driver = world.driver(node, DriverConfig::default());
    let (limit, mut out) = (far(&world), Vec::new());
    assert_eq!(world.next(limit), Some(0), "the first turn is free");
    let soon = world.now() + Duration::from_secs(3);
    driver.turn(Some(soon), &mut out).unwrap();
    assert_eq!(world.next(limit), Some(0));
    assert!(driver.turn(None, &mut out).unwrap() >= soon);
    assert!(world.now() < soon + Duration::from_millis(1));
    driver.waker().wake();
    assert_eq!(world.next(limit), Some(0));
    driver.turn(None, &mut out).unwrap();
    assert_eq!(world.next(limit), Some(0), "woken: back before it sleeps");
    driver.turn(None, &mut out).unwrap();
    assert_eq!(world.next(limit), None, "nothing left to do");
}
