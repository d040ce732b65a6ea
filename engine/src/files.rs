//! Parts of files, read without making a shard wait.
//!
//! What the page cache has is read by the shard itself, which costs one copy and no hop
//! (`RWF_NOWAIT`, preadv2(2)). What it has not is read by a thread that may wait for the disk.

use bytes::Bytes;
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Threads that wait for disks, started when there is something to wait for.
const THREADS_MAX: usize = 4;

/// A part of a file that is to be sent.
#[derive(Clone, Debug)]
pub(crate) struct FilePart {
    pub(crate) file: Arc<File>,
    /// The next byte to send, and the first not to.
    pub(crate) at: u64,
    pub(crate) end: u64,
}

/// What an attempt to read brought.
#[derive(Debug)]
pub(crate) enum Looked {
    /// Bytes, at least one.
    Bytes(Bytes),
    /// They are not in memory.
    Cold,
    /// The file is at fault: it is shorter than was said, or cannot be read.
    Failed(io::Error),
}

impl FilePart {
    pub(crate) fn left(&self) -> u64 {
        self.end.saturating_sub(self.at)
    }

    fn room(&self, most: u64) -> usize {
        usize::try_from(self.left().min(most)).unwrap_or(usize::MAX)
    }

    /// Reads up to `most` bytes, if that is possible without waiting, and moves on behind them.
    pub(crate) fn read_cached(&mut self, most: u64) -> Looked {
        let mut bytes = vec![0; self.room(most)];
        let mut into = [IoSliceMut::new(&mut bytes)];
        match preadv2(&self.file, &mut into, self.at, ReadWriteFlags::NOWAIT) {
            Ok(0) => Looked::Failed(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                self.at += read as u64;
                bytes.truncate(read);
                Looked::Bytes(bytes.into())
            }
            // A file system without this flag is read by the threads.
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INTR | Errno::NOSYS) => Looked::Cold,
            Err(errno) => Looked::Failed(errno.into()),
        }
    }

    /// The same, waiting for the disk.
    fn read(&mut self, most: u64) -> io::Result<Bytes> {
        let mut bytes = vec![0; self.room(most)];
        let read = loop {
            match self.file.read_at(&mut bytes, self.at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => break read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        };
        self.at += read as u64;
        bytes.truncate(read);
        Ok(bytes.into())
    }
}

/// What a reader brings back.
pub(crate) type Fetched = (FilePart, io::Result<Bytes>);

struct Job {
    part: FilePart,
    most: u64,
    done: Box<dyn FnOnce(Fetched) + Send>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    over: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    added: Condvar,
}

/// The threads that wait for disks, shared by all shards. A connection has one job at a time, which
/// bounds the queue. They end with the engine, after the read under way.
#[derive(Default)]
pub(crate) struct Readers {
    shared: Arc<Shared>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        loop {
            let mut queue = self.lock();
            let job = loop {
                if queue.over {
                    return;
                }
                if let Some(job) = queue.jobs.pop_front() {
                    break job;
                }
                queue.idle += 1;
                queue = self
                    .added
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner);
                queue.idle -= 1;
            };
            drop(queue);
            let Job {
                mut part,
                most,
                done,
            } = job;
            let read = part.read(most);
            done((part, read));
        }
    }
}

impl Readers {
    /// Reads up to `most` bytes of `part` and hands them to `done`, on a thread of its own.
    pub(crate) fn fetch(
        &self,
        part: FilePart,
        most: u64,
        done: impl FnOnce(Fetched) + Send + 'static,
    ) {
        let done = Box::new(done);
        let mut queue = self.shared.lock();
        queue.jobs.push_back(Job { part, most, done });
        if queue.idle < queue.jobs.len() && queue.threads < THREADS_MAX {
            let shared = self.shared.clone();
            let name = "flock-files".to_owned();
            let started = thread::Builder::new()
                .name(name)
                .spawn(move || shared.work());
            queue.threads += usize::from(started.is_ok());
            if queue.threads == 0
                && let (Err(error), Some(job)) = (started, queue.jobs.pop_back())
            {
                drop(queue);
                (job.done)((job.part, Err(error)));
                return;
            }
        }
        drop(queue);
        self.shared.added.notify_one();
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.shared.lock().over = true;
        self.shared.added.notify_all();
    }
}

impl fmt::Debug for Readers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readers").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    fn part(content: &[u8]) -> FilePart {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, content).unwrap();
        FilePart {
            file: Arc::new(file),
            at: 0,
            end: content.len() as u64,
        }
    }

    #[test]
    fn a_part_is_read_piece_by_piece_however_it_is_read() {
        let content: Vec<u8> = (0..=255).cycle().take(10_000).collect();
        for cached in [true, false] {
            let mut part = part(&content);
            (part.at, part.end) = (100, 9_000);
            let mut got = Vec::new();
            while part.left() > 0 {
                let piece = match part.read_cached(777) {
                    Looked::Bytes(bytes) if cached => bytes,
                    Looked::Bytes(bytes) => {
                        part.at -= bytes.len() as u64;
                        part.read(777).unwrap()
                    }
                    Looked::Cold => part.read(777).unwrap(),
                    Looked::Failed(error) => panic!("{error}"),
                };
                assert!((1..=777).contains(&piece.len()));
                got.extend_from_slice(&piece);
            }
            assert!(got == content[100..9_000]);
        }
    }

    #[test]
    fn a_file_that_is_too_short_is_an_error() {
        let mut part = part(b"abc");
        part.end = 4;
        assert!(matches!(part.read_cached(10), Looked::Bytes(bytes) if bytes == "abc"));
        let Looked::Failed(error) = part.read_cached(10) else {
            panic!("there is no more");
        };
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(part.read(10).is_err());
    }

    #[test]
    fn readers_do_every_job_and_end_with_their_owner() {
        let readers = Readers::default();
        let (sender, done) = channel();
        for _ in 0..50 {
            let sender = sender.clone();
            readers.fetch(part(b"hello"), 3, move |fetched| {
                let _ = sender.send(fetched);
            });
        }
        for _ in 0..50 {
            let (part, bytes) = done.recv_timeout(Duration::from_secs(20)).unwrap();
            assert_eq!((bytes.unwrap(), part.at), (Bytes::from("hel"), 3));
        }
        assert!(readers.shared.lock().threads <= THREADS_MAX);
        drop(readers);
        drop(sender);
        // The last of them holds the other end of the channel, if any.
        assert!(done.recv_timeout(Duration::from_secs(20)).is_err());
    }
}
