//! From options to a shard.

use super::Shard;
use super::bandwidth::Limits;
use super::board::{Board, ShardCounters};
use super::command::Mail;
use super::joints::Joints;
use super::link::Links;
use super::mailbox::{Mailbox, Sender};
use super::utp::Utp;
use crate::api::{Builder, Handler};
use crate::bandwidth::SharedRates;
use crate::files::Readers;
use crate::hub::Hub;
use crate::io::Driver;
use crate::names::PeerId;
use crate::session;
use crate::swarm::{SharedCounts, Swarm, SwarmConfig};
use flock_transport::Instant;
use hashbrown::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Sets the endpoints' random choices apart from the swarm's.
const UTP_SEED: u64 = 0x7574_7000_0000_0000;

/// The part of the handshake deadline for which an unfinished inbound handshake keeps its place
/// whoever else comes: half a second of five. A flood of silent peers keeps newcomers out only
/// when it fills all places within that time.
const HALF_OPEN_GRACE: u32 = 10;

/// What the shards of an engine share.
pub(crate) struct Wiring<M> {
    pub(crate) senders: Vec<Sender<Mail<M>>>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) board: Arc<Board>,
    pub(crate) counts: Arc<SharedCounts>,
    pub(crate) rates: Arc<SharedRates>,
    pub(crate) readers: Arc<Readers>,
    pub(crate) id: PeerId,
    pub(crate) hash_seed: u64,
}

impl<M> Clone for Wiring<M> {
    fn clone(&self) -> Self {
        Self {
            senders: self.senders.clone(),
            hub: self.hub.clone(),
            board: self.board.clone(),
            counts: self.counts.clone(),
            rates: self.rates.clone(),
            readers: self.readers.clone(),
            id: self.id.clone(),
            hash_seed: self.hash_seed,
        }
    }
}

/// Everything a shard is made of but its driver and its handler.
pub(crate) struct ShardSetup<M> {
    pub(crate) shard: u16,
    pub(crate) mailbox: Mailbox<Mail<M>>,
    pub(crate) wiring: Wiring<M>,
    pub(crate) options: Builder,
    /// Seed of this shard's own random choices.
    pub(crate) seed: u64,
}

impl<M: Send + 'static> ShardSetup<M> {
    pub(crate) fn build<D: Driver, H: Handler<Msg = M>>(
        self,
        driver: D,
        handler: H,
    ) -> Shard<D, H> {
        let Self {
            shard,
            mailbox,
            wiring,
            options,
            seed,
        } = self;
        let joints = Joints::new(options.connectors.clone());
        let utp = utp_config(&options, &joints);
        let sweep = super::memory::Sweep::new(&wiring.counts);
        let watch = super::idle::Watch::new(&options);
        let config = swarm_config(shard, &wiring, &options);
        let hasher = ahash::RandomState::with_seeds(seed, seed.rotate_left(32), !seed, 0);
        Shard {
            driver,
            swarm: Swarm::new(config, wiring.counts, seed),
            links: Links::new(
                shard,
                options.connections,
                options.send_limits,
                options.linger,
                Utp::new(utp, seed ^ UTP_SEED),
                Limits::new(wiring.rates, options.peer_bandwidth, options.driver.batch),
                joints,
            ),
            users: Vec::new(),
            handler,
            mailbox,
            mail: Vec::new(),
            routes: wiring.senders,
            listeners: Vec::new(),
            crowded: false,
            dials: HashMap::with_hasher(hasher),
            completions: Vec::new(),
            sleep_until: Some(Instant::ZERO),
            expired: Vec::new(),
            frame: session::frame(&wiring.id),
            protocol: options.protocol,
            stream: options.stream,
            handshake_timeout: options.handshake_timeout,
            watch,
            endings: options.half_open,
            hub: wiring.hub,
            readers: wiring.readers,
            board: wiring.board,
            counters: ShardCounters::default(),
            tcp: options.tcp,
            utp: options.utp,
            sweep,
            flushes: super::channels::Flushes::default(),
            pause: super::pause::Pause::default(),
            ending: None::<Instant>,
        }
    }
}

/// The settings of a shard's swarm.
fn swarm_config<M>(shard: u16, wiring: &Wiring<M>, options: &Builder) -> SwarmConfig {
    SwarmConfig {
        shard,
        shards: u16::try_from(wiring.senders.len()).expect("checked with the options"),
        id: wiring.id.clone(),
        hash_seed: wiring.hash_seed,
        half_open: options.half_open,
        half_open_grace: options.handshake_timeout / HALF_OPEN_GRACE,
        candidates: options.candidates,
        whitelist: options.whitelist.clone(),
        denylist: options.denylist.clone(),
        firewall: options.firewall.clone(),
        retry_tail: options.retry_tail,
        tcp: options.tcp.then_some(options.connect_timeout),
        utp: options.utp.then_some(options.utp_connect_timeout),
        retry: options.retry,
        keep_existing: options.keep_existing,
        dials: options.dials,
    }
}

/// The endpoints' settings, below the limits of the engine.
fn utp_config(options: &Builder, joints: &Joints) -> flock_utp::Config {
    flock_utp::Config {
        connections_max: options.connections,
        send: joints.below(options.send_limits),
        // The shard has deadlines of its own for both.
        linger: Duration::from_secs(24 * 3600),
        connect_timeout: options.utp_connect_timeout.saturating_mul(2),
        ..options.utp_config.clone()
    }
}
