//! The sending half of a connection: what is queued, what is numbered, what is lost.
//!
//! A segment once numbered keeps its size, since uTP cannot put its bytes into other packets. Loss
//! is found by time (RACK, RFC 8985), by a tail loss probe, and last by the retransmission timeout
//! (RFC 6298); during recovery proportional rate reduction (RFC 6937) says how much goes out; what
//! was taken for lost and was not is found out and undone, in the manner of F-RTO (RFC 5682).

mod acks;
mod buffer;
mod episode;
mod losses;
mod records;
#[cfg(test)]
mod tests;
mod timers;

use crate::wire::Seq;
use buffer::Buffer;
use bytes::Bytes;
use episode::Episode;
use flock_transport::{Instant, Queued, SendLimits, SendRefused, Train};
use losses::Rack;
use records::{Fate, Micros, Record, Records};
use std::time::Duration;
use timers::Timers;

pub(crate) use acks::Acked;
pub(crate) use timers::Fired;

/// Pieces of memory one segment is gathered from at the most, so that it always fits a train.
const PIECES_MAX: usize = 64;

/// What is known about the path's times.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    /// Smoothed round trip; `None` before the first sample.
    pub(crate) srtt: Option<Duration>,
    /// The shortest round trip seen lately.
    pub(crate) min_rtt: Duration,
    /// Retransmission timeout, without back-off.
    pub(crate) rto: Duration,
}

/// What limits the next packet, in bytes of payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    /// The congestion window.
    pub(crate) window: u64,
    /// What the peer has room for, from the oldest unacknowledged byte on.
    pub(crate) peer_window: u64,
    /// Packets that may be unacknowledged: what the peer's reorder buffer holds.
    pub(crate) packets: u16,
    /// The largest segment.
    pub(crate) mss: u16,
    /// A larger one, to try the path.
    pub(crate) probe: Option<u16>,
    /// Whether a short segment waits while others are in flight (RFC 896).
    pub(crate) hold_short: bool,
}

/// The next packet to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) seq: Seq,
    /// Payload bytes; 0 for the FIN.
    pub(crate) size: u16,
    pub(crate) fin: bool,
    /// To be sent with DF.
    pub(crate) probe: bool,
    place: u64,
    /// The index of its record; `None`: it has no number yet.
    index: Option<usize>,
}

/// The sending half. Idle, it holds no memory but itself after [`rest`](Self::rest).
#[derive(Debug)]
pub(crate) struct Sending {
    limits: SendLimits,
    /// The next number to give, while idle.
    next: Seq,
    /// Payload bytes acknowledged.
    acked: u64,
    /// As many bytes without a number as to make the sender wait.
    above_high: bool,
    /// They have become fewer, which has not been told yet.
    writable: bool,
    end: End,
    active: Option<Box<Active>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open,
    /// FIN after what is queued.
    Wanted,
    Numbered,
    Acked,
}

/// What there is while something is queued or in flight.
#[derive(Debug)]
struct Active {
    buffer: Buffer,
    records: Records,
    /// Place in the stream of the first byte without a number.
    unnumbered: u64,
    rack: Rack,
    episode: Option<Episode>,
    timers: Timers,
    /// Acknowledgements in a row that said nothing new.
    duplicates: u8,
}

impl Sending {
    /// Nothing queued; `first` is the number of the first segment.
    pub(crate) fn new(first: Seq, limits: SendLimits) -> Self {
        Self {
            limits,
            next: first,
            acked: 0,
            above_high: false,
            writable: false,
            end: End::Open,
            active: None,
        }
    }

    fn active(&mut self) -> &mut Active {
        let (next, acked) = (self.next, self.acked);
        self.active.get_or_insert_with(|| {
            let mut buffer = Buffer::default();
            buffer.begin_at(acked);
            Box::new(Active {
                buffer,
                records: Records::new(next),
                unnumbered: acked,
                rack: Rack::new(next),
                episode: None,
                timers: Timers::default(),
                duplicates: 0,
            })
        })
    }

    /// Queues `data` by reference. Empty data does nothing.
    ///
    /// # Errors
    /// The queue would exceed its hard limit, or the direction was ended.
    pub(crate) fn send(&mut self, data: Bytes) -> Result<Queued, SendRefused> {
        if self.end != End::Open {
            return Err(SendRefused::Closed(data));
        }
        let queued = self.queued();
        if queued > 0 && queued + data.len() as u64 > u64::from(self.limits.max) {
            return Err(SendRefused::Full(data));
        }
        if !data.is_empty() {
            self.active().buffer.push(data);
        }
        // Bytes in flight do not count: the marks must not be a window.
        self.above_high |= self.unnumbered() >= u64::from(self.limits.high).max(1);
        Ok(if self.above_high {
            Queued::AboveHigh
        } else {
            Queued::Ok
        })
    }

    /// Ends the direction after what is queued.
    pub(crate) fn end(&mut self) {
        if self.end == End::Open {
            self.end = End::Wanted;
            self.active();
        }
    }

    /// Bytes queued or sent, and not acknowledged.
    pub(crate) fn queued(&self) -> u64 {
        self.active.as_ref().map_or(0, |active| active.buffer.len())
    }

    /// Bytes queued that have never been sent.
    fn unnumbered(&self) -> u64 {
        let left = |active: &Active| active.buffer.end() - active.unnumbered;
        self.active.as_deref().map_or(0, left)
    }

    /// Whether the bytes never sent fell below the low-water mark after having been above the high
    /// one; said once.
    pub(crate) fn take_writable(&mut self) -> bool {
        std::mem::take(&mut self.writable) && self.end == End::Open
    }

    /// Payload bytes acknowledged.
    pub(crate) fn acked(&self) -> u64 {
        self.acked
    }

    /// Whether the peer has everything, the FIN included.
    pub(crate) fn is_over(&self) -> bool {
        self.end == End::Acked
    }

    /// The number the next new packet gets, which is what STATE packets carry.
    pub(crate) fn next_seq(&self) -> Seq {
        match &self.active {
            Some(active) => active.next_seq(),
            None => self.next,
        }
    }

    /// The oldest number that is not acknowledged.
    pub(crate) fn oldest(&self) -> Seq {
        self.active
            .as_ref()
            .map_or(self.next, |a| a.records.first())
    }

    /// Payload bytes in flight.
    pub(crate) fn in_flight(&self) -> u64 {
        self.active.as_ref().map_or(0, |a| a.records.in_flight)
    }

    /// Whether any packet is unacknowledged.
    pub(crate) fn is_flying(&self) -> bool {
        self.active.as_ref().is_some_and(|a| !a.records.is_empty())
    }

    /// Whether there is something without a number, so that only the limits hold it back.
    pub(crate) fn has_more(&self) -> bool {
        self.end == End::Wanted
            || self
                .active
                .as_ref()
                .is_some_and(|a| a.unnumbered < a.buffer.end())
    }

    /// Whether packets wait to be sent again.
    pub(crate) fn has_waiting(&self) -> bool {
        self.active.as_ref().is_some_and(|a| a.records.waiting > 0)
    }

    /// Whether lost packets are being replaced within a window that was cut for it. After a timeout
    /// the window begins anew, and grows with what is replaced.
    pub(crate) fn in_recovery(&self) -> bool {
        let episode = self.active.as_ref().and_then(|a| a.episode.as_ref());
        episode.is_some_and(|episode| !episode.timeout)
    }

    /// Whether there is something to send that only the peer's window holds back.
    pub(crate) fn is_shut_out(&self) -> bool {
        !self.is_flying() && !self.has_waiting() && self.unnumbered() > 0
    }

    /// Gives memory back while there is nothing to send or to be acknowledged.
    pub(crate) fn rest(&mut self) {
        let idle = |a: &Active| a.records.is_empty() && a.buffer.len() == 0;
        let over = self.end != End::Wanted;
        if over && self.active.as_deref().is_some_and(idle) {
            self.next = self.next_seq();
            self.active = None;
        }
    }

    /// The next packet that `allowance` lets go, if any: what was lost before what is new. It
    /// counts as sent with [`commit`](Self::commit).
    pub(crate) fn next_segment(&self, allowance: &Allowance) -> Option<Segment> {
        let ended = self.end == End::Wanted;
        let active = self.active.as_deref()?;
        let probing = active.timers.probe_wanted;
        if probing && let Some(segment) = active.probe(allowance, ended) {
            return Some(segment);
        }
        let budget = active.budget(allowance);
        if let Some(index) = active.records.first_waiting() {
            let record = active.records.get(index);
            // One packet always may go when nothing is in flight, whatever the window.
            let fits = u64::from(record.size) <= budget || active.records.flying == 0;
            return fits.then(|| active.segment(index));
        }
        active.new_segment(allowance, ended, budget)
    }

    /// The packet was put on its way.
    pub(crate) fn commit(&mut self, now: Instant, segment: &Segment, timing: &Timing) {
        let Some(active) = self.active.as_deref_mut() else {
            return;
        };
        active.commit(now, segment, timing);
        if segment.fin && self.end == End::Wanted {
            self.end = End::Numbered;
        }
        if self.above_high && self.unnumbered() <= u64::from(self.limits.low) {
            self.above_high = false;
            self.writable = true;
        }
    }

    /// The system refused the packet: it counts as never sent, and keeps its number.
    pub(crate) fn refused(&mut self, seq: Seq) {
        let Some(active) = self.active.as_deref_mut() else {
            return;
        };
        let Some(index) = active.records.index(seq) else {
            return;
        };
        if active.records.get(index).fate == Fate::InFlight {
            active.records.change(index, |record| {
                record.fate = if record.repeated {
                    Fate::Lost
                } else {
                    Fate::Unsent
                };
            });
            if let Some(episode) = &mut active.episode {
                episode.unsent(active.records.get(index).size.into());
            }
        }
        active.timers.refused(active.records.flying);
    }

    /// How many pieces of memory the segment's payload lies in.
    pub(crate) fn pieces(&self, segment: &Segment) -> usize {
        let active = self.active.as_ref();
        active.map_or(0, |a| a.buffer.pieces(segment.place, segment.size.into()))
    }

    /// Adds the segment's payload to the datagram that was begun in `train`, by reference.
    pub(crate) fn fill(&self, train: &mut Train, segment: &Segment) {
        if let Some(active) = &self.active
            && segment.size > 0
        {
            active
                .buffer
                .fill(train, segment.place, segment.size.into());
        }
    }
}

impl Active {
    fn next_seq(&self) -> Seq {
        self.records.seq(self.records.len())
    }

    /// What the congestion window leaves, or recovery allows.
    fn budget(&self, allowance: &Allowance) -> u64 {
        let in_flight = self.records.in_flight;
        match &self.episode {
            Some(episode) if !episode.timeout => {
                episode.allowance(in_flight, allowance.window, allowance.mss)
            }
            _ => allowance.window.saturating_sub(in_flight),
        }
    }

    fn segment(&self, index: usize) -> Segment {
        let record = self.records.get(index);
        let start = self.buffer.start();
        #[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
        let ahead = record.place.wrapping_sub(start as u32);
        Segment {
            seq: self.records.seq(index),
            size: record.size,
            fin: record.fin,
            probe: record.probe && record.fate == Fate::Unsent,
            place: start + u64::from(ahead),
            index: Some(index),
        }
    }

    fn new_segment(&self, allowance: &Allowance, ended: bool, budget: u64) -> Option<Segment> {
        let left = self.buffer.end() - self.unnumbered;
        let flying = self.records.flying;
        if self.records.len() >= usize::from(allowance.packets) || (left == 0 && !ended) {
            return None;
        }
        let mut size = left.min(allowance.mss.into());
        let mut probe = false;
        if let Some(larger) = allowance.probe
            && left >= larger.into()
            && flying >= 3
        {
            (size, probe) = (larger.into(), true);
        }
        let limit = self.buffer.limit(self.unnumbered, size, PIECES_MAX);
        probe &= limit == size;
        size = limit;
        let held = allowance.hold_short && !ended && flying > 0;
        let unacked = self.unnumbered - self.buffer.start();
        // A FIN is not counted against windows, and one packet may always be on its way.
        let room = unacked + size <= allowance.peer_window;
        if size > 0 && (!room || (size > budget && flying > 0)) {
            return None;
        }
        if size > 0 && size < allowance.mss.into() && held {
            return None;
        }
        Some(Segment {
            seq: self.next_seq(),
            size: u16::try_from(size).unwrap_or(allowance.mss),
            fin: size == 0,
            probe,
            place: self.unnumbered,
            index: None,
        })
    }

    /// What a tail loss probe sends: new data if there is any, else the last packet again.
    fn probe(&self, allowance: &Allowance, ended: bool) -> Option<Segment> {
        if let Some(new) = self.new_segment(allowance, ended, u64::MAX) {
            return Some(new);
        }
        let flying = |(_, record): &(usize, &Record)| record.fate == Fate::InFlight;
        let (index, _) = self.records.iter().rev().find(flying)?;
        Some(self.segment(index))
    }

    fn commit(&mut self, now: Instant, segment: &Segment, timing: &Timing) {
        let sent = Micros::of(now);
        match segment.index {
            Some(index) => {
                if self.records.first_waiting() == Some(index) {
                    self.records.first_was_sent(index);
                }
                self.records.change(index, |record| {
                    record.repeated |= record.fate != Fate::Unsent;
                    record.fate = Fate::InFlight;
                    record.sent = sent;
                    record.probe &= !record.repeated;
                });
            }
            None => {
                #[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
                let place = segment.place as u32;
                self.records.push(Record {
                    sent,
                    place,
                    size: segment.size,
                    fate: Fate::InFlight,
                    repeated: false,
                    probe: segment.probe,
                    fin: segment.fin,
                });
                self.unnumbered += u64::from(segment.size);
                self.buffer.move_to(self.unnumbered);
            }
        }
        if let Some(episode) = &mut self.episode {
            episode.sent(segment.size.into());
        }
        let next = self.next_seq();
        let repeated = segment.index.is_some();
        let calm = self.episode.is_none() && self.records.sacked == 0;
        self.timers
            .sent(now, timing, self.records.flying, calm, next, repeated);
    }
}
