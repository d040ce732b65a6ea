//! What waits in front of a transport.

use crate::files::{FilePart, Looked};
use bytes::Bytes;
use std::collections::VecDeque;
use std::io;

/// Parts of files that may wait for one connection.
pub(super) const FILES_MAX: usize = 64;

#[derive(Debug)]
enum Item {
    Bytes(Bytes),
    File(FilePart),
}

/// Bytes, and parts of files, in order.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    items: VecDeque<Item>,
    /// Bytes in memory.
    bytes: u64,
    files: usize,
    /// The first item is a part of a file that is being read elsewhere.
    fetching: bool,
}

/// What an attempt to take bytes brought.
#[derive(Debug)]
pub(super) enum Taken {
    Bytes(Bytes),
    /// Nothing, before this part of a file was read: [`Backlog::fetched`] follows.
    Cold(FilePart),
    /// The file at the front is at fault.
    Failed(io::Error),
    /// Nothing waits, or what waits is being read.
    Nothing,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Bytes in memory; those of files are not counted.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Parts of files.
    pub(super) fn files(&self) -> usize {
        self.files
    }

    pub(super) fn is_fetching(&self) -> bool {
        self.fetching
    }

    pub(super) fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.bytes += bytes.len() as u64;
            self.items.push_back(Item::Bytes(bytes));
        }
    }

    pub(super) fn push_file(&mut self, part: FilePart) {
        if part.left() > 0 {
            self.files += 1;
            self.items.push_back(Item::File(part));
        }
    }

    /// Puts back what was taken.
    pub(super) fn put_back(&mut self, bytes: Bytes) {
        self.bytes += bytes.len() as u64;
        self.items.push_front(Item::Bytes(bytes));
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Takes up to `most` bytes off the front, more than none.
    pub(super) fn take(&mut self, most: u64) -> Taken {
        if self.fetching {
            return Taken::Nothing;
        }
        match self.items.front_mut() {
            None => Taken::Nothing,
            Some(Item::Bytes(first)) => {
                let most = usize::try_from(most).unwrap_or(usize::MAX);
                let piece = first.split_to(first.len().min(most));
                if first.is_empty() {
                    self.items.pop_front();
                }
                self.bytes -= piece.len() as u64;
                Taken::Bytes(piece)
            }
            Some(Item::File(part)) => match part.read_cached(most) {
                Looked::Bytes(bytes) => {
                    self.drop_read_file();
                    Taken::Bytes(bytes)
                }
                Looked::Cold => {
                    self.fetching = true;
                    Taken::Cold(part.clone())
                }
                Looked::Failed(error) => Taken::Failed(error),
            },
        }
    }

    /// What [`Taken::Cold`] asked for: bytes of the file at the front, and what is left of it.
    pub(super) fn fetched(&mut self, part: FilePart, bytes: Bytes) {
        if !std::mem::take(&mut self.fetching) {
            // It was cleared meanwhile.
            return;
        }
        if let Some(Item::File(front)) = self.items.front_mut() {
            *front = part;
            self.drop_read_file();
            self.put_back(bytes);
        }
    }

    /// Drops the file at the front if nothing of it is left.
    fn drop_read_file(&mut self) {
        if let Some(Item::File(part)) = self.items.front()
            && part.left() == 0
        {
            self.items.pop_front();
            self.files -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write;
    use std::sync::Arc;

    fn file(content: &[u8]) -> FilePart {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        let file: Arc<File> = Arc::new(file);
        FilePart {
            file,
            at: 0,
            end: content.len() as u64,
        }
    }

    /// Takes everything, reading what is cold as the threads would.
    fn drain(backlog: &mut Backlog, most: u64) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            match backlog.take(most) {
                Taken::Bytes(bytes) => {
                    assert!((1..=most).contains(&(bytes.len() as u64)));
                    all.extend_from_slice(&bytes);
                }
                Taken::Nothing => return all,
                Taken::Cold(mut part) => loop {
                    if let Looked::Bytes(bytes) = part.read_cached(most) {
                        backlog.fetched(part, bytes);
                        break;
                    }
                },
                Taken::Failed(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn bytes_and_files_keep_their_order() {
        let mut backlog = Backlog::default();
        backlog.push(Bytes::from_static(b"one "));
        backlog.push_file(file(b"two "));
        backlog.push(Bytes::from_static(b"three "));
        backlog.push_file(file(b""));
        backlog.push_file(file(b"four"));
        assert_eq!((backlog.bytes(), backlog.files()), (10, 2));
        assert_eq!(drain(&mut backlog, 3), b"one two three four");
        assert!(backlog.is_empty() && backlog.bytes() == 0 && backlog.files() == 0);
    }

    #[test]
    fn while_a_file_is_read_elsewhere_nothing_is_taken() {
        let mut backlog = Backlog::default();
        let part = file(b"abcdef");
        backlog.push_file(part.clone());
        backlog.push(Bytes::from_static(b"!"));
        backlog.fetching = true;
        assert!(matches!(backlog.take(9), Taken::Nothing));
        let rest = FilePart { at: 3, ..part };
        backlog.fetched(rest, Bytes::from_static(b"abc"));
        assert_eq!(drain(&mut backlog, 100), b"abcdef!");
    }

    #[test]
    fn what_comes_for_a_cleared_backlog_is_dropped() {
        let mut backlog = Backlog::default();
        let part = file(b"abc");
        backlog.push_file(part.clone());
        backlog.fetching = true;
        backlog.clear();
        backlog.fetched(part, Bytes::from_static(b"abc"));
        assert!(backlog.is_empty() && backlog.bytes() == 0);
    }
}
