//! Questions to the shards, and what follows from the answers.

use super::builder::FlockError;
use super::flock::{Flock, not_on_a_shard, post};
use crate::event::{ConnectionInfo, ConnectionReport};
use crate::shard::{Command, ConnCommand, Reply};
use crate::swarm::{Ban, BanTarget};
use std::sync::mpsc::sync_channel;

impl<M: Send + 'static> Flock<M> {
    /// All admitted connections. Blocks until every shard has answered.
    ///
    /// # Errors
    /// The engine is busy or was shut down, or a handler asks.
    pub fn connections(&self) -> Result<Vec<ConnectionInfo>, FlockError> {
        let all = self.ask_all(|reply| Command::Connections { reply })?;
        Ok(all.into_iter().flatten().collect())
    }

    /// What each admitted connection has done. Blocks until every shard has answered.
    ///
    /// # Errors
    /// As [`connections`](Self::connections).
    pub fn reports(&self) -> Result<Vec<ConnectionReport>, FlockError> {
        let all = self.ask_all(|reply| Command::Reports { reply })?;
        Ok(all.into_iter().flatten().collect())
    }

    /// Closes the `count` worst connections, to make room for others
    /// ([`CloseReason::Evicted`](crate::CloseReason::Evicted)), and returns them, the worst first.
    /// `worth` says what each is worth, and `None` that it is not to be closed: a seeder may take the
    /// bytes sent per second of its age and spare those younger than a minute, or have its own books
    /// on who sends to others. Peers that were dialled are dialled again after a while, as after any
    /// close, if there is room; a ban keeps them away.
    ///
    /// # Errors
    /// As [`connections`](Self::connections).
    pub fn evict<W: PartialOrd>(
        &self,
        count: usize,
        mut worth: impl FnMut(&ConnectionReport) -> Option<W>,
    ) -> Result<Vec<ConnectionReport>, FlockError> {
        let mut rated: Vec<(W, ConnectionReport)> = self
            .reports()?
            .into_iter()
            .filter_map(|report| Some((worth(&report)?, report)))
            .collect();
        // What cannot be compared counts as equal.
        rated.sort_by(|(a, _), (b, _)| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
        rated.truncate(count);
        for (_, report) in &rated {
            self.tell_conn(report.info.conn, ConnCommand::Evict)?;
        }
        Ok(rated.into_iter().map(|(_, report)| report).collect())
    }

    /// The bans that hold, in no order: those of the application and the addresses that turned out to
    /// be our own. Blocks until a shard has answered.
    ///
    /// # Errors
    /// As [`connections`](Self::connections).
    pub fn bans(&self) -> Result<Vec<Ban>, FlockError> {
        let mut bans: Vec<Ban> = Vec::new();
        let mut seen = std::collections::BTreeSet::<BanTarget>::new();
        for ban in self
            .ask_all(|reply| Command::Bans { reply })?
            .into_iter()
            .flatten()
        {
            // Each shard has those of the application, and its own of ourselves.
            if seen.insert(ban.target.clone()) {
                bans.push(ban);
            }
        }
        Ok(bans)
    }

    /// Asks every shard, and blocks until each has answered.
    pub(super) fn ask_all<T>(
        &self,
        command: impl Fn(Reply<T>) -> Command,
    ) -> Result<Vec<T>, FlockError> {
        not_on_a_shard()?;
        let mut answers = Vec::with_capacity(self.shards());
        for sender in &self.inner.senders {
            let (reply, answer) = sync_channel(1);
            post(sender, command(reply))?;
            answers.push(answer);
        }
        let answers = answers.into_iter().map(|answer| answer.recv());
        answers
            .map(|answer| answer.map_err(|_| FlockError::ShutDown))
            .collect()
    }
}
