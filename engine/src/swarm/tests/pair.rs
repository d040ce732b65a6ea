//! Two swarms that know of each other and dial over both transports, through a network that
//! delays and refuses as the seed says: they have to end with one connection, the same one.

use super::*;

/// Dials may fail until then, if they may at all.
const TROUBLE: Duration = Duration::from_secs(20);
const END: Duration = Duration::from_secs(90);
/// By then nothing may change any more.
const CALM: Duration = Duration::from_secs(60);

struct Link {
    dialler: usize,
    candidate: CandidateId,
    transport: Transport,
    /// The connection at each node, from its start to its end.
    conns: [Option<ConnId>; 2],
    begun: bool,
    /// When the latest message to each node arrives: the next one does not overtake it.
    latest: [Instant; 2],
}

#[derive(Clone, Copy, Debug)]
enum Arrival {
    /// At the dialler.
    Connected,
    Refused,
    /// At the acceptor, TCP only.
    Accepted,
    /// The other side's id.
    Id,
    Closed,
}

struct Pair {
    nodes: [Swarm; 2],
    ids: [PeerId; 2],
    links: Vec<Link>,
    arrivals: BTreeMap<(Instant, u64), (usize, usize, Arrival)>,
    admitted: [Option<usize>; 2],
    latest_admission: Instant,
    admissions: u32,
    trouble: Duration,
    start: Instant,
    now: Instant,
    serial: u64,
    rng: SmallRng,
}

fn host(node: usize, port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, u8::try_from(node).unwrap()], port))
}

impl Pair {
    fn new(seed: u64, trouble: Duration) -> Self {
        let ids = [1, 2].map(|id| PeerId::new(&[id]).unwrap());
        let swarm = |node: usize| {
            let config = SwarmConfig {
                id: ids[node].clone(),
                utp: Some(Duration::from_secs(4)),
                ..config(0, 1)
            };
            Swarm::new(
                config,
                Arc::new(SharedCounts::limited(1, 0)),
                seed + node as u64,
            )
        };
        let start = Instant::from_nanos(1_000_000_000);
        Self {
            nodes: [swarm(0), swarm(1)],
            ids,
            links: Vec::new(),
            arrivals: BTreeMap::new(),
            admitted: [None; 2],
            latest_admission: start,
            admissions: 0,
            trouble,
            start,
            now: start,
            serial: 0,
            rng: SmallRng::seed_from_u64(seed),
        }
    }

    fn schedule(&mut self, link: usize, node: usize, arrival: Arrival) {
        let delay = Duration::from_millis(self.rng.random_range(1..700));
        let latest = &mut self.links[link].latest[node];
        *latest = (self.now + delay).max(*latest);
        self.serial += 1;
        self.arrivals
            .insert((*latest, self.serial), (link, node, arrival));
    }

    /// The name of a link's connection: one slot a link at each node.
    fn start_conn(&mut self, link: usize, node: usize) -> ConnId {
        let conn = ConnId {
            shard: 0,
            slot: u32::try_from(link).unwrap(),
            generation: 0,
        };
        self.links[link].conns[node] = Some(conn);
        conn
    }

    fn arrive(&mut self, link: usize, node: usize, arrival: Arrival) {
        let (now, other) = (self.now, 1 - node);
        let Link {
            candidate,
            transport,
            dialler,
            ..
        } = self.links[link];
        match arrival {
            Arrival::Connected => {
                let conn = self.start_conn(link, node);
                if transport == Transport::Tcp {
                    self.schedule(link, other, Arrival::Accepted);
                }
                self.nodes[node].dial_established(now, candidate, conn, transport);
            }
            Arrival::Refused => self.nodes[node].dial_failed(now, candidate, transport, false),
            Arrival::Accepted => self.accept(link, node),
            Arrival::Id => {
                // An acceptor hears of uTP with its first data, and answers that.
                if node != dialler && transport == Transport::Utp {
                    self.accept(link, node);
                }
                if let Some(conn) = self.links[link].conns[node] {
                    let id = self.ids[other].clone();
                    self.nodes[node].handshake_done(now, conn, id);
                }
            }
            Arrival::Closed => self.closed(link, node, CloseReason::PeerClosed),
        }
        self.carry_out(node);
    }

    fn accept(&mut self, link: usize, node: usize) {
        let (now, transport) = (self.now, self.links[link].transport);
        let addr = host(1 - node, 40_000);
        if self.nodes[node].inbound(now, transport, addr).is_err() {
            return self.schedule(link, 1 - node, Arrival::Closed);
        }
        let conn = self.start_conn(link, node);
        self.nodes[node].inbound_started(now, conn, addr, transport);
        self.schedule(link, 1 - node, Arrival::Id);
    }

    fn closed(&mut self, link: usize, node: usize, reason: CloseReason) {
        let Some(conn) = self.links[link].conns[node].take() else {
            return;
        };
        if self.admitted[node] == Some(link) {
            self.admitted[node] = None;
        }
        let (now, it) = (self.now, &self.links[link]);
        if it.dialler == node && !it.begun {
            return self.nodes[node].dial_failed(now, it.candidate, it.transport, false);
        }
        self.nodes[node].closed(now, conn, reason, 33, 33);
    }

    fn carry_out(&mut self, node: usize) {
        while let Some(action) = self.nodes[node].poll_action() {
            match action {
                Action::Dial {
                    candidate,
                    transport,
                    ..
                } => self.dial(node, candidate, transport),
                Action::AbortDial {
                    candidate,
                    transport,
                } => self.abort(node, candidate, transport),
                Action::Begin { conn } => {
                    let link = conn.slot as usize;
                    self.links[link].begun = true;
                    self.schedule(link, 1 - node, Arrival::Id);
                }
                Action::Admit(info) => {
                    let link = info.conn.slot as usize;
                    assert_eq!(self.admitted[node], None, "two connections to one peer");
                    assert_eq!(info.transport, self.links[link].transport);
                    self.admitted[node] = Some(link);
                    self.latest_admission = self.now;
                    self.admissions += 1;
                }
                Action::Close { conn, reason } => {
                    let link = conn.slot as usize;
                    self.schedule(link, 1 - node, Arrival::Closed);
                    self.closed(link, node, reason);
                }
                Action::Send { .. } => panic!("one shard has nobody to write to"),
                Action::Emit(_) => {}
            }
        }
    }

    fn dial(&mut self, node: usize, candidate: CandidateId, transport: Transport) {
        self.links.push(Link {
            dialler: node,
            candidate,
            transport,
            conns: [None; 2],
            begun: false,
            latest: [self.now; 2],
        });
        let trouble = self.now - self.start < self.trouble && self.rng.random_bool(0.1);
        let arrival = if trouble {
            Arrival::Refused
        } else {
            Arrival::Connected
        };
        self.schedule(self.links.len() - 1, node, arrival);
    }

    /// The dialler hears no more of it; the acceptor hears of the end, if it heard of the start.
    fn abort(&mut self, node: usize, candidate: CandidateId, transport: Transport) {
        let same = |link: &Link| {
            (link.dialler, link.candidate, link.transport) == (node, candidate, transport)
        };
        let link = self.links.iter().rposition(same).expect("it was dialled");
        assert!(!self.links[link].begun, "a race that is over");
        self.arrivals
            .retain(|_, (other, at, _)| (*other, *at) != (link, node));
        if self.links[link].conns[node].take().is_some() {
            self.schedule(link, 1 - node, Arrival::Closed);
        }
    }

    fn run(&mut self) {
        for node in 0..2 {
            self.nodes[node].add_peer(self.now, "c".into(), host(1 - node, 1));
            self.carry_out(node);
        }
        let end = self.start + END;
        loop {
            let arrival = self.arrivals.keys().next().map(|(at, _)| *at);
            let deadlines = self.nodes.iter().filter_map(Swarm::next_deadline);
            let Some(next) = deadlines.chain(arrival).min().filter(|at| *at < end) else {
                break;
            };
            self.now = self.now.max(next);
            for node in 0..2 {
                self.nodes[node].on_deadline(self.now);
                self.carry_out(node);
            }
            while let Some(entry) = self.arrivals.first_entry()
                && entry.key().0 <= self.now
            {
                let (link, node, arrival) = entry.remove();
                self.arrive(link, node, arrival);
            }
        }
    }
}

/// The pair after a while, with one connection between them.
fn settled(seed: u64, trouble: Duration) -> Pair {
    let mut pair = Pair::new(seed, trouble);
    pair.run();
    let [one, other] = pair.admitted;
    assert!(
        one.is_some() && one == other,
        "seed {seed}: {one:?}, {other:?}"
    );
    for node in &pair.nodes {
        let stats = node.stats();
        assert_eq!((stats.connecting, stats.connected), (0, 1), "seed {seed}");
    }
    pair
}

#[test]
fn two_swarms_settle_on_one_connection_whatever_fails() {
    let mut utp = 0;
    for seed in 0..2_000 {
        let pair = settled(seed, TROUBLE);
        let after = pair.latest_admission - pair.start;
        assert!(after < CALM, "seed {seed}: still changing after {after:?}");
        let stays = pair.admitted[0].map(|link| pair.links[link].transport);
        utp += u32::from(stays == Some(Transport::Utp));
    }
    assert!(
        (1..1_000).contains(&utp),
        "TCP is preferred, not forced: {utp}"
    );
}

/// Both dial at once, and each may admit the connection that goes before the one that stays. But
/// they agree on which that is: it never happens that both lose everything and begin anew.
#[test]
fn two_connections_at_once_do_not_end_each_other() {
    for seed in 0..2_000 {
        let pair = settled(seed, Duration::ZERO);
        // Each dials over two transports. One more dial of one side may follow: when it hears of
        // the end of its own connection before it knows the other one.
        let dials = pair.links.len();
        assert!((4..=6).contains(&dials), "seed {seed}: {dials} dials");
        assert!(pair.admissions <= 6, "seed {seed}: {}", pair.admissions);
    }
}
