use super::episode::Episode;
use super::losses::Found;
use super::records::Fate;
use super::{Acked, Active, Sending, Timing};
use crate::wire::Seq;
use flock_transport::Instant;
use std::time::Duration;

/// What a deadline brought about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fired {
    /// Losses were found by time, as an acknowledgement finds them.
    Losses(Acked),
    /// A tail loss probe is due: ask for the next segment.
    Probe,
    /// The retransmission timeout: begin again with a window of one segment.
    Timeout,
    /// The peer has not answered for too long.
    GiveUp,
}

/// When something must be done although nothing comes.
#[derive(Debug, Default)]
pub(super) struct Timers {
    /// What is late by then is lost.
    pub(super) reorder_at: Option<Instant>,
    probe_at: Option<Instant>,
    timeout_at: Option<Instant>,
    /// Timeouts in a row.
    timeouts: u32,
    /// The first timeout since anything was heard.
    silent_since: Option<Instant>,
    /// A probe is to be sent.
    pub(super) probe_wanted: bool,
    probe: Option<TailProbe>,
}

/// A tail loss probe on its way.
#[derive(Clone, Copy, Debug)]
struct TailProbe {
    /// The first number not given when it was sent.
    end: Seq,
    /// Whether it repeated a packet.
    repeated: bool,
}

/// How long a receiver may keep an acknowledgement to itself: the longest of the known ones.
const ACK_DELAY: Duration = Duration::from_millis(50);
/// A probe does not come earlier than this: timers are no finer, and no receiver is.
const PROBE_MIN: Duration = Duration::from_millis(10);
/// Timeouts double the next one, up to this.
const TIMEOUT_MAX: Duration = Duration::from_secs(15);
/// Peers of the field give up after 15 to 31 s; before that the path may come back.
const PATIENCE: Duration = Duration::from_secs(30);
const TIMEOUTS_MIN: u32 = 4;

impl Timers {
    fn timeout(&self, timing: &Timing) -> Duration {
        // Before the first sample one second is a guess, and an acceptor forgets an unconfirmed
        // handshake within a few: the first two timeouts are alike.
        let doubled = self
            .timeouts
            .saturating_sub(u32::from(timing.srtt.is_none()));
        let factor = 1_u32 << doubled.min(8);
        (timing.rto * factor).min(TIMEOUT_MAX.max(timing.rto))
    }

    fn probe_after(timing: &Timing, flying: u32) -> Option<Duration> {
        let delay = if flying == 1 {
            ACK_DELAY
        } else {
            Duration::ZERO
        };
        Some((timing.srtt? * 2).max(PROBE_MIN) + delay)
    }

    pub(super) fn sent(
        &mut self,
        now: Instant,
        timing: &Timing,
        flying: u32,
        calm: bool,
        next: Seq,
        repeated: bool,
    ) {
        if std::mem::take(&mut self.probe_wanted) {
            self.probe = Some(TailProbe {
                end: next,
                repeated,
            });
            self.probe_at = None;
            self.timeout_at = Some(now + self.timeout(timing));
            return;
        }
        if self.timeout_at.is_none() {
            self.timeout_at = Some(now + self.timeout(timing));
        }
        if calm && self.probe.is_none() && self.timeouts == 0 {
            self.probe_at = Self::probe_after(timing, flying).map(|after| now + after);
        }
    }

    pub(super) fn acked(
        &mut self,
        now: Instant,
        timing: &Timing,
        flying: u32,
        calm: bool,
        progress: bool,
    ) {
        if flying == 0 {
            (self.timeout_at, self.probe_at) = (None, None);
        } else if self.timeout_at.is_none() {
            // What was taken for lost is in flight after all.
            self.timeout_at = Some(now + self.timeout(timing));
        }
        if !progress {
            return;
        }
        self.timeouts = 0;
        self.silent_since = None;
        self.probe_wanted = false;
        if flying > 0 {
            self.timeout_at = Some(now + self.timeout(timing));
            let probe = calm && self.probe.is_none();
            let after = if probe {
                Self::probe_after(timing, flying)
            } else {
                None
            };
            self.probe_at = after.map(|after| now + after);
        }
    }

    /// What was sent was refused; with nothing in flight there is nothing to wait for.
    pub(super) fn refused(&mut self, flying: u32) {
        if flying == 0 {
            (self.timeout_at, self.probe_at) = (None, None);
        }
    }

    /// The probe repeated a packet whose first transmission had arrived.
    pub(super) fn refute_probe(&mut self) {
        self.probe = None;
    }

    /// The peer answers, if only to say that it has no room: that is no silence.
    pub(super) fn heard(&mut self) {
        self.silent_since = None;
    }

    /// Timeouts that were premature do not count.
    pub(super) fn undo(&mut self) {
        self.timeouts = 0;
    }

    /// Whether a probe is known to have repaired a loss (RFC 8985, section 7.4): what follows it
    /// is acknowledged, and no duplicate acknowledgement said that the peer had it twice.
    pub(super) fn probe_repaired(&mut self, first: Seq, duplicate: bool, next: Seq) -> bool {
        let Some(probe) = self.probe else {
            return false;
        };
        let beyond = probe.end.distance_to(first);
        if beyond < 0 {
            return false;
        }
        let known = !probe.repeated || duplicate || beyond > 0 || next == probe.end;
        if known {
            self.probe = None;
        }
        probe.repeated && !duplicate && beyond > 0
    }
}

impl Sending {
    /// When to call [`on_deadline`](Self::on_deadline) next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let timers = &self.active.as_ref()?.timers;
        [timers.reorder_at, timers.probe_at, timers.timeout_at]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due; to be called until it returns `None`.
    pub(crate) fn on_deadline(&mut self, now: Instant, timing: &Timing) -> Option<Fired> {
        let active = self.active.as_deref_mut()?;
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(active.timers.reorder_at) {
            let mut acked = Acked::default();
            let found = active.find_losses(now, timing);
            active.count_losses(now, found, &mut acked);
            return Some(Fired::Losses(acked));
        }
        if due(active.timers.timeout_at) {
            return Some(active.time_out(now));
        }
        if due(active.timers.probe_at) {
            active.timers.probe_at = None;
            active.timers.probe_wanted = true;
            return Some(Fired::Probe);
        }
        None
    }
}

impl Active {
    /// Takes everything in flight for lost (RFC 6298, section 5).
    fn time_out(&mut self, now: Instant) -> Fired {
        let since = *self.timers.silent_since.get_or_insert(now);
        if self.timers.timeouts >= TIMEOUTS_MIN && now - since >= PATIENCE {
            self.timers.timeout_at = None;
            return Fired::GiveUp;
        }
        let flight = self.records.in_flight;
        let mut found = Found::default();
        for index in 0..self.records.len() {
            if self.records.get(index).fate == Fate::InFlight {
                self.lose(index, &mut found);
            }
        }
        self.timers.probe = None;
        self.timers.probe_at = None;
        self.timers.reorder_at = None;
        self.timers.timeout_at = None;
        if found.lost == 0 {
            // Only a probe of the MTU was out, and says nothing of the path's load.
            return Fired::Losses(Acked {
                probe_lost: found.probe,
                ..Acked::default()
            });
        }
        self.timers.timeouts += 1;
        let mut episode = Episode::new(now, self.next_seq(), flight, true);
        episode.marked = found.lost;
        self.episode = Some(episode);
        Fired::Timeout
    }
}
