use super::{Connection, GAP_ACKS, micros};
use crate::config::Config;
use crate::receiving::{Arrival, Receiver};
use crate::wire::{Kind, Packet, Seq};
use crate::{Event, Key};
use flock_transport::Instant;
use std::collections::VecDeque;
use std::ops::Range;

/// Acknowledgements may be so far behind the last one: packets overtake each other, and one
/// acknowledgement covers what a whole batch brought.
const ACK_BEHIND: i32 = 256;

/// That of a RESET, which does more harm.
const RESET_BEHIND: i32 = 3;

/// A packet that came for a connection, and what surrounds it.
pub(crate) struct Incoming<'a> {
    pub(crate) now: Instant,
    pub(crate) received_at: Instant,
    pub(crate) packet: &'a Packet<'a>,
    pub(crate) payload: &'a [u8],
    /// Where the payload lies in what was handed in.
    pub(crate) range: Range<usize>,
    /// What all connections together may still keep.
    pub(crate) room: u64,
    pub(crate) config: &'a Config,
}

/// What a packet did to its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It was of this connection.
    Taken,
    /// The same, but its selective acknowledgement names what was never sent, and was not taken.
    Doubtful,
    /// The dial was answered. The id of the attempt that was not is free.
    Connected {
        /// The id that is not used any more.
        unused: Option<u16>,
    },
    /// It acknowledges what was never sent, or has an impossible number: dropped.
    Invalid,
    /// Its payload was not kept: outside the window.
    Dropped,
    /// The peer resets the connection.
    Reset,
}

impl Connection {
    /// Takes a packet other than a RESET.
    pub(crate) fn on_packet(
        &mut self,
        incoming: &Incoming<'_>,
        key: Key,
        events: &mut VecDeque<Event>,
    ) -> Verdict {
        let header = &incoming.packet.header;
        if self.dial.is_some() {
            return self.on_answer(incoming, key, events);
        }
        if header.kind == Kind::Syn || !self.may_acknowledge(header.ack, ACK_BEHIND) {
            return Verdict::Invalid;
        }
        self.note_time(incoming);
        let honest = Packet {
            sack: incoming
                .packet
                .sack
                .filter(|sack| self.may_select(header.ack, sack)),
            ..*incoming.packet
        };
        let doubtful = honest.sack != incoming.packet.sack;
        let before = self.delivered();
        self.sender
            .on_ack(incoming.now, incoming.config, &honest, self.took);
        if self.closing && !before && self.delivered() && !self.receiver.ended() {
            events.push_back(Event::Delivered { key });
        }
        let arrival = match header.kind {
            Kind::Data => self
                .receiver
                .on_data(header.seq, incoming.payload, incoming.room),
            Kind::Fin => self.receiver.on_fin(header.seq),
            Kind::State | Kind::Syn | Kind::Reset if doubtful => return Verdict::Doubtful,
            Kind::State | Kind::Syn | Kind::Reset => return Verdict::Taken,
        };
        if arrival == Arrival::Deliver && !self.closing && !incoming.range.is_empty() {
            let range = incoming.range.clone();
            events.push_back(Event::Data { key, range });
        }
        self.deliver_ready(u64::MAX, key, events);
        self.owe_ack(arrival);
        match arrival {
            Arrival::Beyond => Verdict::Dropped,
            _ if doubtful => Verdict::Doubtful,
            _ => Verdict::Taken,
        }
    }

    /// The answer to our SYN: a STATE that acknowledges it, and nothing else.
    fn on_answer(
        &mut self,
        incoming: &Incoming<'_>,
        key: Key,
        events: &mut VecDeque<Event>,
    ) -> Verdict {
        let header = &incoming.packet.header;
        let Some(dial) = &self.dial else {
            return Verdict::Invalid;
        };
        if header.kind != Kind::State || header.ack != dial.syn() {
            return Verdict::Invalid;
        }
        let (first, used) = (dial.first_id(), header.id);
        let unused = first.map(|first| if used == first { self.recv_id } else { first });
        let round_trip = dial.round_trip(incoming.now);
        self.recv_id = used;
        self.send_id = used.wrapping_add(1);
        self.dial = None;
        // The answer does not use up its number: the first packet of the stream has it too.
        let window = self.receiver.window();
        self.receiver = Receiver::new(header.seq.previous(), window);
        self.sender
            .on_connected(incoming.now, header.window, round_trip);
        self.note_time(incoming);
        // Whether or not there is data: an acceptor forgets what is not confirmed.
        self.acks = 1;
        events.push_back(Event::Connected { key });
        Verdict::Connected { unused }
    }

    /// Takes a RESET whose id is one of ours.
    pub(crate) fn on_reset(&self, ack: Seq) -> Verdict {
        let valid = match &self.dial {
            Some(dial) => ack == dial.syn(),
            // Some stacks echo the number of a STATE, which is that of our next packet.
            None => self.may_acknowledge(ack, RESET_BEHIND) || ack == self.sender.next_seq(),
        };
        if valid {
            Verdict::Reset
        } else {
            Verdict::Invalid
        }
    }

    fn may_acknowledge(&self, ack: Seq, far: i32) -> bool {
        let last = self.sender.oldest().previous();
        let behind = last.distance_to(ack);
        behind >= -far && ack.distance_to(self.sender.next_seq()) > 0
    }

    /// Whether all that a selective acknowledgement names was sent: bit `i` is packet `ack + 2 + i`.
    fn may_select(&self, ack: Seq, sack: &[u8]) -> bool {
        let used = sack.iter().rposition(|&byte| byte != 0);
        let highest = used.map_or(0, |at| at * 8 + 7 - sack[at].leading_zeros() as usize);
        let unsent = usize::try_from(ack.distance_to(self.sender.next_seq())).unwrap_or(0);
        used.is_none() || highest + 2 < unsent
    }

    fn note_time(&mut self, incoming: &Incoming<'_>) {
        let stamp = incoming.packet.header.timestamp;
        if stamp != 0 {
            self.took = micros(incoming.received_at).wrapping_sub(stamp);
        }
    }

    fn owe_ack(&mut self, arrival: Arrival) {
        let gap = self.receiver.has_gap();
        if arrival == Arrival::Ahead && self.gap_acks < GAP_ACKS {
            self.gap_acks += 1;
            self.acks += 1;
        } else {
            self.acks = self.acks.max(1);
        }
        if !gap {
            self.gap_acks = 0;
            self.acks = 1;
        }
    }
}
