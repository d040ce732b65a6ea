use super::ring::REAP;
use super::slots::{NO_CARGO, NO_FD, Ops, State};
use super::{ACCEPT_PAUSE, UringDriver};
use crate::io::{Completion, Completions, Outcome, SocketId, sys};
use arrayvec::ArrayVec;
use flock_transport::Errno;
use io_uring::cqueue;
use std::os::fd::{AsFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

pub(super) const CANCELED: Errno = Errno(libc::ECANCELED);

// What comes back with a completion is `kind: 8 | generation: 24 | slot: 32`.
const KIND_AT: u32 = 56;
const GENERATION_AT: u32 = 32;
const GENERATION_MASK: u32 = (1 << (KIND_AT - GENERATION_AT)) - 1;

const KIND_IGNORED: u64 = 0;
const KIND_WAKER: u64 = 1;
const KIND_CLOSED: u64 = 2;
const KIND_ACCEPT: u64 = 3;
const KIND_CONNECT: u64 = 4;
const KIND_RECV: u64 = 5;
const KIND_SEND: u64 = 6;
const KIND_RECVMSG: u64 = 7;
const KIND_TRAIN: u64 = 8;

/// Nobody waits for it: cancels, which report on their target by ending it.
pub(super) const IGNORED: u64 = KIND_IGNORED << KIND_AT;
pub(super) const WAKER: u64 = KIND_WAKER << KIND_AT;
/// A `CLOSE` that failed; success is silent.
pub(super) const CLOSED: u64 = KIND_CLOSED << KIND_AT;

/// Names an operation of a socket to the kernel.
pub(super) fn tag(op: Ops, id: SocketId) -> u64 {
    let kind = match op {
        Ops::ACCEPT => KIND_ACCEPT,
        Ops::CONNECT => KIND_CONNECT,
        Ops::RECV => KIND_RECV,
        Ops::RECVMSG => KIND_RECVMSG,
        _ => KIND_SEND,
    };
    let generation = u64::from(id.generation & GENERATION_MASK);
    kind << KIND_AT | generation << GENERATION_AT | u64::from(id.slot)
}

/// Names a train to the kernel, by its cargo.
pub(super) fn train_tag(cargo: u32) -> u64 {
    KIND_TRAIN << KIND_AT | u64::from(cargo)
}

/// Takes over a descriptor that the kernel handed out, or that a slot gives up.
pub(super) fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: called once per descriptor, by whoever was given it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A completion of the kernel, taken apart.
pub(super) struct Report {
    op: Ops,
    pub(super) id: SocketId,
    /// Negative: an error number.
    pub(super) result: i32,
    /// The multishot operation goes on.
    pub(super) more: bool,
    pub(super) buffer: Option<u16>,
}

impl Report {
    pub(super) fn errno(&self) -> Errno {
        Errno(-self.result)
    }

    /// The result as a count; callers have seen that it is not negative.
    fn count(&self) -> u32 {
        self.result.cast_unsigned()
    }
}

impl UringDriver {
    /// Turns what the kernel completed into completions, as many as the batch holds.
    pub(super) fn reap(&mut self, out: &mut Completions) {
        self.moment = None;
        let mut chunk = ArrayVec::<cqueue::Entry, REAP>::new();
        while out.len() < self.batch {
            self.ring.take(&mut chunk, self.batch - out.len());
            if chunk.is_empty() {
                break;
            }
            for entry in chunk.drain(..) {
                self.complete(&entry, out);
            }
        }
        self.publish_buffers();
    }

    /// Delivers what the driver itself has to say. A completion of a socket that was closed
    /// meanwhile is dropped, except the `Closed`.
    pub(super) fn deliver_pending(&mut self, out: &mut Completions) {
        while out.len() < self.batch {
            let Some(Completion {
                socket, outcome, ..
            }) = self.pending.pop_front()
            else {
                return;
            };
            let Some(slot) = self.slots.find(socket) else {
                continue;
            };
            let token = slot.token;
            match (slot.state, outcome) {
                (State::Closed, Outcome::Closed) | (State::Failed, Outcome::ConnectFailed(_)) => {
                    self.slots.remove(socket.slot);
                }
                (State::Closing | State::Closed, _) => {
                    self.counters.stale_completions += 1;
                    continue;
                }
                _ => {}
            }
            out.push(Completion {
                token,
                socket,
                outcome,
            });
        }
    }

    fn complete(&mut self, entry: &cqueue::Entry, out: &mut Completions) {
        let data = entry.user_data();
        let more = cqueue::more(entry.flags());
        let index = u32::try_from(data & u64::from(u32::MAX)).expect("masked to 32 bits");
        let op = match data >> KIND_AT {
            KIND_ACCEPT => Ops::ACCEPT,
            KIND_CONNECT => Ops::CONNECT,
            KIND_RECV => Ops::RECV,
            KIND_SEND => Ops::SEND,
            KIND_RECVMSG => Ops::RECVMSG,
            KIND_TRAIN => return self.on_train(index, entry.result(), out),
            KIND_WAKER => return self.on_waker(more),
            KIND_CLOSED => {
                self.counters.soft_errors += 1;
                return;
            }
            _ => return,
        };
        let generation = u32::try_from(data >> GENERATION_AT & u64::from(GENERATION_MASK))
            .expect("masked to 24 bits");
        let buffer = cqueue::buffer_select(entry.flags());
        let live = match self.slots.at(index, generation, GENERATION_MASK) {
            Some(slot) if slot.held.has(op) => {
                if !more {
                    slot.held.remove(op);
                    self.in_flight -= 1;
                }
                slot.state != State::Closing
            }
            // The slot is kept until the last report; some kernels sent one after that.
            _ => return self.give_up(op, entry.result(), buffer),
        };
        let report = Report {
            op,
            id: self.slots.id(index),
            result: entry.result(),
            more,
            buffer,
        };
        if !live {
            self.give_up(op, report.result, buffer);
            self.unload(&report);
            self.finish_close(report.id);
            return;
        }
        match op {
            Ops::ACCEPT => self.on_accept(&report, out),
            Ops::CONNECT => self.on_connect(&report, out),
            Ops::RECV => self.on_recv(&report, out),
            Ops::RECVMSG => self.on_recvmsg(&report, out),
            _ => self.on_send(&report, out),
        }
    }

    fn on_waker(&mut self, more: bool) {
        self.waker.acknowledge();
        self.woken = true;
        if !more {
            self.in_flight -= 1;
            self.waker_armed = false;
        }
    }

    /// Gives back what a completion carries that nobody wants.
    fn give_up(&mut self, op: Ops, result: i32, buffer: Option<u16>) {
        self.counters.stale_completions += 1;
        if op == Ops::ACCEPT && result >= 0 {
            drop(own(result));
            self.descriptor_freed = true;
        }
        match (buffer, op) {
            (Some(buffer), Ops::RECVMSG) => {
                let memory = self.memory.as_mut().expect("made with the first socket");
                memory.buffers_mut().give_back(buffer);
            }
            (Some(buffer), _) => self.return_buffer(buffer),
            (None, _) => {}
        }
    }

    /// Frees the memory of a send or connect that has ended.
    fn unload(&mut self, report: &Report) {
        if report.op != Ops::SEND && report.op != Ops::CONNECT {
            return;
        }
        let slot = self.slots.find(report.id).expect("reported just now");
        let cargo = std::mem::replace(&mut slot.cargo, NO_CARGO);
        if report.op == Ops::SEND {
            self.cargo.unload_send(cargo);
        } else {
            self.cargo.unload_address(cargo);
        }
    }

    fn return_buffer(&mut self, buffer: u16) {
        self.buffers.give_back(buffer);
        self.returned += 1;
    }

    pub(super) fn push_out(&mut self, id: SocketId, outcome: Outcome, out: &mut Completions) {
        let slot = self.slots.find(id).expect("reported just now");
        out.push(Completion {
            token: slot.token,
            socket: id,
            outcome,
        });
    }

    /// Ends an operation with `outcome`.
    pub(super) fn end(&mut self, report: &Report, outcome: Outcome, out: &mut Completions) {
        let slot = self.slots.find(report.id).expect("reported just now");
        slot.wanted.remove(report.op);
        slot.cancelled.remove(report.op);
        self.push_out(report.id, outcome, out);
    }

    /// After the last report of a multishot operation that brought something: goes on with a
    /// new one, or ends it when that was asked for.
    pub(super) fn go_on(&mut self, report: &Report, canceled: Outcome) {
        let slot = self.slots.find(report.id).expect("reported just now");
        if slot.cancelled.has(report.op) {
            slot.wanted.remove(report.op);
            slot.cancelled.remove(report.op);
            self.later(report.id, canceled);
        } else {
            self.arm(report.id, report.op);
        }
    }

    pub(super) fn is_cancelled(&mut self, report: &Report) -> bool {
        let slot = self.slots.find(report.id).expect("reported just now");
        slot.cancelled.has(report.op)
    }

    fn on_accept(&mut self, report: &Report, out: &mut Completions) {
        const CANCELED_ACCEPT: Outcome = Outcome::AcceptEnded(CANCELED);
        if report.result >= 0 {
            self.accepted(report.id, own(report.result), out);
            if !report.more {
                self.go_on(report, CANCELED_ACCEPT);
            }
            return;
        }
        let errno = report.errno();
        match errno.0 {
            // The kernel drops an error of the connection, not of the listener (accept(2)).
            libc::ECONNABORTED | libc::EPERM | libc::EPROTO => {
                self.counters.accepts_aborted += 1;
                self.go_on(report, CANCELED_ACCEPT);
            }
            libc::EAGAIN
            | libc::EINTR
            | libc::ENETDOWN
            | libc::ENETUNREACH
            | libc::EHOSTDOWN
            | libc::EHOSTUNREACH
            | libc::ENONET => self.go_on(report, CANCELED_ACCEPT),
            libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM => {
                if self.is_cancelled(report) {
                    self.go_on(report, CANCELED_ACCEPT);
                } else {
                    self.counters.accepts_paused += 1;
                    self.paused.push(report.id);
                    self.resume_at = self.clock.now() + ACCEPT_PAUSE;
                }
            }
            _ => self.end(report, Outcome::AcceptEnded(errno), out),
        }
    }

    fn accepted(&mut self, listener: SocketId, fd: OwnedFd, out: &mut Completions) {
        let Ok(peer) = sys::peer_address(fd.as_fd()) else {
            self.counters.accepts_aborted += 1;
            self.descriptor_freed = true;
            return;
        };
        let slot = self.slots.find(listener).expect("reported just now");
        let token = slot.token;
        let Some(socket) = self.slots.insert(NO_FD, token, State::Open) else {
            self.counters.accepts_refused += 1;
            self.descriptor_freed = true;
            return;
        };
        let slot = self.slots.find(socket).expect("inserted above");
        slot.fd = fd.into_raw_fd();
        self.push_out(listener, Outcome::Accepted { socket, peer }, out);
    }

    fn on_connect(&mut self, report: &Report, out: &mut Completions) {
        self.unload(report);
        if report.result >= 0 {
            let slot = self.slots.find(report.id).expect("reported just now");
            slot.state = State::Open;
            self.end(report, Outcome::Connected, out);
            return;
        }
        self.end(report, Outcome::ConnectFailed(report.errno()), out);
        self.release_descriptor(report.id);
        self.slots.remove(report.id.slot);
    }

    fn on_recv(&mut self, report: &Report, out: &mut Completions) {
        const CANCELED_RECV: Outcome = Outcome::RecvEnded(CANCELED);
        if report.result > 0 {
            let buffer = report.buffer.expect("received bytes are in a buffer");
            let loan = self.buffers.lend(buffer, 0, report.count());
            self.push_out(report.id, Outcome::Data(loan), out);
            if self.received_once(report) {
                self.later(report.id, CANCELED_RECV);
            } else if !report.more {
                self.go_on(report, CANCELED_RECV);
            }
            return;
        }
        if let Some(buffer) = report.buffer {
            self.return_buffer(buffer);
        }
        let errno = report.errno();
        match errno.0 {
            _ if report.more => {}
            0 => self.end(report, Outcome::Eof, out),
            libc::EAGAIN | libc::EINTR => self.go_on(report, CANCELED_RECV),
            libc::ENOBUFS => {
                if self.is_cancelled(report) {
                    self.go_on(report, CANCELED_RECV);
                } else {
                    self.counters.receives_parked += 1;
                    self.starved.push_back(report.id);
                }
            }
            _ => self.end(report, Outcome::RecvEnded(errno), out),
        }
    }

    /// Whether that was the only receive that was asked for; then it has ended.
    fn received_once(&mut self, report: &Report) -> bool {
        let slot = self.slots.find(report.id).expect("reported just now");
        let once = slot.wanted.has(Ops::ONCE);
        if once {
            slot.wanted.remove(Ops::RECV);
            slot.cancelled.remove(Ops::RECV);
        }
        once
    }

    fn on_send(&mut self, report: &Report, out: &mut Completions) {
        let cancelled = self.is_cancelled(report);
        let slot = self.slots.find(report.id).expect("reported just now");
        let cargo = self.cargo.send(slot.cargo);
        if report.result > 0 {
            cargo.advance(report.count());
        }
        let bytes = cargo.sent();
        let outcome = if cargo.is_done() {
            Outcome::Sent { bytes }
        } else {
            let error = match report.result {
                // The kernel took a part: go on with the rest, or say that it was cancelled.
                1.. => CANCELED,
                // Taking nothing without a reason is not progress, and must not be retried.
                0 => Errno(libc::EIO),
                _ => report.errno(),
            };
            let again = matches!(error.0, libc::EAGAIN | libc::EINTR);
            if !cancelled && (again || report.result > 0) {
                self.counters.short_sends += 1;
                self.arm(report.id, Ops::SEND);
                return;
            }
            Outcome::SendFailed(error)
        };
        self.unload(report);
        self.end(report, outcome, out);
    }
}
