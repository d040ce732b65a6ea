use super::exchange::Exchange;
use super::flock::Flock;
use super::pipe::ABOVE_HIGH_MAX;
use super::start::start;
use super::streams::{StreamMessage, Streams};
use crate::api::Handler;
use crate::bandwidth::{Bandwidth, MinRate};
use crate::event::ConnectionInfo;
use crate::io::{Backend, Driver, DriverConfig, Unavailable};
use crate::names::PeerId;
use crate::session::{Connector, Connectors, Factory, Protocol};
use crate::shard::Shard;
use crate::swarm::{Approach, Firewall, Quotas};
use flock_tcp::{ListenOptions, SendLimits, StreamOptions};
use ipnet::IpNet;
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Which id the engine states in its handshakes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum IdChoice {
    /// Four zero bytes and 28 random ones. The smaller id wins a conflict of two connections, so
    /// a low id keeps connections to peers that dial again and again.
    #[default]
    Stable,
    /// 32 random bytes.
    Random,
    /// This id.
    Fixed(PeerId),
}

/// Why an engine could not do what it was asked.
#[derive(Debug)]
#[non_exhaustive]
pub enum FlockError {
    /// An option makes no sense; the text says which and why.
    Option(String),
    /// io_uring was asked for, and does not work here.
    Backend(Unavailable),
    /// The operating system refused.
    Io(io::Error),
    /// A shard's mailbox is full, the caller being faster than the engine; or too many events are
    /// unread for more peers.
    Busy,
    /// The engine was shut down, or cannot go on.
    ShutDown,
    /// A handler asked for something that waits for the shards, and would wait for itself.
    OnShard,
}

impl fmt::Display for FlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option(why) => f.write_str(why),
            Self::Backend(why) => why.fmt(f),
            Self::Io(error) => error.fmt(f),
            Self::Busy => {
                f.write_str("the engine is busy: a mailbox is full, or too many events are unread")
            }
            Self::ShutDown => f.write_str("the engine was shut down"),
            Self::OnShard => f.write_str("a handler cannot wait for the shards"),
        }
    }
}

impl std::error::Error for FlockError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for FlockError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Options of an engine; made by [`Flock::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    pub(crate) id: IdChoice,
    pub(crate) shards: Option<usize>,
    pub(crate) cpus: Vec<usize>,
    pub(crate) backend: Backend,
    pub(crate) max_connections: u32,
    pub(crate) half_open: u32,
    pub(crate) dials: u32,
    pub(crate) candidates: u32,
    pub(crate) connections: u32,
    pub(crate) reserved: u32,
    pub(crate) max_inbound: u32,
    pub(crate) max_outbound: u32,
    pub(crate) max_per_ip: u32,
    pub(crate) max_per_subnet: u32,
    pub(crate) accept_rate: u32,
    pub(crate) memory_watermark: u64,
    pub(crate) whitelist: Vec<IpNet>,
    pub(crate) denylist: Vec<IpNet>,
    pub(crate) firewall: Option<Firewall>,
    pub(crate) protocol: Option<Factory>,
    pub(crate) connectors: Option<Connectors>,
    pub(crate) connect_timeout: Duration,
    pub(crate) tcp: bool,
    pub(crate) utp: bool,
    pub(crate) utp_connect_timeout: Duration,
    pub(crate) utp_config: flock_utp::Config,
    pub(crate) handshake_timeout: Duration,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) min_rate: Option<MinRate>,
    pub(crate) linger: Duration,
    pub(crate) retry: [Duration; 4],
    pub(crate) retry_tail: Option<Duration>,
    pub(crate) keep_existing: bool,
    pub(crate) stream: StreamOptions,
    pub(crate) listen: ListenOptions,
    pub(crate) send_limits: SendLimits,
    pub(crate) bandwidth: Bandwidth,
    pub(crate) peer_bandwidth: Bandwidth,
    pub(crate) recv_limit: usize,
    pub(crate) accept_backlog: usize,
    pub(crate) events_limit: usize,
    pub(crate) mailbox: usize,
    pub(crate) driver: DriverConfig,
    pub(crate) seed: Option<u64>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            id: IdChoice::Stable,
            shards: None,
            cpus: Vec::new(),
            backend: Backend::Auto,
            max_connections: 0,
            half_open: 16_384,
            dials: 256,
            candidates: 1 << 20,
            connections: 1 << 20,
            reserved: 0,
            max_inbound: 0,
            max_outbound: 0,
            max_per_ip: 0,
            max_per_subnet: 0,
            accept_rate: 0,
            memory_watermark: 0,
            whitelist: Vec::new(),
            denylist: Vec::new(),
            firewall: None,
            protocol: None,
            connectors: None,
            connect_timeout: Duration::from_secs(3),
            tcp: true,
            utp: true,
            utp_connect_timeout: Duration::from_secs(8),
            utp_config: flock_utp::Config::default(),
            handshake_timeout: Duration::from_secs(5),
            idle_timeout: None,
            min_rate: None,
            linger: Duration::from_secs(5),
            retry: [1, 1, 5, 15].map(Duration::from_secs),
            retry_tail: None,
            keep_existing: false,
            stream: StreamOptions::default(),
            listen: ListenOptions::default(),
            send_limits: SendLimits::default(),
            bandwidth: Bandwidth::UNLIMITED,
            peer_bandwidth: Bandwidth::UNLIMITED,
            recv_limit: 256 * 1024,
            accept_backlog: 4096,
            events_limit: 65_536,
            mailbox: 16_384,
            driver: DriverConfig::default(),
            seed: None,
        }
    }
}

/// Setters that just take a value, each with what it means.
macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $type:ty,)*) => {
        $($(#[$doc])*
        #[must_use]
        pub fn $name(mut self, $name: $type) -> Self {
            self.$name = $name;
            self
        })*
    };
}

impl Builder {
    setters! {
        /// The id stated in handshakes; [`IdChoice::Stable`] unless said.
        id: IdChoice,
        /// The driver; [`Backend::Auto`] unless said.
        backend: Backend,
        /// Admitted peers at a time, in both directions together; 0, the default, is no limit.
        max_connections: u32,
        /// Inbound connections per shard whose handshake is unfinished (16,384). When more come, those
        /// that take longer than a tenth of the handshake's time make room, the oldest first; when
        /// none does, the newcomers are refused. With as many outbound ones unfinished nothing more is
        /// dialled.
        half_open: u32,
        /// Dials per shard at a time (256); more wait in the queue.
        dials: u32,
        /// Addresses known per shard (1,048,576); more are rejected.
        candidates: u32,
        /// Connections per shard in any state (1,048,576); more are refused.
        connections: u32,
        /// Addresses to have connections with, in both directions; empty, the default, is all.
        whitelist: Vec<IpNet>,
        /// Addresses to have no connections with, in both directions, whatever the whitelist says.
        denylist: Vec<IpNet>,
        /// How many of [`max_connections`](Self::max_connections) are kept for candidates with a reserved
        /// place ([`Flock::add_reserved_peer`]); 0, the default, is none. Such a candidate
        /// may have any other place as well.
        reserved: u32,
        /// Admitted peers at a time that dialled us; 0, the default, is no limit. One whose connection
        /// takes the place of an outbound one to the same peer is let in beyond it.
        max_inbound: u32,
        /// Peers at a time that we dialled, dials included; 0, the default, is no limit.
        max_outbound: u32,
        /// Connections at a time with one IP address, dials and handshakes included; 0, the default, is
        /// no limit. Candidates there are too many of wait.
        max_per_ip: u32,
        /// The same for a /24 of IPv4 and a /64 of IPv6.
        max_per_subnet: u32,
        /// Inbound connections a second, with as many at once after a second of rest; 0, the default,
        /// is no limit. Those beyond it are refused.
        accept_rate: u32,
        /// Bytes that wait to be sent, over all connections, from which on nobody is dialled and who
        /// dials is refused; 0, the default, is no limit. A blob that goes to many counts for each of
        /// them. It is looked at a few connections a turn, so that it takes effect a moment later; what
        /// one connection may queue is limited by [`send_limits`](Self::send_limits), and what uTP may
        /// keep of the peers' by `utp_config`.
        memory_watermark: u64,
        /// How long a TCP dial may take (3 s).
        connect_timeout: Duration,
        /// Whether to accept and dial TCP (on).
        tcp: bool,
        /// Whether to accept and dial uTP beside TCP, at the same port (on). Both are dialled at once, TCP
        /// is preferred if it answers within half a second after uTP, and only the winner is used.
        utp: bool,
        /// How long a uTP dial may take (8 s).
        utp_connect_timeout: Duration,
        /// Settings of uTP. The limits of the engine stand above those in it: connections, send
        /// queues, and how long connecting and closing may take.
        utp_config: flock_utp::Config,
        /// How long a handshake may take, admission included (5 s).
        handshake_timeout: Duration,
        /// How long an admitted connection may move no byte in either direction before it is closed
        /// ([`CloseReason::IdleTimeout`](crate::CloseReason::IdleTimeout)), or up to a quarter longer;
        /// `None`, the default, is for ever.
        idle_timeout: Option<Duration>,
        /// What an admitted connection has to send and receive to stay
        /// ([`CloseReason::TooSlow`](crate::CloseReason::TooSlow)); `None`, the default, is nothing. It
        /// stands in the place of [`idle_timeout`](Self::idle_timeout).
        min_rate: Option<MinRate>,
        /// How long a closing connection may make no progress (5 s): neither does what is queued go
        /// out, nor does the peer end its direction. Then it is reset. A
        /// [`Connection`](crate::Connection) whose peer has ended its direction waits as long to be
        /// accepted before it is closed.
        linger: Duration,
        /// Waits before the retries of a failed dial (1, 1, 5, 15 s, each ±10 %); then the
        /// candidate is dropped.
        retry: [Duration; 4],
        /// How long to wait between further retries (each ±10 %) instead of dropping the candidate;
        /// `None`, the default, drops it.
        retry_tail: Option<Duration>,
        /// On a second connection to the same peer, always keep the first (off). Two engines
        /// that do this and dial each other at the same time lose both connections, and retry.
        keep_existing: bool,
        /// Socket options of dialled and accepted connections.
        stream: StreamOptions,
        /// Options of listening sockets; those for their connections come from
        /// [`stream`](Self::stream).
        listen: ListenOptions,
        /// High- and low-water marks and the hard limit of each connection's send queue.
        send_limits: SendLimits,
        /// Limits of all connections together (none); [`Flock::set_bandwidth`] changes them.
        bandwidth: Bandwidth,
        /// Limits of each connection (none); [`Flock::set_peer_bandwidth`] changes them.
        peer_bandwidth: Bandwidth,
        /// Bytes received on a [`Connection`](crate::Connection) and not taken by the
        /// application before the peer is held back (256 KiB).
        recv_limit: usize,
        /// [`Connection`](crate::Connection)s that nobody has accepted yet (4,096); beyond that
        /// those whose peer has gone are forgotten first, and then new ones are reset.
        accept_backlog: usize,
        /// Unread events (65,536) beyond which nothing new is started until they are read.
        events_limit: usize,
        /// Sizes of each shard's driver.
        driver: DriverConfig,
    }

    /// How many shards, each with its own thread; one per available core unless said.
    #[must_use]
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = Some(shards);
        self
    }

    /// Asks `allows` about every address that connects or is to be dialled, and about every id that
    /// a peer states; what it does not allow is refused, and reported. It is called on the shards
    /// and must not block; when it panics, the answer is no.
    #[must_use]
    pub fn firewall(
        mut self,
        allows: impl Fn(&Approach<'_>) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.firewall = Some(Firewall::new(allows));
        self
    }

    /// Replaces the exchange of ids: `make` is asked for the handshake of each connection, with the
    /// channel of those that were dialled. It is called on the shards and must not block.
    #[must_use]
    pub fn protocol<P: Protocol + 'static>(
        mut self,
        make: impl Fn(&ConnectionInfo) -> P + Send + Sync + 'static,
    ) -> Self {
        self.protocol = Some(Factory::new(move |info| Box::new(make(info))));
        self
    }

    /// Puts something of the embedder's between the network and everything else of each connection,
    /// handshake and files included: `make` is asked for it when the connection is up. It is called on
    /// the shards and must not block.
    ///
    /// Counts of bytes are the network's. So are `send_limits`, but for how much may be queued at all,
    /// which is decided before: a connector is never given the same bytes twice. Bandwidth is what
    /// passes on one side of the connector or the other, whichever is more.
    #[must_use]
    pub fn connector<C: Connector + 'static>(
        mut self,
        make: impl Fn(&ConnectionInfo) -> C + Send + Sync + 'static,
    ) -> Self {
        self.connectors = Some(Connectors::new(move |info| Box::new(make(info))));
        self
    }

    pub(crate) fn quotas(&self) -> Quotas {
        Quotas {
            connections: self.max_connections,
            reserved: self.reserved,
            inbound: self.max_inbound,
            outbound: self.max_outbound,
            per_ip: self.max_per_ip,
            per_subnet: self.max_per_subnet,
            accept_rate: self.accept_rate,
            queued_bytes: self.memory_watermark,
        }
    }

    /// Pins shard `i` to the `i`-th of these cores, going round. Without, threads are not pinned.
    #[must_use]
    pub fn cpus(mut self, cpus: impl IntoIterator<Item = usize>) -> Self {
        self.cpus = cpus.into_iter().collect();
        self
    }

    /// Seeds every random choice, for runs that can be repeated. Without, the seed is random.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Starts an engine whose connections are taken with [`Flock::accept`].
    ///
    /// # Errors
    /// An option makes no sense, or the system refuses threads or rings.
    pub fn start(self) -> Result<Flock, FlockError> {
        let exchange = self.exchange()?;
        let handlers = exchange.clone();
        let flock = start(
            &self,
            move |_| Streams::new(handlers.clone()),
            |senders| {
                exchange.wire(senders.to_vec());
            },
        )?;
        Ok(flock.with_exchange(exchange))
    }

    /// Where the connections of an engine wait, once the options for them make sense.
    fn exchange(&self) -> Result<Arc<Exchange>, FlockError> {
        let max = self.send_limits.high as usize + ABOVE_HIGH_MAX;
        if (self.send_limits.max as usize) < max {
            let text =
                format!("send_limits: with this high-water mark, max must be at least {max}");
            return Err(FlockError::Option(text));
        }
        if self.accept_backlog == 0 {
            let text = "accept_backlog must be at least 1";
            return Err(FlockError::Option(text.to_owned()));
        }
        Ok(Exchange::new(
            self.recv_limit,
            self.accept_backlog,
            self.linger,
        ))
    }

    /// Starts an engine whose connections go to handlers, one per shard, made by `handler` on
    /// the shard's own thread.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_with<H: Handler>(
        self,
        handler: impl Fn(usize) -> H + Send + Sync + 'static,
    ) -> Result<Flock<H::Msg>, FlockError> {
        start(&self, handler, |_| {})
    }

    /// Puts an engine together over drivers of the caller's making, one shard for each, and
    /// leaves running the shards to the caller: for simulations, and for threads with habits of
    /// their own. [`Flock`] calls that wait for an answer need shards that run.
    ///
    /// # Errors
    /// An option makes no sense.
    pub fn assemble<D: Driver, H: Handler>(
        self,
        drivers: Vec<D>,
        handler: impl Fn(usize) -> H,
    ) -> Result<Assembled<D, H>, FlockError> {
        super::start::assemble(self, drivers, handler)
    }

    /// As [`assemble`](Self::assemble), for an engine whose connections are taken with
    /// [`Flock::accept`].
    ///
    /// # Errors
    /// An option makes no sense.
    pub fn assemble_streams<D: Driver>(
        self,
        drivers: Vec<D>,
    ) -> Result<Assembled<D, Streams>, FlockError> {
        let exchange = self.exchange()?;
        let handler = |_| Streams::new(exchange.clone());
        let (flock, shards) = super::start::assemble(self, drivers, handler)?;
        Ok((flock.with_wired_exchange(exchange), shards))
    }

    /// Checks the options against each other.
    pub(crate) fn check(&self) -> Result<(), FlockError> {
        let wrong = |text: &str| Err(FlockError::Option(text.to_owned()));
        if self.shards == Some(0) {
            return wrong("shards: at least one is needed");
        }
        if self
            .shards
            .is_some_and(|shards| shards > usize::from(u16::MAX))
        {
            return wrong("shards: at most 65,535");
        }
        if self.connections == 0 || self.candidates == 0 || self.half_open == 0 || self.dials == 0 {
            return wrong("connections, candidates, half_open and dials must be at least 1");
        }
        if self.connect_timeout.is_zero()
            || self.utp_connect_timeout.is_zero()
            || self.handshake_timeout.is_zero()
            || self.idle_timeout.is_some_and(|idle| idle.is_zero())
        {
            return wrong("connect, handshake and idle timeouts must be longer than zero");
        }
        if self.min_rate.is_some_and(|rate| rate.bytes().is_none()) {
            return wrong("min_rate: between 1 byte and 4 GiB have to be asked for in its time");
        }
        if self.min_rate.is_some() && self.idle_timeout.is_some() {
            return wrong("min_rate and idle_timeout: a minimum rate ends what is idle, too");
        }
        let SendLimits { high, low, max } = self.send_limits;
        if high == 0 || low > high || high > max {
            return wrong("send_limits: low must not be above high, nor high above max or zero");
        }
        if !self.tcp && !self.utp {
            return wrong("tcp and utp: one of them is needed");
        }
        if self.max_connections > 0 && self.reserved > self.max_connections {
            return wrong("reserved: at most max_connections");
        }
        if self.mailbox == 0 || self.recv_limit == 0 {
            return wrong("mailbox and recv_limit must be at least 1");
        }
        Ok(())
    }

    /// The id to state, drawn from `rng` where it is random.
    pub(crate) fn choose_id(&self, rng: &mut StdRng) -> PeerId {
        let mut bytes = [0; 32];
        match &self.id {
            IdChoice::Fixed(id) => return id.clone(),
            IdChoice::Random => rng.fill(&mut bytes[..]),
            IdChoice::Stable => rng.fill(&mut bytes[4..]),
        }
        PeerId::new(&bytes).expect("32 bytes make an id")
    }

    pub(crate) fn rng(&self) -> StdRng {
        self.seed
            .map_or_else(StdRng::from_os_rng, StdRng::seed_from_u64)
    }
}

/// An engine and its shards, which the caller runs.
pub type Assembled<D, H> = (Flock<<H as Handler>::Msg>, Vec<Shard<D, H>>);

/// The message type of engines made by [`Builder::start`].
pub(crate) type DefaultMessage = StreamMessage;
