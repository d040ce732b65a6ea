//! uTP connections on a driver: one datagram socket and its endpoint.

use super::session::{ConnIndex, Event, Wire};
use bytes::Bytes;
use flock_engine::io::{
    Completions, DatagramOptions, Driver, Op, Outcome, SocketId, TRAINS_MAX, Token, Train, Waker,
};
use flock_engine::utp::{Config, Endpoint, Key};
use flock_engine::{CloseReason, Errno, Instant, SendLimits, utp};
use rand::TryRngCore;
use rand::rngs::OsRng;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// How long the last acknowledgements are repeated if the peer asks for them again.
const LAST_WORDS: Duration = Duration::from_millis(100);

struct Conn {
    key: Key,
    peer: SocketAddr,
    /// Bytes queued when it was last looked at.
    queued: usize,
    peer_ended: bool,
    ended: bool,
    dialled: bool,
}

pub(super) struct Utp<D> {
    driver: D,
    socket: Option<SocketId>,
    endpoint: Endpoint,
    conns: Vec<Option<Conn>>,
    completions: Completions,
    train: Train,
    under_way: usize,
    /// Nothing is offered to the kernel before.
    full_until: Instant,
    /// Dials that could not be begun.
    refused: Vec<Errno>,
}

impl<D: Driver> Utp<D> {
    pub(super) fn new(driver: D) -> io::Result<Self> {
        let mut seed = [0; 32];
        OsRng.try_fill_bytes(&mut seed).map_err(io::Error::other)?;
        let config = Config {
            send: SendLimits {
                max: u32::MAX,
                ..SendLimits::default()
            },
            ..Config::default()
        };
        Ok(Self {
            driver,
            socket: None,
            endpoint: Endpoint::new(config, 0, 1, seed),
            conns: Vec::new(),
            completions: Completions::new(),
            train: Train::default(),
            under_way: 0,
            full_until: Instant::ZERO,
            refused: Vec::new(),
        })
    }

    fn bind(&mut self, addr: SocketAddr) -> io::Result<SocketAddr> {
        let options = DatagramOptions::default();
        let bound = self.driver.bind_datagrams(addr, &options, Token(0))?;
        for buffer in bound.capped(&options) {
            eprintln!("{buffer}");
        }
        let socket = bound.socket;
        submit(&mut self.driver, Op::Recv { socket });
        if let Some(socket) = self.socket.replace(socket) {
            let how = flock_engine::io::CloseHow::Fin;
            submit(&mut self.driver, Op::Close { socket, how });
        }
        Ok(bound.addr)
    }

    fn insert(&mut self, key: Key, peer: SocketAddr, dialled: bool) -> ConnIndex {
        let conn = Conn {
            key,
            peer,
            queued: 0,
            peer_ended: false,
            ended: false,
            dialled,
        };
        let free = self.conns.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| {
            self.conns.push(None);
            self.conns.len() - 1
        });
        self.conns[index] = Some(conn);
        index
    }

    fn key(&self, index: ConnIndex) -> Option<Key> {
        Some(self.conns.get(index)?.as_ref()?.key)
    }

    fn find(&mut self, key: Key) -> Option<(ConnIndex, &mut Conn)> {
        let mut live = self.conns.iter_mut().enumerate();
        live.find_map(|(index, conn)| {
            let conn = conn.as_mut()?;
            (conn.key == key).then_some((index, conn))
        })
    }

    /// Passes on what happened; `datagrams` are those it refers to.
    fn tell(&mut self, datagrams: &[u8], on: &mut dyn FnMut(Event<'_>)) {
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                utp::Event::Accepted { key, from } => {
                    let index = self.insert(key, from, false);
                    on(Event::Open(index, from));
                }
                utp::Event::Connected { key } => {
                    if let Some((index, conn)) = self.find(key) {
                        conn.dialled = false;
                        on(Event::Open(index, conn.peer));
                    }
                }
                utp::Event::Data { key, range } => {
                    if let Some((index, _)) = self.find(key) {
                        on(Event::Data(index, &datagrams[range]));
                    }
                }
                utp::Event::Buffered { key, bytes } => {
                    if let Some((index, _)) = self.find(key) {
                        on(Event::Data(index, &bytes));
                    }
                }
                utp::Event::Eof { key } => {
                    if let Some((index, conn)) = self.find(key) {
                        conn.peer_ended = true;
                        on(Event::PeerEnded(index));
                    }
                }
                utp::Event::Closed { key, reason, .. } => self.closed(key, reason, on),
                _ => {}
            }
        }
    }

    fn closed(&mut self, key: Key, reason: CloseReason, on: &mut dyn FnMut(Event<'_>)) {
        let Some((index, conn)) = self.find(key) else {
            return;
        };
        let in_order = conn.ended && conn.peer_ended;
        let dialled = conn.dialled;
        self.conns[index] = None;
        if dialled {
            on(Event::Failed(Errno::from_io(
                &io::ErrorKind::TimedOut.into(),
            )));
        } else {
            on(Event::Closed(index, (!in_order).then_some(reason)));
        }
    }

    /// Tells of queues that have become shorter.
    fn tell_room(&mut self, on: &mut dyn FnMut(Event<'_>)) {
        for (index, conn) in self.conns.iter_mut().enumerate() {
            let Some(conn) = conn else { continue };
            let queued = usize::try_from(self.endpoint.queued(conn.key)).unwrap_or(usize::MAX);
            if queued < conn.queued {
                on(Event::Room(index));
            }
            conn.queued = queued;
        }
    }

    fn transmit(&mut self, now: Instant) {
        let Some(socket) = self.socket else { return };
        let has_room = self.full_until <= now;
        while has_room
            && self.under_way < TRAINS_MAX
            && self.endpoint.poll_transmit(now, &mut self.train)
        {
            let taken = self.driver.send_train(socket, &mut self.train);
            debug_assert!(taken.is_ok(), "no more than it takes");
            self.under_way += 1;
        }
    }

    /// One wait of the driver, at most until `latest`, and what follows from it.
    fn step(
        &mut self,
        latest: Option<Instant>,
        on: &mut dyn FnMut(Event<'_>),
    ) -> io::Result<Instant> {
        self.transmit(self.driver.now());
        let due = match self.under_way < TRAINS_MAX {
            true => self.endpoint.next_deadline(),
            false => None,
        };
        let due = due.map(|at| at.max(self.full_until));
        let deadline = [due, latest].into_iter().flatten().min();
        let mut completions = std::mem::take(&mut self.completions);
        let now = self.driver.turn(deadline, &mut completions)?;
        for completion in completions.drain(..) {
            self.complete(now, completion.outcome, on)?;
        }
        self.completions = completions;
        self.endpoint.end_batch(now);
        if self.endpoint.next_deadline().is_some_and(|at| at <= now) {
            self.endpoint.on_deadline(now);
        }
        self.tell(&[], on);
        self.tell_room(on);
        self.transmit(now);
        Ok(now)
    }

    fn complete(
        &mut self,
        now: Instant,
        outcome: Outcome,
        on: &mut dyn FnMut(Event<'_>),
    ) -> io::Result<()> {
        match outcome {
            Outcome::Datagrams {
                from,
                received_at,
                segment,
                loan,
            } => {
                // Events borrow the datagrams, and telling of them the whole of this.
                let datagrams = self.driver.bytes(loan).to_vec();
                let segment = segment.into();
                self.endpoint
                    .handle(now, from, received_at, segment, &datagrams);
                self.tell(&datagrams, on);
            }
            Outcome::TrainSent { tag } => {
                self.under_way -= 1;
                self.endpoint.sent(tag, now);
            }
            Outcome::TrainRefused { tag, errno } => {
                self.under_way -= 1;
                self.full_until = now + Duration::from_millis(1);
                match errno.kind() {
                    // Nobody is there to be reached: as if it had been lost.
                    io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => {
                        self.endpoint.sent(tag, now);
                    }
                    _ => self.endpoint.refused(tag, now),
                }
            }
            Outcome::RecvEnded(errno) => return Err(io::Error::from_raw_os_error(errno.0)),
            _ => {}
        }
        Ok(())
    }
}

impl<D: Driver> Wire for Utp<D> {
    fn listen(&mut self, addr: SocketAddr) -> io::Result<SocketAddr> {
        self.bind(addr)
    }

    fn stop_listening(&mut self) {
        self.endpoint.hold(true);
    }

    fn dial(&mut self, to: SocketAddr) {
        let any = match to {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        if let Err(error) = self.bind(any) {
            return self.refused.push(Errno::from_io(&error));
        }
        self.endpoint.hold(true);
        match self.endpoint.connect(self.driver.now(), to) {
            Ok(key) => {
                self.insert(key, to, true);
            }
            Err(_) => self
                .refused
                .push(Errno::from_io(&io::ErrorKind::AddrNotAvailable.into())),
        }
    }

    fn send(&mut self, conn: ConnIndex, data: Bytes) {
        if let Some(key) = self.key(conn) {
            // Refused only while closing, and then the bytes are nobody's.
            let _closing = self.endpoint.send(key, data);
        }
    }

    fn queued(&self, conn: ConnIndex) -> usize {
        let queued = self.key(conn).map_or(0, |key| self.endpoint.queued(key));
        usize::try_from(queued).unwrap_or(usize::MAX)
    }

    fn end(&mut self, conn: ConnIndex) {
        if let Some(live) = self.conns.get_mut(conn).and_then(Option::as_mut) {
            live.ended = true;
            self.endpoint.end(live.key);
        }
    }

    fn abort(&mut self, conn: ConnIndex) {
        if let Some(key) = self.key(conn) {
            self.endpoint.abort(self.driver.now(), key);
        }
    }

    fn pause(&mut self, conn: ConnIndex, paused: bool) {
        let Some(key) = self.key(conn) else { return };
        if paused {
            self.endpoint.pause(key);
        } else {
            self.endpoint.resume(self.driver.now(), key);
        }
    }

    fn waker(&self) -> Waker {
        self.driver.waker()
    }

    fn turn(&mut self, on: &mut dyn FnMut(Event<'_>)) -> io::Result<()> {
        for errno in std::mem::take(&mut self.refused) {
            on(Event::Failed(errno));
        }
        // What the session did since the last turn may have happened already.
        self.tell(&[], on);
        self.step(None, on).map(drop)
    }

    fn finish(&mut self) {
        let end = self.driver.now() + LAST_WORDS;
        while let Ok(now) = self.step(Some(end), &mut |_| {}) {
            if now >= end {
                break;
            }
        }
    }
}

/// Hands over an operation that opens no socket, which only a full table could refuse.
fn submit<D: Driver>(driver: &mut D, op: Op) {
    let accepted = driver.submit(op);
    debug_assert!(accepted.is_ok(), "only connects are refused");
}
