//! Several swarms wired by a router that a seed drives, held to what must never happen.

mod admitting;
mod pair;
mod rules;

use super::*;
use crate::event::RefuseReason;
use flock_transport::Transport;
use rand::Rng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const PEERS: u8 = 6;
const ADDRS: u8 = 10;

fn own() -> PeerId {
    PeerId::new(&[3]).unwrap()
}

fn config(shard: u16, shards: u16) -> SwarmConfig {
    SwarmConfig {
        shard,
        shards,
        id: own(),
        hash_seed: 7,
        half_open: 4,
        half_open_grace: Duration::from_millis(500),
        candidates: 8,
        whitelist: Vec::new(),
        denylist: Vec::new(),
        firewall: None,
        retry_tail: None,
        tcp: Some(Duration::from_secs(3)),
        utp: None,
        retry: [1, 1, 5, 15].map(Duration::from_secs),
        keep_existing: false,
        dials: 3,
    }
}

/// Whom the firewall of some worlds refuses.
const FORBIDDEN: u8 = 5;

fn forbidden() -> PeerId {
    PeerId::new(&[FORBIDDEN]).unwrap()
}

fn dialling(shard: u16, candidate: CandidateId, transport: Transport) -> Dialling {
    let utp = transport == Transport::Utp;
    (shard, candidate.slot, candidate.generation, utp)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Handshaking,
    Claiming,
    /// Out of time while claiming.
    Late,
    Admitted,
}

/// A dial under way: shard, candidate's slot and generation, whether it is uTP.
type Dialling = (u16, u32, u32, bool);

/// Shards without sockets: what the swarms ask for is done at once or when the seed says.
struct World {
    swarms: Vec<Swarm>,
    counts: Arc<SharedCounts>,
    homes: Homes,
    mail: BTreeMap<(u16, u16), VecDeque<PeerMessage>>,
    dials: BTreeSet<Dialling>,
    /// Established, not yet told to begin: with the way to abort it.
    standing: BTreeMap<ConnId, Dialling>,
    conns: BTreeMap<ConnId, (Life, u8)>,
    events: BTreeMap<ConnId, Vec<&'static str>>,
    banned: BTreeSet<SocketAddr>,
    banned_peers: BTreeSet<u8>,
    joined: bool,
    quotas: Quotas,
    /// Whether there is a firewall.
    walled: bool,
    now: Instant,
    next_slot: u32,
    rng: SmallRng,
}

impl World {
    fn new(seed: u64, shards: u16, limit: u32) -> Self {
        let quotas = Quotas {
            connections: limit,
            reserved: 0,
            inbound: u32::from(seed % 5 == 1),
            outbound: 2 * u32::from(seed % 5 == 2),
            per_ip: u32::from(seed % 7 == 1),
            per_subnet: 2 * u32::from(seed % 7 < 2),
            accept_rate: 0,
            queued_bytes: 0,
        };
        let counts = Arc::new(SharedCounts::new(shards, quotas, seed));
        let firewall = (seed % 11 == 3).then(|| {
            Firewall::new(|approach| match approach {
                Approach::Identified(info) => info.peer_id.as_ref() != Some(&forbidden()),
                Approach::Inbound { addr, .. } | Approach::Outbound { addr } => {
                    addr.ip().to_string() != "10.0.0.9"
                }
            })
        });
        let keep_existing = seed % 4 == 3;
        let swarm = |shard| {
            let config = SwarmConfig {
                keep_existing,
                firewall: firewall.clone(),
                utp: (seed % 3 == 1).then_some(Duration::from_secs(4)),
                ..config(shard, shards)
            };
            Swarm::new(config, counts.clone(), seed)
        };
        Self {
            swarms: (0..shards).map(swarm).collect(),
            banned: BTreeSet::new(),
            banned_peers: BTreeSet::new(),
            joined: true,
            homes: Homes::new(7, shards),
            mail: BTreeMap::new(),
            dials: BTreeSet::new(),
            standing: BTreeMap::new(),
            conns: BTreeMap::new(),
            events: BTreeMap::new(),
            quotas,
            walled: seed % 11 == 3,
            now: Instant::from_nanos(1_000_000_000),
            next_slot: 0,
            rng: SmallRng::seed_from_u64(seed),
            counts,
        }
    }

    fn shards(&self) -> u16 {
        u16::try_from(self.swarms.len()).unwrap()
    }

    fn swarm(&mut self, shard: u16) -> &mut Swarm {
        &mut self.swarms[usize::from(shard)]
    }

    fn conn_id(&mut self, shard: u16) -> ConnId {
        self.next_slot += 1;
        ConnId {
            shard,
            slot: self.next_slot,
            generation: 0,
        }
    }

    fn pick<T: Clone>(&mut self, from: impl ExactSizeIterator<Item = T>) -> Option<T> {
        let len = from.len();
        (len > 0).then(|| from.into_iter().nth(self.rng.random_range(0..len)).unwrap())
    }

    fn carry_out(&mut self, shard: u16) {
        while let Some(action) = self.swarm(shard).poll_action() {
            match action {
                Action::Dial {
                    candidate,
                    transport,
                    addr,
                } => {
                    assert!(self.joined, "the only channel was left");
                    assert!(
                        !self.banned.contains(&addr),
                        "dials {addr}, which is banned"
                    );
                    let dial = dialling(shard, candidate, transport);
                    assert!(self.dials.insert(dial), "dials {addr} twice");
                }
                Action::AbortDial {
                    candidate,
                    transport,
                } => {
                    let dial = dialling(shard, candidate, transport);
                    let stood = self.standing.len();
                    self.standing.retain(|_, other| *other != dial);
                    assert_ne!(self.dials.remove(&dial), self.standing.len() < stood);
                }
                Action::Begin { conn } => {
                    let (_, slot, generation, _) =
                        self.standing.remove(&conn).expect("what is established");
                    let id = CandidateId { slot, generation };
                    let addr = self.swarm(shard).candidates.get(id).unwrap().addr;
                    let SocketAddr::V4(v4) = addr else {
                        unreachable!()
                    };
                    // Several addresses lead to the same peer, and some to ourselves.
                    self.conns
                        .insert(conn, (Life::Handshaking, v4.ip().octets()[3] % PEERS));
                }
                Action::Admit(info) => {
                    let life = self.conns.get_mut(&info.conn).expect("a live connection");
                    assert_eq!(life.0, Life::Claiming);
                    life.0 = Life::Admitted;
                    assert!(!self.banned.contains(&info.addr), "{info:?} is banned");
                    assert!(!self.banned_peers.contains(&life.1), "{info:?} is banned");
                    self.note(&Event::Connection(info));
                }
                Action::Close { conn, reason } => self.end(conn, reason),
                Action::Send { shard: to, message } => {
                    assert_ne!(to, shard, "messages to oneself are calls");
                    self.mail.entry((shard, to)).or_default().push_back(message);
                }
                Action::Emit(event) => self.note(&event),
            }
        }
    }

    fn note(&mut self, event: &Event) {
        let conn = match event {
            Event::Handshaking(info)
            | Event::HandshakeTimeout(info)
            | Event::Connection(info)
            | Event::RedundantConnection(info)
            | Event::ConnectionClosed { info, .. } => info.conn,
            _ => return,
        };
        self.events.entry(conn).or_default().push(event.name());
    }

    fn end(&mut self, conn: ConnId, reason: CloseReason) {
        if self.conns.remove(&conn).is_some() {
            let now = self.now;
            self.swarm(conn.shard).closed(now, conn, reason, 0, 0);
        }
    }

    fn random_operation(&mut self) {
        let now = self.now;
        match self.rng.random_range(0..17) {
            0 | 1 if self.joined => {
                let addr = SocketAddr::from(([10, 0, 0, self.rng.random_range(0..ADDRS)], 1));
                let shard = self.homes.of_addr(addr);
                self.swarm(shard).add_peer(now, "c".into(), addr);
                self.carry_out(shard);
            }
            2 | 3 => {
                let shard = self.rng.random_range(0..self.shards());
                let (net, host) = (self.rng.random_range(0..2), self.rng.random_range(0..3));
                let addr = SocketAddr::from(([10, 9, net, host], 1));
                let full = self.counts.full();
                let utp = self.rng.random_bool(0.3);
                let transport = if utp { Transport::Utp } else { Transport::Tcp };
                let judged = self.swarm(shard).inbound(now, transport, addr);
                assert_eq!(judged == Err(RefuseReason::TooManyConnections), full);
                if judged.is_ok() {
                    let conn = self.conn_id(shard);
                    self.swarm(shard)
                        .inbound_started(now, conn, addr, transport);
                    let peer = self.rng.random_range(0..PEERS);
                    self.conns.insert(conn, (Life::Handshaking, peer));
                }
                self.carry_out(shard);
            }
            4..=6 => self.answer_a_dial(),
            7..=9 => self.finish_a_handshake(),
            10 => {
                if let Some(conn) = self.pick(self.conns.clone().into_keys()) {
                    self.end(conn, CloseReason::PeerClosed);
                    self.carry_out(conn.shard);
                }
            }
            11 => self.advance(),
            12 => self.run_out_of_time(),
            13 => self.change_policy(),
            14 => self.break_what_stands(),
            _ => {
                self.deliver_one();
            }
        }
    }

    fn answer_a_dial(&mut self) {
        let Some(dial) = self.pick(self.dials.clone().into_iter()) else {
            return;
        };
        self.dials.remove(&dial);
        let (shard, slot, generation, utp) = dial;
        let (now, id) = (self.now, CandidateId { slot, generation });
        let transport = if utp { Transport::Utp } else { Transport::Tcp };
        if self.rng.random_bool(0.7) {
            let conn = self.conn_id(shard);
            self.standing.insert(conn, dial);
            self.swarm(shard).dial_established(now, id, conn, transport);
        } else {
            self.swarm(shard).dial_failed(now, id, transport, false);
        }
        self.carry_out(shard);
    }

    /// A connection breaks that waits for the other transport.
    fn break_what_stands(&mut self) {
        if let Some((_, dial)) = self.standing.pop_first() {
            let (shard, slot, generation, utp) = dial;
            assert!(utp, "TCP waits for nobody");
            let (now, id) = (self.now, CandidateId { slot, generation });
            self.swarm(shard)
                .dial_failed(now, id, Transport::Utp, false);
            self.carry_out(shard);
        }
    }

    fn finish_a_handshake(&mut self) {
        let handshaking: Vec<_> = self
            .conns
            .iter()
            .filter(|(_, (life, _))| *life == Life::Handshaking)
            .map(|(conn, (_, peer))| (*conn, *peer))
            .collect();
        let Some((conn, peer)) = self.pick(handshaking.into_iter()) else {
            return;
        };
        let now = self.now;
        if self.rng.random_bool(0.1) {
            self.swarm(conn.shard).handshake_timeout(conn);
            self.end(conn, CloseReason::HandshakeTimeout);
        } else {
            self.conns.insert(conn, (Life::Claiming, peer));
            self.swarm(conn.shard)
                .handshake_done(now, conn, PeerId::new(&[peer]).unwrap());
        }
        self.carry_out(conn.shard);
    }

    /// The deadline passes while the home is asked; the transport takes a while to end.
    fn run_out_of_time(&mut self) {
        let claiming = |(_, (life, _)): &(&ConnId, &mut (Life, u8))| *life == Life::Claiming;
        if let Some((&conn, life)) = self.conns.iter_mut().find(claiming) {
            life.0 = Life::Late;
            self.swarm(conn.shard).handshake_timeout(conn);
            self.carry_out(conn.shard);
        }
    }

    /// Bans, leaves, joins and holds, each on all shards.
    fn change_policy(&mut self) {
        let now = self.now;
        let addr = SocketAddr::from(([10, 0, 0, self.rng.random_range(0..ADDRS)], 1));
        let peer = self.rng.random_range(0..PEERS);
        let id = PeerId::new(&[peer]).unwrap();
        let choice = self.rng.random_range(0..8);
        match choice {
            6 => _ = self.banned_peers.insert(peer),
            7 => _ = self.banned_peers.remove(&peer),
            0 => _ = self.banned.insert(addr),
            1 => _ = self.banned.remove(&addr),
            2 => self.joined = !self.joined,
            _ => {}
        }
        for shard in 0..self.shards() {
            let hold = self.rng.random_bool(0.3);
            let joined = self.joined;
            let swarm = self.swarm(shard);
            match choice {
                0 => swarm.ban(now, &addr.into(), None, None),
                1 => swarm.unban(&addr.into()),
                6 => swarm.ban(now, &id.clone().into(), None, None),
                7 => swarm.unban(&id.clone().into()),
                2 if !joined => swarm.leave(now, &"c".into()),
                _ => swarm.suspend_starts(now, hold),
            }
            self.carry_out(shard);
        }
    }

    fn advance(&mut self) {
        self.now = self.now + Duration::from_millis(self.rng.random_range(1..4000));
        for shard in 0..self.shards() {
            let now = self.now;
            self.swarm(shard).on_deadline(now);
            self.carry_out(shard);
        }
    }

    fn deliver_one(&mut self) -> bool {
        let waiting: Vec<_> = self
            .mail
            .iter()
            .filter(|(_, queue)| !queue.is_empty())
            .map(|(k, _)| *k)
            .collect();
        let Some((from, to)) = self.pick(waiting.into_iter()) else {
            return false;
        };
        let message = self.mail.get_mut(&(from, to)).unwrap().pop_front().unwrap();
        let now = self.now;
        self.swarm(to).message(now, message);
        self.carry_out(to);
        true
    }

    fn check(&self) {
        let mut admitted = BTreeSet::new();
        for (conn, (life, peer)) in &self.conns {
            if *life == Life::Admitted {
                assert!(
                    admitted.insert(*peer),
                    "two connections to peer {peer}, one is {conn}"
                );
                assert_ne!(PeerId::new(&[*peer]).unwrap(), own());
            }
        }
        let within = |limit: u32, count: usize| limit == 0 || count <= limit as usize;
        assert!(
            within(self.quotas.connections, admitted.len()),
            "{admitted:?}"
        );
        assert!(!self.walled || !admitted.contains(&FORBIDDEN));
        let places = self.places();
        for ip in &places {
            let same = places.iter().filter(|other| *other == ip).count();
            let near = places.iter().filter(|other| other[..3] == ip[..3]).count();
            assert!(
                within(self.quotas.per_ip, same) && within(self.quotas.per_subnet, near),
                "{ip:?} in {places:?}"
            );
        }
        let (mut connecting, mut connected) = (0, 0);
        for swarm in &self.swarms {
            connecting += swarm.stats().connecting;
            connected += swarm.stats().connected;
        }
        let under_way = self.dials.iter().chain(self.standing.values());
        let dialled: BTreeSet<_> = under_way.map(|(shard, slot, _, _)| (shard, slot)).collect();
        let unfinished = self.conns.len() - admitted.len() + dialled.len();
        assert_eq!(
            (connecting, connected),
            (unfinished as u64, admitted.len() as u64)
        );
    }

    /// Where connections and dials lead, each dial once.
    fn places(&self) -> Vec<[u8; 4]> {
        let conn = |conn: &ConnId| self.swarms[usize::from(conn.shard)].info(*conn);
        let conns = self.conns.keys().map(|id| conn(id).unwrap().addr);
        let under_way = self.dials.iter().chain(self.standing.values());
        let dialled: BTreeSet<_> = under_way.map(|dial| (dial.0, dial.1, dial.2)).collect();
        let dials = dialled.into_iter().map(|(shard, slot, generation)| {
            let id = CandidateId { slot, generation };
            let candidates = &self.swarms[usize::from(shard)].candidates;
            candidates.get(id).unwrap().addr
        });
        conns
            .chain(dials)
            .map(|addr| match addr {
                SocketAddr::V4(addr) => addr.ip().octets(),
                SocketAddr::V6(_) => unreachable!(),
            })
            .collect()
    }

    /// With all mail delivered, the shared counts are those of the connections.
    fn check_directions(&self) {
        let admitted = self
            .conns
            .iter()
            .filter(|(_, (life, _))| *life == Life::Admitted);
        let (mut inbound, mut outbound) = (0, 0);
        for (conn, _) in admitted {
            let info = self.swarms[usize::from(conn.shard)].info(*conn).unwrap();
            *if info.initiator {
                &mut outbound
            } else {
                &mut inbound
            } += 1;
        }
        // Who lost its connection while a rival waits for the place is there again by now; a
        // claim that came too late holds its place until it ends.
        if !self.conns.values().any(|(life, _)| *life == Life::Late) {
            assert_eq!(self.counts.directions(), (inbound, outbound));
        }
    }

    /// With all mail delivered, nobody waits for room that is there.
    fn check_nobody_starves(&mut self) {
        let now = self.now;
        for shard in 0..self.shards() {
            self.swarm(shard).suspend_starts(now, false);
            self.carry_out(shard);
        }
        while self.deliver_one() {}
        self.check_directions();
        let room = self.counts.reserve_dial(false);
        if room {
            self.counts.release_dial();
            for swarm in &self.swarms {
                assert!(
                    !swarm.may_dial() || swarm.stats().queued == 0,
                    "queued candidates and room"
                );
            }
        }
    }

    fn wind_down(&mut self) {
        let now = self.now;
        for swarm in &mut self.swarms {
            swarm.suspend_starts(now, true);
        }
        while !self.standing.is_empty() {
            self.break_what_stands();
        }
        while let Some((shard, slot, generation, utp)) = self.dials.pop_first() {
            let (now, id) = (self.now, CandidateId { slot, generation });
            let transport = if utp { Transport::Utp } else { Transport::Tcp };
            self.swarm(shard).dial_failed(now, id, transport, false);
            self.carry_out(shard);
        }
        while let Some(conn) = self.conns.keys().next().copied() {
            self.end(conn, CloseReason::Shutdown);
            self.carry_out(conn.shard);
        }
        while self.deliver_one() {}
        for swarm in &self.swarms {
            let Stats {
                connecting,
                connected,
                ..
            } = swarm.stats();
            assert_eq!((connecting, connected), (0, 0));
            assert!(swarm.home.is_empty(), "the home forgot nobody");
        }
        assert!(self.counts.is_unused(), "all room was given back");
        for (conn, names) in &self.events {
            let closed = names
                .iter()
                .filter(|name| **name == "connection-closed")
                .count();
            assert_eq!((names[0], closed), ("handshaking", 1), "{conn}: {names:?}");
            let at = |name| names.iter().position(|other| *other == name);
            assert!(
                at("connection").is_none() || at("handshake-timeout").is_none(),
                "{conn}: {names:?}"
            );
            let redundant = names.iter().filter(|name| **name == "redundant-connection");
            assert!(redundant.count() <= 1, "{conn}: {names:?}");
            assert_eq!(
                *names.last().unwrap(),
                "connection-closed",
                "{conn}: {names:?}"
            );
        }
    }
}

fn run(seed: u64, shards: u16, limit: u32) {
    let mut world = World::new(seed, shards, limit);
    for step in 0..150 {
        world.random_operation();
        world.check();
        if step % 25 == 24 {
            world.check_nobody_starves();
            world.check();
        }
    }
    world.wind_down();
}

#[test]
fn random_lives_break_no_rule() {
    for shards in [1, 3, 8] {
        for limit in [0, 1, 3] {
            for seed in 0..1_200 {
                let outcome = std::panic::catch_unwind(|| run(seed, shards, limit));
                assert!(
                    outcome.is_ok(),
                    "run({seed}, {shards}, {limit}) broke a rule"
                );
            }
        }
    }
}
