//! The receiving half of a connection: what arrives in order is passed on at once, what arrives
//! ahead of a gap or for a paused application is kept, within a window.

use crate::wire::{SACK_MAX, Seq};
use bytes::Bytes;
use std::collections::VecDeque;

#[cfg(test)]
mod tests;

/// Farther ahead of the last packet in order than this, nothing is kept.
pub(crate) const SPAN_MAX: u16 = 16_384;

/// What a kept packet costs at the least, so that small packets cannot take more memory than the
/// window says.
const COST_MIN: u32 = 256;

/// What a peer may send beyond the window: it cannot know of a window that shrinks while a packet
/// is on its way.
const TOLERANCE: u32 = 2048;

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Next in order: its payload goes to the application now, then what
    /// [`next_ready`](Receiver::next_ready) gives.
    Deliver,
    /// In order or ahead, and kept; the gap before it, if there was one, has not grown.
    Kept,
    /// Ahead of a gap, and kept.
    Ahead,
    /// It was here before.
    Repeated,
    /// Outside what a peer may send now: not kept.
    Beyond,
}

/// What goes to the application.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    /// Bytes that had been kept.
    Data(Bytes),
    /// The peer's stream ends here.
    End,
}

/// The receiving half. What it keeps is allocated only while there is something.
#[derive(Debug)]
pub(crate) struct Receiver {
    kept: Option<Box<Kept>>,
    /// Cost of what is kept.
    held: u32,
    window: u32,
    /// The last packet in order.
    ack: Seq,
    /// The number of the peer's FIN, once seen.
    end: Option<Seq>,
    paused: bool,
    /// The end was passed on.
    ended: bool,
}

#[derive(Debug, Default)]
struct Kept {
    /// Behind a gap, in order of their numbers.
    ahead: VecDeque<(Seq, Bytes)>,
    /// In order, for a paused application.
    waiting: VecDeque<Bytes>,
}

fn cost(payload: &[u8]) -> u32 {
    u32::try_from(payload.len())
        .unwrap_or(u32::MAX)
        .max(COST_MIN)
}

impl Receiver {
    /// After `ack`, the number of the last packet before the stream.
    pub(crate) fn new(ack: Seq, window: u32) -> Self {
        Self {
            kept: None,
            held: 0,
            window,
            ack,
            end: None,
            paused: false,
            ended: false,
        }
    }

    /// The last packet in order.
    pub(crate) fn ack(&self) -> Seq {
        self.ack
    }

    /// Cost, in bytes, of what is kept.
    pub(crate) fn held(&self) -> u32 {
        self.held
    }

    /// Bytes that may be sent to us now.
    pub(crate) fn window(&self) -> u32 {
        self.window.saturating_sub(self.held)
    }

    /// Whether something is kept ahead of a gap.
    pub(crate) fn has_gap(&self) -> bool {
        self.end.is_some_and(|end| self.ack.distance_to(end) > 0)
            || self.kept.as_ref().is_some_and(|k| !k.ahead.is_empty())
    }

    /// Whether everything up to the peer's FIN was received.
    pub(crate) fn complete(&self) -> bool {
        self.end == Some(self.ack)
    }

    /// Whether the end was passed on.
    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    /// Takes a DATA packet. `room` is what all connections together may still keep.
    pub(crate) fn on_data(&mut self, seq: Seq, payload: &[u8], room: u64) -> Arrival {
        let ahead = self.ack.distance_to(seq);
        if ahead <= 0 {
            return Arrival::Repeated;
        }
        let past_end = self.end.is_some_and(|end| end.distance_to(seq) >= 0);
        if ahead > i32::from(SPAN_MAX) || past_end {
            return Arrival::Beyond;
        }
        if ahead == 1 && !self.paused && !self.is_waiting() {
            self.advance();
            return Arrival::Deliver;
        }
        let cost = cost(payload);
        if self.held + cost > self.window + TOLERANCE || u64::from(cost) > room {
            return Arrival::Beyond;
        }
        let kept = self.kept.get_or_insert_default();
        if ahead == 1 {
            kept.waiting.push_back(Bytes::copy_from_slice(payload));
            self.held += cost;
            self.advance();
            return Arrival::Kept;
        }
        let place = kept
            .ahead
            .partition_point(|&(other, _)| other.distance_to(seq) > 0);
        if kept
            .ahead
            .get(place)
            .is_some_and(|&(other, _)| other == seq)
        {
            return Arrival::Repeated;
        }
        let payload = Bytes::copy_from_slice(payload);
        kept.ahead.insert(place, (seq, payload));
        self.held += cost;
        Arrival::Ahead
    }

    /// Takes a FIN, whose payload, if it has one, is no part of the stream.
    pub(crate) fn on_fin(&mut self, seq: Seq) -> Arrival {
        let ahead = self.ack.distance_to(seq);
        if ahead <= 0 || self.end == Some(seq) {
            return Arrival::Repeated;
        }
        let data_follows = self.kept.as_ref().is_some_and(|kept| {
            let last = kept.ahead.back();
            last.is_some_and(|&(last, _)| seq.distance_to(last) >= 0)
        });
        if ahead > i32::from(SPAN_MAX) || self.end.is_some() || data_follows {
            return Arrival::Beyond;
        }
        self.end = Some(seq);
        if ahead > 1 {
            return Arrival::Ahead;
        }
        self.ack = seq;
        Arrival::Kept
    }

    /// What goes to the application next.
    pub(crate) fn next_ready(&mut self) -> Option<Ready> {
        if self.paused {
            return None;
        }
        if let Some(kept) = &mut self.kept {
            if let Some(data) = kept.waiting.pop_front() {
                self.held -= cost(&data);
                return Some(Ready::Data(data));
            }
            let next = self.ack.next();
            if kept.ahead.front().is_some_and(|&(seq, _)| seq == next) {
                let (_, data) = kept.ahead.pop_front()?;
                self.held -= cost(&data);
                self.advance_past_kept();
                return Some(Ready::Data(data));
            }
            if kept.ahead.is_empty() {
                self.kept = None;
            }
        }
        if self.complete() && !self.ended {
            self.ended = true;
            return Some(Ready::End);
        }
        None
    }

    /// Keeps everything from now on.
    pub(crate) fn pause(&mut self) {
        self.paused = true;
    }

    /// Passes on again: see [`next_ready`](Self::next_ready).
    pub(crate) fn resume(&mut self) {
        self.paused = false;
    }

    /// The bits of a selective acknowledgement and how many bytes of them, a multiple of four:
    /// bit `i` is packet `ack + 2 + i`. Zero bytes without a gap.
    pub(crate) fn selective(&self) -> ([u8; SACK_MAX], usize) {
        let mut bits = [0; SACK_MAX];
        let mut len = 0;
        let bit = |seq| usize::try_from(self.ack.distance_to(seq) - 2).ok();
        // In order, so that what is too far ahead is not looked at.
        let ahead = self.kept.iter().flat_map(|kept| &kept.ahead);
        let near = ahead.map_while(|&(seq, _)| bit(seq).filter(|bit| bit / 8 < SACK_MAX));
        let end = self.end.and_then(bit).filter(|bit| bit / 8 < SACK_MAX);
        for bit in near.chain(end) {
            bits[bit / 8] |= 1 << (bit % 8);
            len = len.max((bit / 32 + 1) * 4);
        }
        (bits, len)
    }

    /// Whether something in order is kept.
    pub(crate) fn is_waiting(&self) -> bool {
        self.kept.as_ref().is_some_and(|k| !k.waiting.is_empty())
    }

    /// A packet in order came in from outside: what follows it and is here already is in order
    /// too.
    fn advance(&mut self) {
        self.advance_past_kept();
        if !self.paused {
            return;
        }
        while let Some(kept) = &mut self.kept {
            let next = self.ack.next();
            if kept.ahead.front().is_none_or(|&(seq, _)| seq != next) {
                break;
            }
            let Some((_, data)) = kept.ahead.pop_front() else {
                break;
            };
            kept.waiting.push_back(data);
            self.advance_past_kept();
        }
    }

    fn advance_past_kept(&mut self) {
        self.ack = self.ack.next();
        if self.end == Some(self.ack.next()) {
            self.ack = self.ack.next();
        }
    }
}
