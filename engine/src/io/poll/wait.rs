//! Waiting: epoll, the waker, and deadlines finer than epoll's milliseconds.

use super::PollDriver;
use crate::io::sys::Timer;
use crate::io::{Clock, SocketId, Wake, Waker};
use flock_transport::Instant;
use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

const WAKER: Token = Token(usize::MAX);
const TIMER: Token = Token(usize::MAX - 1);
/// Events taken from the kernel by one call.
const EVENTS: usize = 1024;
/// Waits at least this long may end up to a millisecond late, as epoll rounds them up; for
/// shorter ones the timer is set, which costs a system call.
const COARSE: Duration = Duration::from_millis(20);

/// Names a socket in the epoll set.
pub(super) fn poll_token(socket: SocketId) -> Token {
    Token(socket.slot as usize | (socket.generation as usize) << 32)
}

fn socket_of(token: Token) -> SocketId {
    let low = token.0 & u32::MAX as usize;
    let high = token.0 >> 32;
    SocketId {
        slot: u32::try_from(low).expect("masked"),
        generation: u32::try_from(high).expect("shifted"),
    }
}

#[derive(Debug)]
pub(super) struct Waiter {
    poll: Poll,
    events: Events,
    waker: Arc<PollWaker>,
    timer: Timer,
    /// When the timer goes off, or went.
    timer_at: Instant,
    clock: Clock,
    spin: Duration,
}

#[derive(Debug)]
struct PollWaker(mio::Waker);

impl Wake for PollWaker {
    fn wake(&self) {
        // The write fails only if the eventfd's counter is full, and then it is readable already.
        let _ = self.0.wake();
    }
}

impl Waiter {
    pub(super) fn new(clock: Clock, spin: Duration) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(PollWaker(mio::Waker::new(poll.registry(), WAKER)?));
        let timer = Timer::new()?;
        let interest = Interest::READABLE;
        poll.registry()
            .register(&mut SourceFd(&timer.as_raw_fd()), TIMER, interest)?;
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS),
            waker,
            timer,
            timer_at: Instant::ZERO,
            clock,
            spin,
        })
    }

    pub(super) fn waker(&self) -> Waker {
        Waker::new(Arc::<PollWaker>::clone(&self.waker))
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(super) fn registry(&self) -> &Registry {
        self.poll.registry()
    }

    /// Takes what there is, without waiting.
    fn look(&mut self) -> io::Result<()> {
        self.take(Some(Duration::ZERO))
    }

    /// Waits for an event or until `until`; may end early without either. Returns whether it
    /// slept.
    fn sleep(&mut self, until: Option<Instant>) -> io::Result<bool> {
        if self.spin > Duration::ZERO {
            let spun = self.clock.now() + self.spin;
            let give_up = until.map_or(spun, |at| at.min(spun));
            loop {
                self.look()?;
                if !self.events.is_empty() {
                    return Ok(false);
                }
                if self.clock.now() >= give_up {
                    break;
                }
            }
        }
        let timeout = until.map(|at| at.since(self.clock.now()));
        if timeout == Some(Duration::ZERO) {
            self.look()?;
            return Ok(false);
        }
        if let (Some(at), Some(left)) = (until, timeout)
            && left < COARSE
            && self.timer_at != at
            && self.timer.set(left).is_ok()
        {
            self.timer_at = at;
        }
        self.take(timeout)?;
        Ok(true)
    }

    fn take(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.events.clear();
                Ok(())
            }
            other => other,
        }
    }
}

impl PollDriver {
    /// Waits if there is nothing to do until `deadline`, and queues the slots with news. Returns
    /// whether the waker was used.
    pub(super) fn wait(&mut self, deadline: Option<Instant>) -> io::Result<bool> {
        let idle = self.done.is_empty() && self.ready.is_empty() && self.starved.is_empty();
        if idle {
            let until = match (deadline, self.pause.until()) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            };
            if self.waiter.sleep(until)? {
                self.counters.waits += 1;
            }
        } else {
            self.waiter.look()?;
        }
        self.now = self.waiter.clock.now();
        if self.pause.until().is_some_and(|at| at <= self.now) {
            self.resume_accepts();
        }
        let mut woken = false;
        let Self {
            waiter,
            slots,
            ready,
            ..
        } = self;
        for event in &waiter.events {
            match event.token() {
                WAKER => woken = true,
                TIMER => {}
                token => {
                    let socket = socket_of(token);
                    if let Some(slot) = slots.get_mut(socket) {
                        note(slot, event);
                        if slot.runnable() && !slot.ready && !slot.parked {
                            slot.ready = true;
                            ready.push_back(socket.slot);
                        }
                    }
                }
            }
        }
        Ok(woken)
    }
}

/// Remembers an edge.
fn note(slot: &mut super::slots::Slot, event: &Event) {
    let failed = event.is_error();
    let hung_up = failed || event.is_read_closed();
    slot.failed |= failed;
    slot.hung_up |= hung_up;
    slot.readable |= hung_up || event.is_readable();
    slot.writable |= failed || event.is_writable() || event.is_write_closed();
}
