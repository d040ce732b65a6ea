//! A shard that cannot go on takes the engine down in good order.

use super::peers::{PATIENCE, RawPeer, engine, id, local, next_event, wait_for};
use flock_engine::io::{
    Backend, BoundDatagrams, Clock, Completions, DatagramOptions, Drained, Driver, DriverConfig,
    DriverCounters, ListenOptions, LoanId, Op, OpKey, PollDriver, QueueFull, SocketId, Token,
    Train, Waker,
};
use flock_engine::{
    Errno, Event, Flock, FlockError, Ignore, Instant, JoinOptions, ShardFailure, Step,
};
use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

super::on_both_backends!(a_shard_that_panics_ends_the_engine);

fn a_shard_that_panics_ends_the_engine(backend: Backend) {
    let flock = engine(backend).start_with(|shard| {
        assert_ne!(shard, 1, "this shard panics, as the test wants");
        Ignore
    });
    let flock = flock.unwrap();
    wait_for("the end", || {
        matches!(flock.connections(), Err(FlockError::ShutDown))
    });
    assert!(matches!(flock.listen(0), Err(FlockError::ShutDown)));
    let mut events = flock.events().unwrap();
    while events.next_timeout(PATIENCE).is_some() {}
    flock.shutdown(Duration::ZERO);
}

const ENOMEM: i32 = 12;

/// Bytes of a receive buffer, as a system gives that was not told otherwise.
const GIVEN: u32 = 212_992;

/// A driver that stops working when told to, on a system with small receive buffers.
struct Failing {
    driver: PollDriver,
    broken: Rc<Cell<bool>>,
}

impl Driver for Failing {
    fn listen(
        &mut self,
        addr: SocketAddr,
        options: &ListenOptions,
        token: Token,
    ) -> io::Result<(SocketId, SocketAddr)> {
        self.driver.listen(addr, options, token)
    }
    fn bind_datagrams(
        &mut self,
        addr: SocketAddr,
        options: &DatagramOptions,
        token: Token,
    ) -> io::Result<BoundDatagrams> {
        let mut bound = self.driver.bind_datagrams(addr, options, token)?;
        bound.recv_buffer = GIVEN.min(options.recv_buffer);
        bound.send_buffer = options.send_buffer;
        Ok(bound)
    }
    fn steer(&mut self, socket: SocketId, shards: u16) -> io::Result<()> {
        self.driver.steer(socket, shards)
    }
    fn send_train(&mut self, socket: SocketId, train: &mut Train) -> Result<(), QueueFull> {
        self.driver.send_train(socket, train)
    }
    fn assign(&mut self, socket: SocketId, token: Token) {
        self.driver.assign(socket, token);
    }
    fn submit(&mut self, op: Op) -> Result<OpKey, QueueFull> {
        self.driver.submit(op)
    }
    fn cancel(&mut self, key: OpKey) {
        self.driver.cancel(key);
    }
    fn turn(&mut self, deadline: Option<Instant>, out: &mut Completions) -> io::Result<Instant> {
        if self.broken.get() {
            return Err(io::Error::from_raw_os_error(ENOMEM));
        }
        // Shards take turns on one thread here: none may sleep for long.
        let soon = self.driver.now() + Duration::from_millis(1);
        self.driver
            .turn(Some(deadline.map_or(soon, |at| at.min(soon))), out)
    }
    fn bytes(&self, loan: LoanId) -> &[u8] {
        self.driver.bytes(loan)
    }
    fn waker(&self) -> Waker {
        self.driver.waker()
    }
    fn now(&self) -> Instant {
        self.driver.now()
    }
    fn counters(&self) -> DriverCounters {
        self.driver.counters()
    }
    fn shutdown(&mut self, grace: Duration) -> Drained {
        self.driver.shutdown(grace)
    }
}

#[test]
fn a_driver_that_fails_ends_the_engine() {
    let clock = Clock::start();
    let broken: Vec<_> = (0..2).map(|_| Rc::new(Cell::new(false))).collect();
    let drivers = broken.iter().map(|broken| Failing {
        driver: PollDriver::new(&DriverConfig::default(), clock).unwrap(),
        broken: broken.clone(),
    });
    let options = Flock::builder().linger(Duration::from_millis(100));
    let (flock, mut shards) = options.assemble(drivers.collect(), |_| Ignore).unwrap();
    let mut events = flock.events().unwrap();
    let options = ListenOptions::default();
    let addr = shards[0]
        .listen("127.0.0.1:0".parse().unwrap(), &options)
        .unwrap();
    let dialling = std::thread::spawn(move || RawPeer::handshake(local(addr), &id(1)));
    wait_for("the peer", || {
        shards
            .iter_mut()
            .for_each(|shard| assert_eq!(shard.step(), Step::Running));
        flock.stats().connected == 1
    });
    let mut peer = dialling.join().unwrap();
    broken[0].set(true);
    let mut running = shards;
    wait_for("both to end", || {
        running.retain_mut(|shard| shard.step() == Step::Running);
        running.is_empty()
    });
    let failed = next_event(&mut events, "shard-failed", |event| match event {
        Event::ShardFailed { shard, reason } => Some((*shard, *reason)),
        _ => None,
    });
    assert_eq!(failed, (0, ShardFailure::Driver(Errno(ENOMEM))));
    next_event(&mut events, "connection-closed", |event| {
        matches!(event, Event::ConnectionClosed { .. }).then_some(())
    });
    peer.read_to_end();
    assert!(matches!(
        flock.join("c", JoinOptions { announce: false }),
        Err(FlockError::ShutDown)
    ));
}

#[test]
fn capped_buffers_are_said_once() {
    let clock = Clock::start();
    let drivers = (0..2).map(|_| Failing {
        driver: PollDriver::new(&DriverConfig::default(), clock).unwrap(),
        broken: Rc::new(Cell::new(false)),
    });
    let options = Flock::builder().linger(Duration::ZERO);
    let (flock, mut shards) = options.assemble(drivers.collect(), |_| Ignore).unwrap();
    let mut events = flock.events().unwrap();
    for shard in &mut shards {
        let options = ListenOptions::default();
        shard
            .listen("127.0.0.1:0".parse().unwrap(), &options)
            .unwrap();
        assert_eq!(shard.step(), Step::Running);
    }
    let wanted = DatagramOptions::default().recv_buffer;
    let capped = Event::BuffersCapped {
        wanted,
        got: GIVEN,
        sysctl: "net.core.rmem_max",
    };
    assert_eq!(events.next_timeout(PATIENCE), Some(capped));
    assert_eq!(events.try_next(), None, "once for both shards");
}
