//! The scripted peers against a node that does the least a peer can do.

use super::*;
use bytes::Bytes;
use flock_engine::io::sim::{Faults, SimDriver, SimWorld};
use flock_engine::io::{Completions, Driver, DriverConfig, Op, Outcome, SocketId, Token};
use flock_tcp::ListenOptions;
use flock_transport::CloseHow;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

const PLAIN: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const PORT: u16 = 7000;
const ID: [u8; 32] = [1; 32];

/// Says its id to everybody, and sends back what comes after theirs.
struct Plain {
    driver: SimDriver,
    sessions: BTreeMap<u64, Served>,
    /// Echoes every byte wrongly.
    broken: bool,
}

struct Served {
    socket: SocketId,
    skip: usize,
    queue: VecDeque<Bytes>,
    sending: bool,
}

impl Plain {
    fn new(mut driver: SimDriver, broken: bool) -> Self {
        let (at, options) = (SocketAddr::new(PLAIN, PORT), ListenOptions::default());
        let (listener, _) = driver.listen(at, &options, Token(0)).unwrap();
        driver.submit(Op::Accept { listener }).unwrap();
        Self {
            driver,
            sessions: BTreeMap::new(),
            broken,
        }
    }

    fn send(driver: &mut SimDriver, served: &mut Served) {
        if !served.sending
            && let Some(bytes) = served.queue.pop_front()
        {
            served.sending = true;
            let (socket, chunks) = (served.socket, [bytes].into_iter().collect());
            driver.submit(Op::Send { socket, chunks }).unwrap();
        }
    }
}

impl Actor for Plain {
    fn driver(&self) -> usize {
        self.driver.id()
    }

    fn step(&mut self) -> bool {
        let mut out = Completions::new();
        self.driver.turn(None, &mut out).unwrap();
        for completion in out {
            if let Outcome::Accepted { socket, .. } = completion.outcome {
                let name = self.sessions.len() as u64 + 1;
                self.driver.assign(socket, Token(name));
                self.driver.submit(Op::Recv { socket }).unwrap();
                let mut served = Served {
                    socket,
                    skip: 33,
                    queue: [plan::frame(&ID)].into(),
                    sending: false,
                };
                Self::send(&mut self.driver, &mut served);
                self.sessions.insert(name, served);
                continue;
            }
            let Some(served) = self.sessions.get_mut(&completion.token.0) else {
                continue;
            };
            match completion.outcome {
                Outcome::Data(loan) => {
                    let data = self.driver.bytes(loan);
                    let skip = served.skip.min(data.len());
                    served.skip -= skip;
                    let flip = u8::from(self.broken);
                    let echo: Vec<u8> = data[skip..].iter().map(|byte| byte ^ flip).collect();
                    if !echo.is_empty() {
                        served.queue.push_back(echo.into());
                    }
                    Self::send(&mut self.driver, served);
                }
                Outcome::Sent { .. } => {
                    served.sending = false;
                    Self::send(&mut self.driver, served);
                }
                Outcome::Closed => {}
                _ => {
                    let (socket, how) = (served.socket, CloseHow::Fin);
                    self.driver.submit(Op::Close { socket, how }).unwrap();
                }
            }
        }
        true
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

fn play(behaviour: &Behaviour, again: u32, seed: u64, broken: bool) -> (PeerReport, usize) {
    let world = SimWorld::new(seed, Faults::default());
    let mut cast = Cast::new(world.clone());
    let plain = world.driver(world.node(&[PLAIN]), DriverConfig::default());
    cast.add(Plain::new(plain, broken));
    let ip = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 1));
    let driver = world.driver(world.node(&[ip]), DriverConfig::default());
    let plan = Plan {
        id: Bytes::from_static(&[2; 32]),
        behaviour: behaviour.clone(),
        dials: Some(SocketAddr::new(PLAIN, PORT)),
        at_a_time: 2,
        again,
        begins: Duration::from_millis(5),
        listens: None,
    };
    cast.add(Peer::new(driver, world.now(), plan, &ID, seed));
    let end = world.now() + Duration::from_secs(600);
    assert_ne!(cast.run(end, || {}), Ended::Spinning);
    let peer: &Peer = cast.of().next().unwrap();
    (peer.report().clone(), peer.sessions())
}

fn polite() -> Behaviour {
    Behaviour::Polite {
        payload: 3_000,
        at_once: true,
        stay: Duration::from_secs(1),
        close: CloseHow::Fin,
    }
}

#[test]
fn polite_and_slow_peers_get_their_bytes_back() {
    let slow = Behaviour::Slow {
        gap: Duration::from_millis(20),
    };
    for (seed, behaviour) in (0..20).flat_map(|seed| [(seed, polite()), (seed, slow.clone())]) {
        let (report, left) = play(&behaviour, 3, seed, false);
        assert_eq!((report.connected, report.handshakes), (5, 5), "seed {seed}");
        assert_eq!((report.echoes, left), (5, 0), "seed {seed} {report:?}");
        assert!(report.wrong.is_empty(), "seed {seed} {report:?}");
    }
}

#[test]
fn wrong_bytes_are_noticed() {
    let (report, _) = play(&polite(), 0, 1, true);
    assert_eq!(report.echoes, 0);
    assert_eq!(report.wrong.len(), 2);
}

#[test]
fn peers_that_leave_are_gone() {
    let leaves = |after, close| Behaviour::Leaves { after, close };
    for behaviour in [leaves(0, CloseHow::Fin), leaves(7, CloseHow::Rst)] {
        let (report, left) = play(&behaviour, 0, 3, false);
        assert_eq!((report.connected, left), (2, 0));
    }
}
