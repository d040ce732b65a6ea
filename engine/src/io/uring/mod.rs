//! The io_uring driver: Linux 6.1 and later.
//!
//! One ring per driver, in the mode where the kernel finishes operations only while the owner
//! asks for completions (`SINGLE_ISSUER | DEFER_TASKRUN`): one system call a turn submits and
//! waits. Accepting and receiving are multishot, into a ring of provided buffers. The ring is
//! made disabled: a driver may be built on one thread and moved to another, and belongs to the
//! one that takes its first turn. A driver dropped by any other thread cannot reap what the
//! kernel still works on, and leaks it.
//!
//! The rules that keep it sound:
//!
//! * A slot is freed only when the kernel has reported the end of every operation of it.
//! * `CLOSE` enters the queue after that, and everything queued before it is submitted before
//!   it, so no queued entry can name a descriptor number that has been reused.
//! * Closing a ring does not wait for its operations (they end in a kernel work queue), so the
//!   memory they use is freed after they were reaped, or never.

mod buffers;
mod cargo;
mod datagrams;
mod drain;
mod inherited;
mod pages;
mod reap;
mod ring;
mod slots;
mod streams;
mod train;
mod waker;

#[cfg(test)]
mod tests;

use super::sys::{self, Blocking, Moment};
use super::{
    BoundDatagrams, Clock, Completion, Completions, DatagramOptions, Drained, Driver, DriverConfig,
    DriverCounters, LoanId, Op, OpKey, Outcome, QueueFull, SocketId, Token, Verb, Waker,
};
use buffers::Buffers;
use cargo::Cargo;
use datagrams::{Bound, Memory};
use flock_tcp::ListenOptions;
use flock_transport::{CloseHow, Errno, Instant, Train};
use io_uring::{opcode, squeue, types};
use ring::{Entered, Ring, Wait};
use slots::{NO_FD, Ops, Slots, State};
use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use waker::EventWaker;

/// How long accepting pauses for want of descriptors, unless one is closed sooner.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long to leave a kernel alone that has no memory for operations.
const BUSY_PAUSE: Duration = Duration::from_millis(1);
/// How long dropping a driver waits for the kernel.
const DROP_GRACE: Duration = Duration::from_secs(1);

/// The step of setting up that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SetupStep {
    /// `io_uring_setup` and its mappings.
    Ring,
    /// An operation the kernel does not know.
    Operation(&'static str),
    /// `IORING_REGISTER_PBUF_RING`, or the memory for it.
    Buffers,
    /// Anything else.
    Other,
}

/// Why no driver could be made.
#[derive(Debug)]
pub(super) struct SetupError {
    pub(super) step: SetupStep,
    pub(super) error: io::Error,
}

impl SetupStep {
    fn failed(self, error: io::Error) -> SetupError {
        SetupError { step: self, error }
    }
}

/// [`Driver`] on io_uring. See the module's text for threads and ends.
pub struct UringDriver {
    clock: Clock,
    now: Instant,
    batch: usize,
    spin: Duration,
    datagram_buffers: u16,
    slots: Slots,
    /// Completions of our own making, and those that did not fit the batch.
    pending: VecDeque<Completion>,
    /// Receives that found no buffer, in the order they asked.
    starved: VecDeque<SocketId>,
    /// Buffers that came back since receives were last resumed.
    returned: usize,
    bound: Bound,
    /// This reaping's time on both clocks, once a datagram needed it.
    moment: Option<Moment>,
    /// Listeners that found no descriptor.
    paused: Vec<SocketId>,
    resume_at: Instant,
    descriptor_freed: bool,
    woken: bool,
    /// Operations the kernel has or will get, and whose end it will report.
    in_flight: u64,
    waker: Arc<EventWaker>,
    waker_armed: bool,
    down: bool,
    counters: DriverCounters,
    // What the kernel may look at: freed by `drop` once nothing is in flight, else leaked.
    cargo: ManuallyDrop<Cargo>,
    ring: ManuallyDrop<Ring>,
    buffers: ManuallyDrop<Buffers>,
    memory: ManuallyDrop<Option<Memory>>,
}

impl UringDriver {
    /// A driver that belongs to the thread that takes its first turn. Errors: `EPERM` or
    /// `EACCES` where a filter or `kernel.io_uring_disabled` forbids io_uring, `ENOSYS` or
    /// `EINVAL` on kernels before 6.1, `ENOMEM` under a small `RLIMIT_MEMLOCK`.
    pub fn new(config: &DriverConfig, clock: Clock) -> io::Result<Self> {
        Self::set_up(config, clock).map_err(|failure| failure.error)
    }

    pub(super) fn set_up(config: &DriverConfig, clock: Clock) -> Result<Self, SetupError> {
        let ring = Ring::new(config).map_err(|error| SetupStep::Ring.failed(error))?;
        match ring.missing_operation() {
            Ok(None) => {}
            Ok(Some(name)) => {
                let error = io::Error::from_raw_os_error(libc::ENOSYS);
                return Err(SetupStep::Operation(name).failed(error));
            }
            Err(error) => return Err(SetupStep::Ring.failed(error)),
        }
        let buffers = Buffers::new(buffers::STREAMS, config.buffers, config.buffer_size)
            .map_err(|error| SetupStep::Buffers.failed(error))?;
        let (address, entries) = buffers.registration();
        // SAFETY: `buffers` ends after the registration: `drop` unregisters it first.
        unsafe { ring.register_buffers(address, entries, buffers::STREAMS) }
            .map_err(|error| SetupStep::Buffers.failed(error))?;
        let waker = EventWaker::new().map_err(|error| SetupStep::Other.failed(error))?;
        Ok(Self {
            clock,
            now: clock.now(),
            batch: config.batch.max(1),
            spin: config.spin,
            datagram_buffers: config.datagram_buffers,
            slots: Slots::new(config.sockets),
            pending: VecDeque::new(),
            starved: VecDeque::new(),
            returned: 0,
            bound: Bound::default(),
            moment: None,
            paused: Vec::new(),
            resume_at: Instant::ZERO,
            descriptor_freed: false,
            woken: false,
            in_flight: 0,
            waker: Arc::new(waker),
            waker_armed: false,
            down: false,
            counters: DriverCounters::default(),
            cargo: ManuallyDrop::new(Cargo::default()),
            ring: ManuallyDrop::new(ring),
            buffers: ManuallyDrop::new(buffers),
            memory: ManuallyDrop::new(None),
        })
    }

    /// Takes over a connected stream socket; `QueueFull` closes it.
    pub(super) fn adopt(&mut self, fd: OwnedFd, token: Token) -> Result<SocketId, QueueFull> {
        let fd = fd.into_raw_fd();
        self.slots.insert(fd, token, State::Open).ok_or_else(|| {
            drop(reap::own(fd));
            QueueFull
        })
    }

    fn connect(
        &mut self,
        to: SocketAddr,
        options: &super::ConnectOptions,
        token: Token,
    ) -> Result<SocketId, QueueFull> {
        if self.down {
            return Err(QueueFull);
        }
        let id = self
            .slots
            .insert(NO_FD, token, State::Connecting)
            .ok_or(QueueFull)?;
        let soft_errors = &mut self.counters.soft_errors;
        let made = sys::dial_socket(to, options, Blocking::Yes, soft_errors);
        let slot = self.slots.find(id).expect("inserted above");
        match made {
            Ok(fd) => {
                slot.fd = fd.into_raw_fd();
                slot.cargo = self.cargo.load_address(to);
                self.want(id, Ops::CONNECT);
            }
            Err(error) => {
                slot.state = State::Failed;
                let outcome = Outcome::ConnectFailed(Errno::from_io(&error));
                self.later(id, outcome);
            }
        }
        Ok(id)
    }

    /// Starts an operation that the caller asked for.
    fn want(&mut self, id: SocketId, op: Ops) {
        let slot = self.slots.live(id).expect("checked by the caller");
        assert!(!slot.wanted.has(op), "one operation of a kind at a time");
        slot.wanted.add(op);
        slot.cancelled.remove(op);
        self.arm(id, op);
    }

    /// Queues the entry of an operation.
    fn arm(&mut self, id: SocketId, op: Ops) {
        let slot = self.slots.find(id).expect("an operation has a socket");
        assert!(!slot.held.has(op), "an operation is queued once");
        slot.held.add(op);
        let (fd, once) = (types::Fd(slot.fd), slot.wanted.has(Ops::ONCE));
        let entry = match op {
            Ops::ACCEPT => opcode::AcceptMulti::new(fd)
                .flags(libc::SOCK_CLOEXEC)
                .build(),
            Ops::RECV => self.receive_entry(fd, once),
            Ops::SEND => self.cargo.send(slot.cargo).entry(slot.fd),
            Ops::RECVMSG => {
                let memory = self.memory.as_ref();
                memory.expect("made with the first socket").receive(slot.fd)
            }
            _ => {
                let address = self.cargo.address(slot.cargo);
                opcode::Connect::new(fd, address.as_ptr().cast(), address.len()).build()
            }
        };
        self.in_flight += 1;
        // SAFETY: the cargo stays loaded and in place until the completion; the slot keeps the
        // descriptor open until no operation is held.
        unsafe { self.push(entry, reap::tag(op, id)) };
    }

    /// Asks the kernel to end an operation it holds.
    fn cancel_held(&mut self, id: SocketId, op: Ops) {
        let entry = opcode::AsyncCancel::new(reap::tag(op, id))
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS);
        // SAFETY: a cancel points to nothing.
        unsafe { self.push(entry, reap::IGNORED) };
    }

    /// # Safety
    ///
    /// As [`Ring::push`].
    unsafe fn push(&mut self, entry: squeue::Entry, tag: u64) {
        // SAFETY: the caller vouches for the entry.
        unsafe { self.ring.push(entry.user_data(tag)) };
    }

    fn later(&mut self, socket: SocketId, outcome: Outcome) {
        let token = Token::default();
        self.pending.push_back(Completion {
            token,
            socket,
            outcome,
        });
    }

    fn close(&mut self, id: SocketId, how: CloseHow) {
        let Some(slot) = self.slots.live(id) else {
            return;
        };
        let failed = slot.state == State::Failed;
        if how == CloseHow::Rst && slot.state != State::Listening && !failed {
            // SAFETY: the slot owns the descriptor, which is open.
            let fd = unsafe { BorrowedFd::borrow_raw(slot.fd) };
            if sys::reset_on_close(fd).is_err() {
                self.counters.soft_errors += 1;
            }
        }
        slot.state = State::Closing;
        slot.wanted = Ops::NONE;
        let (held, cancelled) = (slot.held, slot.cancelled);
        for op in Ops::EACH {
            if held.has(op) && !cancelled.has(op) {
                self.cancel_held(id, op);
            }
        }
        if held.has(Ops::TRAIN) {
            self.cancel_trains(id);
        }
        self.finish_close(id);
    }

    /// Gives the descriptor of a closing socket back once nothing works on it.
    fn finish_close(&mut self, id: SocketId) {
        let slot = self.slots.find(id).expect("a closing socket has a slot");
        if slot.state != State::Closing || !slot.held.is_empty() {
            return;
        }
        slot.state = State::Closed;
        self.bound.forget(id);
        self.release_descriptor(id);
        self.later(id, Outcome::Closed);
    }

    /// Queues `CLOSE` for the descriptor of a socket without operations.
    fn release_descriptor(&mut self, id: SocketId) {
        let slot = self.slots.find(id).expect("the socket has a slot");
        assert!(slot.held.is_empty(), "closed under an operation");
        let fd = std::mem::replace(&mut slot.fd, NO_FD);
        if fd == NO_FD {
            return;
        }
        self.descriptor_freed = true;
        let entry = opcode::Close::new(types::Fd(fd))
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS);
        // SAFETY: the descriptor stays open until this very entry closes it.
        unsafe { self.push(entry, reap::CLOSED) };
    }

    /// Starts what waited for buffers or descriptors.
    fn resume(&mut self) {
        if !self.starved.is_empty() {
            // One more than came back may find a buffer that was filled but never lent.
            let budget = self.returned.max(1).min(self.starved.len());
            for _ in 0..budget {
                let id = self.starved.pop_front().expect("counted above");
                self.resume_one(id, Ops::RECV);
            }
        }
        self.returned = 0;
        self.resume_datagrams();
        if !self.paused.is_empty() && (self.descriptor_freed || self.now >= self.resume_at) {
            for id in std::mem::take(&mut self.paused) {
                self.resume_one(id, Ops::ACCEPT);
            }
        }
        self.descriptor_freed = false;
    }

    fn resume_one(&mut self, id: SocketId, op: Ops) {
        if let Some(slot) = self.slots.live(id)
            && slot.wanted.has(op)
            && !slot.held.has(op)
        {
            self.arm(id, op);
        }
    }

    /// Submits, and waits unless there is something to report.
    fn enter(&mut self, deadline: Option<Instant>, idle: bool) -> io::Result<Entered> {
        if !idle || self.ring.has_completions() {
            return self.enter_if_needed();
        }
        let mut until = deadline;
        if !self.paused.is_empty() {
            until = Some(until.map_or(self.resume_at, |time| time.min(self.resume_at)));
        }
        if !self.spin.is_zero() && self.spin(until)? {
            return Ok(Entered::Ok);
        }
        let time = until.map(|time| time - self.clock.now());
        if time == Some(Duration::ZERO) {
            return self.enter_if_needed();
        }
        self.counters.waits += 1;
        self.ring.enter(Wait::For(time))
    }

    fn enter_if_needed(&mut self) -> io::Result<Entered> {
        if self.ring.has_submissions() || self.ring.has_deferred() {
            return self.ring.enter(Wait::No);
        }
        Ok(Entered::Ok)
    }

    /// Looks for completions without sleeping. Says whether the turn has its answer.
    fn spin(&mut self, until: Option<Instant>) -> io::Result<bool> {
        if self.ring.has_submissions() && self.ring.enter(Wait::No)? == Entered::Busy {
            return Ok(false);
        }
        let mut end = self.clock.now() + self.spin;
        if let Some(until) = until {
            end = end.min(until);
        }
        loop {
            if self.ring.has_completions() {
                return Ok(true);
            }
            if self.ring.has_deferred() {
                self.ring.enter(Wait::No)?;
            } else if self.clock.now() >= end {
                return Ok(false);
            }
            std::hint::spin_loop();
        }
    }

    fn arm_waker(&mut self) {
        if self.waker_armed {
            return;
        }
        self.waker_armed = true;
        self.in_flight += 1;
        let events = u32::from(libc::POLLIN.cast_unsigned());
        let entry = opcode::PollAdd::new(types::Fd(self.waker.descriptor()), events)
            .multi(true)
            .build();
        // SAFETY: a poll points to nothing, and the driver holds the waker's descriptor.
        unsafe { self.push(entry, reap::WAKER) };
    }
}

impl Driver for UringDriver {
    fn listen(
        &mut self,
        addr: SocketAddr,
        options: &ListenOptions,
        token: Token,
    ) -> io::Result<(SocketId, SocketAddr)> {
        if self.down {
            return Err(io::Error::from_raw_os_error(libc::ESHUTDOWN));
        }
        let (fd, bound) = sys::listen_socket(addr, options, Blocking::Yes)?;
        Ok((self.own_socket(fd, token, State::Listening)?, bound))
    }

    fn bind_datagrams(
        &mut self,
        addr: SocketAddr,
        options: &DatagramOptions,
        token: Token,
    ) -> io::Result<BoundDatagrams> {
        self.open_datagrams(addr, options, token)
    }

    fn adopt_listener(
        &mut self,
        listener: OwnedFd,
        options: &ListenOptions,
        token: Token,
    ) -> io::Result<(SocketId, SocketAddr)> {
        self.take_listener(listener, options, token)
    }

    fn adopt_datagrams(
        &mut self,
        socket: OwnedFd,
        options: &DatagramOptions,
        token: Token,
    ) -> io::Result<BoundDatagrams> {
        self.take_datagrams(socket, options, token)
    }

    fn steer(&mut self, socket: SocketId, shards: u16) -> io::Result<()> {
        self.attach_steering(socket, shards)
    }

    fn send_train(&mut self, socket: SocketId, train: &mut Train) -> Result<(), QueueFull> {
        self.queue_train(socket, train)
    }

    fn assign(&mut self, socket: SocketId, token: Token) {
        if let Some(slot) = self.slots.live(socket) {
            slot.token = token;
        }
    }

    fn submit(&mut self, op: Op) -> Result<OpKey, QueueFull> {
        let (socket, verb) = match op {
            Op::Connect { to, options, token } => {
                (self.connect(to, &options, token)?, Verb::Connect)
            }
            Op::Accept { listener } => {
                if let Some(slot) = self.slots.live(listener) {
                    assert_eq!(slot.state, State::Listening, "only a listener accepts");
                    self.want(listener, Ops::ACCEPT);
                }
                (listener, Verb::Accept)
            }
            Op::Recv { socket } => {
                self.start_receive(socket, false);
                (socket, Verb::Recv)
            }
            Op::RecvOnce { socket } => {
                self.start_receive(socket, true);
                (socket, Verb::Recv)
            }
            Op::Send { socket, chunks } => {
                if self.is_open(socket) {
                    self.start_send(socket, chunks);
                }
                (socket, Verb::Send)
            }
            Op::ShutdownWrite { socket } => {
                if self.is_open(socket) {
                    self.shutdown_write(socket);
                }
                (socket, Verb::ShutdownWrite)
            }
            Op::Close { socket, how } => {
                self.close(socket, how);
                (socket, Verb::Close)
            }
        };
        Ok(OpKey { socket, verb })
    }

    fn cancel(&mut self, key: OpKey) {
        let id = key.socket;
        let (op, ended) = match key.verb {
            Verb::Accept => (Ops::ACCEPT, Outcome::AcceptEnded(reap::CANCELED)),
            Verb::Connect => (Ops::CONNECT, Outcome::ConnectFailed(reap::CANCELED)),
            Verb::Recv => (self.receive_of(id), Outcome::RecvEnded(reap::CANCELED)),
            Verb::Send => (Ops::SEND, Outcome::SendFailed(reap::CANCELED)),
            Verb::ShutdownWrite | Verb::Close => return,
        };
        let Some(slot) = self.slots.live(id) else {
            return;
        };
        if !slot.wanted.has(op) || slot.cancelled.has(op) {
            return;
        }
        if slot.held.has(op) {
            slot.cancelled.add(op);
            self.cancel_held(id, op);
        } else {
            // It waits for buffers or descriptors, and is skipped when its turn comes.
            slot.wanted.remove(op);
            self.later(id, ended);
        }
    }

    fn turn(&mut self, deadline: Option<Instant>, out: &mut Completions) -> io::Result<Instant> {
        out.clear();
        if self.down {
            return Err(io::Error::from_raw_os_error(libc::ESHUTDOWN));
        }
        self.counters.turns += 1;
        self.ring.enable()?;
        self.returned += self.recycle_buffers();
        self.woken = false;
        loop {
            self.arm_waker();
            self.publish_buffers();
            self.resume();
            self.deliver_pending(out);
            let entered = self.enter(deadline, out.is_empty())?;
            // What reaping adds to `pending` waits: `Closed` comes after its `CLOSE` was submitted.
            self.reap(out);
            self.now = self.clock.now();
            if !out.is_empty() || self.woken || deadline.is_some_and(|time| time <= self.now) {
                return Ok(self.now);
            }
            if entered == Entered::Busy {
                std::thread::sleep(BUSY_PAUSE);
            }
        }
    }

    fn bytes(&self, loan: LoanId) -> &[u8] {
        match (Buffers::group(loan), &*self.memory) {
            (buffers::DATAGRAMS, Some(memory)) => memory.buffers().bytes(loan),
            _ => self.buffers.bytes(loan),
        }
    }

    fn waker(&self) -> Waker {
        Waker::new(self.waker.clone())
    }

    fn now(&self) -> Instant {
        self.now
    }

    fn counters(&self) -> DriverCounters {
        DriverCounters {
            completion_overflows: self.ring.overflows,
            submissions_spilled: self.ring.spilled,
            ..self.counters
        }
    }

    fn shutdown(&mut self, grace: Duration) -> Drained {
        self.drain(grace)
    }
}
