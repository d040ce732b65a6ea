//! The datagram sockets of a shard, each with the uTP endpoint that owns its connections.

use super::stream::UtpStream;
use crate::io::{BoundDatagrams, SocketId, TRAINS_MAX};
use crate::table::Key;
use flock_transport::{Instant, Train};
use flock_utp::{Config, Counters, Endpoint, Event};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use slab::Slab;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

/// A datagram socket and its connections.
pub(crate) struct Side {
    pub(crate) socket: SocketId,
    pub(crate) addr: SocketAddr,
    reaches_v4: bool,
    /// Which call of the API made it; `None`: it was made to dial, and accepts nobody.
    pub(crate) group: Option<u64>,
    /// Accepts nobody any more.
    pub(crate) retired: bool,
    /// Sockets that share the address, one for each shard.
    pub(crate) shards: u16,
    pub(crate) endpoint: Endpoint,
    owners: Vec<Owner>,
    /// Accepted and silent so far, in order, and since when.
    silent: VecDeque<(Instant, flock_utp::Key)>,
    /// Trains with the driver.
    pub(crate) under_way: usize,
    train: Train,
    /// The kernel lacks room: nothing is offered before.
    pub(crate) full_until: Instant,
    /// Receiving broke: it is begun again then.
    pub(crate) broken_until: Option<Instant>,
}

/// Which link a connection of the endpoint is. `None`: none yet, or none any more.
#[derive(Clone, Copy, Default)]
struct Owner {
    generation: u32,
    link: Option<Key>,
}

impl Side {
    pub(crate) fn own(&mut self, key: flock_utp::Key, link: Key) {
        let slot = key.slot as usize;
        if self.owners.len() <= slot {
            self.owners.resize(slot + 1, Owner::default());
        }
        self.owners[slot] = Owner {
            generation: key.generation,
            link: Some(link),
        };
    }

    pub(crate) fn owner(&self, key: flock_utp::Key) -> Option<Key> {
        let owner = self.owners.get(key.slot as usize)?;
        owner.link.filter(|_| owner.generation == key.generation)
    }

    /// Forgets the link of a connection, and returns it.
    pub(crate) fn disown(&mut self, key: flock_utp::Key) -> Option<Key> {
        let link = self.owner(key)?;
        self.owners[key.slot as usize].link = None;
        Some(link)
    }

    /// The next train to hand to the driver.
    pub(crate) fn next_train(&mut self, now: Instant) -> Option<&mut Train> {
        let room = self.under_way < TRAINS_MAX && self.full_until <= now;
        let filled = room && self.endpoint.poll_transmit(now, &mut self.train);
        filled.then_some(&mut self.train)
    }

    /// Notes an accepted connection that has not said anything.
    pub(crate) fn wait_for_data(&mut self, now: Instant, key: flock_utp::Key) {
        self.silent.push_back((now, key));
    }

    /// Resets accepted connections that have been silent since before `since`.
    pub(crate) fn drop_silent(&mut self, now: Instant, since: Instant) {
        while self.silent.front().is_some_and(|(at, _)| *at <= since) {
            if let Some((_, key)) = self.silent.pop_front()
                && self.owner(key).is_none()
            {
                self.endpoint.abort(now, key);
            }
        }
    }

    /// When to look after the side next; `patience`: with silent connections.
    fn deadline(&self, patience: Duration) -> Option<Instant> {
        let silent = self.silent.front().map(|(at, _)| *at + patience);
        let own = match self.under_way < TRAINS_MAX {
            true => self
                .endpoint
                .next_deadline()
                .map(|at| at.max(self.full_until)),
            // The next train that leaves is the sign.
            false => None,
        };
        [silent, own, self.broken_until].into_iter().flatten().min()
    }
}

/// All of a shard's.
pub(crate) struct Utp {
    pub(crate) sides: Slab<Side>,
    config: Config,
    rng: StdRng,
}

impl Utp {
    pub(crate) fn new(config: Config, seed: u64) -> Self {
        Self {
            sides: Slab::new(),
            config,
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// Adds a bound socket: one of `shards` at its address, in the order of the shards.
    pub(crate) fn add(
        &mut self,
        bound: &BoundDatagrams,
        group: Option<u64>,
        (shard, shards): (u16, u16),
    ) -> u32 {
        let mut config = self.config.clone();
        config.accept = group.is_some();
        let seed = self.rng.random();
        let side = Side {
            socket: bound.socket,
            addr: bound.addr,
            reaches_v4: bound.reaches_v4,
            group,
            retired: false,
            shards,
            endpoint: Endpoint::new(config, shard, shards, seed),
            owners: Vec::new(),
            silent: VecDeque::new(),
            under_way: 0,
            train: Train::default(),
            full_until: Instant::ZERO,
            broken_until: None,
        };
        u32::try_from(self.sides.insert(side)).expect("a few sockets")
    }

    /// The side a socket belongs to.
    pub(crate) fn of_socket(&self, socket: SocketId) -> Option<u32> {
        let found = self.sides.iter().find(|(_, side)| side.socket == socket);
        found.and_then(|(side, _)| u32::try_from(side).ok())
    }

    /// The side to dial `to` from: one that listens, so that the peer sees the port it may dial
    /// back.
    pub(crate) fn for_dial(&self, to: SocketAddr) -> Option<u32> {
        let fits = |side: &Side| match to {
            SocketAddr::V4(_) => side.reaches_v4,
            SocketAddr::V6(_) => side.addr.is_ipv6(),
        };
        let local = |side: &Side| !side.addr.ip().is_loopback() || to.ip().is_loopback();
        let sides = self
            .sides
            .iter()
            .filter(|(_, side)| fits(side) && local(side));
        let best = sides.max_by_key(|(_, side)| side.group.is_some() && !side.retired);
        best.and_then(|(side, _)| u32::try_from(side).ok())
    }

    pub(crate) fn side(&mut self, side: u32) -> &mut Side {
        &mut self.sides[side as usize]
    }

    pub(crate) fn endpoint(&mut self, side: u32) -> &mut Endpoint {
        &mut self.side(side).endpoint
    }

    pub(crate) fn queued(&self, side: u32, key: flock_utp::Key) -> u64 {
        self.sides[side as usize].endpoint.queued(key)
    }

    /// Whether the peer has acknowledged all that it was sent, and our end.
    pub(crate) fn delivered(&self, stream: &UtpStream) -> bool {
        let side = &self.sides[stream.side as usize];
        side.endpoint.delivered(stream.key)
    }

    /// What all endpoints counted.
    pub(crate) fn counters(&self) -> Counters {
        let mut sum = Counters::default();
        for (_, side) in &self.sides {
            sum.add(&side.endpoint.counters());
        }
        sum
    }

    /// When to look after the sides next.
    pub(crate) fn next_deadline(&self, patience: Duration) -> Option<Instant> {
        let deadlines = self.sides.iter();
        deadlines
            .filter_map(|(_, side)| side.deadline(patience))
            .min()
    }

    /// What happened on any side.
    pub(crate) fn poll_event(&mut self) -> Option<(u32, Event)> {
        self.sides.iter_mut().find_map(|(at, side)| {
            let event = side.endpoint.poll_event()?;
            Some((u32::try_from(at).ok()?, event))
        })
    }
}
