//! Holding an engine, and letting it run out.

use super::builder::FlockError;
use super::flock::{DROP_SHUTDOWN, Flock, not_on_a_shard, post};
use crate::shard::Command;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

impl<M: Send + 'static> Flock<M> {
    /// Starts nothing new until [`resume`](Self::resume): no candidate is dialled, and who dials us
    /// waits in the system's backlog. What is connected stays, and what is dialled already goes on.
    ///
    /// # Errors
    /// The engine is busy or was shut down.
    pub fn suspend(&self) -> Result<(), FlockError> {
        self.tell_all(|| Command::Suspend(true))
    }

    /// Ends a [`suspend`](Self::suspend).
    ///
    /// # Errors
    /// The engine is busy or was shut down.
    pub fn resume(&self) -> Result<(), FlockError> {
        self.tell_all(|| Command::Suspend(false))
    }

    /// Shuts down as a deploy wants it: stops listening and dialling, lets the connections there are
    /// go on until their peers or the application end them, at most for `within`, and then shuts down;
    /// whether all had ended by themselves. Connections left are closed in good order and get five
    /// seconds for that. Blocks until all shards have ended.
    ///
    /// Nobody dials an address that listens no more: let the successor listen first. With a socket that
    /// was inherited and is kept open by the parent, those who dial meanwhile wait in its backlog.
    ///
    /// # Errors
    /// The engine is busy or was shut down, or a handler asks.
    pub fn drain(&self, within: Duration) -> Result<bool, FlockError> {
        not_on_a_shard()?;
        let deadline = Instant::now().checked_add(within);
        let mut empty = Vec::with_capacity(self.shards());
        for sender in &self.inner.senders {
            let (reply, answer) = sync_channel(1);
            post(sender, Command::Drain { reply })?;
            empty.push(answer);
        }
        self.inner.lock_bound().clear();
        let ended = empty.iter().all(|shard| match deadline {
            // A shard that has gone has no connections either.
            None => shard.recv().is_ok(),
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                shard.recv_timeout(left).is_ok()
            }
        });
        self.shutdown(DROP_SHUTDOWN);
        Ok(ended)
    }
}
