//! Many connections at once, each doing random things; whatever happens, no stream shows a byte
//! that was not sent, in another order, or of another stream.

use super::{Fixture, Rig, pattern};
use flock_engine::io::{Driver, DriverConfig, Op, Outcome, SocketId, Verb};
use flock_transport::CloseHow;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::net::SocketAddr;
use std::time::Duration;

const STEPS: usize = 4_000;
/// Dialled ends open at a time.
const ALIVE: usize = 60;
/// Bytes that open the stream of a dialled end: its number.
const NUMBER: usize = 8;

/// One end of a connection.
#[derive(Debug)]
struct End {
    socket: SocketId,
    /// Everything submitted for sending.
    sent: Vec<u8>,
    /// A send was cancelled or failed: how much of `sent` left is unknown.
    spoiled: bool,
    shut: bool,
    closed: bool,
}

impl End {
    fn new(socket: SocketId) -> Self {
        Self {
            socket,
            sent: Vec::new(),
            spoiled: false,
            shut: false,
            closed: false,
        }
    }
}

struct Soak<D> {
    rig: Rig<D>,
    random: SmallRng,
    listener: SocketId,
    addr: SocketAddr,
    dialling: Vec<SocketId>,
    dialled: Vec<End>,
    accepted: Vec<End>,
}

/// The case: three seeds, in small tables and few buffers.
pub fn random_lives_keep_their_bytes<F: Fixture>() {
    for seed in 0..3 {
        let mut rig = Rig::with::<F>(&DriverConfig {
            sockets: 4096,
            completions: 64,
            buffers: 8,
            buffer_size: 4096,
            batch: 32,
            ..DriverConfig::default()
        });
        let (listener, addr) = rig.listen::<F>();
        let mut soak = Soak {
            rig,
            random: SmallRng::seed_from_u64(seed),
            listener,
            addr,
            dialling: Vec::new(),
            dialled: Vec::new(),
            accepted: Vec::new(),
        };
        for _ in 0..STEPS {
            soak.step();
        }
        soak.judge();
    }
}

impl<D: Driver> Soak<D> {
    fn step(&mut self) {
        self.meet();
        let alive = self.dialled.iter().filter(|end| !end.closed).count();
        if alive + self.dialling.len() < ALIVE && self.random.random_bool(0.1) {
            let socket = self.rig.connect(self.addr);
            self.dialling.push(socket);
            if self.random.random_bool(0.1) {
                self.rig.cancel(socket, Verb::Connect);
            }
        }
        let ends = if self.random.random_bool(0.5) {
            &mut self.dialled
        } else {
            &mut self.accepted
        };
        let open: Vec<usize> = (0..ends.len()).filter(|at| !ends[*at].closed).collect();
        if let Some(at) = open.choose(&mut self.random) {
            act(&mut self.rig, &mut ends[*at], &mut self.random);
        }
        if self.random.random_bool(0.4) {
            let wait = Duration::from_micros(self.random.random_range(0..300));
            self.rig.turn(wait);
        }
    }

    /// Notes new connections, and failed sends.
    fn meet(&mut self) {
        let Self { rig, dialled, .. } = self;
        self.dialling.retain(|socket| {
            if rig.outstanding(*socket, Verb::Connect) {
                return true;
            }
            if rig.record(*socket).has(Outcome::Connected) {
                let mut end = End::new(*socket);
                end.sent = (dialled.len() as u64).to_be_bytes().to_vec();
                rig.send(*socket, &end.sent);
                dialled.push(end);
            }
            false
        });
        for (socket, _) in &rig.record(self.listener).accepted[self.accepted.len()..] {
            self.accepted.push(End::new(*socket));
        }
        for end in self.dialled.iter_mut().chain(&mut self.accepted) {
            let outcomes = &rig.record(end.socket).outcomes;
            end.spoiled |= outcomes
                .iter()
                .any(|outcome| matches!(outcome, Outcome::SendFailed(_)));
        }
    }

    /// Streams that nobody harmed carry everything; all others carry a beginning.
    fn judge(&mut self) {
        self.settle();
        for accepted in &self.accepted {
            if !accepted.closed {
                self.rig.recv_unless_ended(accepted.socket, false);
            }
        }
        self.arrive();
        self.rig.linger(Duration::from_millis(20));
        self.meet();
        let mut whole = 0;
        for end in &self.accepted {
            let Some(other) = partner(&self.rig, &self.dialled, end) else {
                continue;
            };
            for (from, to) in [(end, other), (other, end)] {
                let got = &self.rig.record(to.socket).data;
                assert!(from.sent.starts_with(got), "{from:?} to {to:?}");
            }
            if !harmed(&self.rig, end) && !harmed(&self.rig, other) {
                whole += 1;
                for (from, to) in [(end, other), (other, end)] {
                    let (sent, got) = (from.sent.len(), self.rig.record(to.socket).data.len());
                    assert_eq!(got, sent, "{:?} to {:?}", from.socket, to.socket);
                }
            }
        }
        assert!(whole >= 5, "only {whole} unharmed connections");
        let open: Vec<_> = self
            .dialled
            .iter()
            .chain(&self.accepted)
            .filter(|end| !end.closed)
            .map(|end| end.socket)
            .collect();
        self.rig.finish(&open);
    }

    /// Waits until the streams that nobody harmed have arrived: the kernel may have to send a part
    /// again, which takes it longer than a send takes to be done.
    fn arrive(&mut self) {
        let Self {
            rig,
            dialled,
            accepted,
            ..
        } = self;
        rig.until("arrival of everything", |rig| {
            let whole = |from: &End, to: &End| rig.record(to.socket).data.len() >= from.sent.len();
            accepted.iter().filter(|end| !harmed(rig, end)).all(|end| {
                match partner(rig, dialled, end) {
                    Some(other) => harmed(rig, other) || (whole(end, other) && whole(other, end)),
                    // Nobody came to know it.
                    None => rig.record(end.socket).receives_no_more(),
                }
            })
        });
    }

    /// Receives everywhere until every send of an open end has ended.
    fn settle(&mut self) {
        self.rig.until("dials", |rig| {
            self.dialling
                .iter()
                .all(|socket| !rig.outstanding(*socket, Verb::Connect))
        });
        self.meet();
        let open: Vec<_> = self
            .dialled
            .iter()
            .chain(&self.accepted)
            .filter(|end| !end.closed)
            .map(|end| end.socket)
            .collect();
        // Those that receive once would stop too early.
        for socket in &open {
            self.rig.cancel(*socket, Verb::Recv);
        }
        self.rig.until("end of receives", |rig| {
            open.iter()
                .all(|socket| !rig.outstanding(*socket, Verb::Recv))
        });
        for socket in &open {
            self.rig.recv_unless_ended(*socket, false);
        }
        self.rig.linger(Duration::from_millis(100));
        self.meet();
        for end in &self.accepted {
            if !end.closed {
                self.rig.recv_unless_ended(end.socket, false);
            }
        }
        self.rig.until("end of sends", |rig| {
            open.iter()
                .all(|socket| !rig.outstanding(*socket, Verb::Send))
        });
    }
}

/// Whether an end may lack bytes.
fn harmed<D: Driver>(rig: &Rig<D>, end: &End) -> bool {
    let failed = |outcome: &Outcome| matches!(outcome, Outcome::SendFailed(_));
    end.closed || end.spoiled || rig.record(end.socket).outcomes.iter().any(failed)
}

/// The dialled end of an accepted connection, once its number has come.
fn partner<'a, D: Driver>(rig: &Rig<D>, dialled: &'a [End], end: &End) -> Option<&'a End> {
    let number = rig.record(end.socket).data.first_chunk::<NUMBER>()?;
    dialled.get(usize::try_from(u64::from_be_bytes(*number)).ok()?)
}

/// One random deed on an open end.
fn act<D: Driver>(rig: &mut Rig<D>, end: &mut End, random: &mut SmallRng) {
    let socket = end.socket;
    match random.random_range(0..100_u32) {
        0..45 => {
            if !rig.outstanding(socket, Verb::Send) && !end.shut && !end.spoiled {
                let bytes = pattern(random.random(), random.random_range(1..60_000));
                rig.send(socket, &bytes);
                end.sent.extend_from_slice(&bytes);
            }
        }
        45..65 => rig.recv_unless_ended(socket, false),
        65..85 => rig.recv_unless_ended(socket, true),
        85..92 => rig.cancel(socket, Verb::Recv),
        92..94 => {
            // Never the number.
            if rig.outstanding(socket, Verb::Send) && rig.record(socket).sent() > 0 {
                rig.cancel(socket, Verb::Send);
            }
        }
        94..96 => {
            if !rig.outstanding(socket, Verb::Send) && !end.spoiled {
                end.shut = true;
                rig.submit(Op::ShutdownWrite { socket });
            }
        }
        96.. => {
            let reset = random.random_bool(0.5);
            end.closed = true;
            let how = if reset { CloseHow::Rst } else { CloseHow::Fin };
            rig.close_how(socket, how);
        }
    }
}
