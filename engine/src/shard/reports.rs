//! What connections have done.

use super::Shard;
use super::link::{Link, Phase};
use crate::api::Handler;
use crate::event::ConnectionReport;
use crate::io::Driver;
use crate::table::Key;

impl<D: Driver, H: Handler> Shard<D, H> {
    /// The admitted connections.
    pub(super) fn open(&self) -> impl Iterator<Item = Key> {
        let open = |(key, link): (Key, &Link)| matches!(link.phase, Phase::Open).then_some(key);
        self.links.table.iter().filter_map(open)
    }

    pub(super) fn reports(&self) -> Vec<ConnectionReport> {
        self.open().filter_map(|key| self.report(key)).collect()
    }

    fn report(&self, key: Key) -> Option<ConnectionReport> {
        let conn = self.links.conn_id(key);
        let (info, since) = self.swarm.admitted(conn)?;
        let link = self.links.table.get(key)?;
        Some(ConnectionReport {
            info,
            channels: self.swarm.channels_of(conn),
            bytes_in: link.stream.bytes_in(),
            bytes_out: link.stream.bytes_out(),
            queued: self.links.queued(key) as u64,
            age: self.links.now.since(since),
        })
    }
}
