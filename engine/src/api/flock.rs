use super::bandwidth::ChannelRates;
use super::builder::{Builder, DefaultMessage, FlockError};
use super::channel::{Channel, ChannelQuotas};
use super::connection::Connection;
use super::exchange::Exchange;
use super::joined::Joined;
use super::waiters::{block_until, deadline};
use crate::bandwidth::SharedRates;
use crate::hub::{Events, Hub};
use crate::io::Selected;
use crate::names::{ChannelKey, ConnId, PeerId};
use crate::shard::mailbox::{SendError, Sender};
use crate::shard::{Board, Command, ConnCommand, Mail, ShardStats};
use crate::swarm::Homes;
use bytes::Bytes;
use flock_tcp::ListenOptions;
use flock_transport::canonical;
use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

pub use crate::swarm::{Ban, BanTarget, ChannelStatus, Stats};

/// A running engine. Clones share it; dropping the last one shuts it down without waiting.
pub struct Flock<M: Send + 'static = DefaultMessage> {
    pub(super) inner: Arc<Inner<M>>,
}

pub(crate) struct Inner<M: Send + 'static> {
    pub(crate) senders: Vec<Sender<Mail<M>>>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) board: Arc<Board>,
    pub(crate) rates: Arc<SharedRates>,
    pub(crate) joined: Joined,
    pub(crate) channel_rates: Mutex<ChannelRates>,
    pub(crate) channel_quotas: Mutex<ChannelQuotas>,
    pub(crate) homes: Homes,
    pub(crate) id: PeerId,
    pub(crate) selected: Option<Selected>,
    pub(crate) listen: ListenOptions,
    /// Which transports are spoken.
    pub(crate) tcp: bool,
    pub(crate) utp: bool,
    pub(crate) threads: Mutex<Vec<JoinHandle<()>>>,
    pub(crate) bound: Mutex<Vec<SocketAddr>>,
    /// Calls of `listen` so far. Held by the one in progress, which waits for the shards: no
    /// handler may ever wait for it.
    pub(crate) listens: Mutex<u64>,
    pub(crate) exchange: Option<Arc<Exchange>>,
    pub(crate) over: AtomicBool,
}

/// Options of [`Flock::join`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JoinOptions {
    /// Tell discovery our port (default). Off: discover only.
    pub announce: bool,
}

impl Default for JoinOptions {
    fn default() -> Self {
        Self { announce: true }
    }
}

impl Flock {
    /// Options of a new engine.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(super) fn with_exchange(mut self, exchange: Arc<Exchange>) -> Self {
        let inner = Arc::get_mut(&mut self.inner).expect("nobody else has this engine yet");
        inner.exchange = Some(exchange);
        self
    }

    /// The same for an engine whose shards do not run yet.
    pub(super) fn with_wired_exchange(self, exchange: Arc<Exchange>) -> Self {
        exchange.wire(self.inner.senders.clone());
        self.with_exchange(exchange)
    }

    /// The next connected peer, or `None` once the engine was shut down. Cancellation-safe.
    ///
    /// Connections wait for this call, up to [`Builder::accept_backlog`]; beyond that those that
    /// have ended are forgotten first, and then new ones are reset.
    pub async fn accept(&self) -> Option<Connection> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// As [`accept`](Self::accept), blocking this thread at most for `timeout`.
    #[must_use]
    pub fn accept_timeout(&self, timeout: Duration) -> Option<Connection> {
        let poll = |waker: &Waker| self.poll_accept(&mut Context::from_waker(waker));
        block_until(deadline(timeout), poll).flatten()
    }

    /// As [`accept`](Self::accept), for futures and streams of the caller's making.
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<Option<Connection>> {
        let Some(exchange) = &self.inner.exchange else {
            return Poll::Ready(None);
        };
        match exchange.poll(cx.waker()) {
            Ok(Some(connection)) => Poll::Ready(Some(connection)),
            Ok(None) => Poll::Pending,
            Err(_) => Poll::Ready(None),
        }
    }

    /// Connections that were forgotten or reset because the backlog was full.
    #[must_use]
    pub fn accepts_missed(&self) -> u64 {
        self.inner
            .exchange
            .as_ref()
            .map_or(0, |exchange| exchange.missed())
    }
}

impl<M: Send + 'static> Flock<M> {
    pub(super) fn new(inner: Inner<M>) -> Self {
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Joins a channel: a name, hash or id. Listens on any port if nobody did yet. Joining twice
    /// changes the options. There are no discovery sources yet: peers come from
    /// [`add_peer`](Self::add_peer).
    ///
    /// # Errors
    /// No port can be bound, 1,048,576 channels are joined already, or the engine was shut down.
    pub fn join(
        &self,
        key: impl Into<ChannelKey>,
        options: JoinOptions,
    ) -> Result<Channel<M>, FlockError> {
        let key = key.into();
        if options.announce {
            self.listen_if_nobody_did()?;
        }
        if self.inner.senders.iter().any(Sender::is_closed) {
            return Err(FlockError::ShutDown);
        }
        Ok(Channel::new(self.clone(), self.inner.joined.join(key)?))
    }

    /// Leaves a channel: its candidates are not dialled for it any more. Live connections stay.
    /// Leaving a channel that was not joined does nothing.
    ///
    /// # Errors
    /// The engine is busy or was shut down.
    pub fn leave(&self, key: impl Into<ChannelKey>) -> Result<(), FlockError> {
        let key = key.into();
        self.inner.joined.leave(&key, || {
            self.tell_all(|| Command::Leave {
                channel: key.clone(),
            })
        })
    }

    /// Tells the engine of a peer of `channel`; it is dialled as soon as the limits allow.
    ///
    /// # Errors
    /// The engine is busy, which it is, too, while more events are unread than
    /// [`Builder::events_limit`]; or it was shut down.
    pub fn add_peer(
        &self,
        channel: impl Into<ChannelKey>,
        addr: SocketAddr,
    ) -> Result<(), FlockError> {
        self.find_peer(channel.into(), addr, false)
    }

    /// As [`add_peer`](Self::add_peer), for a peer that has one of the places that
    /// [`Builder::reserved`] keeps free, and that is dialled before others. A candidate that is known
    /// gets it, too. A place is for a peer we dial: one that dials us is known only by its id.
    ///
    /// # Errors
    /// As [`add_peer`](Self::add_peer).
    pub fn add_reserved_peer(
        &self,
        channel: impl Into<ChannelKey>,
        addr: SocketAddr,
    ) -> Result<(), FlockError> {
        self.find_peer(channel.into(), addr, true)
    }

    fn find_peer(
        &self,
        channel: ChannelKey,
        addr: SocketAddr,
        reserved: bool,
    ) -> Result<(), FlockError> {
        if self.inner.hub.congested() {
            // Each find is an event.
            return Err(FlockError::Busy);
        }
        let addr = canonical(addr);
        let shard = usize::from(self.inner.homes.of_addr(addr));
        let command = Command::AddPeer {
            channel: self.inner.joined.shared(channel),
            addr,
            reserved,
        };
        post(&self.inner.senders[shard], command)
    }

    /// Bans an address, a network or a peer id, for good or for a while. Live connections to it
    /// are not closed; [`disconnect`](Self::disconnect) does that.
    ///
    /// # Errors
    /// The engine is busy or was shut down.
    pub fn ban(
        &self,
        target: impl Into<BanTarget>,
        expires_after: Option<Duration>,
    ) -> Result<(), FlockError> {
        let target = target.into().canonical();
        self.tell_all(|| Command::Ban {
            target: target.clone(),
            channel: None,
            expires_after,
        })
    }

    /// The seed's `removePeer`: bans the address for good, on behalf of a channel.
    ///
    /// # Errors
    /// The engine is busy or was shut down.
    pub fn remove_peer(
        &self,
        channel: impl Into<ChannelKey>,
        addr: SocketAddr,
    ) -> Result<(), FlockError> {
        let (channel, target) = (channel.into(), BanTarget::Addr(canonical(addr)));
        self.tell_all(|| Command::Ban {
            target: target.clone(),
            channel: Some(channel.clone()),
            expires_after: None,
        })
    }

    /// Lifts a ban.
    ///
    /// # Errors
    /// The engine is busy or was shut down.
    pub fn unban(&self, target: impl Into<BanTarget>) -> Result<(), FlockError> {
        let target = target.into().canonical();
        self.tell_all(|| Command::Unban {
            target: target.clone(),
        })
    }

    /// Peers being connected to, waiting to be dialled, and connected.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.inner.board.sum().peers
    }

    /// Everything that is counted, summed over the shards as of their latest turns.
    #[must_use]
    pub fn counters(&self) -> ShardStats {
        self.inner.board.sum()
    }

    /// The same for Prometheus, to be registered with a registry of the crate `prometheus-client`.
    #[cfg(feature = "prometheus")]
    #[must_use]
    pub fn metrics(&self) -> crate::Metrics {
        crate::Metrics::new(self.inner.board.clone())
    }

    /// The events of this engine, from now on. There is one subscriber at a time; without one,
    /// events are only counted.
    ///
    /// # Errors
    /// Somebody subscribed already.
    pub fn events(&self) -> Result<Events, FlockError> {
        Hub::subscribe(&self.inner.hub)
            .ok_or_else(|| FlockError::Option("events: somebody subscribed already".to_owned()))
    }

    /// Events since the start, whether or not anybody read them.
    #[must_use]
    pub fn events_emitted(&self) -> u64 {
        self.inner.hub.emitted()
    }

    /// Sends on a connection of any shard. Beyond its send queue's limit the connection is
    /// closed, since a stream with a hole is worth nothing.
    ///
    /// # Errors
    /// The engine is busy or was shut down. A connection that has gone is no error, but counted.
    pub fn send_to(&self, conn: ConnId, data: impl Into<Bytes>) -> Result<(), FlockError> {
        self.tell_conn(conn, ConnCommand::Send(data.into()))
    }

    /// Closes a connection after what is queued has gone out.
    ///
    /// # Errors
    /// The engine is busy or was shut down.
    pub fn disconnect(&self, conn: ConnId) -> Result<(), FlockError> {
        self.tell_conn(conn, ConnCommand::Close)
    }

    /// Sends a message to the handler of one shard.
    ///
    /// # Errors
    /// There is no such shard, or it is busy or was shut down.
    pub fn send_message(&self, shard: usize, message: M) -> Result<(), FlockError> {
        let sender = self.inner.senders.get(shard).ok_or_else(|| {
            FlockError::Option(format!("shard {shard}: there are {}", self.shards()))
        })?;
        Ok(sender.send(Mail::User(message))?)
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.inner.senders.len()
    }

    /// The id stated in handshakes.
    #[must_use]
    pub fn id(&self) -> &PeerId {
        &self.inner.id
    }

    /// The driver in use and why; `None` for an engine assembled over the caller's drivers.
    #[must_use]
    pub fn backend(&self) -> Option<&Selected> {
        self.inner.selected.as_ref()
    }

    /// Stops listening and dialling, closes every connection in good order, and after `within`
    /// the hard way; over uTP, who has acknowledged everything and does not end in turn is reset
    /// after a second; of several calls the one whose time is over first counts. Blocks until all
    /// shards have ended, whether or not events are read; called by a handler it does not block,
    /// since its own shard is among them.
    pub fn shutdown(&self, within: Duration) {
        self.begin_shutdown(within);
        if not_on_a_shard().is_err() {
            return;
        }
        let mut threads = self
            .inner
            .threads
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            // A shard's panic was reported by its thread.
            let _ = thread.join();
        }
    }

    /// Starts a shutdown without waiting for it; the caller goes on running assembled shards
    /// until they are [`Step::Done`](crate::Step::Done).
    pub fn begin_shutdown(&self, within: Duration) {
        self.inner.begin_shutdown(within);
    }

    pub(super) fn tell_conn(&self, conn: ConnId, what: ConnCommand) -> Result<(), FlockError> {
        let sender = self.inner.senders.get(conn.shard());
        let sender = sender.ok_or_else(|| FlockError::Option(format!("no connection {conn}")))?;
        post(sender, Command::Conn { conn, what })
    }

    pub(super) fn tell_all(&self, command: impl Fn() -> Command) -> Result<(), FlockError> {
        self.inner
            .senders
            .iter()
            .try_for_each(|sender| post(sender, command()))
    }
}

impl<M: Send + 'static> Inner<M> {
    pub(super) fn lock_bound(&self) -> MutexGuard<'_, Vec<SocketAddr>> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin_shutdown(&self, within: Duration) {
        self.over.store(true, Ordering::Release);
        for sender in &self.senders {
            sender.send_protocol(Mail::Command(Command::Shutdown { within }));
        }
        if let Some(exchange) = &self.exchange {
            exchange.close();
        }
    }
}

/// How long connections get when the last handle is dropped.
pub(super) const DROP_SHUTDOWN: Duration = Duration::from_secs(5);

impl<M: Send + 'static> Drop for Inner<M> {
    fn drop(&mut self) {
        if !self.over.load(Ordering::Acquire) {
            self.begin_shutdown(DROP_SHUTDOWN);
        }
    }
}

impl<M: Send + 'static> Clone for Flock<M> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

impl<M: Send + 'static> fmt::Debug for Flock<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flock")
            .field("id", &self.inner.id)
            .field("shards", &self.shards())
            .field("listening", &self.listening())
            .finish_non_exhaustive()
    }
}

thread_local! {
    /// Whether this thread runs a shard.
    static ON_A_SHARD: Cell<bool> = const { Cell::new(false) };
}

/// Marks this thread as a shard's.
pub(super) fn enter_shard() {
    ON_A_SHARD.set(true);
}

/// A handler that waits for an answer of the shards waits for itself.
pub(super) fn not_on_a_shard() -> Result<(), FlockError> {
    if ON_A_SHARD.get() {
        return Err(FlockError::OnShard);
    }
    Ok(())
}

pub(super) fn post<M>(sender: &Sender<Mail<M>>, command: Command) -> Result<(), FlockError> {
    Ok(sender.send(Mail::Command(command))?)
}

/// What was not mailed is dropped; a reply channel in it tells its asker.
impl<T> From<SendError<T>> for FlockError {
    fn from(error: SendError<T>) -> Self {
        match error {
            SendError::Full(_) => Self::Busy,
            SendError::Closed(_) => Self::ShutDown,
        }
    }
}
