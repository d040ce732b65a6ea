//! A driver that tests look into, and break.

use bytes::Bytes;
use flock_engine::Instant;
use flock_engine::io::{
    BoundDatagrams, Clock, Completions, DatagramOptions, Drained, Driver, DriverConfig,
    DriverCounters, ListenOptions, LoanId, Op, OpKey, PollDriver, QueueFull, SocketId, Token,
    Train, Waker,
};
use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// What a broken one says.
pub(crate) const ENOMEM: i32 = 12;

/// Bytes of a receive buffer, as a system gives that was not told otherwise.
pub(crate) const GIVEN: u32 = 212_992;

/// What a test knows of a driver, and has it do.
#[derive(Clone, Default)]
pub(crate) struct Watch {
    /// It stops working.
    pub(crate) broken: Rc<Cell<bool>>,
    /// Bytes of streams that were given it to send in this turn, and at the most in one.
    sending: Rc<Cell<usize>>,
    pub(crate) most: Rc<Cell<usize>>,
}

/// A driver that is watched, on a system with small receive buffers. Its shards may take turns on one
/// thread.
pub(crate) struct Watched {
    driver: PollDriver,
    watch: Watch,
}

impl Watched {
    pub(crate) fn new(clock: Clock, watch: &Watch) -> Self {
        Self {
            driver: PollDriver::new(&DriverConfig::default(), clock).unwrap(),
            watch: watch.clone(),
        }
    }
}

impl Driver for Watched {
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
        if let Op::Send { chunks, .. } = &op {
            let bytes: usize = chunks.iter().map(Bytes::len).sum();
            let sending = self.watch.sending.get() + bytes;
            self.watch.sending.set(sending);
            self.watch.most.set(self.watch.most.get().max(sending));
        }
        self.driver.submit(op)
    }
    fn cancel(&mut self, key: OpKey) {
        self.driver.cancel(key);
    }
    fn turn(&mut self, deadline: Option<Instant>, out: &mut Completions) -> io::Result<Instant> {
        if self.watch.broken.get() {
            return Err(io::Error::from_raw_os_error(ENOMEM));
        }
        self.watch.sending.set(0);
        // None may sleep for long.
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
