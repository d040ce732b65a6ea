//! All flows from one socket, as a seeder's.

use super::{Course, Flowed, RATE, Reading};
use crate::engine::unexpected;
use crate::job::{self, BULK_WRITE, FRAME_LEN, Targets};
use bytes::Bytes;
use flock_engine::SendLimits;
use flock_engine::io::{
    Backend, Clock, Completion, Completions, DatagramOptions, Driver, DriverConfig, Instant, Op,
    Outcome, PollDriver, SocketId, TRAINS_MAX, Token, Train, UringDriver,
};
use flock_engine::utp::{Config, Congestion, Endpoint, Event, Key, Queued};
use rand::TryRngCore;
use rand::rngs::OsRng;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Handshakes under way at a time.
const DIALLING: usize = 256;
/// How long all of them may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long to leave a kernel alone that has no room for datagrams.
const FULL_REST: Duration = Duration::from_millis(1);

struct Sender<D: Driver> {
    driver: D,
    socket: SocketId,
    endpoint: Endpoint,
    train: Train,
    under_way: usize,
    full_until: Instant,
    flows: Vec<Key>,
    /// Bytes of the server's frame that each connection has read, by its place.
    greetings: Vec<usize>,
    /// Connections that have all of it.
    up: usize,
    chunk: Bytes,
    completions: Completions,
}

pub(super) fn send(
    backend: Backend,
    quantum: Duration,
    targets: Targets,
    course: Course,
) -> io::Result<Flowed> {
    let config = DriverConfig::default();
    match backend {
        Backend::Poll => {
            let driver = PollDriver::new(&config, Clock::start())?;
            Sender::new(driver, quantum)?.run(targets, course)
        }
        _ => {
            let driver = UringDriver::new(&config, Clock::start())?;
            Sender::new(driver, quantum)?.run(targets, course)
        }
    }
}

impl<D: Driver> Sender<D> {
    fn new(mut driver: D, quantum: Duration) -> io::Result<Self> {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let bound = driver.bind_datagrams(any, &DatagramOptions::default(), Token(0))?;
        let socket = bound.socket;
        driver
            .submit(Op::Recv { socket })
            .map_err(io::Error::other)?;
        let mut seed = [0; 32];
        OsRng.try_fill_bytes(&mut seed).map_err(io::Error::other)?;
        let config = Config {
            accept: false,
            congestion: Congestion::FixedRate(RATE.into()),
            pacing_quantum: quantum,
            send: SendLimits {
                high: 128 << 10,
                low: 64 << 10,
                max: 1 << 20,
            },
            ..Config::default()
        };
        Ok(Self {
            driver,
            socket,
            endpoint: Endpoint::new(config, 0, 1, seed),
            train: Train::default(),
            under_way: 0,
            full_until: Instant::ZERO,
            flows: Vec::new(),
            greetings: Vec::new(),
            up: 0,
            chunk: job::payload(BULK_WRITE),
            completions: Completions::new(),
        })
    }

    fn run(mut self, targets: Targets, course: Course) -> io::Result<Flowed> {
        let mut now = self.driver.now();
        let late = now + PATIENCE;
        while self.up < course.flows {
            if now > late {
                return Err(io::ErrorKind::TimedOut.into());
            }
            while self.flows.len() < course.flows.min(self.up + DIALLING) {
                self.dial(now, targets)?;
            }
            now = self.step(now + PATIENCE)?;
        }
        // All at once, so that handshakes do not wait behind more than a core can send.
        for key in self.flows.clone() {
            self.fill(key);
        }
        now = self.step_until(now + course.plan.warm_up)?;
        let before = self.reading()?;
        now = self.step_until(now + course.plan.window)?;
        let flowed = before.until(&self.reading()?);
        for key in std::mem::take(&mut self.flows) {
            self.endpoint.abort(now, key);
        }
        let end = now + Duration::from_millis(200);
        while self.step(end)? < end {}
        self.driver.shutdown(Duration::from_secs(1));
        Ok(flowed)
    }

    fn reading(&self) -> io::Result<Reading> {
        let bytes = self.flows.iter().map(|&key| self.endpoint.acked(key));
        let packets = self.endpoint.counters().datagrams_out;
        Reading::now(
            bytes.collect(),
            packets,
            Some(self.driver.counters().trains),
        )
    }

    fn dial(&mut self, now: Instant, targets: Targets) -> io::Result<()> {
        let number = self.flows.len() as u64;
        let to = targets.nth(number).into();
        let key = self.endpoint.connect(now, to).map_err(io::Error::other)?;
        let frame = Bytes::copy_from_slice(&job::client_frame(number));
        self.endpoint.send(key, frame).map_err(io::Error::other)?;
        self.flows.push(key);
        let slot = key.slot as usize;
        if self.greetings.len() <= slot {
            self.greetings.resize(slot + 1, 0);
        }
        Ok(())
    }

    fn step_until(&mut self, end: Instant) -> io::Result<Instant> {
        loop {
            let now = self.step(end)?;
            if now >= end {
                return Ok(now);
            }
        }
    }

    /// One wait of the driver, at most until `end`, and what follows from it.
    fn step(&mut self, end: Instant) -> io::Result<Instant> {
        self.transmit();
        let due = self.endpoint.next_deadline();
        let due = due.filter(|_| self.under_way < TRAINS_MAX);
        let deadline = due.map_or(end, |at| at.max(self.full_until).min(end));
        let mut completions = std::mem::take(&mut self.completions);
        let now = self.driver.turn(Some(deadline), &mut completions)?;
        for completion in &completions {
            self.completed(now, *completion)?;
        }
        self.completions = completions;
        self.endpoint.end_batch(now);
        if self.endpoint.next_deadline().is_some_and(|at| at <= now) {
            self.endpoint.on_deadline(now);
        }
        self.follow(None)?;
        Ok(now)
    }

    fn transmit(&mut self) {
        let now = self.driver.now();
        while self.under_way < TRAINS_MAX
            && self.full_until <= now
            && self.endpoint.poll_transmit(now, &mut self.train)
        {
            let taken = self.driver.send_train(self.socket, &mut self.train);
            debug_assert!(taken.is_ok(), "no more than it takes");
            self.under_way += 1;
        }
    }

    fn completed(&mut self, now: Instant, completion: Completion) -> io::Result<()> {
        match completion.outcome {
            Outcome::Datagrams {
                from,
                received_at,
                segment,
                loan,
            } => {
                let bytes = self.driver.bytes(loan);
                self.endpoint
                    .handle(now, from, received_at, segment.into(), bytes);
                self.follow(Some(loan))?;
            }
            Outcome::TrainSent { tag } => {
                self.under_way -= 1;
                self.endpoint.sent(tag, now);
            }
            Outcome::TrainRefused { tag, .. } => {
                self.under_way -= 1;
                self.full_until = now + FULL_REST;
                self.endpoint.refused(tag, now);
            }
            _ => {}
        }
        Ok(())
    }

    fn follow(&mut self, loan: Option<flock_engine::io::LoanId>) -> io::Result<()> {
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::Data { key, range } => {
                    let part = loan.and_then(|loan| self.driver.bytes(loan).get(range));
                    let part = part.map_or(0, <[u8]>::len);
                    self.greeted(key, part);
                }
                Event::Buffered { key, bytes } => self.greeted(key, bytes.len()),
                Event::Writable { key } => self.fill(key),
                Event::Closed { .. } if !self.flows.is_empty() => {
                    return Err(unexpected("a flow ended"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn greeted(&mut self, key: Key, bytes: usize) {
        let have = &mut self.greetings[key.slot as usize];
        *have += bytes;
        if *have == FRAME_LEN {
            self.up += 1;
        }
    }

    /// Queues as much as the queue likes.
    fn fill(&mut self, key: Key) {
        while let Ok(Queued::Ok) = self.endpoint.send(key, self.chunk.clone()) {}
    }
}
