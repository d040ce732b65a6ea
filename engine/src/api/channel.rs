//! Joined channels.

use super::builder::{DefaultMessage, FlockError};
use super::flock::{ChannelStatus, Flock};
use super::waiters::{Waiters, block_until, deadline, wake_all};
use crate::event::ConnectionInfo;
use crate::names::ChannelKey;
use crate::shard::Command;
use crate::swarm::ChannelQuota;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// The limits of channels that have some.
pub(crate) type ChannelQuotas = BTreeMap<ChannelKey, Arc<ChannelQuota>>;

/// Channels that may have limits of their own.
const LIMITED_MAX: usize = 65_536;

/// A joined channel. Dropping it does not leave the channel.
pub struct Channel<M: Send + 'static = DefaultMessage> {
    flock: Flock<M>,
    key: ChannelKey,
}

impl<M: Send + 'static> Channel<M> {
    pub(super) fn new(flock: Flock<M>, key: ChannelKey) -> Self {
        Self { flock, key }
    }

    /// The channel's key, as given.
    #[must_use]
    pub fn key(&self) -> &ChannelKey {
        &self.key
    }

    pub(super) fn flock(&self) -> &Flock<M> {
        &self.flock
    }

    /// How the channel stands, summed over the shards. Blocks until each has looked through the
    /// candidates found for it.
    ///
    /// # Errors
    /// The engine is busy or was shut down, or a handler asks.
    pub fn status(&self) -> Result<ChannelStatus, FlockError> {
        let mut sum = ChannelStatus {
            joined: self.flock.inner.joined.contains(&self.key),
            ..ChannelStatus::default()
        };
        for status in self.flock.ask_all(|reply| Command::ChannelStatus {
            channel: self.key.clone(),
            reply,
        })? {
            sum.add(status);
        }
        Ok(sum)
    }

    /// The connected peers known for the channel: those that were dialled for it, and those that an
    /// address found for it turned out to lead to. The handshake names no channel, so that a peer that
    /// dials us belongs to none before its address is found.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn connections(&self) -> Result<Vec<ConnectionInfo>, FlockError> {
        let all = self.flock.ask_all(|reply| Command::ChannelConnections {
            channel: self.key.clone(),
            reply,
        })?;
        Ok(all.into_iter().flatten().collect())
    }

    /// Sends to every peer of [`connections`](Self::connections): one message a shard, and no copy a
    /// peer. A peer that has fallen behind by more than the send queue's limit is closed, as with
    /// [`Flock::send_to`].
    ///
    /// # Errors
    /// The engine is busy, and some shards may have sent; or it was shut down.
    pub fn broadcast(&self, data: impl Into<Bytes>) -> Result<(), FlockError> {
        let data = data.into();
        self.flock.tell_all(|| Command::Broadcast {
            channel: self.key.clone(),
            data: data.clone(),
        })
    }

    /// Limits how many peers are dialled for the channel, or connected because they were, at a time: 0
    /// is no limit. Candidates for which there is no room are looked at again after a second or so;
    /// connections beyond a lower limit stay. A peer that dials us names no channel, and does not count.
    ///
    /// # Errors
    /// 65,536 channels have limits already; or the engine is busy or was shut down.
    pub fn set_max_connections(&self, limit: u32) -> Result<(), FlockError> {
        let quotas = &self.flock.inner.channel_quotas;
        let mut limited = quotas.lock().unwrap_or_else(PoisonError::into_inner);
        let quota = if limit == 0 {
            limited.remove(&self.key);
            None
        } else if let Some(quota) = limited.get(&self.key) {
            quota.set_limit(limit);
            Some(quota.clone())
        } else if limited.len() < LIMITED_MAX {
            let quota = Arc::new(ChannelQuota::new(limit));
            limited.insert(self.key.clone(), quota.clone());
            Some(quota)
        } else {
            let text = format!("{LIMITED_MAX} channels have limits of their own already");
            return Err(FlockError::Option(text));
        };
        self.flock.tell_all(|| Command::LimitChannel {
            channel: self.key.clone(),
            quota: quota.clone(),
        })
    }

    /// Waits until every candidate that the channel has now, or gets meanwhile, has been tried: it is
    /// connected, has failed and waits for its next try, or waits for room below a limit. Begins at
    /// once, polled or not, and may be dropped.
    pub fn flushed(&self) -> Flushed {
        let shared = Arc::new(Mutex::new(Shared {
            left: self.flock.shards(),
            failure: None,
            waiters: Waiters::default(),
        }));
        let told = self.flock.tell_all(|| Command::Flush {
            channel: self.key.clone(),
            pending: Pending {
                shared: shared.clone(),
                end: Some(Failure::ShutDown),
            },
        });
        if matches!(told, Err(FlockError::Busy)) {
            lock(&shared).failure = Some(Failure::Busy);
        }
        Flushed { shared }
    }

    /// Resolves once the first round of discovery is complete. Without discovery sources that
    /// is at once.
    pub async fn first_round(&self) {}

    /// Leaves the channel.
    ///
    /// # Errors
    /// As [`Flock::leave`].
    pub fn leave(&self) -> Result<(), FlockError> {
        self.flock.leave(self.key.clone())
    }
}

impl<M: Send + 'static> Clone for Channel<M> {
    fn clone(&self) -> Self {
        Self::new(self.flock.clone(), self.key.clone())
    }
}

impl<M: Send + 'static> fmt::Debug for Channel<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

struct Shared {
    /// Shards that have not answered.
    left: usize,
    failure: Option<Failure>,
    waiters: Waiters,
}

/// Why a shard does not answer.
#[derive(Clone, Copy, Debug)]
enum Failure {
    Busy,
    ShutDown,
}

fn lock(shared: &Mutex<Shared>) -> std::sync::MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A shard's part of a [`Flushed`]. Dropped as it is it says that the shard has gone.
pub(crate) struct Pending {
    shared: Arc<Mutex<Shared>>,
    end: Option<Failure>,
}

impl Pending {
    pub(crate) fn settle(mut self) {
        self.end = None;
    }

    pub(crate) fn refuse(mut self) {
        self.end = Some(Failure::Busy);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let mut woken = Vec::new();
        let mut shared = lock(&self.shared);
        shared.left -= 1;
        shared.failure = shared.failure.or(self.end);
        if shared.left == 0 || shared.failure.is_some() {
            shared.waiters.take(&mut woken);
        }
        drop(shared);
        wake_all(&mut woken);
    }
}

/// The end of [`Channel::flushed`]: for any runtime, or none. Cancellation-safe.
///
/// # Errors
/// The engine is busy, more than a thousand are asked for at a time, or it was shut down meanwhile.
#[must_use = "the channel is flushed when this is ready"]
pub struct Flushed {
    shared: Arc<Mutex<Shared>>,
}

impl Flushed {
    /// Blocks this thread at most for `timeout`; `None`: it is not over yet.
    pub fn wait_timeout(&self, timeout: Duration) -> Option<Result<(), FlockError>> {
        block_until(deadline(timeout), |waker| self.poll_with(waker))
    }

    fn poll_with(&self, waker: &Waker) -> Poll<Result<(), FlockError>> {
        let mut shared = lock(&self.shared);
        match shared.failure {
            Some(Failure::Busy) => return Poll::Ready(Err(FlockError::Busy)),
            Some(Failure::ShutDown) => return Poll::Ready(Err(FlockError::ShutDown)),
            None => {}
        }
        if shared.left == 0 {
            return Poll::Ready(Ok(()));
        }
        let mut crowd = shared.waiters.add(waker);
        drop(shared);
        wake_all(&mut crowd);
        Poll::Pending
    }
}

impl Future for Flushed {
    type Output = Result<(), FlockError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_with(cx.waker())
    }
}

impl fmt::Debug for Flushed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flushed").finish_non_exhaustive()
    }
}
