//! What a case consists of: options, and operations one after another. All of it is drawn before
//! the first of them is carried out, so that a case that fails can be run again with less.

use flock_engine::{BanTarget, ChannelKey, PeerId};
use flock_transport::CloseHow;
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Where hosts listen, and the engine.
pub(crate) const PORT: u16 = 7000;
pub(crate) const ENGINE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

const HOSTS: usize = 6;
/// Addresses beyond those of the hosts: one at which nobody listens, one that nobody has.
const TARGETS: usize = HOSTS + 2;
const CHANNELS: usize = 3;

/// What a host says once it is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Says {
    Id(PeerId),
    Nothing,
    /// What no handshake begins with.
    Garbage,
}

/// Options of the engine, as far as the rules depend on them; limits of 0 are none.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) shards: usize,
    pub(crate) id: PeerId,
    pub(crate) max_connections: u32,
    pub(crate) max_inbound: u32,
    pub(crate) max_outbound: u32,
    /// Per shard, as the following two.
    pub(crate) half_open: u32,
    pub(crate) dials: u32,
    pub(crate) candidates: u32,
    /// Hosts that alone are allowed; none: all are.
    pub(crate) whitelist: Vec<IpAddr>,
    pub(crate) denylist: Vec<IpAddr>,
    /// Whom the firewall refuses.
    pub(crate) walled_ip: Option<IpAddr>,
    pub(crate) walled_id: Option<PeerId>,
    pub(crate) retry_tail: Option<Duration>,
    pub(crate) keep_existing: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Join(ChannelKey),
    Leave(ChannelKey),
    AddPeer(ChannelKey, SocketAddr),
    RemovePeer(ChannelKey, SocketAddr),
    Ban(BanTarget, Option<Duration>),
    Unban(BanTarget),
    /// A host dials the engine.
    DialIn(usize),
    /// A host ends one of its connections, whichever it is.
    PeerCloses(usize, usize, CloseHow),
    /// A host is killed: its connections are reset, and dials refused.
    Stop(usize),
    /// It is back, and says this from now on.
    Start(usize, Says),
    /// The engine ends one of its connections, whichever it is.
    Disconnect(usize),
    /// Nothing new, or again.
    Suspend(bool),
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// One operation, and time for all that follows from it.
    Alone(Op),
    /// Operations with little time between them.
    Burst(Vec<(Op, Duration)>),
    Pass(Duration),
}

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) options: Options,
    pub(crate) hosts: Vec<Says>,
    pub(crate) steps: Vec<Step>,
}

/// The address of a host, or of nobody.
pub(crate) fn ip(index: usize) -> IpAddr {
    let host = u8::try_from(index).expect("few hosts");
    // Nobody's is in a network of its own.
    IpAddr::V4(Ipv4Addr::new(
        10,
        if index < TARGETS - 1 { 1 } else { 9 },
        0,
        host,
    ))
}

pub(crate) fn at(index: usize) -> SocketAddr {
    SocketAddr::new(ip(index), PORT)
}

/// Whether an address is one that nobody has, so that dials to it are not even refused.
pub(crate) fn is_nowhere(ip_asked: IpAddr) -> bool {
    ip_asked == ip(TARGETS - 1)
}

/// The addresses the hosts' node answers for: theirs, and one without a listener.
pub(crate) fn town_ips() -> Vec<IpAddr> {
    (0..TARGETS - 1).map(ip).collect()
}

impl Plan {
    pub(crate) fn draw(rng: &mut SmallRng, seed: u64, shards: usize) -> Self {
        let ids = ids(rng);
        let options = options(rng, shards, &ids);
        let hosts = (0..HOSTS).map(|_| says(rng, &ids)).collect();
        let steps = (0..rng.random_range(5..60))
            .map(|_| step(rng, &ids))
            .collect();
        Self {
            seed,
            options,
            hosts,
            steps,
        }
    }
}

/// Fewer than hosts, in order; the one in the middle is the engine's own.
fn ids(rng: &mut SmallRng) -> Vec<PeerId> {
    let mut ids: Vec<[u8; 32]> = (0..5).map(|_| rng.random()).collect();
    ids.sort_unstable();
    let known = ids.iter().map(|id| PeerId::new(id).expect("32 bytes"));
    known.collect()
}

fn says(rng: &mut SmallRng, ids: &[PeerId]) -> Says {
    match rng.random_range(0..10) {
        0 => Says::Nothing,
        1 => Says::Garbage,
        // The engine's own.
        2 => Says::Id(ids[ids.len() / 2].clone()),
        _ => {
            let others = rng.random_range(0..ids.len() - 1);
            let at = others + usize::from(others >= ids.len() / 2);
            Says::Id(ids[at].clone())
        }
    }
}

fn options(rng: &mut SmallRng, shards: usize, ids: &[PeerId]) -> Options {
    let few = |rng: &mut SmallRng| [0, 0, 0, 1, 2, 3][rng.random_range(0..6)];
    let some = |rng: &mut SmallRng, share| -> Vec<IpAddr> {
        let named = rng.random_bool(0.1);
        let all = (0..TARGETS).filter(|_| rng.random_bool(share) && named);
        all.map(ip).collect()
    };
    let seldom = rng.random_bool(0.1);
    Options {
        shards,
        id: ids[ids.len() / 2].clone(),
        max_connections: few(rng),
        max_inbound: few(rng),
        max_outbound: few(rng),
        half_open: [1, 2, 64, 64][rng.random_range(0..4)],
        dials: [1, 2, 64, 64][rng.random_range(0..4)],
        candidates: [3, 64, 64][rng.random_range(0..3)],
        whitelist: some(rng, 0.6),
        denylist: some(rng, 0.2),
        walled_ip: rng
            .random_bool(0.1)
            .then(|| ip(rng.random_range(0..TARGETS))),
        walled_id: ids.choose(rng).filter(|_| seldom).cloned(),
        retry_tail: rng.random_bool(0.3).then_some(Duration::from_secs(2)),
        keep_existing: rng.random_bool(0.2),
    }
}

fn step(rng: &mut SmallRng, ids: &[PeerId]) -> Step {
    match rng.random_range(0..10) {
        0 | 1 => Step::Pass(Duration::from_millis(rng.random_range(100..12_000))),
        2 => {
            let ops = (0..rng.random_range(2..8)).map(|_| {
                let pause = [0, 0, 0, 2_000, 20_000][rng.random_range(0..5)];
                let pause = Duration::from_micros(rng.random_range(0..=pause));
                (in_burst(rng, ids), pause)
            });
            Step::Burst(ops.collect())
        }
        _ => Step::Alone(op(rng, ids)),
    }
}

/// Not what ends without a word what others of the burst may have begun.
fn in_burst(rng: &mut SmallRng, ids: &[PeerId]) -> Op {
    loop {
        match op(rng, ids) {
            Op::Leave(_) => {}
            op => return op,
        }
    }
}

fn op(rng: &mut SmallRng, ids: &[PeerId]) -> Op {
    let host = rng.random_range(0..HOSTS);
    let target = at(rng.random_range(0..TARGETS));
    let channel = channel(rng.random_range(0..CHANNELS));
    let which = rng.random_range(0..1000);
    match rng.random_range(0..34) {
        0..=2 => Op::Join(channel),
        3 => Op::Leave(channel),
        4..=13 => Op::AddPeer(channel, target),
        14 => Op::RemovePeer(channel, target),
        15 => {
            let time = [100, 900, 4_000][rng.random_range(0..3)];
            let expires = rng.random_bool(0.7).then_some(Duration::from_millis(time));
            Op::Ban(ban_target(rng, target, ids), expires)
        }
        16 | 17 => Op::Unban(ban_target(rng, target, ids)),
        18..=24 => Op::DialIn(host),
        25 | 26 => {
            let how = [CloseHow::Fin, CloseHow::Rst][rng.random_range(0..2)];
            Op::PeerCloses(host, which, how)
        }
        27 => Op::Stop(host),
        28 | 29 => Op::Start(host, says(rng, ids)),
        30 | 31 => Op::Disconnect(which),
        // Mostly not.
        _ => Op::Suspend(rng.random_bool(0.3)),
    }
}

fn channel(index: usize) -> ChannelKey {
    ChannelKey::from(["red", "green", "blue"][index])
}

fn ban_target(rng: &mut SmallRng, addr: SocketAddr, ids: &[PeerId]) -> BanTarget {
    match rng.random_range(0..6) {
        0 | 1 => addr.into(),
        2 | 3 => addr.ip().into(),
        // Half of the hosts.
        4 => BanTarget::Net("10.1.0.0/30".parse().expect("a network")),
        _ => ids.choose(rng).expect("there are some").clone().into(),
    }
}
