//! When peers start: closed loop (a new one as soon as there is room) or open loop (by a plan
//! that does not care how the target is doing). Pure: time comes in as an argument.

use crate::units::Rate;
use flock_engine::io::Instant;
use std::time::Duration;

/// How arrivals are paced.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// As soon as there is room.
    Closed,
    /// At fixed times. This thread owns arrivals `lane`, `lane + lanes`, `lane + 2 * lanes`, …
    Open { rate: Rate, lane: u32, lanes: u32 },
}

/// What one generator thread starts, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    pace: Pace,
    start: Instant,
    until: Instant,
    total: u64,
    launched: u64,
}

impl Schedule {
    /// A schedule that begins at `start` and ends after `duration` or after `total` arrivals,
    /// whichever is given and comes first.
    pub(crate) fn new(
        pace: Pace,
        start: Instant,
        duration: Option<Duration>,
        total: Option<u64>,
    ) -> Self {
        Self {
            pace,
            start,
            until: duration.map_or(Instant::FAR_FUTURE, |duration| start + duration),
            total: total.unwrap_or(u64::MAX),
            launched: 0,
        }
    }

    /// The intended start of an arrival that shall be started now, or `None` when none is due.
    /// The caller asks only while it has room. An arrival that had to wait for room keeps its
    /// intended start: its latency counts from there.
    pub(crate) fn launch(&mut self, now: Instant) -> Option<Instant> {
        if self.is_over(now) {
            return None;
        }
        let intended = match self.pace {
            Pace::Closed => now,
            Pace::Open { .. } => self.due(self.launched),
        };
        if intended > now {
            return None;
        }
        self.launched += 1;
        Some(intended)
    }

    /// When to look again, if a point in time decides that.
    pub(crate) fn next(&self, now: Instant) -> Option<Instant> {
        match self.pace {
            _ if self.is_over(now) => None,
            Pace::Closed => (self.until != Instant::FAR_FUTURE).then_some(self.until),
            Pace::Open { .. } => Some(self.due(self.launched).min(self.until)),
        }
    }

    /// Whether nothing more will be started.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.launched >= self.total || now >= self.until
    }

    /// Starts nothing more, as if the time were over at `now`.
    pub(crate) fn stop(&mut self, now: Instant) {
        self.until = self.until.min(now);
    }

    /// Arrivals that were due before `now` (or before the end) and have not been started.
    pub(crate) fn overdue(&self, now: Instant) -> u64 {
        let Pace::Open { rate, lane, lanes } = self.pace else {
            return 0;
        };
        let elapsed = now.min(self.until).since(self.start).as_nanos();
        let all = rate.arrivals_before(u64::try_from(elapsed).unwrap_or(u64::MAX));
        let mine = all.saturating_sub(lane.into()).div_ceil(lanes.into());
        mine.min(self.total).saturating_sub(self.launched)
    }

    fn due(&self, index: u64) -> Instant {
        let Pace::Open { rate, lane, lanes } = self.pace else {
            return self.start;
        };
        let global = index
            .saturating_mul(lanes.into())
            .saturating_add(lane.into());
        self.start + Duration::from_nanos(rate.due_nanos(global))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    const START: Instant = Instant::from_nanos(1_000_000_000);

    fn open(rate: &str, lane: u32, lanes: u32) -> Pace {
        Pace::Open {
            rate: rate.parse().unwrap(),
            lane,
            lanes,
        }
    }

    fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn closed_loop_starts_whenever_there_is_room_until_the_end() {
        let mut plan = Schedule::new(Pace::Closed, START, Some(millis(10)), None);
        assert_eq!(plan.launch(START), Some(START));
        assert_eq!(plan.launch(START), Some(START));
        assert_eq!(plan.next(START), Some(START + millis(10)));
        assert_eq!(plan.launch(START + millis(10)), None);
        assert!(plan.is_over(START + millis(10)));
        assert_eq!(plan.overdue(START + millis(10)), 0);
    }

    #[test]
    fn a_total_ends_a_schedule_without_a_duration() {
        let mut plan = Schedule::new(Pace::Closed, START, None, Some(2));
        assert_eq!(plan.next(START), None);
        assert!(plan.launch(START).is_some() && plan.launch(START).is_some());
        assert_eq!(plan.launch(START), None);
        assert!(plan.is_over(START));
    }

    #[test]
    fn open_loop_starts_on_time_and_never_early() {
        let mut plan = Schedule::new(open("1k/s", 0, 1), START, Some(millis(5)), None);
        assert_eq!(plan.launch(START), Some(START));
        assert_eq!(plan.launch(START), None);
        assert_eq!(plan.next(START), Some(START + millis(1)));
        // Three milliseconds pass at once: three arrivals, each with its own intended start.
        let late: Vec<_> = std::iter::from_fn(|| plan.launch(START + millis(3))).collect();
        assert_eq!(late, [1, 2, 3].map(|n| START + millis(n)));
        assert_eq!(plan.overdue(START + millis(3)), 0);
        assert_eq!(plan.overdue(START + millis(9)), 1);
        assert_eq!(plan.launch(START + millis(5)), None);
    }

    #[test]
    fn lanes_share_one_plan_without_gaps_or_doubles() {
        let mut all = Vec::new();
        for lane in 0..3 {
            let mut plan = Schedule::new(open("1k/s", lane, 3), START, Some(millis(100)), None);
            assert_eq!(
                plan.overdue(START + millis(100)),
                [34, 33, 33][lane as usize]
            );
            all.extend(std::iter::from_fn(|| plan.launch(START + millis(99))));
        }
        all.sort();
        let whole: Vec<_> = (0..100).map(|n| START + millis(n)).collect();
        assert_eq!(all, whole);
    }

    #[test]
    fn stopping_ends_it_at_once() {
        let mut plan = Schedule::new(open("1k/s", 0, 1), START, None, Some(100));
        plan.stop(START + millis(2));
        assert_eq!(plan.launch(START + millis(2)), None);
        assert_eq!(plan.overdue(START + millis(50)), 2);
    }

    /// A target with one worker that takes 0.5 ms a peer and freezes for a second: in open loop
    /// every peer that arrived during the freeze must show its whole wait.
    fn frozen_target(pace: Pace, room: usize) -> Vec<Duration> {
        let mut plan = Schedule::new(pace, START, Some(millis(4_000)), None);
        let (mut now, mut busy_until) = (START, START);
        let (mut queue, mut waits): (VecDeque<(Instant, Instant)>, _) = (VecDeque::new(), vec![]);
        while !plan.is_over(now) || !queue.is_empty() {
            while queue.len() < room
                && let Some(intended) = plan.launch(now)
            {
                busy_until = busy_until.max(now) + Duration::from_micros(500);
                let freeze = START + millis(1_000)..START + millis(2_000);
                if freeze.contains(&busy_until) {
                    busy_until = freeze.end;
                }
                queue.push_back((busy_until, intended));
            }
            while let Some((done, intended)) = queue.front().copied().filter(|q| q.0 <= now) {
                waits.push(done - intended);
                queue.pop_front();
            }
            let done = queue.front().map(|q| q.0);
            let due = plan.next(now).filter(|_| queue.len() < room);
            now = match (done, due) {
                (Some(a), Some(b)) => a.min(b),
                (one, other) => one.or(other).unwrap_or(now),
            }
            .max(now + Duration::from_nanos(1));
        }
        waits.sort();
        waits
    }

    #[test]
    fn a_frozen_target_shows_at_the_right_percentile() {
        // 1,000 arrivals a second for 4 s; those of the frozen second wait up to a second, and
        // the backlog takes another second to clear at twice the rate. A room of 8 delays the
        // dials but must not hide the wait.
        for room in [usize::MAX, 8] {
            let waits = frozen_target(open("1k/s", 0, 1), room);
            let p75 = waits[waits.len() * 3 / 4];
            assert!(waits.len() >= 3_990, "{}", waits.len());
            assert!(p75 > millis(400), "room {room}: p75 {p75:?}");
        }
        // A closed loop waits with the target and sees the freeze in a handful of peers only.
        let waits = frozen_target(Pace::Closed, 8);
        assert!(waits[waits.len() * 99 / 100] < millis(10));
    }
}
