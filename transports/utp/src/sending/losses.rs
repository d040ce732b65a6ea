use super::records::{Fate, Micros};
use super::{Active, Timing};
use crate::wire::Seq;
use flock_transport::Instant;
use std::time::Duration;

/// What time says about losses (RFC 8985): a packet is lost when one sent sufficiently later has
/// arrived.
#[derive(Debug)]
pub(super) struct Rack {
    /// When the latest-sent packet among the delivered ones was sent, and its number.
    newest: Option<(Micros, Seq)>,
    /// Its round trip.
    rtt: Duration,
    /// The highest number delivered.
    highest: Seq,
    /// Whether packets have been seen to overtake each other.
    reordered: bool,
    /// Quarters of the shortest round trip that a packet may be late.
    quarters: u32,
    /// Whether an old packet may be lost although none after it was delivered: a repetition was.
    repetition: bool,
}

/// Quarters of a round trip that the reordering window grows to (RFC 8985, section 6.2, grows it
/// to as many round trips at the most as are smoothed into one).
const QUARTERS_MAX: u32 = 16;

/// Packets delivered beyond a hole that make a loss of it at once, where no reordering was seen.
const DUPLICATES: u32 = 3;

impl Rack {
    pub(super) fn new(next: Seq) -> Self {
        Self {
            newest: None,
            rtt: Duration::ZERO,
            highest: next.previous(),
            reordered: false,
            quarters: 1,
            repetition: false,
        }
    }

    /// A packet was delivered that had been sent at `sent`.
    pub(super) fn delivered(&mut self, now: Micros, sent: Micros, seq: Seq, repeated: bool) {
        let ahead = self.highest.distance_to(seq);
        if ahead > 0 {
            self.highest = seq;
        } else if ahead < 0 && !repeated {
            self.reordered = true;
        }
        self.repetition |= repeated;
        let newer = self.newest.is_none_or(|(time, last)| {
            sent.is_after(time) || (sent == time && last.distance_to(seq) > 0)
        });
        if newer {
            self.newest = Some((sent, seq));
            self.rtt = now.since(sent);
        }
    }

    /// A packet arrived after one sent later.
    pub(super) fn saw_reordering(&mut self) {
        self.reordered = true;
    }

    /// Losses turned out to be none: packets may be later than was thought.
    pub(super) fn was_wrong(&mut self) {
        self.reordered = true;
        self.quarters = (self.quarters * 2).min(QUARTERS_MAX);
    }

    fn window(&self, timing: &Timing, sacked: u32, repairing: bool) -> Duration {
        if !self.reordered && (sacked >= DUPLICATES || repairing) {
            return Duration::ZERO;
        }
        let window = timing.min_rtt / 4 * self.quarters;
        timing.srtt.map_or(window, |srtt| window.min(srtt))
    }
}

/// What a look for losses found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Packets newly taken for lost, probes of the MTU apart.
    pub(super) lost: u32,
    /// Their bytes.
    pub(super) bytes: u64,
    /// A probe that did not arrive.
    pub(super) probe: Option<u16>,
}

impl Active {
    /// Takes for lost what should have arrived before others that did, and arms the timer for what
    /// may yet be late.
    pub(super) fn find_losses(&mut self, now: Instant, timing: &Timing) -> Found {
        let mut found = Found::default();
        self.timers.reorder_at = None;
        let Some((newest, newest_seq)) = self.rack.newest else {
            return found;
        };
        let hole = self.records.first().distance_to(self.rack.highest) >= 0;
        if !(hole || self.rack.repetition) {
            return found;
        }
        let micros = Micros::of(now);
        let repairing = self.episode.is_some();
        let window = self.rack.window(timing, self.records.sacked, repairing);
        let patience = self.rack.rtt + window;
        let upto = if self.rack.repetition {
            self.records.len()
        } else {
            self.records.index(self.rack.highest).unwrap_or(0)
        };
        let (mut late, mut any_older) = (None::<Duration>, false);
        for index in 0..upto {
            let record = self.records.get(index);
            let seq = self.records.seq(index);
            let older = newest.is_after(record.sent)
                || (newest == record.sent && seq.distance_to(newest_seq) > 0);
            if record.fate != Fate::InFlight || !older {
                continue;
            }
            any_older = true;
            let age = micros.since(record.sent);
            if age >= patience {
                self.lose(index, &mut found);
            } else {
                let left = patience - age;
                late = Some(late.map_or(left, |least| least.min(left)));
            }
        }
        self.rack.repetition &= any_older;
        // Times of sending are rounded down.
        self.timers.reorder_at = late.map(|left| now + left + Duration::from_micros(1));
        found
    }

    /// Takes the packet for lost.
    pub(super) fn lose(&mut self, index: usize, found: &mut Found) {
        let record = self.records.get(index);
        if record.probe {
            found.probe = Some(record.size);
        } else {
            found.lost += 1;
            found.bytes += u64::from(record.size);
        }
        self.records.change(index, |record| {
            record.fate = Fate::Lost;
            record.probe = false;
        });
    }
}
