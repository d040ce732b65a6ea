//! What carries connections, and what is different about uTP.

use super::Generator;
use super::life::Phase;
use super::utp::{Flow, Happened};
use crate::stats::{Failure, Stage};
use flock_engine::io::{CloseHow, Completion, Driver, Instant, LoanId, Op, Outcome, SocketId};

/// What carries the connections of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Utp,
    /// Every other peer's is uTP.
    Both,
}

impl Transport {
    /// As it is called in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Utp => "utp",
            Self::Both => "both",
        }
    }

    pub(super) fn is_utp(self, peer: u32) -> bool {
        match self {
            Self::Tcp => false,
            Self::Utp => true,
            Self::Both => peer % 2 == 1,
        }
    }
}

/// What carries a peer's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    Tcp(SocketId),
    Utp(Flow),
}

impl<D: Driver> Generator<'_, D> {
    pub(super) fn complete_datagrams(&mut self, completion: Completion, now: Instant) {
        let Some(side) = self.flows.of_socket(completion.socket) else {
            return;
        };
        let loan = match completion.outcome {
            Outcome::Datagrams { loan, .. } => Some(loan),
            _ => None,
        };
        let bytes = loan.map_or(&[][..], |loan| self.driver.bytes(loan));
        self.flows.complete(now, side, completion.outcome, bytes);
        self.follow_flows(loan, now);
    }

    /// Tells lives what happened to their uTP connections; `loan` is what data events refer to.
    pub(super) fn follow_flows(&mut self, loan: Option<LoanId>, now: Instant) {
        while let Some((key, flow, happened)) = self.flows.poll() {
            let live = self.lives.get(key);
            if live.is_none_or(|life| life.carrier != Carrier::Utp(flow)) {
                continue;
            }
            match happened {
                Happened::Connected => self.connected(key, now),
                Happened::Data(range) => {
                    let bytes = loan.map_or(&[][..], |loan| self.driver.bytes(loan));
                    self.stats.bytes_in += range.len() as u64;
                    let read = self.lives[key].reader.feed(&bytes[range]);
                    self.read(key, read, now);
                }
                Happened::Held(bytes) => {
                    self.stats.bytes_in += bytes.len() as u64;
                    let read = self.lives[key].reader.feed(&bytes);
                    self.read(key, read, now);
                }
                Happened::PeerEnded => self.give_up(key, Failure::Closed, now),
                Happened::Closed => self.flow_closed(key, now),
            }
        }
    }

    /// A uTP connection is gone, as was wanted or not.
    pub(super) fn flow_closed(&mut self, key: usize, now: Instant) {
        let life = &self.lives[key];
        let stage = match life.phase {
            Phase::Closing { .. } => return self.closed(key, now),
            Phase::Connecting => Stage::Connect,
            Phase::Handshaking => Stage::Handshake,
            Phase::Held => Stage::Hold,
        };
        self.unsettled -= usize::from(life.is_unsettled());
        self.stats.fail(stage, Failure::Closed);
        self.release(key);
    }

    pub(super) fn end_carrier(&mut self, carrier: Carrier, how: CloseHow, now: Instant) {
        match (carrier, how) {
            (Carrier::Tcp(socket), how) => self.submit(Op::Close { socket, how }),
            (Carrier::Utp(flow), CloseHow::Fin) => self.flows.close(now, flow),
            (Carrier::Utp(flow), CloseHow::Rst) => self.flows.abort(now, flow),
        }
    }
}
