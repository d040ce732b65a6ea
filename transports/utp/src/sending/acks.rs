use super::episode::Episode;
use super::losses::Found;
use super::records::{Fate, Micros, Record};
use super::{Active, End, Sending, Timing};
use crate::wire::Seq;
use flock_transport::Instant;
use std::time::Duration;

/// What an acknowledgement brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Acked {
    /// Payload bytes the peer newly has.
    pub(crate) bytes: u64,
    /// Packets the peer newly has.
    pub(crate) packets: u32,
    /// Round trip of the latest-sent of them that was sent once. None of what an acknowledgement
    /// covers gives one if any of it was sent again: the rest may have waited for that, or for an
    /// acknowledgement that was lost (Karn's rule, as Linux reads it).
    pub(crate) rtt: Option<Duration>,
    /// Bytes newly taken for lost.
    pub(crate) lost: u64,
    /// Losses were found, the first of their round trip: slow down.
    pub(crate) congestion: bool,
    /// An earlier congestion event was none: take the slowing down back.
    pub(crate) spurious: bool,
    /// An MTU probe of this many payload bytes arrived.
    pub(crate) probe_acked: Option<u16>,
    /// One did not; its bytes go again without DF.
    pub(crate) probe_lost: Option<u16>,
    /// The peer has the FIN, and everything before it.
    pub(crate) fin: bool,
}

/// The acknowledgement is for a packet that was never sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadAck;

/// Acknowledgements in a row that say nothing new and make a loss, where the peer sends no SACK.
const DUPLICATES: u8 = 3;

impl Sending {
    /// Everything up to `ack` has arrived, and of what follows it what `sack` says: bit i, counted
    /// from the least significant of the first byte, is packet `ack + 2 + i`. `state`: it came
    /// alone, in a STATE packet, so that saying nothing new means something.
    pub(crate) fn on_ack(
        &mut self,
        now: Instant,
        ack: Seq,
        sack: Option<&[u8]>,
        state: bool,
        timing: &Timing,
    ) -> Result<Acked, BadAck> {
        let mut acked = Acked::default();
        let Some(active) = self.active.as_deref_mut() else {
            let ahead = self.next.distance_to(ack);
            return if ahead >= 0 { Err(BadAck) } else { Ok(acked) };
        };
        let ahead = active.records.first().distance_to(ack);
        let Ok(count) = usize::try_from(ahead + 1) else {
            // An acknowledgement that others have overtaken.
            return Ok(acked);
        };
        if count > active.records.len() {
            return Err(BadAck);
        }
        active.timers.heard();
        let micros = Micros::of(now);
        let mut repeated = false;
        for _ in 0..count {
            repeated |= active.take_acked(micros, timing, &mut acked);
        }
        if repeated {
            acked.rtt = None;
        }
        let sacked = active.take_sack(micros, ack, sack, timing, &mut acked);
        self.acked = active.buffer.start();
        if acked.fin {
            self.end = End::Acked;
        }
        active.count_duplicate(count > 0 || sacked || !state || sack.is_some());
        active.conclude(now, timing, &mut acked, count > 0);
        Ok(acked)
    }
}

impl Active {
    /// Takes the oldest record, which is acknowledged; whether it is news of a packet that was
    /// sent again.
    fn take_acked(&mut self, now: Micros, timing: &Timing, acked: &mut Acked) -> bool {
        let seq = self.records.first();
        let Some(record) = self.records.pop() else {
            return false;
        };
        let news = record.fate != Fate::Sacked;
        if news {
            self.deliver(now, seq, record, timing, acked);
        }
        acked.fin |= record.fin;
        let place = self.buffer.start() + u64::from(record.size);
        self.buffer.free(place);
        news && record.repeated
    }

    /// Marks what arrived out of order; whether any of it is news.
    fn take_sack(
        &mut self,
        now: Micros,
        ack: Seq,
        sack: Option<&[u8]>,
        timing: &Timing,
        acked: &mut Acked,
    ) -> bool {
        let mut news = false;
        let mut seq = ack.next();
        for byte in sack.unwrap_or_default() {
            for bit in 0..8 {
                seq = seq.next();
                if byte >> bit & 1 == 0 {
                    continue;
                }
                let Some(index) = self.records.index(seq) else {
                    continue;
                };
                let record = self.records.get(index);
                if record.fate != Fate::Sacked {
                    let before = acked.rtt;
                    self.deliver(now, seq, record, timing, acked);
                    if record.fate == Fate::Lost {
                        // Taken for lost long before: whoever said so earlier was not heard.
                        acked.rtt = before;
                    }
                    self.records
                        .change(index, |record| record.fate = Fate::Sacked);
                    news = true;
                }
            }
        }
        news
    }

    /// The peer has this packet, as is news.
    fn deliver(
        &mut self,
        now: Micros,
        seq: Seq,
        record: Record,
        timing: &Timing,
        acked: &mut Acked,
    ) {
        acked.bytes += u64::from(record.size);
        acked.packets += 1;
        if record.probe {
            acked.probe_acked = Some(record.size);
        }
        let age = now.since(record.sent);
        // Nothing comes back faster than the path allows: that was the first transmission.
        let first_of_two = record.repeated && age < timing.min_rtt;
        if (first_of_two || (record.fate == Fate::Lost && !record.repeated))
            && let Some(episode) = &mut self.episode
        {
            episode.refuted += 1;
        }
        if first_of_two {
            self.timers.refute_probe();
            self.rack.saw_reordering();
            return;
        }
        if !record.repeated {
            acked.rtt = Some(acked.rtt.map_or(age, |shortest| shortest.min(age)));
        }
        self.rack.delivered(now, record.sent, seq, record.repeated);
    }

    /// Where a peer sends no SACK, repeated acknowledgements say that something is missing.
    fn count_duplicate(&mut self, news: bool) {
        if news || self.records.flying == 0 {
            self.duplicates = 0;
        } else {
            self.duplicates = self.duplicates.saturating_add(1);
        }
    }

    /// Draws the conclusions: losses, the end of a repair, timers.
    fn conclude(&mut self, now: Instant, timing: &Timing, acked: &mut Acked, progress: bool) {
        if let Some(episode) = &mut self.episode {
            episode.delivered(acked.bytes);
        }
        let duplicate = self.duplicates > 0;
        let next = self.next_seq();
        let repaired = self
            .timers
            .probe_repaired(self.records.first(), duplicate, next);
        self.undo_timeout(now, timing, acked);
        let mut found = self.find_losses(now, timing);
        if self.duplicates == DUPLICATES
            && self.records.sacked == 0
            && self.episode.is_none()
            && self.records.get(0).fate == Fate::InFlight
        {
            self.lose(0, &mut found);
        }
        self.close_episode(acked);
        self.count_losses(now, found, acked);
        acked.congestion |= repaired && self.episode.is_none();
        let calm = self.episode.is_none() && self.records.sacked == 0;
        let flying = self.records.flying;
        self.timers.acked(now, timing, flying, calm, progress);
    }

    /// A timeout was premature if packets it took for lost are acknowledged sooner than what was
    /// sent because of it could be. Later that proves nothing: it may have closed a hole before
    /// packets that had arrived, and whose acknowledgements were lost.
    fn undo_timeout(&mut self, now: Instant, timing: &Timing, acked: &mut Acked) {
        let premature = |episode: &Episode| {
            episode.timeout && episode.refuted > 0 && now - episode.began < timing.min_rtt
        };
        if !self.episode.as_ref().is_some_and(premature) {
            return;
        }
        self.episode = None;
        acked.spurious = true;
        self.rack.was_wrong();
        self.timers.undo();
        for index in 0..self.records.len() {
            let record = self.records.get(index);
            if record.fate == Fate::Lost {
                self.records
                    .change(index, |record| record.fate = Fate::InFlight);
            }
        }
    }

    /// Ends the repair once everything it was about is acknowledged.
    fn close_episode(&mut self, acked: &mut Acked) {
        let first = self.records.first();
        let over = |episode: &Episode| episode.end.distance_to(first) >= 0;
        if !self.episode.as_ref().is_some_and(over) {
            return;
        }
        if let Some(episode) = self.episode.take()
            && episode.marked > 0
            && episode.refuted >= episode.marked
        {
            acked.spurious = true;
            self.rack.was_wrong();
        }
    }

    /// Begins a repair, or goes on with one.
    pub(super) fn count_losses(&mut self, now: Instant, found: Found, acked: &mut Acked) {
        acked.lost += found.bytes;
        acked.probe_lost = acked.probe_lost.or(found.probe);
        if found.lost == 0 {
            return;
        }
        if self.episode.is_none() {
            let flight = self.records.in_flight + found.bytes;
            self.episode = Some(Episode::new(now, self.next_seq(), flight, false));
            acked.congestion = true;
        }
        if let Some(episode) = &mut self.episode {
            episode.marked += found.lost;
        }
    }
}
