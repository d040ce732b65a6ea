//! The driver on `epoll(7)`: readiness in, completions out.
//!
//! Every socket is registered once, edge-triggered, and its slot remembers each edge until a call
//! disproves it. What can make progress waits in one queue and is served in turns with a budget,
//! so nothing is lost between edges and nobody starves. A turn is: take back loans, send and
//! close what was submitted, one wait, then receive, accept and continue sends.

mod accept;
mod connect;
mod datagrams;
mod loans;
mod sends;
mod slots;
mod stream;
mod wait;

use super::sys::{reset_on_close, shutdown_write};
use super::{
    BoundDatagrams, Clock, Completion, Completions, DatagramOptions, Drained, Driver, DriverConfig,
    DriverCounters, LoanId, Op, OpKey, Outcome, QueueFull, SocketId, Token, Verb, Waker,
};
use accept::Pause;
use datagrams::Datagrams;
use flock_tcp::ListenOptions;
use flock_transport::{Chunks, CloseHow, Errno, Instant, Train};
use loans::Loans;
use sends::Sends;
use slots::{Slots, Source};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;
use wait::Waiter;

const CANCELED: Errno = Errno(libc::ECANCELED);

/// The driver on `epoll(7)`, for kernels and containers without a usable io_uring.
///
/// Beside its receive buffers it costs less than 100 bytes for each idle socket, and a few system
/// calls for each turn: it allocates nothing for an operation once its tables have grown.
#[derive(Debug)]
pub struct PollDriver {
    config: DriverConfig,
    counters: DriverCounters,
    waiter: Waiter,
    now: Instant,
    slots: Slots,
    loans: Loans,
    datagrams: Option<Datagrams>,
    sends: Sends,
    /// Sends and closes of the next turn, in order.
    submitted: Vec<Submitted>,
    /// Slots that can make progress.
    ready: VecDeque<u32>,
    /// Slots whose receive waits for buffers.
    starved: VecDeque<u32>,
    pause: Pause,
    /// Completions to deliver. Loans and accepted sockets never stay here between turns.
    done: VecDeque<Completion>,
}

#[derive(Clone, Copy, Debug)]
enum Submitted {
    Send(SocketId),
    Close(u32, CloseHow),
}

impl PollDriver {
    /// A driver with the limits of `config`, whose times are those of `clock`. Errors are those of
    /// epoll_create1(2), eventfd(2) and timerfd_create(2): no descriptors or no memory.
    pub fn new(config: &DriverConfig, clock: Clock) -> io::Result<Self> {
        let mut config = *config;
        config.batch = config.batch.clamp(1, Loans::MAX);
        let buffers = config.buffers.clamp(1, 1 << 15).next_power_of_two();
        let buffer_size = config.buffer_size.max(1) as usize;
        Ok(Self {
            counters: DriverCounters::default(),
            waiter: Waiter::new(clock, config.spin)?,
            now: clock.now(),
            slots: Slots::new(config.sockets),
            loans: Loans::new(usize::from(buffers), buffer_size),
            datagrams: None,
            sends: Sends::default(),
            submitted: Vec::new(),
            ready: VecDeque::new(),
            starved: VecDeque::new(),
            pause: Pause::default(),
            done: VecDeque::new(),
            config,
        })
    }

    /// Whether this turn's completions fill the batch.
    fn full(&self) -> bool {
        self.done.len() >= self.config.batch
    }

    /// Notes a completion of the socket in a slot.
    fn complete(&mut self, index: u32, outcome: Outcome) {
        let slot = self.slots.at(index);
        self.done.push_back(Completion {
            token: slot.token,
            socket: self.slots.name(index),
            outcome,
        });
    }

    /// Queues a slot if it can make progress and is not queued already.
    fn wake_slot(&mut self, index: u32) {
        let slot = self.slots.at_mut(index);
        if slot.runnable() && !slot.ready && !slot.parked {
            slot.ready = true;
            self.ready.push_back(index);
        }
    }

    fn begin_receiving(&mut self, socket: SocketId, once: bool) {
        let Some(slot) = self.slots.get_mut(socket) else {
            return;
        };
        assert!(!slot.receiving, "one receive or accept for each socket");
        slot.receiving = true;
        slot.once = once;
        self.wake_slot(socket.slot);
    }

    fn begin_send(&mut self, socket: SocketId, chunks: Chunks) {
        let Some(slot) = self.slots.get_mut(socket) else {
            return;
        };
        assert!(slot.send.is_none(), "one send for each socket");
        assert!(
            chunks.iter().any(|chunk| !chunk.is_empty()),
            "an empty send"
        );
        slot.send = Some(self.sends.insert(chunks));
        self.submitted.push(Submitted::Send(socket));
    }

    fn begin_shutdown(&mut self, socket: SocketId) {
        let Some(slot) = self.slots.get_mut(socket) else {
            return;
        };
        if let Source::Stream(stream) = &slot.source
            && shutdown_write(stream.as_fd()).is_err()
        {
            self.counters.soft_errors += 1;
        }
    }

    fn begin_close(&mut self, socket: SocketId, how: CloseHow) {
        if let Some(slot) = self.slots.get_mut(socket) {
            slot.closing = true;
            self.submitted.push(Submitted::Close(socket.slot, how));
        }
    }

    /// Carries out what was submitted since the last turn.
    fn flush(&mut self) {
        // Before closes, which forget the trains of their socket.
        self.send_trains();
        let mut submitted = std::mem::take(&mut self.submitted);
        for one in submitted.drain(..) {
            match one {
                // A close may be queued behind the send, hence the name is compared alone.
                Submitted::Send(socket) if self.slots.name(socket.slot) == socket => {
                    let slot = self.slots.at(socket.slot);
                    if slot.send.is_some() && slot.writable {
                        self.send_more(socket.slot);
                    }
                }
                Submitted::Send(_) => {}
                Submitted::Close(index, how) => self.close(index, how),
            }
        }
        self.submitted = submitted;
    }

    fn close(&mut self, index: u32, how: CloseHow) {
        self.drop_send(index);
        if let Some(datagrams) = &mut self.datagrams {
            datagrams.forget(self.slots.name(index));
        }
        let slot = self.slots.at_mut(index);
        if let (Source::Stream(stream), CloseHow::Rst) = (&slot.source, how)
            && reset_on_close(stream.as_fd()).is_err()
        {
            self.counters.soft_errors += 1;
        }
        self.complete(index, Outcome::Closed);
        self.unwatch(index);
        self.slots.remove(index);
        self.resume_accepts();
    }

    /// Takes a socket out of the epoll set that closing its descriptor may leave in it: somebody
    /// else may hold it, too (epoll(7), question 6). A stream is ours alone.
    fn unwatch(&mut self, index: u32) {
        let registry = self.waiter.registry();
        let gone = match &mut self.slots.at_mut(index).source {
            Source::Listener(listener) => registry.deregister(listener),
            Source::Datagrams(socket) => registry.deregister(socket),
            Source::Stream(_) | Source::Gone => Ok(()),
        };
        if gone.is_err() {
            self.counters.soft_errors += 1;
        }
    }

    fn drop_send(&mut self, index: u32) {
        if let Some(send) = self.slots.at_mut(index).send.take() {
            self.sends.remove(send);
        }
    }

    /// Serves queued slots, those that waited for buffers first, until none is left or the batch
    /// is full. A slot that can go on after its budget is served again in the next turn.
    fn serve_queues(&mut self) {
        for _ in 0..self.starved.len() {
            if self.full() || self.loans.exhausted() {
                break;
            }
            let Some(index) = self.starved.pop_front() else {
                break;
            };
            self.slots.at_mut(index).parked = false;
            self.serve(index);
        }
        for _ in 0..self.ready.len() {
            if self.full() {
                break;
            }
            let Some(index) = self.ready.pop_front() else {
                break;
            };
            self.slots.at_mut(index).ready = false;
            self.serve(index);
        }
    }

    fn serve(&mut self, index: u32) {
        let slot = self.slots.at(index);
        match slot.source {
            Source::Gone => return,
            Source::Listener(_) => {
                if slot.runnable() {
                    self.accept_some(index);
                }
            }
            Source::Stream(_) => self.serve_stream(index),
            Source::Datagrams(_) => {
                if slot.runnable() {
                    self.receive_datagrams(index);
                }
            }
        }
        self.wake_slot(index);
    }

    fn serve_stream(&mut self, index: u32) {
        if self.slots.at(index).connecting {
            if !self.slots.at(index).writable {
                return;
            }
            self.finish_connect(index);
        }
        // Reading first: after a reset the first call is told, and it is the receive that says
        // why a connection ended.
        let slot = self.slots.at(index);
        if slot.receiving && slot.readable {
            self.receive_some(index);
        }
        let slot = self.slots.at(index);
        if slot.send.is_some() && slot.writable {
            self.send_more(index);
        }
    }

    /// Moves a batch of completions to `out`, without those of sockets closed meanwhile.
    fn deliver(&mut self, out: &mut Completions) {
        while out.len() < self.config.batch {
            let Some(completion) = self.done.pop_front() else {
                break;
            };
            let socket = completion.socket;
            if !matches!(completion.outcome, Outcome::Closed)
                && self.slots.get_mut(socket).is_none()
            {
                self.counters.stale_completions += 1;
                continue;
            }
            if let Outcome::ConnectFailed(_) = completion.outcome {
                self.slots.remove(socket.slot);
            }
            out.push(completion);
        }
    }
}

impl Driver for PollDriver {
    fn listen(
        &mut self,
        addr: SocketAddr,
        options: &ListenOptions,
        token: Token,
    ) -> io::Result<(SocketId, SocketAddr)> {
        self.open_listener(addr, options, token)
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
        if let Some(slot) = self.slots.get_mut(socket) {
            slot.token = token;
        }
    }

    fn submit(&mut self, op: Op) -> Result<OpKey, QueueFull> {
        let (socket, verb) = match op {
            Op::Accept { listener } => {
                self.begin_receiving(listener, false);
                (listener, Verb::Accept)
            }
            Op::Connect { to, options, token } => {
                (self.begin_connect(to, &options, token)?, Verb::Connect)
            }
            Op::Recv { socket } => {
                self.begin_receiving(socket, false);
                (socket, Verb::Recv)
            }
            Op::RecvOnce { socket } => {
                self.begin_receiving(socket, true);
                (socket, Verb::Recv)
            }
            Op::Send { socket, chunks } => {
                self.begin_send(socket, chunks);
                (socket, Verb::Send)
            }
            Op::ShutdownWrite { socket } => {
                self.begin_shutdown(socket);
                (socket, Verb::ShutdownWrite)
            }
            Op::Close { socket, how } => {
                self.begin_close(socket, how);
                (socket, Verb::Close)
            }
        };
        Ok(OpKey { socket, verb })
    }

    fn cancel(&mut self, key: OpKey) {
        let index = key.socket.slot;
        let Some(slot) = self.slots.get_mut(key.socket) else {
            return;
        };
        match key.verb {
            Verb::Accept if slot.receiving => {
                slot.receiving = false;
                self.complete(index, Outcome::AcceptEnded(CANCELED));
            }
            Verb::Recv if slot.receiving => {
                slot.receiving = false;
                self.complete(index, Outcome::RecvEnded(CANCELED));
            }
            Verb::Send if slot.send.is_some() => {
                self.drop_send(index);
                self.complete(index, Outcome::SendFailed(CANCELED));
            }
            Verb::Connect if slot.connecting => self.fail_connect(index, CANCELED),
            _ => {}
        }
    }

    fn turn(&mut self, deadline: Option<Instant>, out: &mut Completions) -> io::Result<Instant> {
        self.counters.turns += 1;
        out.clear();
        self.loans.recycle();
        if let Some(datagrams) = &mut self.datagrams {
            datagrams.recycle();
        }
        self.flush();
        loop {
            let woken = self.wait(deadline)?;
            self.send_trains();
            self.serve_queues();
            self.deliver(out);
            if woken || !out.is_empty() || deadline.is_some_and(|at| at <= self.now) {
                return Ok(self.now);
            }
        }
    }

    fn bytes(&self, loan: LoanId) -> &[u8] {
        match &self.datagrams {
            Some(datagrams) if Datagrams::has_lent(loan) => datagrams.bytes(loan),
            _ => self.loans.bytes(loan),
        }
    }

    fn waker(&self) -> Waker {
        self.waiter.waker()
    }

    fn now(&self) -> Instant {
        self.now
    }

    fn counters(&self) -> DriverCounters {
        self.counters
    }

    /// Nothing is in the kernel's hands between calls, so this never waits.
    fn shutdown(&mut self, _grace: Duration) -> Drained {
        self.submitted.clear();
        self.ready.clear();
        self.starved.clear();
        self.pause = Pause::default();
        self.done.clear();
        let ended = self.slots.clear();
        self.sends.clear();
        self.datagrams = None;
        Drained { ended, leaked: 0 }
    }
}
