use super::sender::Flight;
use super::{Connection, micros};
use crate::config::Config;
use crate::wire::{Header, Kind, Seq, State};
use flock_transport::{Instant, Train};

/// What went into a train, to be told when the train was not taken.
#[derive(Debug)]
pub(crate) enum Filled {
    /// There was nothing to send.
    Nothing,
    /// A SYN.
    Syn,
    /// Acknowledgements only.
    State,
    /// Packets of the stream.
    Stream(Flight),
}

impl Connection {
    /// Fills the train, which is empty and addressed to the peer.
    pub(crate) fn fill(
        &mut self,
        now: Instant,
        config: &Config,
        room: u64,
        train: &mut Train,
    ) -> Filled {
        if self.dial.is_some() {
            return self.fill_syn(now, train);
        }
        if self.quiet {
            return Filled::Nothing;
        }
        let header = self.header(now, room);
        // Packets of the stream carry no extension, so that all are of one size: what was
        // received beyond a gap is said apart.
        let gap = self.acks > 0 && self.receiver.has_gap();
        if !gap && let Some(flight) = self.sender.fill(now, config, &header, train) {
            self.note_sent(now, &header);
            return Filled::Stream(flight);
        }
        if self.acks > 0 || self.keepalive_due {
            self.fill_state(now, header, train);
            return Filled::State;
        }
        Filled::Nothing
    }

    /// Whether the application is to be told that it may send again.
    pub(crate) fn take_writable(&mut self) -> bool {
        self.sender.take_writable() && !self.closing
    }

    /// Whether there may be something to send.
    pub(crate) fn wants_to_send(&self, now: Instant) -> bool {
        match &self.dial {
            Some(dial) => dial.is_due(now),
            None => {
                let owes = self.acks > 0 || self.keepalive_due;
                !self.quiet && (owes || self.sender.wants_to_send(now))
            }
        }
    }

    /// Whether its SYN is to go out with a new id now.
    pub(crate) fn wants_new_id(&self, now: Instant) -> bool {
        self.dial.as_ref().is_some_and(|d| d.wants_new_id(now))
    }

    /// Begins the second attempt beside the first.
    pub(crate) fn use_new_id(&mut self, id: u16) {
        if let Some(dial) = &mut self.dial {
            dial.use_new_id(self.recv_id);
            self.recv_id = id;
            self.send_id = id.wrapping_add(1);
        }
    }

    /// The train with these contents was not taken: as if it had never been filled.
    pub(crate) fn refused(&mut self, now: Instant, filled: Filled) {
        match filled {
            Filled::Nothing => {}
            Filled::Syn => {
                if let Some(dial) = &mut self.dial {
                    dial.refused();
                }
            }
            Filled::State => self.acks = self.acks.max(1),
            Filled::Stream(flight) => {
                self.sender.refused(now, &flight);
                // It may have carried an acknowledgement.
                self.acks = self.acks.max(1);
            }
        }
    }

    /// Whether something of the peer's is not acknowledged.
    pub(crate) fn owes(&self) -> bool {
        self.acks > 0
    }

    /// A RESET, as the last word.
    pub(crate) fn reset_header(&self, now: Instant) -> Header {
        Header {
            kind: Kind::Reset,
            ..self.header(now, 0)
        }
    }

    /// A STATE, as the last word: it acknowledges the peer's FIN.
    pub(crate) fn last_header(&self, now: Instant) -> Header {
        self.header(now, u64::MAX)
    }

    fn fill_syn(&mut self, now: Instant, train: &mut Train) -> Filled {
        let Some(dial) = self.dial.as_mut().filter(|dial| dial.is_due(now)) else {
            return Filled::Nothing;
        };
        dial.sent();
        let header = Header {
            kind: Kind::Syn,
            id: self.recv_id,
            timestamp: micros(now),
            timestamp_diff: 0,
            window: self.receiver.window(),
            seq: dial.syn(),
            ack: Seq::new(0),
        };
        let bytes = header.encode(0);
        train.push_datagram(bytes.len(), &bytes);
        self.last_sent = now;
        Filled::Syn
    }

    fn header(&self, now: Instant, room: u64) -> Header {
        let window = self.receiver.window();
        Header {
            kind: Kind::State,
            id: self.send_id,
            timestamp: micros(now),
            timestamp_diff: self.took,
            window: window.min(u32::try_from(room).unwrap_or(u32::MAX)),
            seq: self.sender.next_seq(),
            ack: self.receiver.ack(),
        }
    }

    fn fill_state(&mut self, now: Instant, mut header: Header, train: &mut Train) {
        if self.acks == 0 {
            // It is no acknowledgement: peers neither answer nor count it.
            header.ack = header.ack.previous();
        }
        let (bits, len) = self.receiver.selective();
        let state = State::encode(&header, if self.acks > 0 { &bits[..len] } else { &[] });
        let bytes = state.as_bytes();
        for _ in 0..self.acks.max(1) {
            if train.fits(bytes.len(), 1) {
                train.push_datagram(bytes.len(), bytes);
            }
        }
        self.note_sent(now, &header);
    }

    fn note_sent(&mut self, now: Instant, header: &Header) {
        self.acks = 0;
        self.keepalive_due = false;
        self.last_sent = now;
        self.advertised = header.window;
    }
}
