//! The peers around the engine: hosts of one node, which do what the operations say.

use super::plan::{ENGINE, PORT, Says, at, ip, town_ips};
use bytes::Bytes;
use flock_engine::ListenOptions;
use flock_engine::io::sim::{SimDriver, SimWorld};
use flock_engine::io::{
    Completion, Completions, ConnectOptions, Driver, DriverConfig, Op, Outcome, SocketId, Token,
};
use flock_tests::world::Actor;
use flock_transport::CloseHow;
use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

/// Tokens of listeners; those of connections count from 0.
const LISTENER: u64 = 1 << 32;

/// A handle to the hosts.
#[derive(Clone)]
pub(crate) struct Town(Rc<RefCell<Hosts>>);

struct Hosts {
    driver: SimDriver,
    hosts: Vec<Host>,
    sessions: BTreeMap<u64, Session>,
    serial: u64,
    out: Completions,
    connected: u64,
    dialled: u64,
    given_up: u64,
}

struct Host {
    says: Says,
    listener: Option<SocketId>,
}

/// A connection with the engine.
struct Session {
    host: usize,
    socket: SocketId,
    dialled: bool,
    established: bool,
    closing: bool,
}

impl Town {
    pub(crate) fn new(world: &SimWorld, says: &[Says]) -> Self {
        let node = world.node(&town_ips());
        let config = DriverConfig {
            sockets: 1024,
            ..DriverConfig::default()
        };
        let town = Self(Rc::new(RefCell::new(Hosts {
            driver: world.driver(node, config),
            hosts: Vec::new(),
            sessions: BTreeMap::new(),
            serial: 0,
            out: Vec::new(),
            connected: 0,
            dialled: 0,
            given_up: 0,
        })));
        for (index, says) in says.iter().enumerate() {
            town.0.borrow_mut().hosts.push(Host {
                says: says.clone(),
                listener: None,
            });
            town.start(index, says);
        }
        town
    }

    /// A host is there, unless it was already; whether it is new.
    pub(crate) fn start(&self, host: usize, says: &Says) -> bool {
        self.order(|hosts| {
            if hosts.hosts[host].listener.is_some() {
                return false;
            }
            let token = Token(LISTENER + host as u64);
            let options = ListenOptions::default();
            let Ok((listener, _)) = hosts.driver.listen(at(host), &options, token) else {
                return false;
            };
            hosts.submit(Op::Accept { listener });
            hosts.hosts[host].listener = Some(listener);
            hosts.hosts[host].says = says.clone();
            true
        })
    }

    /// A host is killed.
    pub(crate) fn stop(&self, host: usize) {
        self.order(|hosts| {
            let how = CloseHow::Rst;
            if let Some(socket) = hosts.hosts[host].listener.take() {
                hosts.submit(Op::Close { socket, how });
            }
            for name in hosts.of(host) {
                hosts.close(name, how, true);
            }
        });
    }

    /// A host that is there dials the engine.
    pub(crate) fn dial(&self, host: usize) -> bool {
        self.order(|hosts| {
            if hosts.hosts[host].listener.is_none() {
                return false;
            }
            let name = hosts.next_serial();
            let options = ConnectOptions {
                source: Some(ip(host)),
                ..ConnectOptions::default()
            };
            let connect = Op::Connect {
                to: SocketAddr::new(ENGINE, PORT),
                options,
                token: Token(name),
            };
            let key = hosts.driver.submit(connect).expect("sockets enough");
            hosts.dialled += 1;
            hosts.enter(name, host, key.socket, true);
            true
        })
    }

    /// A host ends one of its connections.
    pub(crate) fn close(&self, host: usize, which: usize, how: CloseHow) {
        self.order(|hosts| {
            let all = hosts.of(host);
            if let Some(name) = all.get(which % all.len().max(1)) {
                hosts.close(*name, how, true);
            }
        });
    }

    /// Connections a host has with the engine.
    pub(crate) fn open(&self, host: usize) -> usize {
        let hosts = self.0.borrow();
        let of_host = |session: &&Session| session.host == host && !session.closing;
        hosts.sessions.values().filter(of_host).count()
    }

    /// Dials begun, those that were established, and those that a host itself gave up.
    pub(crate) fn dials(&self) -> [u64; 3] {
        let hosts = self.0.borrow();
        [hosts.dialled, hosts.connected, hosts.given_up]
    }

    pub(crate) fn actor(&self) -> impl Actor + use<> {
        self.clone()
    }

    /// Changes something between turns.
    fn order<T>(&self, change: impl FnOnce(&mut Hosts) -> T) -> T {
        let mut hosts = self.0.borrow_mut();
        let done = change(&mut hosts);
        hosts.driver.waker().wake();
        done
    }
}

impl Hosts {
    fn submit(&mut self, op: Op) {
        self.driver.submit(op).expect("only connects are refused");
    }

    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    fn of(&self, host: usize) -> Vec<u64> {
        let open = |(_, session): &(_, &Session)| session.host == host && !session.closing;
        let all = self.sessions.iter().filter(open);
        all.map(|(name, _)| *name).collect()
    }

    fn enter(&mut self, name: u64, host: usize, socket: SocketId, dialled: bool) {
        let session = Session {
            host,
            socket,
            dialled,
            established: !dialled,
            closing: false,
        };
        self.sessions.insert(name, session);
    }

    fn close(&mut self, name: u64, how: CloseHow, gives_up: bool) {
        if let Some(session) = self.sessions.get_mut(&name)
            && !std::mem::replace(&mut session.closing, true)
        {
            let socket = session.socket;
            self.given_up += u64::from(gives_up && session.dialled);
            self.submit(Op::Close { socket, how });
        }
    }

    /// Says what the host has to say.
    fn greet(&mut self, name: u64) {
        let Some(session) = self.sessions.get_mut(&name) else {
            return;
        };
        session.established = true;
        let socket = session.socket;
        if session.closing {
            return;
        }
        let bytes = match &self.hosts[session.host].says {
            Says::Nothing => None,
            // An id of no bytes.
            Says::Garbage => Some(Bytes::from_static(&[0])),
            Says::Id(id) => {
                let length = u8::try_from(id.as_bytes().len()).expect("short ids");
                Some(Bytes::from([&[length], id.as_bytes()].concat()))
            }
        };
        self.submit(Op::Recv { socket });
        if let Some(bytes) = bytes {
            let chunks = [bytes].into_iter().collect();
            self.submit(Op::Send { socket, chunks });
        }
    }

    fn complete(&mut self, completion: &Completion) {
        let name = completion.token.0;
        match completion.outcome {
            Outcome::Accepted { socket, .. } => {
                let host = usize::try_from(name - LISTENER).expect("a listener's token");
                let name = self.next_serial();
                self.driver.assign(socket, Token(name));
                self.enter(name, host, socket, false);
                if self.hosts[host].listener.is_some() {
                    self.greet(name);
                } else {
                    self.close(name, CloseHow::Rst, true);
                }
            }
            Outcome::Connected => {
                self.connected += 1;
                self.greet(name);
            }
            Outcome::ConnectFailed(_) | Outcome::Closed => {
                self.sessions.remove(&name);
            }
            Outcome::Eof | Outcome::RecvEnded(_) | Outcome::SendFailed(_) => {
                self.close(name, CloseHow::Fin, false);
            }
            _ => {}
        }
    }
}

impl Actor for Town {
    fn driver(&self) -> usize {
        self.0.borrow().driver.id()
    }

    fn step(&mut self) -> bool {
        let mut hosts = self.0.borrow_mut();
        let mut out = std::mem::take(&mut hosts.out);
        let turned = hosts.driver.turn(None, &mut out);
        turned.expect("simulated turns do not fail");
        for completion in out.drain(..) {
            hosts.complete(&completion);
        }
        hosts.out = out;
        true
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
