//! The engine's side of the tests.

use crate::node::{NodePeer, PATIENCE};
use flock_engine::io::Backend;
use flock_engine::{Builder, Connection, Event, Events, Flock, FlockError, IdChoice, PeerId};
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

/// A running engine that listens.
pub(crate) struct Engine {
    pub(crate) flock: Flock,
    pub(crate) events: Events,
    pub(crate) port: u16,
}

impl Engine {
    /// An engine of two shards at a free port, with everything else as `builder` has it.
    pub(crate) fn start(builder: Builder) -> Result<Self, FlockError> {
        Self::start_at(0, builder)
    }

    /// An engine of two shards at `port`.
    pub(crate) fn start_at(port: u16, builder: Builder) -> Result<Self, FlockError> {
        let flock = builder.shards(2).start()?;
        let events = flock.events()?;
        let port = flock.listen(port)?.port();
        Ok(Self {
            flock,
            events,
            port,
        })
    }

    /// Has the engine dial a port of this host.
    pub(crate) fn dial(&self, port: u16) {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let asked = self.flock.add_peer("interop", addr);
        asked.expect("the engine takes commands");
    }

    /// The next connected peer; waits for it.
    pub(crate) fn accept(&self) -> Connection {
        let accepted = self.flock.accept_timeout(PATIENCE);
        accepted.expect("a peer connects in time")
    }

    /// The next event that `wanted` accepts; waits for it.
    pub(crate) fn event(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = self.events.next_timeout(left);
            let event = event.expect("the event comes in time");
            if wanted(&event) {
                return event;
            }
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.flock.shutdown(Duration::from_secs(5));
    }
}

/// Runs `case` with a Node process against an engine on each backend this host has.
pub(crate) fn on_each_backend(builder: &Builder, case: impl Fn(&mut NodePeer, &mut Engine)) {
    on_each_backend_with(1, builder, |node, engines| case(node, &mut engines[0]));
}

/// Runs `case` with a Node process against `engines` engines on each backend this host has.
pub(crate) fn on_each_backend_with(
    engines: usize,
    builder: &Builder,
    case: impl Fn(&mut NodePeer, &mut [Engine]),
) {
    for backend in [Backend::Uring, Backend::Poll] {
        let Some(mut node) = NodePeer::spawn() else {
            return;
        };
        let start = |_| Engine::start(builder.clone().backend(backend));
        match (0..engines).map(start).collect::<Result<Vec<Engine>, _>>() {
            Ok(mut engines) => {
                case(&mut node, &mut engines);
                // Together: each waits a while for what does not answer.
                let all = engines.iter();
                all.for_each(|engine| engine.flock.begin_shutdown(Duration::from_secs(5)));
            }
            Err(error) if backend == Backend::Uring => {
                eprintln!("skipped on io_uring, which this host refuses: {error}");
            }
            Err(error) => panic!("the engine does not start: {error}"),
        }
    }
}

/// Options with an id whose first byte is `first`.
pub(crate) fn with_id(first: u8) -> Builder {
    Flock::builder().id(IdChoice::Fixed(id(first)))
}

/// The id of 32 bytes that starts with `first`.
pub(crate) fn id(first: u8) -> PeerId {
    let mut bytes = [0x5a; 32];
    bytes[0] = first;
    PeerId::new(&bytes).expect("32 bytes make an id")
}

/// `len` bytes that repeat only after 251, so that a shifted or lost piece shows.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..=250).cycle().take(len).collect()
}

/// The next `len` bytes from `conn`; waits for them.
pub(crate) fn receive(conn: &Connection, len: usize) -> Vec<u8> {
    let mut received = Vec::new();
    while received.len() < len {
        match conn.recv_timeout(PATIENCE) {
            Ok(Some(data)) => received.extend_from_slice(&data),
            other => panic!("{other:?} after {} of {len} bytes", received.len()),
        }
    }
    received
}

/// Sends back `len` bytes of what comes.
pub(crate) fn echo(conn: &Connection, len: usize) {
    let mut left = len;
    while left > 0 {
        match conn.recv_timeout(PATIENCE) {
            Ok(Some(data)) => {
                left -= data.len();
                let sent = conn.send_timeout(data, PATIENCE);
                sent.expect("the peer reads");
            }
            other => panic!("{other:?} with {left} of {len} bytes to come"),
        }
    }
}

/// Waits until `condition` holds.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Asserts that `condition` goes on to hold for longer than the first retry, of either side, would
/// take to come.
pub(crate) fn stays(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_millis(1_400);
    while Instant::now() < end {
        assert!(condition(), "it did not last: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
