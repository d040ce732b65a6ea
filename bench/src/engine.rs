//! How one library plays the two sides of a job, and what both sides share while it runs.

use crate::job::{self, Frame, Job, Targets};
use bytes::Bytes;
use flock_transport::Transport;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::Thread;
use std::time::Instant;

/// One library in one configuration. Each side runs on the thread that calls it.
#[derive(Clone, Copy, Debug)]
pub struct Engine {
    /// The name on the command line and in tables.
    pub name: &'static str,
    /// What it is, in a few words.
    pub about: &'static str,
    /// What carries its connections.
    pub transport: Transport,
    /// Which jobs it can do.
    pub plays: fn(Job) -> bool,
    /// Lives after which it stands still for seconds. It is given its best: so many, and they are timed.
    pub lives_max: Option<u64>,
    /// Whether one server spreads over several cores by itself (see [`Serve::shards`]).
    pub sharded: bool,
    /// Serves until [`Serve::stopped`].
    pub serve: fn(&Arc<Serve>) -> io::Result<()>,
    /// Drives connections until [`Drive::next`] has no more.
    pub drive: fn(&Arc<Drive>) -> io::Result<()>,
}

/// What the server's side counts.
#[derive(Debug, Default)]
pub struct Served {
    /// Connections whose client frame arrived whole and was right.
    pub frames: AtomicU64,
    /// Payload bytes received after the frames.
    pub bytes: AtomicU64,
    /// Connections that went otherwise than the job says.
    pub errors: AtomicU64,
    /// Connections that have ended.
    pub ended: AtomicU64,
    /// Messages between the shards of a server that has several.
    pub messages: AtomicU64,
}

/// The server's side of one run.
#[derive(Debug)]
pub struct Serve {
    /// What to do on every connection.
    pub job: Job,
    /// What was done.
    pub served: Served,
    /// The blob of [`Job::Blob`], shared by all connections; empty for other jobs.
    pub blob: Bytes,
    /// Microseconds of processor time spent in processes of the engine's own.
    pub elsewhere: AtomicU64,
    /// Threads to serve from; more than one only for engines that are [`Engine::sharded`].
    pub shards: usize,
    bind: SocketAddr,
    ready: SyncSender<SocketAddr>,
    stop: AtomicBool,
    thread: Mutex<Option<Thread>>,
}

impl Serve {
    /// A server to be bound to `bind`; its address goes to `ready`.
    #[must_use]
    pub fn new(job: Job, bind: SocketAddr, shards: usize, ready: SyncSender<SocketAddr>) -> Self {
        let blob = match job {
            Job::Blob(len) => job::payload(len),
            _ => Bytes::new(),
        };
        Self {
            job,
            served: Served::default(),
            blob,
            elsewhere: AtomicU64::new(0),
            shards,
            bind,
            ready,
            stop: AtomicBool::new(false),
            thread: Mutex::new(None),
        }
    }

    /// The address to bind.
    #[must_use]
    pub fn bind(&self) -> SocketAddr {
        self.bind
    }

    /// Binds the listener and reports its address.
    ///
    /// # Errors
    /// The system's.
    pub fn listen(&self) -> io::Result<TcpListener> {
        let listener = job::listen(self.bind)?;
        self.report(listener.local_addr()?);
        Ok(listener)
    }

    /// Reports the bound address; for engines that bind by themselves.
    pub fn report(&self, addr: SocketAddr) {
        *self.thread.lock().expect("no holder panics") = Some(std::thread::current());
        // Nobody listening any more means the run was given up; the server will be stopped.
        let _ = self.ready.send(addr);
    }

    /// Whether to return. Checked at least on every accepted connection.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Ends the server at `addr`: says so and knocks, so that it looks.
    pub fn stop(&self, addr: SocketAddr) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.lock().expect("no holder panics").as_ref() {
            thread.unpark();
        }
        // The server may have gone by itself; then nobody needs the knock.
        let _ = TcpStream::connect(addr);
        if let Ok(socket) = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)) {
            let _ = socket.send_to(b"knock", addr);
        }
    }

    /// Counts a client's frame, or the error that it is none.
    pub fn count_frame(&self, frame: &[u8]) {
        self.count(job::is_client_frame(frame));
    }

    /// Counts the id of a client's frame, for engines that do the handshake themselves.
    pub fn count_id(&self, id: &[u8]) {
        self.count(job::is_client_id(id));
    }

    fn count(&self, right: bool) {
        let counter = if right {
            &self.served.frames
        } else {
            &self.served.errors
        };
        add(counter, 1);
    }

    /// Counts the end of a connection.
    pub fn count_end(&self) {
        add(&self.served.ended, 1);
    }
}

/// The client's side of one run.
#[derive(Debug)]
pub struct Drive {
    /// What to do on every connection.
    pub job: Job,
    /// Where to.
    pub targets: Targets,
    /// Connections open, or being opened, at a time.
    pub in_flight: usize,
    /// Units done (see [`Job`]).
    pub done: AtomicU64,
    /// Connections that failed.
    pub errors: AtomicU64,
    /// What [`Job::request`] says, once for all connections.
    pub request: Bytes,
    /// Microseconds of processor time spent in processes of the engine's own.
    pub elsewhere: AtomicU64,
    /// When the first unit was begun and the last one done, for engines with [`Engine::lives_max`].
    pub began: OnceLock<Instant>,
    /// See [`began`](Self::began).
    pub ended: OnceLock<Instant>,
    tickets: AtomicU64,
    stop: AtomicBool,
}

/// The number of the next connection of this process.
static NUMBER: AtomicU64 = AtomicU64::new(0);

impl Drive {
    /// A client for `units` units, or until stopped when `None`.
    #[must_use]
    pub fn new(job: Job, targets: Targets, in_flight: usize, units: Option<u64>) -> Self {
        Self {
            job,
            targets,
            in_flight,
            done: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            request: job::payload(job.request()),
            elsewhere: AtomicU64::new(0),
            began: OnceLock::new(),
            ended: OnceLock::new(),
            tickets: AtomicU64::new(units.unwrap_or(u64::MAX)),
            stop: AtomicBool::new(false),
        }
    }

    /// Takes the right to do one more unit; `false` when the run is over. Only the client's side
    /// calls it, from one thread.
    #[must_use]
    pub fn next(&self) -> bool {
        let left = self.tickets.load(Ordering::Relaxed);
        if left == 0 || self.stop.load(Ordering::Relaxed) {
            return false;
        }
        self.tickets.store(left - 1, Ordering::Relaxed);
        true
    }

    /// Takes the right to all units at once; `None`: there is no end to them but
    /// [`is_stopped`](Self::is_stopped).
    #[must_use]
    pub fn take_all(&self) -> Option<u64> {
        let left = self.tickets.swap(0, Ordering::Relaxed);
        (left != u64::MAX).then_some(left)
    }

    /// Whether no unit is to be begun any more, for whoever [took all](Self::take_all).
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Where the next connection goes, and the frame it sends.
    #[must_use]
    pub fn connection(&self) -> (SocketAddr, Frame) {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        (self.targets.nth(number).into(), job::client_frame(number))
    }

    /// Ends the run: units under way are finished, none is begun.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Counts one unit.
    pub fn count_done(&self) {
        add(&self.done, 1);
    }

    /// Counts a connection that failed.
    pub fn count_error(&self) {
        add(&self.errors, 1);
    }
}

/// Adds to a counter; shards of one server share theirs.
pub fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

/// An error of a server's or client's own checks.
#[must_use]
pub fn unexpected(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
