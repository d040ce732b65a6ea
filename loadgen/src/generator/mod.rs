//! The load path: one thread, one driver, a slab of simulated peers.
//!
//! A peer's life is dial, send the id frame, read the target's, (be held,) close. Everything a
//! life needs is allocated before the first dial. Moments are the driver's: a completion is
//! stamped with the time its turn returned, so a latency includes the generator's own delay
//! until it looked, and never hides it.

mod carrier;
mod life;
#[cfg(test)]
mod tests;
mod utp;

use carrier::Carrier;
pub(crate) use carrier::Transport;
pub(crate) use life::Timeouts;
use life::{Life, Phase};
use utp::Flows;
pub(crate) use utp::SOCKETS_MAX as DATAGRAM_SOCKETS_MAX;

use crate::frame::Frames;
use crate::progress::{Progress, Reading};
use crate::schedule::{Pace, Schedule};
use crate::stats::{Failure, Stage, Stats};
use crate::units::Sources;
use flock_engine::io::{
    Chunks, CloseHow, Completion, Completions, ConnectOptions, Driver, DriverCounters,
    HandshakeError, Instant, Op, Outcome, StreamOptions, Token,
};
use slab::Slab;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often timeouts, and the wish to stop, are looked at.
const SWEEP: Duration = Duration::from_millis(100);
/// How long outstanding closes may take at the end before they are counted as failed.
const DRAIN: Duration = Duration::from_secs(5);

/// What one simulated peer takes here, beside its id frame and its socket's place in the driver,
/// in bytes: its life, the slab's link and its place in the queue of the idle.
pub(crate) const MEMORY_PER_PEER: usize = size_of::<Life>() + 8 + 4;

/// What one generator thread has to do.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// Where to, in turn.
    pub(crate) targets: Vec<SocketAddr>,
    /// Where from.
    pub(crate) sources: Sources,
    /// The id frames of all peers of the run.
    pub(crate) frames: Frames,
    /// The peers of the run; this thread owns `lane`, `lane + lanes`, ….
    pub(crate) peers: u32,
    /// This thread.
    pub(crate) lane: u32,
    /// Generator threads.
    pub(crate) lanes: u32,
    /// When peers start.
    pub(crate) pace: Pace,
    /// For how long peers are started; `None`: each peer lives once.
    pub(crate) duration: Option<Duration>,
    /// Connections open at a time.
    pub(crate) room: usize,
    /// Connects and handshakes under way at a time.
    pub(crate) dialling: usize,
    /// Let the last packet of the connect ride on the id frame. One packet less, but a target
    /// that writes its frame in two pieces (Node's does) then waits for a delayed ACK of ours.
    pub(crate) lazy_ack: bool,
    /// What carries the connections.
    pub(crate) transport: Transport,
    /// How connections are closed.
    pub(crate) close: CloseHow,
    /// Keep all connections this long, once all are up.
    pub(crate) hold: Option<Duration>,
    /// When to give up.
    pub(crate) timeouts: Timeouts,
}

/// What a generator thread brings back.
#[derive(Clone, Debug)]
pub(crate) struct Harvest {
    pub(crate) stats: Stats,
    pub(crate) counters: DriverCounters,
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    Launching,
    Holding { until: Instant },
    Draining { until: Instant },
}

/// A generator: simulated peers on one driver.
pub(crate) struct Generator<'a, D: Driver> {
    driver: D,
    load: Load,
    schedule: Schedule,
    progress: &'a Progress,
    stop: &'a AtomicBool,
    flows: Flows,
    lives: Slab<Life>,
    /// Peers that are not alive, the one that rested longest first.
    idle: VecDeque<u32>,
    /// Held connections that are to be closed.
    leaving: Vec<usize>,
    /// Connections whose close is under way.
    closing: usize,
    course: Course,
    dials: usize,
    unsettled: usize,
    done: Completions,
    deadline: Instant,
    started_at: Option<Instant>,
    next_sweep: Instant,
    window_open: bool,
    stats: Stats,
}

impl<'a, D: Driver> Generator<'a, D> {
    /// A generator that has not started anything yet. Room for `load.room` lives is taken here.
    /// Errors are those of the datagram sockets that uTP needs.
    pub(crate) fn new(
        mut driver: D,
        load: Load,
        progress: &'a Progress,
        stop: &'a AtomicBool,
    ) -> io::Result<Self> {
        let flows = match load.transport {
            Transport::Tcp => Flows::default(),
            _ => Flows::open(&mut driver, load.sources, load.peers, load.room)?,
        };
        let idle: VecDeque<u32> = (load.lane..load.peers)
            .step_by(load.lanes as usize)
            .collect();
        let now = driver.now();
        let total = load.duration.is_none().then_some(idle.len() as u64);
        Ok(Self {
            flows,
            schedule: Schedule::new(load.pace, now, load.duration, total),
            leaving: Vec::with_capacity(if load.hold.is_some() { load.room } else { 0 }),
            driver,
            lives: Slab::with_capacity(load.room),
            load,
            progress,
            stop,
            idle,
            closing: 0,
            course: Course::Launching,
            dials: 0,
            unsettled: 0,
            done: Completions::with_capacity(1024),
            deadline: Instant::ZERO,
            started_at: None,
            next_sweep: now,
            window_open: true,
            stats: Stats::new(),
        })
    }

    /// Runs to the end. Errors are the driver's own; what goes wrong with a peer is counted.
    pub(crate) fn run(mut self) -> io::Result<Harvest> {
        while self.turn()? {}
        Ok(self.end())
    }

    /// One turn of the driver and what follows from it; false when all is done.
    fn turn(&mut self) -> io::Result<bool> {
        let mut done = std::mem::take(&mut self.done);
        let now = self.driver.turn(Some(self.deadline), &mut done)?;
        if self.started_at.is_none() {
            self.begin(now);
        }
        for completion in &done {
            self.complete(*completion, now);
        }
        self.done = done;
        self.flows.serve(now);
        self.follow_flows(None, now);
        if now >= self.next_sweep {
            self.sweep(now);
        }
        self.launch(now);
        self.advance(now);
        self.follow_flows(None, now);
        self.flows.transmit(now, &mut self.driver);
        self.publish();
        self.deadline = self.next_deadline(now);
        Ok(!self.is_finished(now))
    }

    fn end(mut self) -> Harvest {
        let counters = self.driver.counters();
        self.driver.shutdown(Duration::from_secs(1));
        Harvest {
            stats: self.stats,
            counters,
        }
    }

    /// Starts the clock: only now is everything ready.
    fn begin(&mut self, now: Instant) {
        let total = self
            .load
            .duration
            .is_none()
            .then_some(self.idle.len() as u64);
        self.schedule = Schedule::new(self.load.pace, now, self.load.duration, total);
        self.started_at = Some(now);
    }

    fn launch(&mut self, now: Instant) {
        while self.has_room()
            && let Some(intended) = self.schedule.launch(now)
        {
            if !self.dial(intended, now) {
                // Nothing gets better before the next turn.
                return;
            }
        }
    }

    fn has_room(&self) -> bool {
        self.course == Course::Launching
            && self.lives.len() < self.load.room
            && self.unsettled < self.load.dialling
            && !self.idle.is_empty()
    }

    /// Starts the peer that rested longest; false when the driver had no room for it.
    fn dial(&mut self, intended: Instant, now: Instant) -> bool {
        let peer = self
            .idle
            .pop_front()
            .expect("there is room only while a peer is idle");
        let to = self.load.targets[self.dials % self.load.targets.len()];
        self.dials += 1;
        self.stats.started += 1;
        if matches!(self.load.pace, Pace::Open { .. }) {
            self.stats.lag.record(now - intended);
        }
        let entry = self.lives.vacant_entry();
        if self.load.transport.is_utp(peer) {
            let Some(flow) = self.flows.dial(now, peer, to, entry.key()) else {
                self.stats.fail(Stage::Connect, Failure::NoRoom);
                self.idle.push_back(peer);
                return false;
            };
            entry.insert(Life::new(peer, Carrier::Utp(flow), intended, now));
            self.unsettled += 1;
            self.stats.peak = self.stats.peak.max(self.lives.len() as u64);
            return true;
        }
        let connect = Op::Connect {
            to,
            options: ConnectOptions {
                source: self.load.sources.of(peer),
                stream: StreamOptions {
                    lazy_handshake_ack: self.load.lazy_ack,
                    ..StreamOptions::default()
                },
            },
            token: Token(entry.key() as u64),
        };
        match self.driver.submit(connect) {
            Ok(key) => {
                entry.insert(Life::new(peer, Carrier::Tcp(key.socket), intended, now));
                self.unsettled += 1;
                self.stats.peak = self.stats.peak.max(self.lives.len() as u64);
                true
            }
            Err(_full) => {
                self.stats.fail(Stage::Connect, Failure::NoRoom);
                self.idle.push_back(peer);
                false
            }
        }
    }

    fn complete(&mut self, completion: Completion, now: Instant) {
        if completion.token == utp::TOKEN {
            return self.complete_datagrams(completion, now);
        }
        let Ok(key) = usize::try_from(completion.token.0) else {
            return;
        };
        match completion.outcome {
            Outcome::Connected => self.connected(key, now),
            Outcome::ConnectFailed(errno) => {
                self.stats.fail(Stage::Connect, Failure::Os(errno.0));
                self.unsettled -= 1;
                self.release(key);
            }
            Outcome::Sent { .. } => {
                self.lives[key].sent = true;
                self.settle(key, now);
            }
            Outcome::Data(loan) => {
                let read = self.lives[key].reader.feed(self.driver.bytes(loan));
                self.stats.bytes_in += self.driver.bytes(loan).len() as u64;
                self.read(key, read, now);
            }
            Outcome::Eof => self.give_up(key, Failure::Closed, now),
            Outcome::RecvEnded(errno) | Outcome::SendFailed(errno) => {
                self.give_up(key, Failure::Os(errno.0), now);
            }
            Outcome::Closed => self.closed(key, now),
            Outcome::Accepted { .. }
            | Outcome::AcceptEnded(_)
            | Outcome::Datagrams { .. }
            | Outcome::TrainSent { .. }
            | Outcome::TrainRefused { .. } => {}
        }
    }

    fn connected(&mut self, key: usize, now: Instant) {
        let life = &mut self.lives[key];
        self.stats.connected += 1;
        self.stats.window_connected += u64::from(self.window_open);
        self.stats.connect.record(now - life.intended);
        life.phase = Phase::Handshaking;
        life.since = now;
        let frame = self.load.frames.of(life.peer);
        match life.carrier {
            Carrier::Tcp(socket) => {
                let mut chunks = Chunks::new();
                chunks.push(frame);
                self.submit(Op::Send { socket, chunks });
                self.submit(Op::Recv { socket });
            }
            Carrier::Utp(flow) => {
                life.sent = true;
                self.flows.send(flow, frame);
            }
        }
    }

    fn read(&mut self, key: usize, read: Result<bool, HandshakeError>, now: Instant) {
        match read {
            Ok(true) => self.settle(key, now),
            Ok(false) => {}
            Err(error) => self.give_up(key, error.into(), now),
        }
    }

    /// The handshake is over once our frame is sent and the target's is read.
    fn settle(&mut self, key: usize, now: Instant) {
        let life = &mut self.lives[key];
        if life.phase != Phase::Handshaking || !life.has_shaken_hands() {
            return;
        }
        self.unsettled -= 1;
        self.stats.handshaken += 1;
        self.stats.window_handshaken += u64::from(self.window_open);
        self.stats.handshake.record(now - life.since);
        self.stats.ready.record(now - life.intended);
        life.phase = Phase::Held;
        life.since = now;
        if self.load.hold.is_none() {
            self.close(key, now);
        }
    }

    fn close(&mut self, key: usize, now: Instant) {
        let life = &mut self.lives[key];
        self.closing += 1;
        life.phase = Phase::Closing { failed: false };
        life.since = now;
        let (carrier, how) = (life.carrier, self.load.close);
        self.end_carrier(carrier, how, now);
    }

    /// Counts the peer as failed and closes its connection.
    fn give_up(&mut self, key: usize, failure: Failure, now: Instant) {
        let stage = match self.lives[key].phase {
            Phase::Connecting => Stage::Connect,
            Phase::Handshaking => Stage::Handshake,
            Phase::Held => Stage::Hold,
            Phase::Closing { .. } => return,
        };
        self.stats.fail(stage, failure);
        self.abort(key, now);
    }

    fn abort(&mut self, key: usize, now: Instant) {
        let life = &mut self.lives[key];
        self.unsettled -= usize::from(life.is_unsettled());
        self.closing += 1;
        life.phase = Phase::Closing { failed: true };
        life.since = now;
        let carrier = life.carrier;
        self.end_carrier(carrier, CloseHow::Rst, now);
    }

    fn closed(&mut self, key: usize, now: Instant) {
        let life = &self.lives[key];
        if life.phase == (Phase::Closing { failed: false }) {
            self.stats.closed += 1;
            self.stats.close.record(now - life.since);
        }
        self.release(key);
    }

    fn release(&mut self, key: usize) {
        let life = self.lives.remove(key);
        self.closing -= usize::from(matches!(life.phase, Phase::Closing { .. }));
        self.idle.push_back(life.peer);
    }

    fn submit(&mut self, op: Op) {
        self.driver
            .submit(op)
            .expect("only connects can be refused");
    }

    /// Enforces timeouts and looks whether the run shall stop.
    fn sweep(&mut self, now: Instant) {
        self.next_sweep = now + SWEEP;
        let stopping = self.stop.load(Ordering::Relaxed);
        if stopping {
            self.schedule.stop(now);
        }
        if self.unsettled == 0 {
            return;
        }
        for key in 0..self.lives.capacity() {
            let Some(life) = self.lives.get(key) else {
                continue;
            };
            if stopping && life.is_unsettled() {
                self.stats.abandoned += 1;
                self.abort(key, now);
            } else if life.is_late(now, self.load.timeouts) {
                self.give_up(key, Failure::Timeout, now);
            }
        }
    }

    /// Moves the run on: launching, holding, draining.
    fn advance(&mut self, now: Instant) {
        if self.window_open && self.window_is_over(now) {
            self.window_open = false;
            self.stats.window = now - self.started_at.unwrap_or(now);
            self.stats.missed = self.schedule.overdue(now);
            self.progress.close_window();
        }
        match self.course {
            Course::Launching if self.schedule.is_over(now) => match self.load.hold {
                Some(_) if self.unsettled > 0 => {}
                Some(hold) => self.course = Course::Holding { until: now + hold },
                None => {
                    self.course = Course::Draining {
                        until: now + self.drain(),
                    }
                }
            },
            Course::Holding { until } if now >= until || self.stop.load(Ordering::Relaxed) => {
                let held = self
                    .lives
                    .iter()
                    .filter(|(_, life)| life.phase == Phase::Held);
                self.leaving.extend(held.map(|(key, _)| key));
                self.stats.survived = self.leaving.len() as u64;
                // Slow targets close some thousands a second.
                let leaving = u32::try_from(self.leaving.len()).unwrap_or(u32::MAX);
                self.course = Course::Draining {
                    until: now + self.drain() + Duration::from_millis(1) * leaving,
                };
            }
            _ => {}
        }
        if matches!(self.course, Course::Draining { .. }) {
            self.leave(now);
        }
    }

    /// A run of a given duration is measured to its end; one of a given number of peers, until
    /// the last of them has shaken hands.
    fn window_is_over(&self, now: Instant) -> bool {
        self.schedule.is_over(now) && (self.load.duration.is_some() || self.unsettled == 0)
    }

    fn drain(&self) -> Duration {
        self.load.timeouts.connect + self.load.timeouts.handshake + DRAIN
    }

    /// Closes held connections, as many at a time as may be dialled: an end of everything at once
    /// would be lost on the way.
    fn leave(&mut self, now: Instant) {
        for _ in self.closing..self.load.dialling {
            let Some(key) = self.leaving.pop() else {
                return;
            };
            if self
                .lives
                .get(key)
                .is_some_and(|life| life.phase == Phase::Held)
            {
                self.close(key, now);
            }
        }
    }

    fn is_finished(&mut self, now: Instant) -> bool {
        let Course::Draining { until } = self.course else {
            return false;
        };
        if self.lives.is_empty() {
            return true;
        }
        if now < until {
            return false;
        }
        for _ in 0..self.lives.len() {
            self.stats.fail(Stage::Close, Failure::Timeout);
        }
        true
    }

    fn next_deadline(&self, now: Instant) -> Instant {
        let mut deadline = self.next_sweep;
        if self.has_room()
            && let Some(next) = self.schedule.next(now)
        {
            deadline = deadline.min(next);
        }
        if let Some(at) = self.flows.next_deadline() {
            deadline = deadline.min(at);
        }
        match self.course {
            Course::Holding { until } => deadline.min(until),
            Course::Draining { .. }
                if !self.leaving.is_empty() && self.closing < self.load.dialling =>
            {
                now
            }
            _ => deadline,
        }
    }

    fn publish(&self) {
        self.progress.publish(Reading {
            handshaken: self.stats.handshaken,
            failed: self.stats.failed(),
            open: (self.lives.len() - self.unsettled) as u64,
        });
    }
}
