//! Limits of bandwidth, changed while the engine runs.

use super::builder::FlockError;
use super::channel::Channel;
use super::flock::Flock;
use crate::bandwidth::{Bandwidth, Rates};
use crate::names::{ChannelKey, ConnId};
use crate::shard::{Command, Scope};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

/// The limits of channels that have some.
pub(crate) type ChannelRates = BTreeMap<ChannelKey, Arc<Rates>>;

/// Channels that may have limits of their own.
const CHANNELS_MAX: usize = 65_536;

impl<M: Send + 'static> Flock<M> {
    /// Limits all connections together. Bytes are shared out fairly between connections that have
    /// some to send, or more to receive, on all shards. Over a time the limit holds to the byte; for a
    /// moment it is exceeded by what goes in 20 ms, and downwards by what was received in one turn.
    ///
    /// # Errors
    /// The engine is busy or was shut down.
    pub fn set_bandwidth(&self, bandwidth: Bandwidth) -> Result<(), FlockError> {
        self.inner.rates.all.set(bandwidth);
        self.tell_all(|| Command::Bandwidth(Scope::All))
    }

    /// Limits each connection that has no limits of its own, those there are and those to come. For a
    /// moment such a limit is exceeded by what goes in 100 ms.
    ///
    /// # Errors
    /// As [`set_bandwidth`](Self::set_bandwidth).
    pub fn set_peer_bandwidth(&self, bandwidth: Bandwidth) -> Result<(), FlockError> {
        self.tell_all(|| Command::Bandwidth(Scope::Peers(bandwidth)))
    }

    /// Limits one connection, in place of the limits for each.
    ///
    /// # Errors
    /// As [`set_bandwidth`](Self::set_bandwidth). A connection that has gone is no error.
    pub fn set_connection_bandwidth(
        &self,
        conn: ConnId,
        bandwidth: Bandwidth,
    ) -> Result<(), FlockError> {
        let sender = self.inner.senders.get(conn.shard());
        let sender = sender.ok_or_else(|| FlockError::Option(format!("no connection {conn}")))?;
        super::flock::post(sender, Command::Bandwidth(Scope::Conn(conn, bandwidth)))
    }

    fn set_channel_bandwidth(
        &self,
        channel: &ChannelKey,
        bandwidth: Bandwidth,
    ) -> Result<(), FlockError> {
        let mut limited = self
            .inner
            .channel_rates
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let rates = if bandwidth == Bandwidth::UNLIMITED {
            limited.remove(channel);
            None
        } else if let Some(rates) = limited.get(channel) {
            rates.set(bandwidth);
            Some(rates.clone())
        } else if limited.len() < CHANNELS_MAX {
            let rates = Arc::new(Rates::new(bandwidth));
            limited.insert(channel.clone(), rates.clone());
            Some(rates)
        } else {
            let text = format!("{CHANNELS_MAX} channels have limits of their own already");
            return Err(FlockError::Option(text));
        };
        self.tell_all(|| Command::Bandwidth(Scope::Channel(channel.clone(), rates.clone())))
    }
}

impl<M: Send + 'static> Channel<M> {
    /// Limits all connections together that were dialled for this channel. What is inbound
    /// belongs to no channel.
    ///
    /// # Errors
    /// As [`Flock::set_bandwidth`]; or 65,536 channels have limits already.
    pub fn set_bandwidth(&self, bandwidth: Bandwidth) -> Result<(), FlockError> {
        self.flock().set_channel_bandwidth(self.key(), bandwidth)
    }
}
