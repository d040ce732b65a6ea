//! Datagrams: lost, repeated, reordered, joined, and never in part.

use super::deliver::{Loans, Pulled};
use super::net::{Port, ports_overlap};
use super::table::{Arm, Kind, Socket};
use super::world::{NetEvent, World};
use crate::io::{BoundDatagrams, DatagramOptions, Outcome, SocketId, TRAINS_MAX, Token};
use flock_transport::{Errno, Instant, TRAIN_DATAGRAMS_MAX, Train, canonical};
use std::collections::VecDeque;
use std::net::SocketAddr;

/// The longest UDP payload that an unfragmented packet carries between two nodes.
const PATH_PAYLOAD: usize = 1472;
const CANCELED: Errno = Errno(libc::ECANCELED);

/// A bound datagram socket.
#[derive(Debug)]
pub(super) struct Datagrams {
    pub(super) node: usize,
    station: usize,
    socket: SocketId,
    addr: SocketAddr,
    options: DatagramOptions,
    /// Of how many sockets of the group connections are steered to this one.
    shards: u16,
    inbox: VecDeque<Arrived>,
    /// Bytes of the inbox.
    held: usize,
    /// What became of trains.
    told: VecDeque<Outcome>,
}

#[derive(Debug)]
struct Arrived {
    from: SocketAddr,
    at: Instant,
    bytes: Vec<u8>,
}

/// A datagram on its way.
#[derive(Debug)]
pub(super) struct Flight {
    node: usize,
    from: SocketAddr,
    to: SocketAddr,
    bytes: Vec<u8>,
}

impl World {
    pub(super) fn open_datagrams(
        &mut self,
        station: usize,
        addr: SocketAddr,
        options: &DatagramOptions,
        token: Token,
    ) -> Result<BoundDatagrams, Errno> {
        let node = self.stations[station].node;
        let addr = self.choose_port(station, addr, |world, addr, alone| {
            let shared = options.shared && !alone;
            let port = Port {
                addr,
                dual_stack: options.dual_stack,
            };
            let mut there = world.datagrams.values().filter(|bound| {
                let theirs = Port {
                    addr: bound.addr,
                    dual_stack: bound.options.dual_stack,
                };
                bound.node == node && ports_overlap(port, theirs)
            });
            there.any(|bound| options.exclusive || !(bound.options.shared && shared))
        })?;
        let name = self.next_serial();
        let socket = self.stations[station].insert(Socket::new(token, Kind::Datagrams(name)));
        let bound = Datagrams {
            node,
            station,
            socket,
            addr,
            options: *options,
            shards: 0,
            inbox: VecDeque::new(),
            held: 0,
            told: VecDeque::new(),
        };
        self.datagrams.insert(name, bound);
        Ok(BoundDatagrams {
            socket,
            addr,
            reaches_v4: addr.is_ipv4() || (addr.ip().is_unspecified() && options.dual_stack),
            recv_buffer: options.recv_buffer,
            send_buffer: options.send_buffer,
        })
    }

    fn bound_of(&mut self, station: usize, id: SocketId) -> Option<u64> {
        match self.stations[station].live(id)?.kind {
            Kind::Datagrams(name) => Some(name),
            _ => None,
        }
    }

    pub(super) fn attach_steering(
        &mut self,
        station: usize,
        id: SocketId,
        shards: u16,
    ) -> Result<(), Errno> {
        let name = self.bound_of(station, id).ok_or(Errno(libc::EBADF))?;
        let (node, addr) = (self.datagrams[&name].node, self.datagrams[&name].addr);
        for bound in self.datagrams.values_mut() {
            if bound.node == node && bound.addr == addr {
                bound.shards = shards;
            }
        }
        Ok(())
    }

    /// The next turn sends it; whether there is room for it until then.
    pub(super) fn queue_train(&mut self, station: usize, id: SocketId, train: &mut Train) -> bool {
        assert!(!train.is_empty(), "an empty train");
        let Some(name) = self.bound_of(station, id) else {
            train.reset(train.to());
            return true;
        };
        if self.datagrams[&name].told.len() >= TRAINS_MAX {
            return false;
        }
        self.stations[station].counters.trains += 1;
        let (tag, node) = (train.tag, self.datagrams[&name].node);
        let outcome = match self.depart(node, name, train) {
            Ok(()) => Outcome::TrainSent { tag },
            Err(errno) => Outcome::TrainRefused { tag, errno },
        };
        train.reset(train.to());
        if let Some(bound) = self.datagrams.get_mut(&name) {
            bound.told.push_back(outcome);
        }
        self.stations[station].list(id);
        true
    }

    fn depart(&mut self, node: usize, name: u64, train: &Train) -> Result<(), Errno> {
        let to = canonical(train.to());
        let bound = self.datagrams[&name].addr;
        let ip = self.local_ip(node, to, bound.ip())?;
        let from = SocketAddr::new(ip, bound.port());
        if self.chance(self.faults.train_refused) {
            self.probe("train-refused");
            return Err(Errno(libc::ENOBUFS));
        }
        let Some(target) = self.node_of(node, to.ip()) else {
            self.probe("datagram-to-nobody");
            return Ok(());
        };
        let bytes: Vec<u8> = train.parts().flatten().copied().collect();
        for datagram in bytes.chunks(train.segment()) {
            let too_long = train.dont_fragment && datagram.len() > PATH_PAYLOAD;
            let crosses = node != target;
            if crosses && (too_long || self.is_cut(node, target)) {
                self.probe("datagram-cut");
                continue;
            }
            if crosses && self.chance(self.faults.loss) {
                self.probe("datagram-lost");
                continue;
            }
            let copies = 1 + usize::from(crosses && self.chance(self.faults.duplicate));
            for _ in 0..copies {
                let mut at = self.arrival(node, target);
                if !crosses {
                    at = self.in_line(node, at);
                }
                let flight = self.next_serial();
                let bytes = datagram.to_vec();
                self.flights.insert(
                    flight,
                    Flight {
                        node: target,
                        from,
                        to,
                        bytes,
                    },
                );
                self.schedule(at, NetEvent::Datagram { flight });
            }
        }
        Ok(())
    }

    pub(super) fn datagram_arrives(&mut self, flight: u64) {
        let Some(flight) = self.flights.remove(&flight) else {
            return;
        };
        let Some(name) = self.choose_bound(&flight) else {
            return self.probe("datagram-for-nobody");
        };
        let now = self.now;
        let Some(bound) = self.datagrams.get_mut(&name) else {
            return;
        };
        if bound.held + flight.bytes.len() > bound.options.recv_buffer as usize {
            return self.probe("datagram-overflow");
        }
        bound.held += flight.bytes.len();
        bound.inbox.push_back(Arrived {
            from: flight.from,
            at: now,
            bytes: flight.bytes,
        });
        let (station, socket) = (bound.station, bound.socket);
        self.stations[station].list(socket);
    }

    /// The socket a datagram is for: exact addresses before wildcards; in a group the one it is
    /// steered to, else one that its source decides.
    fn choose_bound(&self, flight: &Flight) -> Option<u64> {
        let fit = |bound: &Datagrams| {
            let port = Port {
                addr: bound.addr,
                dual_stack: bound.options.dual_stack,
            };
            (bound.node == flight.node)
                .then(|| port.fits(flight.to))
                .flatten()
        };
        let fits = self
            .datagrams
            .iter()
            .filter_map(|(&name, b)| Some((fit(b)?, name)));
        let fits: Vec<(u8, u64)> = fits.collect();
        let best = fits.iter().map(|(fit, _)| *fit).max()?;
        let group: Vec<u64> = fits
            .iter()
            .filter(|(fit, _)| *fit == best)
            .map(|(_, n)| *n)
            .collect();
        let shards = self.datagrams[&group[0]].shards;
        if shards > 0 {
            let shard = flock_utp::steer(&flight.bytes, shards);
            if let Some(name) = group.get(usize::from(shard)) {
                return Some(*name);
            }
        }
        // Without a secret, so that the world replays.
        let hash = ahash::RandomState::with_seeds(1, 2, 3, 4).hash_one(flight.from);
        let at = usize::try_from(hash % group.len() as u64).unwrap_or(0);
        Some(group[at])
    }

    pub(super) fn close_datagrams(&mut self, name: u64) {
        self.datagrams.remove(&name);
    }

    pub(super) fn pull_datagrams(
        &mut self,
        station: usize,
        id: SocketId,
        name: u64,
        loans: &mut Loans,
    ) -> Pulled {
        let buffers = usize::from(self.stations[station].config.datagram_buffers);
        let arm = self.stations[station].get(id).map(|socket| socket.recv);
        let arm = arm.unwrap_or(Arm::Idle);
        let Some(bound) = self.datagrams.get_mut(&name) else {
            return Pulled::Nothing;
        };
        if let Some(told) = bound.told.pop_front() {
            return Pulled::Done(told);
        }
        let some = !bound.inbox.is_empty();
        if self.cancel_wins(arm, some) {
            return self.end_recv(station, id, Outcome::RecvEnded(CANCELED));
        }
        if arm == Arm::Idle || !some {
            return Pulled::Nothing;
        }
        if loans.used() >= buffers {
            return Pulled::Starved;
        }
        let alone = self.chance(self.faults.split);
        let Some(bound) = self.datagrams.get_mut(&name) else {
            return Pulled::Nothing;
        };
        let Some(first) = bound.inbox.pop_front() else {
            return Pulled::Nothing;
        };
        let (loan, buffer) = loans.lend();
        buffer.extend_from_slice(&first.bytes);
        let segment = first.bytes.len();
        // As the kernel joins them: same source, all of one length but the last.
        let mut joined = 1;
        while !alone && joined < TRAIN_DATAGRAMS_MAX && buffer.len() == joined * segment {
            let joins = |next: &Arrived| next.from == first.from && next.bytes.len() <= segment;
            if !bound.inbox.front().is_some_and(joins) {
                break;
            }
            if let Some(next) = bound.inbox.pop_front() {
                buffer.extend_from_slice(&next.bytes);
            }
            joined += 1;
        }
        bound.held -= buffer.len();
        Pulled::Done(Outcome::Datagrams {
            from: first.from,
            received_at: first.at,
            segment: u16::try_from(segment).unwrap_or(u16::MAX),
            loan,
        })
    }
}
