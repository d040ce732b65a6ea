//! The client's side over uTP: every peer has a datagram socket of its own, and so an address.

use super::GRACE;
use crate::engine::Drive;
use crate::job::{self, FRAME_LEN, Frame, Job};
use bytes::{Bytes, BytesMut};
use flock_engine::io::{
    Backend, Clock, Completion, Completions, DatagramOptions, Driver, DriverConfig, Instant, Op,
    Outcome, PollDriver, SocketId, TRAINS_MAX, Token, Train, UringDriver,
};
use flock_engine::utp::{Config, Endpoint, Event, Key, Queued};
use flock_engine::{CloseReason, SendLimits};
use rand::TryRngCore;
use rand::rngs::OsRng;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// How long to leave a kernel alone that has no room for datagrams.
const FULL_REST: Duration = Duration::from_millis(1);
/// After so long without the peer's end a connection has failed.
const LINGER: Duration = Duration::from_secs(5);

/// How much a bulk sender may have queued, what is in flight included: as much as librqbit-utp's
/// send buffer grows to.
const QUEUE: SendLimits = SendLimits {
    high: 1 << 20,
    low: 512 << 10,
    max: 64 << 20,
};

/// One connection after the other; its index is the token of its socket.
struct Peer {
    socket: SocketId,
    endpoint: Endpoint,
    conn: Option<Conn>,
    /// Connections whose end is queued since then, until the server's end comes.
    closing: Vec<(Key, Instant)>,
    train: Train,
    /// Trains with the driver.
    under_way: usize,
    full_until: Instant,
    /// Something happened to it in this turn.
    touched: bool,
}

struct Conn {
    key: Key,
    frame: Frame,
    /// Bytes of the server's frame that have arrived.
    have: usize,
}

struct Client<'a, D: Driver> {
    cx: &'a Drive,
    driver: D,
    peers: Vec<Peer>,
}

pub(super) fn drive(cx: &Arc<Drive>, backend: Backend, in_flight: usize) -> io::Result<()> {
    let sockets = u32::try_from(in_flight + 64).map_err(io::Error::other)?;
    let config = DriverConfig {
        sockets,
        ..DriverConfig::default()
    };
    match backend {
        Backend::Poll => run(cx, PollDriver::new(&config, Clock::start())?, in_flight),
        _ => run(cx, UringDriver::new(&config, Clock::start())?, in_flight),
    }
}

fn run<D: Driver>(cx: &Drive, mut driver: D, in_flight: usize) -> io::Result<()> {
    let mut peers = Vec::with_capacity(in_flight);
    for index in 0..in_flight {
        peers.push(Peer::new(&mut driver, Token(index as u64))?);
    }
    let mut client = Client { cx, driver, peers };
    let now = client.driver.now();
    let mut frames = BytesMut::new();
    for peer in &mut client.peers {
        peer.dial(cx, now, &mut frames)?;
    }
    let mut completions = Completions::new();
    client.serve(now, &mut frames)?;
    while client.peers.iter().any(Peer::is_busy) {
        let deadline = client.peers.iter().filter_map(Peer::deadline).min();
        let now = client.driver.turn(deadline, &mut completions)?;
        for completion in &completions {
            client.completed(now, *completion);
        }
        client.serve(now, &mut frames)?;
    }
    client.driver.shutdown(GRACE);
    Ok(())
}

impl<D: Driver> Client<'_, D> {
    fn completed(&mut self, now: Instant, completion: Completion) {
        let index = usize::try_from(completion.token.0).unwrap_or(usize::MAX);
        let Some(peer) = self.peers.get_mut(index) else {
            return;
        };
        peer.touched = true;
        match completion.outcome {
            Outcome::Datagrams {
                from,
                received_at,
                segment,
                loan,
            } => {
                let bytes = self.driver.bytes(loan);
                peer.endpoint
                    .handle(now, from, received_at, segment.into(), bytes);
                peer.events(self.cx, now, bytes);
            }
            Outcome::TrainSent { tag } => {
                peer.under_way -= 1;
                peer.endpoint.sent(tag, now);
            }
            Outcome::TrainRefused { tag, .. } => {
                peer.under_way -= 1;
                peer.full_until = now + FULL_REST;
                peer.endpoint.refused(tag, now);
            }
            _ => {}
        }
    }

    /// All datagrams of this turn are handled, and time has passed.
    fn serve(&mut self, now: Instant, frames: &mut BytesMut) -> io::Result<()> {
        for peer in &mut self.peers {
            let due = peer.deadline().is_some_and(|at| at <= now);
            if !(due || std::mem::take(&mut peer.touched)) {
                continue;
            }
            peer.endpoint.end_batch(now);
            if due {
                peer.endpoint.on_deadline(now);
            }
            loop {
                peer.events(self.cx, now, &[]);
                if peer.conn.is_none() && matches!(self.cx.job, Job::Life(_)) {
                    peer.dial(self.cx, now, frames)?;
                }
                peer.transmit(now, &mut self.driver);
                if !peer.has_events(self.cx, now) {
                    break;
                }
            }
        }
        Ok(())
    }
}

impl Peer {
    fn new<D: Driver>(driver: &mut D, token: Token) -> io::Result<Self> {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let bound = driver.bind_datagrams(any, &DatagramOptions::default(), token)?;
        let socket = bound.socket;
        driver
            .submit(Op::Recv { socket })
            .map_err(io::Error::other)?;
        let mut seed = [0; 32];
        OsRng.try_fill_bytes(&mut seed).map_err(io::Error::other)?;
        let config = Config {
            accept: false,
            linger: LINGER,
            send: QUEUE,
            ..Config::default()
        };
        Ok(Self {
            socket,
            endpoint: Endpoint::new(config, 0, 1, seed),
            conn: None,
            closing: Vec::new(),
            train: Train::default(),
            under_way: 0,
            full_until: Instant::ZERO,
            touched: true,
        })
    }

    /// Whether a connection, or a last word of one, is still to be seen to its end.
    fn is_busy(&self) -> bool {
        self.conn.is_some() || !self.closing.is_empty() || self.under_way > 0
    }

    fn deadline(&self) -> Option<Instant> {
        // With the most trains under way, the next that leaves is the sign.
        let at = self.endpoint.next_deadline()?;
        (self.under_way < TRAINS_MAX).then(|| at.max(self.full_until))
    }

    /// Begins the next connection, if there is one more to do.
    fn dial(&mut self, cx: &Drive, now: Instant, frames: &mut BytesMut) -> io::Result<()> {
        if !cx.next() {
            return Ok(());
        }
        let (to, hello) = cx.connection();
        let key = self.endpoint.connect(now, to).map_err(io::Error::other)?;
        frames.extend_from_slice(&hello);
        let frame = frames.split().freeze();
        // It waits until the connection is there.
        self.endpoint.send(key, frame).map_err(io::Error::other)?;
        self.conn = Some(Conn {
            key,
            frame: [0; FRAME_LEN],
            have: 0,
        });
        self.touched = true;
        Ok(())
    }

    fn events(&mut self, cx: &Drive, now: Instant, datagrams: &[u8]) {
        while let Some(event) = self.endpoint.poll_event() {
            self.on_event(cx, now, event, datagrams);
        }
    }

    /// Takes what sending led to, and says whether there was any.
    fn has_events(&mut self, cx: &Drive, now: Instant) -> bool {
        let Some(event) = self.endpoint.poll_event() else {
            return false;
        };
        self.on_event(cx, now, event, &[]);
        true
    }

    fn on_event(&mut self, cx: &Drive, now: Instant, event: Event, datagrams: &[u8]) {
        if let Event::Closed { key, reason, .. } = event {
            return self.over(cx, now, key, reason);
        }
        let Some(current) = self.conn.as_ref().map(|conn| conn.key) else {
            return;
        };
        match event {
            Event::Data { key, range } if key == current => self.take(cx, now, &datagrams[range]),
            Event::Buffered { key, bytes } if key == current => self.take(cx, now, &bytes),
            Event::Writable { key } if key == current => self.fill(cx, now),
            // The server ends only what we have ended, and then all that is told is Closed.
            Event::Eof { key } if key == current => self.fail(cx, now),
            _ => {}
        }
    }

    fn take(&mut self, cx: &Drive, now: Instant, bytes: &[u8]) {
        let Some(conn) = &mut self.conn else { return };
        let end = conn.have + bytes.len();
        let Some(room) = conn.frame.get_mut(conn.have..end) else {
            return self.fail(cx, now);
        };
        room.copy_from_slice(bytes);
        conn.have = end;
        if end < FRAME_LEN {
            return;
        }
        if !job::is_server_frame(&conn.frame) {
            return self.fail(cx, now);
        }
        let key = conn.key;
        match cx.job {
            job if job.resets() => {
                self.conn = None;
                self.endpoint.abort(now, key);
                cx.count_done();
            }
            Job::Life(_) => {
                self.close(now);
                cx.count_done();
            }
            _ => {
                self.send(cx.request.clone());
                cx.count_done();
                self.fill(cx, now);
            }
        }
    }

    /// Queues as much as the queue likes.
    fn fill(&mut self, cx: &Drive, now: Instant) {
        while cx.next() {
            cx.count_done();
            if self.send(cx.request.clone()) == Queued::AboveHigh {
                return;
            }
        }
        self.close(now);
    }

    fn send(&mut self, bytes: Bytes) -> Queued {
        let key = self.conn.as_ref().map(|conn| conn.key);
        let sent = key.map(|key| self.endpoint.send(key, bytes));
        // What is refused belongs to a connection that is over, as an event will say.
        sent.and_then(Result::ok).unwrap_or(Queued::AboveHigh)
    }

    fn close(&mut self, now: Instant) {
        if let Some(conn) = self.conn.take() {
            self.closing.push((conn.key, now));
            self.endpoint.close(now, conn.key);
        }
    }

    /// A connection is gone.
    fn over(&mut self, cx: &Drive, now: Instant, key: Key, reason: CloseReason) {
        if let Some(at) = self.closing.iter().position(|(closing, _)| *closing == key) {
            let (_, since) = self.closing.swap_remove(at);
            if reason != CloseReason::Local || now - since >= LINGER {
                cx.count_error();
            }
        } else if self.conn.as_ref().is_some_and(|conn| conn.key == key) {
            self.conn = None;
            cx.count_error();
        }
    }

    fn fail(&mut self, cx: &Drive, now: Instant) {
        if let Some(conn) = self.conn.take() {
            cx.count_error();
            self.endpoint.abort(now, conn.key);
        }
    }

    fn transmit<D: Driver>(&mut self, now: Instant, driver: &mut D) {
        while self.under_way < TRAINS_MAX
            && self.full_until <= now
            && self.endpoint.poll_transmit(now, &mut self.train)
        {
            let taken = driver.send_train(self.socket, &mut self.train);
            debug_assert!(taken.is_ok(), "no more than it takes");
            self.under_way += 1;
        }
    }
}
