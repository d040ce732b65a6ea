//! Parts of files on their way to peers.

use super::Shard;
use super::backlog::FILES_MAX;
use super::bandwidth::{QUANTUM, Then};
use super::command::{Command, Mail};
use super::link::{Link, Links, Phase};
use crate::api::Handler;
use crate::bandwidth::Way;
use crate::files::{Fetched, FilePart};
use crate::io::Driver;
use crate::names::ConnId;
use crate::table::Key;
use flock_transport::{CloseReason, Errno};
use std::fmt;
use std::io;

/// Why a file was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileRefused {
    /// The connection is closing or gone, or its sending direction was ended.
    Closed,
    /// 64 files wait already.
    TooMany,
}

impl fmt::Display for FileRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "the connection is closing or gone",
            Self::TooMany => "too many files wait already",
        })
    }
}

impl std::error::Error for FileRefused {}

impl Links {
    /// Queues a part of a file behind what was sent before.
    pub(crate) fn send_file(&mut self, key: Key, part: FilePart) -> Result<(), FileRefused> {
        let open = |link: &Link| matches!(link.phase, Phase::Open) && link.reason.is_none();
        let link = self.table.get_mut(key).filter(|link| open(link));
        let link = link.ok_or(FileRefused::Closed)?;
        let shaping = link.shaping.get_or_insert_default();
        if shaping.then != Then::More {
            return Err(FileRefused::Closed);
        }
        if shaping.backlog.files() >= FILES_MAX {
            return Err(FileRefused::TooMany);
        }
        shaping.above_high |= part.left() > 0;
        shaping.backlog.push_file(part);
        self.wait(Way::Up, key);
        Ok(())
    }

    /// What a thread read for a connection.
    fn fetched(&mut self, key: Key, (part, read): Fetched) {
        let Some(shaping) = self.shaping(key) else {
            return;
        };
        match read {
            Ok(bytes) => {
                shaping.backlog.fetched(part, bytes);
                self.wait(Way::Up, key);
            }
            Err(error) => {
                self.file_failed(key, &error);
            }
        }
    }

    /// The file at the front is at fault: the peer was promised the rest.
    pub(super) fn file_failed(&mut self, key: Key, error: &io::Error) {
        self.limits.files_failed += 1;
        self.abort(key, CloseReason::FileFailed(Errno::from_io(error)));
    }
}

impl<D: Driver, H: Handler> Shard<D, H> {
    /// Has threads read what is not in memory.
    pub(super) fn fetch_cold(&mut self) {
        while let Some((key, part)) = self.links.limits.cold.pop() {
            let conn = self.links.conn_id(key);
            let own = self.routes[usize::from(self.links.shard)].clone();
            self.readers.fetch(part, *QUANTUM.end(), move |fetched| {
                own.send_protocol(Mail::Command(Command::Fetched { conn, fetched }));
            });
        }
    }

    /// What a thread read.
    pub(super) fn on_fetched(&mut self, conn: ConnId, fetched: Fetched) {
        self.links.fetched(Links::key(conn), fetched);
    }
}
