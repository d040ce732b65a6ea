use flock_transport::Instant;
use std::time::Duration;

/// One-way delay to the peer above the least there was (RFC 6817): the queue on the way.
///
/// Samples are the peer's clock less ours, so only differences mean something, and all arithmetic
/// is modulo 2^32. The histories are kept only while data flows.
#[derive(Debug, Default)]
pub(crate) struct Delay {
    /// Ours, as the peer measures it.
    ours: History,
    /// The peer's, as we measure it: what moves there is its clock.
    theirs: History,
    /// The latest samples, in microseconds above the base.
    latest: [u32; LATEST],
    count: u8,
}

/// The current delay is the least of so many samples, to pass over jitter.
const LATEST: usize = 3;
const LATEST_KEPT: u8 = 3;
/// Minutes that a base is remembered.
const MINUTES: usize = 13;
const MINUTES_KEPT: u8 = 13;
const MINUTE: Duration = Duration::from_secs(60);
/// A clock that seems to run away by more than this at once was set, and does not drift.
const DRIFT_MAX: u32 = 10_000;

/// The least sample of each of the last minutes.
#[derive(Debug, Default)]
struct History {
    least: [u32; MINUTES],
    filled: u8,
    minute_ends: Instant,
    base: u32,
}

/// Whether `a` is before `b`, modulo 2^32.
fn is_less(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() < 0
}

impl History {
    /// Adds a sample; how much the base sank, if it did.
    fn add(&mut self, now: Instant, sample: u32) -> Option<u32> {
        if self.filled == 0 {
            self.least = [sample; MINUTES];
            self.filled = 1;
            self.base = sample;
            self.minute_ends = now + MINUTE;
            return None;
        }
        if now >= self.minute_ends {
            self.least.rotate_right(1);
            self.least[0] = sample;
            self.minute_ends = now + MINUTE;
            self.filled = (self.filled + 1).min(MINUTES_KEPT);
            self.refresh();
        }
        if is_less(sample, self.least[0]) {
            self.least[0] = sample;
        }
        if is_less(sample, self.base) {
            let sunk = self.base.wrapping_sub(sample);
            self.base = sample;
            return Some(sunk);
        }
        None
    }

    fn refresh(&mut self) {
        let used = &self.least[..usize::from(self.filled)];
        let least = |a: u32, b: u32| if is_less(b, a) { b } else { a };
        self.base = used.iter().copied().reduce(least).unwrap_or(self.base);
    }

    /// The base was lower than it should be: the clocks drift.
    fn raise(&mut self, by: u32) {
        for least in &mut self.least {
            *least = least.wrapping_add(by);
        }
        self.base = self.base.wrapping_add(by);
    }
}

impl Delay {
    /// What we measured of a packet of the peer: our clock less its stamp.
    pub(crate) fn on_theirs(&mut self, now: Instant, sample: u32) {
        // Its delay cannot sink below its least; what sinks is the difference of the clocks, and
        // then ours rises by as much.
        if let Some(sunk) = self.theirs.add(now, sample)
            && sunk <= DRIFT_MAX
            && self.ours.filled > 0
        {
            self.ours.raise(sunk);
        }
    }

    /// What the peer measured of a packet of ours. Zero and 2^31 - 1 mean that it did not. No
    /// queue can be longer than the round trip of the packet acknowledged.
    pub(crate) fn on_ours(&mut self, now: Instant, sample: u32, rtt: Option<Duration>) {
        if sample == 0 || sample == 0x7fff_ffff {
            return;
        }
        self.ours.add(now, sample);
        let mut above = sample.wrapping_sub(self.ours.base);
        if let Some(rtt) = rtt {
            let most = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX);
            if above > most {
                self.ours.raise(above - most);
                above = most;
            }
        }
        self.latest.rotate_right(1);
        self.latest[0] = above;
        self.count = (self.count + 1).min(LATEST_KEPT);
    }

    /// The queueing delay now, once it is known.
    pub(crate) fn queueing(&self) -> Option<Duration> {
        let latest = &self.latest[..usize::from(self.count)];
        let least = latest.iter().copied().min()?;
        Some(Duration::from_micros(least.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(secs: u64) -> Instant {
        Instant::from_nanos(secs * 1_000_000_000)
    }

    fn queueing(delay: &Delay) -> u128 {
        delay.queueing().map_or(0, |delay| delay.as_micros())
    }

    #[test]
    fn the_queue_is_what_exceeds_the_least() {
        let mut delay = Delay::default();
        assert_eq!(delay.queueing(), None);
        for sample in [5_000, 6_000, 7_000, 8_000] {
            delay.on_ours(at(1), sample, None);
        }
        assert_eq!(queueing(&delay), 1_000, "the least of the last three");
        delay.on_ours(at(1), 0, None);
        delay.on_ours(at(1), 0x7fff_ffff, None);
        assert_eq!(queueing(&delay), 1_000, "no samples");
    }

    #[test]
    fn a_base_is_forgotten_after_its_minutes() {
        let mut delay = Delay::default();
        delay.on_ours(at(0), 1_000, None);
        for minute in 0..20 {
            for _ in 0..3 {
                delay.on_ours(at(minute * 60 + 1), 41_000, None);
            }
            let expected = if minute < 13 { 40_000 } else { 0 };
            assert_eq!(queueing(&delay), expected, "minute {minute}");
        }
    }

    #[test]
    fn a_drifting_clock_is_followed() {
        let mut delay = Delay::default();
        // The peer's clock gains 100 µs a second on ours: what it measures rises without a queue,
        // and what we measure sinks.
        for second in 0..600_u32 {
            let drift = second * 100;
            delay.on_theirs(at(second.into()), 50_000_u32.wrapping_sub(drift));
            delay.on_ours(at(second.into()), 10_000 + drift, None);
            assert!(queueing(&delay) < 1_000, "{second}");
        }
    }

    #[test]
    fn no_queue_is_longer_than_the_round_trip() {
        let mut delay = Delay::default();
        delay.on_ours(at(0), 1_000, None);
        for _ in 0..3 {
            delay.on_ours(at(0), 500_000, Some(Duration::from_millis(20)));
        }
        assert_eq!(queueing(&delay), 20_000);
    }

    proptest! {
        /// Where the clocks start says nothing: 2^32 may wrap at any time.
        #[test]
        fn only_differences_count(origin: u32, samples in prop::collection::vec(1_u32..2_000_000, 1..50)) {
            let (mut plain, mut moved) = (Delay::default(), Delay::default());
            for (second, sample) in samples.into_iter().enumerate() {
                let shifted = sample.wrapping_add(origin);
                if shifted == 0 || shifted == 0x7fff_ffff {
                    return Ok(());
                }
                plain.on_ours(at(second as u64), sample, None);
                moved.on_ours(at(second as u64), shifted, None);
                prop_assert_eq!(plain.queueing(), moved.queueing());
            }
        }
    }
}
