//! A scripted peer: no engine, only a driver and a plan.

use super::cast::Actor;
use super::plan::{Behaviour, Plan};
use bytes::Bytes;
use flock_engine::io::sim::SimDriver;
use flock_engine::io::{
    Completion, Completions, ConnectOptions, Driver, LoanId, Op, Outcome, SocketId, Token,
};
use flock_tcp::ListenOptions;
use flock_transport::{CloseHow, Instant};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::time::Duration;

const LISTENER: Token = Token(u64::MAX);

/// Connections the engine may have open to one peer at a time before that is a mistake: its
/// dials, and those it has not noticed the end of.
const SESSIONS_MAX: usize = 64;

/// What a peer saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerReport {
    /// Dials begun.
    pub dialled: u64,
    /// Dials that were established.
    pub connected: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Handshakes of the engine that came whole.
    pub handshakes: u64,
    /// Payloads that came back whole.
    pub echoes: u64,
    /// What was wrong with what the engine sent.
    pub wrong: Vec<String>,
}

/// One connection, from the peer's side.
#[derive(Debug)]
struct Session {
    socket: SocketId,
    closing: bool,
    /// A piece is being sent, or waits for its pause.
    busy: bool,
    /// Pieces to send, each after the pause before it.
    outbox: Vec<(Duration, Bytes)>,
    /// Close once the outbox is empty.
    leave: Option<CloseHow>,
    /// Bytes of the engine's handshake that came.
    greeted: usize,
    payload: Bytes,
    payload_queued: bool,
    echoed: usize,
}

#[derive(Clone, Copy, Debug)]
enum Timer {
    Dial,
    /// The session's next piece is due.
    Piece(u64),
    Leave(u64, CloseHow),
}

impl Session {
    fn say(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.outbox.push((Duration::ZERO, bytes));
        }
    }
}

/// The peer.
#[derive(Debug)]
pub struct Peer {
    driver: SimDriver,
    plan: Plan,
    rng: SmallRng,
    /// The handshake the engine has to send.
    expected: Bytes,
    sessions: BTreeMap<u64, Session>,
    timers: BTreeMap<(Instant, u64), Timer>,
    serial: u64,
    again: u32,
    out: Completions,
    report: PeerReport,
}

impl Peer {
    /// A peer that carries out `plan` against an engine whose id is `engine_id`. Panics when it
    /// cannot listen where the plan says.
    #[must_use]
    pub fn new(
        mut driver: SimDriver,
        now: Instant,
        plan: Plan,
        engine_id: &[u8],
        seed: u64,
    ) -> Self {
        if let Some(addr) = plan.listens {
            let options = ListenOptions::default();
            let listened = driver.listen(addr, &options, LISTENER);
            let (listener, _) = listened.expect("each peer has an address of its own");
            submit(&mut driver, Op::Accept { listener });
        }
        let mut peer = Self {
            driver,
            again: plan.again,
            rng: SmallRng::seed_from_u64(seed),
            expected: super::plan::frame(engine_id),
            sessions: BTreeMap::new(),
            timers: BTreeMap::new(),
            serial: 0,
            out: Vec::new(),
            report: PeerReport::default(),
            plan,
        };
        if peer.plan.dials.is_some() {
            for _ in 0..peer.plan.at_a_time {
                peer.set_timer(now + peer.plan.begins, Timer::Dial);
            }
        }
        peer
    }

    /// What it saw so far.
    #[must_use]
    pub fn report(&self) -> &PeerReport {
        &self.report
    }

    /// What it was told to do.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Its driver.
    #[must_use]
    pub fn sim(&self) -> &SimDriver {
        &self.driver
    }

    /// Connections it has, in any state.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    fn set_timer(&mut self, at: Instant, timer: Timer) {
        let serial = self.next_serial();
        self.timers.insert((at, serial), timer);
    }

    fn wrong(&mut self, what: String) {
        if self.report.wrong.len() < 5 {
            self.report.wrong.push(what);
        }
    }

    fn fire(&mut self, now: Instant, timer: Timer) {
        match timer {
            Timer::Dial => self.dial(),
            Timer::Piece(name) => self.send_next(now, name, true),
            Timer::Leave(name, how) => self.close(name, how),
        }
    }

    fn dial(&mut self) {
        let Some(to) = self.plan.dials else { return };
        let name = self.next_serial();
        let (options, token) = (ConnectOptions::default(), Token(name));
        let connect = Op::Connect { to, options, token };
        if let Ok(key) = self.driver.submit(connect) {
            self.report.dialled += 1;
            self.sessions.insert(name, self.session(key.socket, name));
        }
    }

    fn session(&self, socket: SocketId, name: u64) -> Session {
        let length = match self.plan.behaviour {
            Behaviour::Polite { payload, .. } | Behaviour::Deaf { payload, .. } => payload,
            _ => 100,
        };
        // Different on each connection, so that bytes of another one are noticed.
        let mut payload = vec![0; length];
        SmallRng::seed_from_u64(name).fill(&mut payload[..]);
        Session {
            socket,
            closing: false,
            busy: false,
            outbox: Vec::new(),
            leave: None,
            greeted: 0,
            payload: payload.into(),
            payload_queued: false,
            echoed: 0,
        }
    }

    /// The connection is there: says what the plan says.
    fn begin(&mut self, now: Instant, name: u64) {
        let frame = self.plan.frame();
        let behaviour = self.plan.behaviour.clone();
        let Some(session) = self.sessions.get_mut(&name) else {
            return;
        };
        let socket = session.socket;
        match behaviour {
            Behaviour::Polite { at_once: false, .. } => session.say(frame),
            Behaviour::Polite { .. } | Behaviour::Deaf { .. } => {
                let together = [&frame[..], &session.payload[..]].concat();
                session.payload_queued = true;
                session.say(together.into());
            }
            Behaviour::Slow { gap } => {
                session.outbox = (0..frame.len())
                    .map(|i| (gap, frame.slice(i..=i)))
                    .collect();
            }
            Behaviour::Silent => {}
            Behaviour::Garbage(bytes) => session.say(bytes),
            Behaviour::Leaves { after, close } => {
                session.leave = Some(close);
                session.say(frame.slice(..after.min(frame.len())));
            }
        }
        if let Behaviour::Deaf { stay, .. } = self.plan.behaviour {
            self.set_timer(now + stay, Timer::Leave(name, CloseHow::Rst));
        } else {
            submit(&mut self.driver, Op::Recv { socket });
        }
        self.send_next(now, name, false);
    }

    /// Sends the next piece, after its pause, and leaves when there is none and that is the plan.
    fn send_next(&mut self, now: Instant, name: u64, paused: bool) {
        let Some(session) = self.sessions.get_mut(&name) else {
            return;
        };
        if session.closing {
            return;
        }
        let Some((pause, _)) = session.outbox.first() else {
            session.busy = false;
            if let Some(how) = session.leave {
                self.close(name, how);
            }
            return;
        };
        session.busy = true;
        if !pause.is_zero() && !paused {
            let at = now + *pause;
            return self.set_timer(at, Timer::Piece(name));
        }
        let (_, bytes) = session.outbox.remove(0);
        let chunks = [bytes].into_iter().collect();
        let socket = session.socket;
        submit(&mut self.driver, Op::Send { socket, chunks });
    }

    fn close(&mut self, name: u64, how: CloseHow) {
        if let Some(session) = self.sessions.get_mut(&name)
            && !std::mem::replace(&mut session.closing, true)
        {
            let socket = session.socket;
            submit(&mut self.driver, Op::Close { socket, how });
        }
    }

    fn complete(&mut self, now: Instant, completion: Completion) {
        let name = completion.token.0;
        match completion.outcome {
            Outcome::Accepted { socket, .. } => {
                let name = self.next_serial();
                self.driver.assign(socket, Token(name));
                self.report.accepted += 1;
                self.sessions.insert(name, self.session(socket, name));
                if self.sessions.len() > SESSIONS_MAX {
                    self.wrong(format!("more than {SESSIONS_MAX} connections at a time"));
                }
                self.begin(now, name);
            }
            Outcome::Connected => {
                self.report.connected += 1;
                self.begin(now, name);
            }
            Outcome::ConnectFailed(_) | Outcome::Closed => self.ended(now, name),
            Outcome::Data(loan) => self.received(now, name, loan),
            Outcome::Sent { .. } => self.send_next(now, name, false),
            Outcome::Eof | Outcome::RecvEnded(_) | Outcome::SendFailed(_) => {
                self.close(name, CloseHow::Fin);
            }
            Outcome::AcceptEnded(_)
            | Outcome::Datagrams { .. }
            | Outcome::TrainSent { .. }
            | Outcome::TrainRefused { .. } => {}
        }
    }

    fn ended(&mut self, now: Instant, name: u64) {
        self.sessions.remove(&name);
        if self.plan.dials.is_some() && self.again > 0 {
            self.again -= 1;
            let pause = Duration::from_millis(self.rng.random_range(1..2_000));
            self.set_timer(now + pause, Timer::Dial);
        }
    }

    fn received(&mut self, now: Instant, name: u64, loan: LoanId) {
        let Some(session) = self.sessions.get_mut(&name) else {
            return;
        };
        if session.closing {
            return;
        }
        let data = self.driver.bytes(loan);
        let greeting = &self.expected[session.greeted..];
        let (head, rest) = data.split_at(data.len().min(greeting.len()));
        let due = &session.payload[session.echoed..];
        let fits = greeting.starts_with(head) && due.starts_with(rest);
        let greeted = !head.is_empty() && head.len() == greeting.len();
        session.greeted += head.len();
        if !fits || (!rest.is_empty() && !session.payload_queued) {
            let echoed = session.echoed;
            self.close(name, CloseHow::Rst);
            return self.wrong(format!("wrong bytes after {echoed} that were right"));
        }
        session.echoed += rest.len();
        let whole = !rest.is_empty() && session.echoed == session.payload.len();
        if greeted {
            self.greeted(now, name);
        }
        if whole {
            self.report.echoes += 1;
            let (stay, how) = match self.plan.behaviour {
                Behaviour::Polite { stay, close, .. } => (stay, close),
                _ => (Duration::ZERO, CloseHow::Fin),
            };
            self.set_timer(now + stay, Timer::Leave(name, how));
        }
    }

    /// The engine's handshake is complete.
    fn greeted(&mut self, now: Instant, name: u64) {
        self.report.handshakes += 1;
        let speaks = matches!(
            self.plan.behaviour,
            Behaviour::Polite { .. } | Behaviour::Slow { .. }
        );
        let Some(session) = self.sessions.get_mut(&name) else {
            return;
        };
        if speaks && !session.payload_queued {
            session.payload_queued = true;
            let payload = session.payload.clone();
            session.say(payload);
            if !session.busy {
                self.send_next(now, name, false);
            }
        }
    }
}

impl Actor for Peer {
    fn driver(&self) -> usize {
        self.driver.id()
    }

    fn step(&mut self) -> bool {
        let deadline = self.timers.keys().next().map(|(at, _)| *at);
        let mut out = std::mem::take(&mut self.out);
        let turned = self.driver.turn(deadline, &mut out);
        let now = turned.expect("simulated turns do not fail");
        for completion in out.drain(..) {
            self.complete(now, completion);
        }
        self.out = out;
        while let Some(entry) = self.timers.first_entry()
            && entry.key().0 <= now
        {
            let timer = entry.remove();
            self.fire(now, timer);
        }
        true
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

fn submit(driver: &mut SimDriver, op: Op) {
    driver.submit(op).expect("only connects are refused");
}
