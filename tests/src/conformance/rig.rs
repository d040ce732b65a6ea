use super::Fixture;
use bytes::Bytes;
use flock_engine::io::{
    Completion, ConnectOptions, DatagramOptions, Driver, DriverConfig, Op, OpKey, Outcome,
    SocketId, Token, Verb,
};
use flock_tcp::{ListenOptions, StreamOptions};
use flock_transport::{Chunks, CloseHow, Errno, Instant, Train};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

/// Driver time after which a case has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// Driver time after which a condition is looked at again.
const SLICE: Duration = Duration::from_millis(20);

/// `ECANCELED`.
pub const CANCELED: Errno = Errno(125);

/// What became of one socket so far.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Bytes received.
    pub data: Vec<u8>,
    /// Sockets accepted, for a listener.
    pub accepted: Vec<(SocketId, SocketAddr)>,
    /// Datagrams received, each with its source and its time.
    pub datagrams: Vec<(SocketAddr, Instant, Vec<u8>)>,
    /// All other outcomes, in order.
    pub outcomes: Vec<Outcome>,
}

impl Record {
    /// How often `outcome` came.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> usize {
        self.outcomes.iter().filter(|one| **one == outcome).count()
    }

    /// Whether `outcome` came.
    #[must_use]
    pub fn has(&self, outcome: Outcome) -> bool {
        self.outcomes.contains(&outcome)
    }

    /// Bytes that completed sends reported.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.outcomes
            .iter()
            .map(|outcome| match outcome {
                Outcome::Sent { bytes } => *bytes,
                _ => 0,
            })
            .sum()
    }

    /// Whether the stream is over: its end came, or an error that was no cancellation.
    #[must_use]
    pub fn receives_no_more(&self) -> bool {
        self.outcomes.iter().any(|outcome| match outcome {
            Outcome::Eof => true,
            Outcome::RecvEnded(errno) => *errno != CANCELED,
            _ => false,
        })
    }

    /// Why the receive ended, if it did with an error.
    #[must_use]
    pub fn recv_error(&self) -> Option<Errno> {
        self.outcomes.iter().find_map(|outcome| match outcome {
            Outcome::RecvEnded(errno) => Some(*errno),
            _ => None,
        })
    }
}

/// A driver with the records of its sockets. It checks what holds in every case.
#[derive(Debug)]
pub struct Rig<D> {
    /// The driver.
    pub driver: D,
    /// Completions of the latest turn.
    pub latest: Vec<Completion>,
    records: HashMap<SocketId, Record>,
    outstanding: HashSet<OpKey>,
    closing: HashSet<SocketId>,
    tokens: u64,
}

impl<D: Driver> Rig<D> {
    /// A rig with the default limits, but fewer buffers.
    #[must_use]
    pub fn new<F: Fixture<Driver = D>>() -> Self {
        Self::with::<F>(&DriverConfig {
            sockets: 8192,
            buffers: 64,
            ..DriverConfig::default()
        })
    }

    /// A rig with these limits.
    #[must_use]
    pub fn with<F: Fixture<Driver = D>>(config: &DriverConfig) -> Self {
        Self {
            driver: F::driver(config),
            latest: Vec::new(),
            records: HashMap::new(),
            outstanding: HashSet::new(),
            closing: HashSet::new(),
            tokens: 0,
        }
    }

    /// The record of a socket.
    #[must_use]
    pub fn record(&self, socket: SocketId) -> &Record {
        static NOTHING: Record = Record {
            data: Vec::new(),
            accepted: Vec::new(),
            datagrams: Vec::new(),
            outcomes: Vec::new(),
        };
        self.records.get(&socket).unwrap_or(&NOTHING)
    }

    /// Whether an operation has not ended.
    #[must_use]
    pub fn outstanding(&self, socket: SocketId, verb: Verb) -> bool {
        self.outstanding.contains(&OpKey { socket, verb })
    }

    /// Listens, with `Accept` submitted.
    pub fn listen<F: Fixture>(&mut self) -> (SocketId, SocketAddr) {
        let options = ListenOptions::default();
        let (listener, addr) = self
            .driver
            .listen(F::local(), &options, Token(0))
            .expect("the address is free");
        self.submit(Op::Accept { listener });
        (listener, addr)
    }

    /// A datagram socket that receives.
    pub fn datagrams<F: Fixture>(&mut self) -> (SocketId, SocketAddr) {
        self.tokens += 1;
        let options = DatagramOptions::default();
        let bound = self
            .driver
            .bind_datagrams(F::local(), &options, Token(self.tokens))
            .expect("the address is free");
        self.recv(bound.socket);
        (bound.socket, bound.addr)
    }

    /// Sends datagrams, all of one length but the last, as one train.
    pub fn train(&mut self, socket: SocketId, to: SocketAddr, tag: u64, datagrams: &[&[u8]]) {
        let mut train = train(to, tag, datagrams);
        self.driver
            .send_train(socket, &mut train)
            .expect("few trains are under way");
        assert!(train.is_empty(), "an empty train comes back");
    }

    /// Dials, under a token of its own.
    pub fn connect(&mut self, to: SocketAddr) -> SocketId {
        self.tokens += 1;
        self.submit(Op::Connect {
            to,
            options: ConnectOptions {
                stream: StreamOptions {
                    // The dialler of a case does not always speak first, and then the listener
                    // would learn of the connection only by a delayed ACK.
                    lazy_handshake_ack: false,
                    ..StreamOptions::default()
                },
                source: None,
            },
            token: Token(self.tokens),
        })
        .socket
    }

    /// A dialled and an accepted stream, connected.
    pub fn pair(&mut self, listener: SocketId, addr: SocketAddr) -> (SocketId, SocketId) {
        let before = self.record(listener).accepted.len();
        let dialled = self.connect(addr);
        self.until("a connection", |rig| {
            rig.record(dialled).has(Outcome::Connected)
                && rig.record(listener).accepted.len() > before
        });
        (dialled, self.record(listener).accepted[before].0)
    }

    /// Starts receiving.
    pub fn recv(&mut self, socket: SocketId) {
        self.submit(Op::Recv { socket });
    }

    /// Receives once.
    pub fn recv_once(&mut self, socket: SocketId) {
        self.submit(Op::RecvOnce { socket });
    }

    /// Starts receiving, or receives once, unless that is outstanding or the stream has ended.
    pub fn recv_unless_ended(&mut self, socket: SocketId, once: bool) {
        if self.record(socket).receives_no_more() || self.outstanding(socket, Verb::Recv) {
            return;
        }
        if once {
            self.recv_once(socket);
        } else {
            self.recv(socket);
        }
    }

    /// Sends a copy of `bytes`.
    pub fn send(&mut self, socket: SocketId, bytes: &[u8]) {
        let chunks = Chunks::from_iter([Bytes::copy_from_slice(bytes)]);
        self.submit(Op::Send { socket, chunks });
    }

    /// Closes with FIN.
    pub fn close(&mut self, socket: SocketId) {
        self.close_how(socket, CloseHow::Fin);
    }

    /// Closes.
    pub fn close_how(&mut self, socket: SocketId, how: CloseHow) {
        self.submit(Op::Close { socket, how });
    }

    /// Cancels.
    pub fn cancel(&mut self, socket: SocketId, verb: Verb) {
        self.driver.cancel(OpKey { socket, verb });
    }

    /// Submits and notes what is outstanding.
    pub fn submit(&mut self, op: Op) -> OpKey {
        let key = self.driver.submit(op).expect("the table has room");
        self.note(key);
        key
    }

    fn note(&mut self, key: OpKey) {
        match key.verb {
            Verb::ShutdownWrite => return,
            Verb::Close => {
                self.closing.insert(key.socket);
                self.outstanding.retain(|one| one.socket != key.socket);
            }
            _ => {}
        }
        let fresh = self.outstanding.insert(key);
        assert!(fresh, "{key:?} was outstanding already");
    }

    /// One turn of at most `wait`.
    pub fn turn(&mut self, wait: Duration) -> Instant {
        let before = self.driver.now();
        let deadline = before + wait;
        let mut out = std::mem::take(&mut self.latest);
        let now = self
            .driver
            .turn(Some(deadline), &mut out)
            .expect("a turn succeeds");
        assert!(now >= before, "time went back");
        assert_eq!(now, self.driver.now());
        for completion in &out {
            self.keep(completion);
        }
        self.latest = out;
        now
    }

    fn keep(&mut self, completion: &Completion) {
        let Completion {
            socket, outcome, ..
        } = *completion;
        if self.closing.contains(&socket) {
            assert_eq!(outcome, Outcome::Closed, "after a close of {socket:?}");
        }
        let of_train = matches!(
            outcome,
            Outcome::TrainSent { .. } | Outcome::TrainRefused { .. }
        );
        if of_train {
            // Any number of them may be under way; cases count them.
        } else if let Some(verb) = final_of(&outcome) {
            let key = OpKey { socket, verb };
            assert!(self.outstanding.remove(&key), "{key:?} ended twice");
        } else {
            let verb = match outcome {
                Outcome::Accepted { .. } => Verb::Accept,
                _ => Verb::Recv,
            };
            let key = OpKey { socket, verb };
            assert!(
                self.outstanding.contains(&key),
                "{outcome:?} without {key:?}"
            );
        }
        let record = self.records.entry(socket).or_default();
        match outcome {
            Outcome::Data(loan) => {
                let bytes = self.driver.bytes(loan);
                assert!(!bytes.is_empty(), "empty data");
                record.data.extend_from_slice(bytes);
            }
            Outcome::Datagrams {
                from,
                received_at,
                segment,
                loan,
            } => {
                let bytes = self.driver.bytes(loan);
                assert!(!bytes.is_empty(), "no datagram");
                let each = bytes.chunks(segment.into());
                let each = each.map(|one| (from, received_at, one.to_vec()));
                record.datagrams.extend(each);
            }
            Outcome::Accepted { socket, peer } => record.accepted.push((socket, peer)),
            outcome => record.outcomes.push(outcome),
        }
        if outcome == Outcome::Closed {
            assert_eq!(record.count(Outcome::Closed), 1, "closed twice");
        }
    }

    /// Takes turns until `condition` holds; fails the case after a while.
    pub fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let give_up = self.driver.now() + PATIENCE;
        while !condition(self) {
            let now = self.turn(SLICE);
            assert!(
                now < give_up,
                "no {what}: outstanding {:?}, {:?}",
                self.outstanding,
                self.driver.counters()
            );
        }
    }

    /// Takes turns for `long`, so that what must not happen has time to.
    pub fn linger(&mut self, long: Duration) {
        let end = self.driver.now() + long;
        while self.driver.now() < end {
            self.turn(end - self.driver.now());
        }
    }

    /// Closes sockets and waits until that is done.
    pub fn finish(&mut self, sockets: &[SocketId]) {
        for socket in sockets {
            self.close(*socket);
        }
        self.until("close", |rig| {
            sockets
                .iter()
                .all(|socket| rig.record(*socket).has(Outcome::Closed))
        });
    }
}

fn final_of(outcome: &Outcome) -> Option<Verb> {
    Some(match outcome {
        Outcome::Accepted { .. }
        | Outcome::Data(_)
        | Outcome::Datagrams { .. }
        | Outcome::TrainSent { .. }
        | Outcome::TrainRefused { .. } => return None,
        Outcome::AcceptEnded(_) => Verb::Accept,
        Outcome::Connected | Outcome::ConnectFailed(_) => Verb::Connect,
        Outcome::Eof | Outcome::RecvEnded(_) => Verb::Recv,
        Outcome::Sent { .. } | Outcome::SendFailed(_) => Verb::Send,
        Outcome::Closed => Verb::Close,
    })
}

/// A train of datagrams whose first four bytes are header and whose rest is shared memory.
#[must_use]
pub fn train(to: SocketAddr, tag: u64, datagrams: &[&[u8]]) -> Train {
    let mut train = Train::default();
    train.reset(to);
    train.tag = tag;
    for datagram in datagrams {
        let (header, payload) = datagram.split_at(datagram.len().min(4));
        assert!(train.fits(datagram.len(), 2), "a train that can be");
        train.push_datagram(datagram.len(), header);
        let payload = Bytes::copy_from_slice(payload);
        train.push_payload(&payload, 0..payload.len());
    }
    train
}

/// Bytes that differ at every offset and for every `seed`, so that a swap or a gap shows.
#[must_use]
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        // Xorshift (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
