//! The uTP side of a generator: datagram sockets, each with the endpoint of its connections.

use crate::units::Sources;
use bytes::Bytes;
use flock_engine::io::{
    DatagramOptions, Driver, Instant, Op, Outcome, SocketId, TRAINS_MAX, Token, Train,
};
use flock_engine::utp::{Config, Endpoint, Event, Key};
use rand::TryRngCore;
use rand::rngs::OsRng;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Sockets of one generator at the most; peers share them, and with them their addresses.
pub(crate) const SOCKETS_MAX: u32 = 256;
/// The token of all of them.
pub(super) const TOKEN: Token = Token(u64::MAX);
/// How long to leave a kernel alone that has no room for datagrams.
const FULL_REST: Duration = Duration::from_millis(1);

/// A connection of one of the sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flow {
    side: u32,
    key: Key,
}

struct Side {
    socket: SocketId,
    endpoint: Endpoint,
    /// Lives, by the place of their connection.
    owners: Vec<usize>,
    under_way: usize,
    full_until: Instant,
}

/// All sockets of a generator.
#[derive(Default)]
pub(super) struct Flows {
    sides: Vec<Side>,
    train: Train,
}

/// What happened to a life's connection.
pub(super) enum Happened {
    Connected,
    /// In the datagrams just handled.
    Data(std::ops::Range<usize>),
    Held(Bytes),
    PeerEnded,
    Closed,
}

impl Flows {
    /// As many sockets as there are source addresses, for `connections` in all.
    pub(super) fn open<D: Driver>(
        driver: &mut D,
        sources: Sources,
        peers: u32,
        connections: usize,
    ) -> io::Result<Self> {
        let mut flows = Self::default();
        for number in 0..sources.used_by(peers).clamp(1, SOCKETS_MAX) {
            let source = sources
                .of(number)
                .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            let options = DatagramOptions::default();
            let bound = driver.bind_datagrams(SocketAddr::new(source, 0), &options, TOKEN)?;
            let recv = Op::Recv {
                socket: bound.socket,
            };
            driver.submit(recv).map_err(io::Error::other)?;
            let mut seed = [0; 32];
            OsRng.try_fill_bytes(&mut seed).map_err(io::Error::other)?;
            let config = Config {
                accept: false,
                connections_max: u32::try_from(connections).unwrap_or(u32::MAX),
                ..Config::default()
            };
            flows.sides.push(Side {
                socket: bound.socket,
                endpoint: Endpoint::new(config, 0, 1, seed),
                owners: Vec::new(),
                under_way: 0,
                full_until: Instant::ZERO,
            });
        }
        Ok(flows)
    }

    /// Dials for `life`; `None` when no connection can be made now.
    pub(super) fn dial(
        &mut self,
        now: Instant,
        peer: u32,
        to: SocketAddr,
        life: usize,
    ) -> Option<Flow> {
        let at = peer as usize % self.sides.len();
        let side = &mut self.sides[at];
        let key = side.endpoint.connect_quiet(now, to).ok()?;
        let slot = key.slot as usize;
        if side.owners.len() <= slot {
            side.owners.resize(slot + 1, usize::MAX);
        }
        side.owners[slot] = life;
        let side = u32::try_from(at).ok()?;
        Some(Flow { side, key })
    }

    fn side(&mut self, flow: Flow) -> &mut Side {
        &mut self.sides[flow.side as usize]
    }

    pub(super) fn send(&mut self, flow: Flow, frame: Bytes) {
        let side = self.side(flow);
        side.endpoint.release(flow.key);
        let taken = side.endpoint.send(flow.key, frame);
        debug_assert!(taken.is_ok(), "an empty queue takes a frame");
    }

    /// Ends both directions in order.
    pub(super) fn close(&mut self, now: Instant, flow: Flow) {
        self.side(flow).endpoint.close(now, flow.key);
    }

    pub(super) fn abort(&mut self, now: Instant, flow: Flow) {
        self.side(flow).endpoint.abort(now, flow.key);
    }

    /// The number of the side behind a socket.
    pub(super) fn of_socket(&self, socket: SocketId) -> Option<usize> {
        self.sides.iter().position(|side| side.socket == socket)
    }

    /// Takes a completion of a side's socket; datagrams are `bytes`.
    pub(super) fn complete(&mut self, now: Instant, side: usize, outcome: Outcome, bytes: &[u8]) {
        let side = &mut self.sides[side];
        match outcome {
            Outcome::Datagrams {
                from,
                received_at,
                segment,
                ..
            } => side
                .endpoint
                .handle(now, from, received_at, segment.into(), bytes),
            Outcome::TrainSent { tag } => {
                side.under_way -= 1;
                side.endpoint.sent(tag, now);
            }
            Outcome::TrainRefused { tag, .. } => {
                side.under_way -= 1;
                side.full_until = now + FULL_REST;
                side.endpoint.refused(tag, now);
            }
            _ => {}
        }
    }

    /// What happened next, to which life. Events of connections whose life is over are passed
    /// over by the caller, who compares the flow.
    pub(super) fn poll(&mut self) -> Option<(usize, Flow, Happened)> {
        for (at, side) in self.sides.iter_mut().enumerate() {
            while let Some(event) = side.endpoint.poll_event() {
                let (key, happened) = match event {
                    Event::Connected { key } => (key, Happened::Connected),
                    Event::Data { key, range } => (key, Happened::Data(range)),
                    Event::Buffered { key, bytes } => (key, Happened::Held(bytes)),
                    Event::Eof { key } => (key, Happened::PeerEnded),
                    Event::Closed { key, .. } => (key, Happened::Closed),
                    _ => continue,
                };
                let side_number = u32::try_from(at).expect("a few sockets");
                let flow = Flow {
                    side: side_number,
                    key,
                };
                return Some((side.owners[key.slot as usize], flow, happened));
            }
        }
        None
    }

    /// All datagrams of this turn are handled, and time has passed.
    pub(super) fn serve(&mut self, now: Instant) {
        for side in &mut self.sides {
            side.endpoint.end_batch(now);
            if side.endpoint.next_deadline().is_some_and(|at| at <= now) {
                side.endpoint.on_deadline(now);
            }
        }
    }

    /// Hands what is to be sent to the driver.
    pub(super) fn transmit<D: Driver>(&mut self, now: Instant, driver: &mut D) {
        for side in &mut self.sides {
            while side.under_way < TRAINS_MAX
                && side.full_until <= now
                && side.endpoint.poll_transmit(now, &mut self.train)
            {
                let taken = driver.send_train(side.socket, &mut self.train);
                debug_assert!(taken.is_ok(), "no more than it takes");
                side.under_way += 1;
            }
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let free = self.sides.iter().filter(|side| side.under_way < TRAINS_MAX);
        let due = free.filter_map(|side| {
            let at = side.endpoint.next_deadline()?;
            Some(at.max(side.full_until))
        });
        due.min()
    }
}
