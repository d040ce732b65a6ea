//! From what happened in the network to completions.

use super::stream::{Fin, State};
use super::table::{Arm, Kind, Request, Socket};
use super::world::{NetEvent, World};
use crate::io::{Completion, Completions, LoanId, OpKey, Outcome, SocketId, Verb};
use flock_transport::{CloseHow, Errno, Instant, canonical};
use rand::Rng;
use std::time::Duration;

/// How long accepting pauses when the node is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const CANCELED: Errno = Errno(libc::ECANCELED);

/// Received bytes lent in one turn.
#[derive(Debug, Default)]
pub(super) struct Loans {
    buffers: Vec<Vec<u8>>,
    used: usize,
    /// The name of the first loan of this turn; never goes back.
    base: u32,
}

impl Loans {
    pub(super) fn recycle(&mut self) {
        let used = u32::try_from(self.used).expect("buffers are counted by a u16");
        self.base = self.base.wrapping_add(used);
        self.used = 0;
    }

    pub(super) fn bytes(&self, loan: LoanId) -> &[u8] {
        let index = loan.0.wrapping_sub(self.base) as usize;
        assert!(index < self.used, "{loan:?} is of an earlier turn");
        &self.buffers[index]
    }

    pub(super) fn used(&self) -> usize {
        self.used
    }

    pub(super) fn lend(&mut self) -> (LoanId, &mut Vec<u8>) {
        if self.used == self.buffers.len() {
            self.buffers.push(Vec::new());
        }
        let index = u32::try_from(self.used).expect("buffers are counted by a u16");
        let buffer = &mut self.buffers[self.used];
        buffer.clear();
        self.used += 1;
        (LoanId(self.base.wrapping_add(index)), buffer)
    }
}

pub(super) enum Pulled {
    Nothing,
    /// There are bytes, but no buffer for them in this turn.
    Starved,
    Done(Outcome),
}

impl World {
    /// Carries out what was submitted since the last turn.
    pub(super) fn carry_out(&mut self, station: usize) {
        for request in std::mem::take(&mut self.stations[station].requests) {
            match request {
                Request::Look(id) => self.stations[station].list(id),
                Request::Connect(id, to, options) => {
                    let kind = self.dial(station, id, to, &options);
                    if let Some(socket) = self.stations[station].get(id) {
                        socket.kind = kind;
                    }
                    self.stations[station].list(id);
                }
                Request::Send(id) => {
                    if let Some((stream, side)) = self.stream_of(station, id) {
                        self.drive(stream, side);
                        self.stations[station].list(id);
                    }
                }
                Request::ShutdownWrite(id) => self.shutdown_write(station, id),
                Request::Close(id, how) => self.close_socket(station, id, how),
                Request::Cancel(key) => self.mark_cancelled(station, key),
            }
        }
    }

    fn stream_of(&mut self, station: usize, id: SocketId) -> Option<(u64, usize)> {
        match self.stations[station].get(id)?.kind {
            Kind::Stream(stream, side) => Some((stream, side)),
            _ => None,
        }
    }

    fn shutdown_write(&mut self, station: usize, id: SocketId) {
        let Some((stream, side)) = self.stream_of(station, id) else {
            return;
        };
        match self.side(stream, side) {
            Some(open) if open.state == State::Open && open.fin == Fin::No => {
                open.fin = Fin::Wanted;
                self.drive(stream, side);
            }
            // Ended twice, or before it began: ENOTCONN.
            _ => self.stations[station].counters.soft_errors += 1,
        }
    }

    fn close_socket(&mut self, station: usize, id: SocketId, how: CloseHow) {
        let at = self.now + self.up_to(self.faults.close_delay);
        let Some(socket) = self.stations[station].get(id) else {
            return;
        };
        let kind = socket.kind;
        // The Close itself is not among those swallowed.
        let swallowed = socket.outstanding() - 1;
        socket.closed_at = Some(at);
        (socket.accept, socket.connect, socket.recv) = (Arm::Idle, Arm::Idle, Arm::Idle);
        socket.send = None;
        self.stations[station].counters.stale_completions += swallowed;
        match kind {
            Kind::Listener(listener) => self.stop_listening(listener),
            Kind::Stream(stream, side) => self.close_side(stream, side, how),
            Kind::Datagrams(name) => self.close_datagrams(name),
            Kind::Pending | Kind::Failed(_) => {}
        }
        let SocketId { slot, generation } = id;
        let look = NetEvent::Look {
            station,
            slot,
            generation,
        };
        self.schedule(at, look);
    }

    fn mark_cancelled(&mut self, station: usize, key: OpKey) {
        let Some(socket) = self.stations[station].live(key.socket) else {
            return;
        };
        let arm = match key.verb {
            Verb::Accept => &mut socket.accept,
            Verb::Connect => &mut socket.connect,
            Verb::Recv => &mut socket.recv,
            Verb::Send => {
                if let Some(send) = &mut socket.send {
                    send.cancelling = true;
                }
                return self.stations[station].list(key.socket);
            }
            Verb::ShutdownWrite | Verb::Close => return,
        };
        if matches!(*arm, Arm::Armed | Arm::Once) {
            *arm = Arm::Cancelling;
        }
        self.stations[station].list(key.socket);
    }

    pub(super) fn look_at(&mut self, station: usize, id: SocketId) {
        self.stations[station].list(id);
    }

    /// Completes what is ready: sockets in the seed's order, each stream in its own.
    pub(super) fn deliver(&mut self, station: usize, loans: &mut Loans, out: &mut Completions) {
        let mut parked = Vec::new();
        while out.len() < self.stations[station].config.batch {
            let listed = self.stations[station].ready.len();
            if listed == 0 {
                break;
            }
            let index = self.rng.random_range(0..listed);
            let id = self.stations[station].ready[index];
            // A refused or failed socket is gone after its last completion.
            let token = self.stations[station].get(id).map(|socket| socket.token);
            match self.pull(station, id, loans) {
                Pulled::Nothing => self.stations[station].unlist(index),
                Pulled::Starved => {
                    self.stations[station].counters.receives_parked += 1;
                    parked.push(self.stations[station].ready.swap_remove(index));
                }
                Pulled::Done(outcome) => {
                    let completion = Completion {
                        token: token.unwrap_or_default(),
                        socket: id,
                        outcome,
                    };
                    let data = match outcome {
                        Outcome::Data(loan) | Outcome::Datagrams { loan, .. } => loans.bytes(loan),
                        _ => &[],
                    };
                    self.note(station, &completion, data);
                    out.push(completion);
                    if self.chance(self.faults.early_end) {
                        break;
                    }
                }
            }
        }
        self.stations[station].ready.append(&mut parked);
    }

    fn pull(&mut self, station: usize, id: SocketId, loans: &mut Loans) -> Pulled {
        let now = self.now;
        let Some(socket) = self.stations[station].get(id) else {
            return Pulled::Nothing;
        };
        if let Some(at) = socket.closed_at {
            if at > now {
                return Pulled::Nothing;
            }
            self.stations[station].remove(id);
            return Pulled::Done(Outcome::Closed);
        }
        match socket.kind {
            Kind::Pending => Pulled::Nothing,
            Kind::Failed(errno) => {
                self.stations[station].remove(id);
                Pulled::Done(Outcome::ConnectFailed(errno))
            }
            Kind::Listener(listener) => self.pull_accept(station, id, listener),
            Kind::Datagrams(name) => self.pull_datagrams(station, id, name, loans),
            Kind::Stream(stream, side) if socket.connect != Arm::Idle => {
                self.pull_connect(station, id, (stream, side))
            }
            Kind::Stream(stream, side) => {
                if self.rng.random() {
                    match self.pull_send(station, id, (stream, side)) {
                        Pulled::Nothing => self.pull_recv(station, id, (stream, side), loans),
                        sent => sent,
                    }
                } else {
                    match self.pull_recv(station, id, (stream, side), loans) {
                        Pulled::Nothing => self.pull_send(station, id, (stream, side)),
                        received => received,
                    }
                }
            }
        }
    }

    /// Whether a cancellation ends the operation although `natural` says it could complete.
    pub(super) fn cancel_wins(&mut self, arm: Arm, natural: bool) -> bool {
        if arm != Arm::Cancelling {
            return false;
        }
        if natural && self.chance(self.faults.natural_wins) {
            self.probe("natural-won");
            return false;
        }
        self.probe(if natural { "cancel-won" } else { "cancelled" });
        true
    }

    fn pull_accept(&mut self, station: usize, id: SocketId, listener: u64) -> Pulled {
        loop {
            let (now, node) = (self.now, self.stations[station].node);
            let Some(socket) = self.stations[station].get(id) else {
                return Pulled::Nothing;
            };
            let (arm, token, paused_until) = (socket.accept, socket.token, socket.paused_until);
            if arm == Arm::Idle {
                return Pulled::Nothing;
            }
            let waiting = self.listeners.get(&listener);
            let next = waiting.and_then(|l| l.backlog.front().copied());
            if self.cancel_wins(arm, next.is_some() && paused_until <= now) {
                if let Some(socket) = self.stations[station].get(id) {
                    socket.accept = Arm::Idle;
                }
                return Pulled::Done(Outcome::AcceptEnded(CANCELED));
            }
            let Some(stream) = next.filter(|_| paused_until <= now) else {
                return Pulled::Nothing;
            };
            if self.out_of_files(node) {
                self.pause_accept(station, id);
                return Pulled::Nothing;
            }
            if let Some(waiting) = self.listeners.get_mut(&listener) {
                waiting.backlog.pop_front();
            }
            let broken = self.side(stream, 1).is_none_or(|s| s.state != State::Open);
            if broken && self.chance(0.5) {
                self.stations[station].counters.accepts_aborted += 1;
                self.abort(stream, 1);
            } else if self.stations[station].full() {
                self.stations[station].counters.accepts_refused += 1;
                self.abort(stream, 1);
            } else if let Some(dial) = self.streams.get_mut(&stream) {
                let peer = canonical(dial.sides[0].addr);
                let accepted = Socket::new(token, Kind::Stream(stream, 1));
                let socket = self.stations[station].insert(accepted);
                dial.sides[1].owner = Some((station, socket));
                return Pulled::Done(Outcome::Accepted { socket, peer });
            }
        }
    }

    fn pause_accept(&mut self, station: usize, id: SocketId) {
        let until = self.now + ACCEPT_PAUSE;
        self.stations[station].counters.accepts_paused += 1;
        if let Some(socket) = self.stations[station].get(id) {
            socket.paused_until = until;
        }
        let SocketId { slot, generation } = id;
        let look = NetEvent::Look {
            station,
            slot,
            generation,
        };
        self.schedule(until, look);
    }

    fn pull_connect(&mut self, station: usize, id: SocketId, at: (u64, usize)) -> Pulled {
        let Some(socket) = self.stations[station].get(id) else {
            return Pulled::Nothing;
        };
        let arm = socket.connect;
        let (stream, side) = at;
        let (state, error) = match self.side(stream, side) {
            Some(side) => (side.state, side.error),
            None => (State::Broken, Some(Errno(libc::ECONNABORTED))),
        };
        let cancelled = self.cancel_wins(arm, state != State::Connecting);
        if state == State::Open && !cancelled {
            if let Some(socket) = self.stations[station].get(id) {
                socket.connect = Arm::Idle;
            }
            return Pulled::Done(Outcome::Connected);
        }
        if state == State::Connecting && !cancelled {
            return Pulled::Nothing;
        }
        self.close_side(stream, side, CloseHow::Rst);
        self.stations[station].remove(id);
        let natural = error.unwrap_or(Errno(libc::ECONNREFUSED));
        let errno = if cancelled { CANCELED } else { natural };
        Pulled::Done(Outcome::ConnectFailed(errno))
    }

    fn pull_recv(
        &mut self,
        station: usize,
        id: SocketId,
        (stream, side): (u64, usize),
        loans: &mut Loans,
    ) -> Pulled {
        let (most, buffers) = {
            let config = &self.stations[station].config;
            (config.buffer_size as usize, usize::from(config.buffers))
        };
        let arm = self.stations[station].get(id).map(|socket| socket.recv);
        let Some(arm) = arm.filter(|arm| *arm != Arm::Idle) else {
            return Pulled::Nothing;
        };
        let Some(reader) = self.side(stream, side) else {
            return Pulled::Nothing;
        };
        let data = !reader.rx.is_empty();
        let broken = reader.state == State::Broken;
        let natural = data || broken || reader.eof;
        if arm == Arm::Spent || self.cancel_wins(arm, natural) {
            return self.end_recv(station, id, Outcome::RecvEnded(CANCELED));
        }
        if data && loans.used >= buffers {
            return Pulled::Starved;
        }
        if data {
            let (loan, buffer) = loans.lend();
            self.read(stream, side, most, buffer);
            if let Some(socket) = self.stations[station].get(id)
                && arm == Arm::Once
            {
                socket.recv = Arm::Spent;
            }
            return Pulled::Done(Outcome::Data(loan));
        }
        let error = self.side(stream, side).and_then(|side| side.error.take());
        match error {
            Some(errno) => self.end_recv(station, id, Outcome::RecvEnded(errno)),
            // A reset that a send was told already reads as end of stream.
            None if natural => self.end_recv(station, id, Outcome::Eof),
            None => Pulled::Nothing,
        }
    }

    pub(super) fn end_recv(&mut self, station: usize, id: SocketId, outcome: Outcome) -> Pulled {
        if let Some(socket) = self.stations[station].get(id) {
            socket.recv = Arm::Idle;
        }
        Pulled::Done(outcome)
    }

    fn pull_send(&mut self, station: usize, id: SocketId, at: (u64, usize)) -> Pulled {
        let Some(socket) = self.stations[station].get(id) else {
            return Pulled::Nothing;
        };
        let Some(send) = &socket.send else {
            return Pulled::Nothing;
        };
        let (taken, bytes) = (send.left == 0, send.total);
        let arm = if send.cancelling {
            Arm::Cancelling
        } else {
            Arm::Armed
        };
        let Some(sender) = self.side(at.0, at.1) else {
            return Pulled::Nothing;
        };
        let broken = sender.state != State::Open || sender.fin != Fin::No;
        let outcome = if self.cancel_wins(arm, taken || broken) {
            Outcome::SendFailed(CANCELED)
        } else if taken {
            Outcome::Sent { bytes }
        } else if broken {
            let error = self.side(at.0, at.1).and_then(|side| side.error.take());
            Outcome::SendFailed(error.unwrap_or(Errno(libc::EPIPE)))
        } else {
            return Pulled::Nothing;
        };
        if let Some(socket) = self.stations[station].get(id) {
            socket.send = None;
        }
        Pulled::Done(outcome)
    }

    /// The driver's process lets go of everything; returns the operations that ended with it.
    pub(super) fn shut_down(&mut self, station: usize) -> u64 {
        self.carry_out(station);
        let mut ended = 0;
        for id in self.stations[station].names() {
            let Some(socket) = self.stations[station].remove(id) else {
                continue;
            };
            ended += socket.outstanding();
            match socket.kind {
                Kind::Listener(listener) => self.stop_listening(listener),
                Kind::Datagrams(name) => self.close_datagrams(name),
                Kind::Stream(stream, side) if socket.closed_at.is_none() => {
                    self.close_side(stream, side, CloseHow::Fin);
                }
                _ => {}
            }
        }
        self.stations[station].kill();
        ended
    }

    /// The next moment a waiting driver has a reason to look again.
    pub(super) fn jump(&mut self, deadline: Option<Instant>) {
        let next = self.next_event().into_iter().chain(deadline).min();
        let next = next.expect("a driver waits for ever: no deadline, and nothing can happen");
        self.now = self.now.max(next);
    }
}
