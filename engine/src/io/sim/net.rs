//! Nodes, links, listeners, and how a dial becomes a stream.

use super::stream::{Segment, Side, State, Stream};
use super::table::Kind;
use super::world::{NetEvent, World};
use crate::io::{ConnectOptions, SocketId};
use flock_tcp::ListenOptions;
use flock_transport::{Errno, Instant, canonical};
use rand::Rng;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// Linux's default `net.ipv4.ip_local_port_range`.
const EPHEMERAL: std::ops::RangeInclusive<u16> = 32_768..=60_999;
/// `net.ipv4.tcp_syn_retries`: after these the dial fails, 127 s after it began.
const SYN_ATTEMPTS: u32 = 6;
const DIAL_GIVES_UP: Duration = Duration::from_secs(127);

/// One machine of the simulated network.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) ips: Vec<IpAddr>,
    /// Sockets all drivers of the node may have open; `None`: no limit.
    pub(super) files: Option<usize>,
    pub(super) next_port: u16,
}

/// The path between two nodes, both directions alike.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) latency: Duration,
    /// Nothing arrives before; TCP retransmits until then.
    pub(super) cut_until: Instant,
    /// When the latest datagram arrives; of a node to itself, where they keep their order.
    latest: Instant,
}

#[derive(Debug)]
pub(super) struct Listener {
    pub(super) node: usize,
    pub(super) station: usize,
    pub(super) socket: SocketId,
    pub(super) addr: SocketAddr,
    pub(super) options: ListenOptions,
    /// Streams not accepted yet; the listener's side is always 1.
    pub(super) backlog: VecDeque<u64>,
}

/// Where a socket listens or receives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Port {
    pub(super) addr: SocketAddr,
    /// Whether `[::]` takes IPv4 too.
    pub(super) dual_stack: bool,
}

impl Port {
    /// How well it fits a destination: exact addresses before wildcards.
    pub(super) fn fits(self, to: SocketAddr) -> Option<u8> {
        if self.addr.port() != to.port() {
            return None;
        }
        match self.addr.ip() {
            ip if ip == to.ip() => Some(2),
            IpAddr::V4(ip) if ip.is_unspecified() && to.is_ipv4() => Some(1),
            IpAddr::V6(ip) if ip.is_unspecified() => (to.is_ipv6() || self.dual_stack).then_some(1),
            _ => None,
        }
    }

    fn is_wide(self) -> bool {
        self.addr.ip().is_unspecified() && self.addr.is_ipv6() && self.dual_stack
    }
}

/// Whether one destination could fit both.
pub(super) fn ports_overlap(one: Port, other: Port) -> bool {
    let (mine, theirs) = (one.addr.ip(), other.addr.ip());
    one.addr.port() == other.addr.port()
        && (one.is_wide()
            || other.is_wide()
            || (mine.is_ipv4() == theirs.is_ipv4()
                && (mine == theirs || mine.is_unspecified() || theirs.is_unspecified())))
}

impl Listener {
    fn port(&self) -> Port {
        Port {
            addr: self.addr,
            dual_stack: self.options.dual_stack,
        }
    }
}

impl World {
    /// Whether the node answers for `ip`. Loopback addresses belong to every node itself.
    fn owns(&self, node: usize, ip: IpAddr) -> bool {
        ip.is_loopback() || self.nodes[node].ips.contains(&ip)
    }

    pub(super) fn node_of(&self, from: usize, ip: IpAddr) -> Option<usize> {
        if ip.is_loopback() {
            return Some(from);
        }
        self.nodes.iter().position(|node| node.ips.contains(&ip))
    }

    fn link(&mut self, a: usize, b: usize) -> &mut Link {
        let latency = if a == b {
            self.rng.random_range(5_000..50_000)
        } else {
            let (least, most) = (self.faults.latency.start(), self.faults.latency.end());
            let range = least.as_nanos()..=most.as_nanos();
            u64::try_from(self.rng.random_range(range)).unwrap_or(u64::MAX)
        };
        self.links.entry((a.min(b), a.max(b))).or_insert(Link {
            latency: Duration::from_nanos(latency),
            cut_until: Instant::ZERO,
            latest: Instant::ZERO,
        })
    }

    pub(super) fn cut(&mut self, a: usize, b: usize, until: Instant) {
        let link = self.link(a, b);
        link.cut_until = link.cut_until.max(until);
    }

    /// When a packet that leaves `a` now reaches `b`.
    pub(super) fn arrival(&mut self, a: usize, b: usize) -> Instant {
        let link = self.link(a, b);
        let (latency, cut_until) = (link.latency, link.cut_until);
        let mut delay = latency;
        if a != b {
            delay += self.up_to(self.faults.jitter);
            if self.chance(self.faults.spike) {
                self.probe("delay-spike");
                delay += self.faults.spike_delay;
            }
        }
        if cut_until > self.now {
            self.probe("link-cut");
        }
        self.now.max(cut_until) + delay
    }

    pub(super) fn open_files(&self, node: usize) -> usize {
        let stations = self.stations.iter().filter(|s| s.node == node);
        stations.map(super::table::Station::open).sum()
    }

    pub(super) fn out_of_files(&self, node: usize) -> bool {
        self.nodes[node]
            .files
            .is_some_and(|limit| self.open_files(node) >= limit)
    }

    /// Checks and fills in the address of a new listener.
    pub(super) fn bind(
        &mut self,
        station: usize,
        addr: SocketAddr,
        options: &ListenOptions,
    ) -> Result<SocketAddr, Errno> {
        let node = self.stations[station].node;
        self.choose_port(station, addr, |world, addr, alone| {
            let shared = options.shared && !alone;
            let port = Port {
                addr,
                dual_stack: options.dual_stack,
            };
            let mut there = world
                .listeners
                .values()
                .filter(|l| l.node == node && ports_overlap(l.port(), port));
            there.any(|l| options.exclusive || !(l.options.shared && shared))
        })
    }

    /// Checks an address to bind, and chooses a port where it has none. `in_use` says whether
    /// another socket has it; with `true`, also one that would share it.
    pub(super) fn choose_port(
        &mut self,
        station: usize,
        addr: SocketAddr,
        in_use: impl Fn(&Self, SocketAddr, bool) -> bool,
    ) -> Result<SocketAddr, Errno> {
        let node = self.stations[station].node;
        if !addr.ip().is_unspecified() && !self.owns(node, addr.ip()) {
            return Err(Errno(libc::EADDRNOTAVAIL));
        }
        if self.out_of_files(node) || self.stations[station].full() {
            return Err(Errno(libc::EMFILE));
        }
        if addr.port() != 0 {
            return match in_use(self, addr, false) {
                true => Err(Errno(libc::EADDRINUSE)),
                false => Ok(addr),
            };
        }
        for _ in EPHEMERAL {
            let candidate = SocketAddr::new(addr.ip(), self.step_port(node));
            if !in_use(self, candidate, true) {
                return Ok(candidate);
            }
        }
        Err(Errno(libc::EADDRINUSE))
    }

    fn step_port(&mut self, node: usize) -> u16 {
        let port = self.nodes[node].next_port;
        self.nodes[node].next_port = match port {
            port if port >= *EPHEMERAL.end() => *EPHEMERAL.start(),
            port => port + 1,
        };
        port
    }

    pub(super) fn first_port(&mut self) -> u16 {
        self.rng.random_range(EPHEMERAL)
    }

    /// Begins a dial for a socket of `station`.
    pub(super) fn dial(
        &mut self,
        station: usize,
        socket: SocketId,
        to: SocketAddr,
        options: &ConnectOptions,
    ) -> Kind {
        let (node, to) = (self.stations[station].node, canonical(to));
        // The socket itself is in the table already.
        let files = self.nodes[node].files;
        if files.is_some_and(|limit| self.open_files(node) > limit) {
            self.probe("dial-without-files");
            return Kind::Failed(Errno(libc::EMFILE));
        }
        let local = match self.source(node, to, options.source) {
            Ok(local) => local,
            Err(errno) => return Kind::Failed(errno),
        };
        self.pairs.insert((local, to));
        let mut side = Side::new(node, local, State::Connecting);
        side.owner = Some((station, socket));
        side.take_options(&options.stream, &self.faults);
        let stream = self.next_serial();
        let passive = Side::new(usize::MAX, to, State::Absent);
        self.streams
            .insert(stream, Stream::new([side, passive], (local, to)));
        if self.chance(self.faults.blackhole) {
            self.probe("blackhole");
        } else if let Some(target) = self.node_of(node, to.ip()) {
            let at = self.arrival(node, target);
            self.schedule(at, NetEvent::Syn { stream, attempt: 0 });
        } else {
            self.probe("dial-to-nobody");
        }
        let errno = libc::ETIMEDOUT;
        let gives_up = self.now + DIAL_GIVES_UP;
        self.schedule(gives_up, NetEvent::DialFails { stream, errno });
        Kind::Stream(stream, 0)
    }

    fn source(
        &mut self,
        node: usize,
        to: SocketAddr,
        wanted: Option<IpAddr>,
    ) -> Result<SocketAddr, Errno> {
        let ip = match wanted {
            Some(ip) if self.owns(node, ip) => ip,
            Some(_) => return Err(Errno(libc::EADDRNOTAVAIL)),
            None => self.local_ip(node, to, Ipv4Addr::UNSPECIFIED.into())?,
        };
        for _ in EPHEMERAL {
            let local = SocketAddr::new(ip, self.step_port(node));
            if !self.pairs.contains(&(local, to)) {
                return Ok(local);
            }
        }
        Err(Errno(libc::EADDRNOTAVAIL))
    }

    /// The address that packets to `to` leave from, for a socket bound at `bound`.
    pub(super) fn local_ip(
        &self,
        node: usize,
        to: SocketAddr,
        bound: IpAddr,
    ) -> Result<IpAddr, Errno> {
        if !bound.is_unspecified() {
            return Ok(bound);
        }
        if to.ip().is_loopback() {
            return Ok(match to {
                SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        let mut ips = self.nodes[node].ips.iter();
        let ip = ips.find(|ip| ip.is_ipv4() == to.is_ipv4());
        ip.copied().ok_or(Errno(libc::ENETUNREACH))
    }

    /// When a datagram of a node to itself arrives: not before those sent before.
    pub(super) fn in_line(&mut self, node: usize, at: Instant) -> Instant {
        let link = self.link(node, node);
        link.latest = at.max(link.latest + Duration::from_nanos(1));
        link.latest
    }

    /// Whether nothing passes between two nodes now.
    pub(super) fn is_cut(&mut self, a: usize, b: usize) -> bool {
        let now = self.now;
        self.link(a, b).cut_until > now
    }

    pub(super) fn syn_arrives(&mut self, stream: u64, attempt: u32) {
        let Some(dial) = self.streams.get(&stream) else {
            return;
        };
        if dial.sides[0].state != State::Connecting {
            return;
        }
        let (from, to) = (dial.sides[0].node, dial.sides[1].addr);
        let Some(node) = self.node_of(from, to.ip()) else {
            return;
        };
        let refused = self.chance(self.faults.refuse);
        let Some(listener) = self.choose_listener(node, to).filter(|_| !refused) else {
            self.probe(if refused { "refused" } else { "nobody-listens" });
            let (at, errno) = (self.arrival(node, from), libc::ECONNREFUSED);
            return self.schedule(at, NetEvent::DialFails { stream, errno });
        };
        let queue = &self.listeners[&listener];
        if queue.backlog.len() > queue.options.backlog as usize {
            self.probe("backlog-full");
            if attempt < SYN_ATTEMPTS {
                let at = self.now + Duration::from_secs(1 << attempt);
                let attempt = attempt + 1;
                self.schedule(at, NetEvent::Syn { stream, attempt });
            }
            return;
        }
        let (station, socket, options) = (queue.station, queue.socket, queue.options);
        let mut side = Side::new(node, to, State::Open);
        side.take_options(&options.stream, &self.faults);
        if let Some(dial) = self.streams.get_mut(&stream) {
            dial.sides[1] = side;
        }
        if let Some(queue) = self.listeners.get_mut(&listener) {
            queue.backlog.push_back(stream);
        }
        self.stations[station].list(socket);
        self.launch(stream, 1, Segment::SynAck);
    }

    fn choose_listener(&mut self, node: usize, to: SocketAddr) -> Option<u64> {
        let of_node = self.listeners.iter().filter(|(_, l)| l.node == node);
        let fitting = of_node.filter_map(|(&name, l)| l.port().fits(to).map(|fit| (fit, name)));
        let fitting: Vec<_> = fitting.collect();
        let best = fitting.iter().map(|(fit, _)| *fit).max()?;
        let group = fitting.iter().filter(|(fit, _)| *fit == best);
        let pick = self.rng.random_range(0..group.clone().count());
        group.clone().nth(pick).map(|(_, name)| *name)
    }

    pub(super) fn dial_fails(&mut self, stream: u64, errno: Errno) {
        let Some(dial) = self.streams.get_mut(&stream) else {
            return;
        };
        let side = &mut dial.sides[0];
        if side.state == State::Connecting {
            side.state = State::Broken;
            side.error = Some(errno);
            self.look_at_owner(stream, 0);
        }
    }

    pub(super) fn stop_listening(&mut self, listener: u64) {
        let Some(gone) = self.listeners.remove(&listener) else {
            return;
        };
        for stream in gone.backlog {
            self.abort(stream, 1);
        }
    }

    /// Everything the node's processes held is gone; remote ends learn it by FIN or RST, or when
    /// they send.
    pub(super) fn crash(&mut self, node: usize) {
        self.probe("node-crash");
        let listening = self.listeners.iter().filter(|(_, l)| l.node == node);
        let listening: Vec<u64> = listening.map(|(&name, _)| name).collect();
        for listener in listening {
            self.listeners.remove(&listener);
        }
        self.datagrams.retain(|_, bound| bound.node != node);
        let streams: Vec<u64> = self.streams.keys().copied().collect();
        for stream in streams {
            for side in 0..2 {
                let held = self.streams.get(&stream).map(|s| s.sides[side].node) == Some(node);
                if held && self.chance(0.5) {
                    self.abort(stream, side);
                } else if held {
                    self.vanish(stream, side);
                }
            }
        }
        for station in self.stations.iter_mut().filter(|s| s.node == node) {
            station.kill();
        }
    }
}
