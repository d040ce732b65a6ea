use flock_transport::Instant;
use std::time::Duration;

/// Round trips as RFC 6298 smooths them, and the shortest of the last ten seconds or so. Karn's
/// rule is the caller's: only packets sent once give samples.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rtt {
    /// Microseconds; zero before the first sample.
    smoothed: u32,
    variation: u32,
    /// Shortest round trip of this window of time and of the one before, in microseconds.
    shortest: [u32; 2],
    window_ends: Instant,
}

/// Before the first sample (RFC 6298, section 2.1).
const FIRST: Duration = Duration::from_secs(1);
/// Peers acknowledge within 50 ms at the latest; below this a timeout says little.
const MIN: Duration = Duration::from_millis(200);
const MAX: Duration = Duration::from_secs(15);
/// How long a shortest round trip is believed, once or twice.
const WINDOW: Duration = Duration::from_secs(10);

impl Rtt {
    pub(crate) fn sample(&mut self, now: Instant, rtt: Duration) {
        let sample = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX).max(1);
        if self.smoothed == 0 {
            self.smoothed = sample;
            self.variation = sample / 2;
            self.shortest = [sample; 2];
            self.window_ends = now + WINDOW;
            return;
        }
        let off = self.smoothed.abs_diff(sample);
        self.variation = self.variation - self.variation / 4 + off / 4;
        let kept = u64::from(self.smoothed) * 7 + u64::from(sample);
        self.smoothed = u32::try_from(kept / 8).unwrap_or(u32::MAX).max(1);
        if now >= self.window_ends {
            self.shortest = [sample, self.shortest[0]];
            self.window_ends = now + WINDOW;
        } else {
            self.shortest[0] = self.shortest[0].min(sample);
        }
    }

    /// The smoothed round trip.
    pub(crate) fn smoothed(&self) -> Option<Duration> {
        (self.smoothed > 0).then(|| Duration::from_micros(self.smoothed.into()))
    }

    /// The shortest round trip lately; before the first sample the assumption of RFC 6298.
    pub(crate) fn shortest(&self) -> Duration {
        if self.smoothed == 0 {
            return FIRST;
        }
        Duration::from_micros(self.shortest[0].min(self.shortest[1]).into())
    }

    /// The retransmission timeout, without back-off.
    pub(crate) fn timeout(&self) -> Duration {
        if self.smoothed == 0 {
            return FIRST;
        }
        let micros = u64::from(self.smoothed) + u64::from(self.variation).max(250) * 4;
        Duration::from_micros(micros).clamp(MIN, MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Instant {
        Instant::from_nanos(secs * 1_000_000_000)
    }

    #[test]
    fn samples_are_smoothed_as_rfc_6298_says() {
        let mut rtt = Rtt::default();
        assert_eq!((rtt.timeout(), rtt.smoothed()), (FIRST, None));
        rtt.sample(at(1), Duration::from_millis(100));
        assert_eq!(rtt.smoothed(), Some(Duration::from_millis(100)));
        assert_eq!(rtt.timeout(), Duration::from_millis(300));
        rtt.sample(at(1), Duration::from_millis(180));
        assert_eq!(rtt.smoothed(), Some(Duration::from_millis(110)));
        // 3/4 of 50 ms and 1/4 of 80 ms.
        assert_eq!(
            rtt.timeout(),
            Duration::from_millis(110 + 4 * 57) + Duration::from_millis(2)
        );
        for _ in 0..200 {
            rtt.sample(at(1), Duration::from_micros(80));
        }
        assert_eq!(rtt.timeout(), MIN);
        rtt.sample(at(1), Duration::from_secs(5000));
        assert_eq!(rtt.timeout(), MAX);
    }

    #[test]
    fn the_shortest_is_forgotten_after_a_while() {
        let mut rtt = Rtt::default();
        rtt.sample(at(0), Duration::from_millis(10));
        for second in 0..12 {
            rtt.sample(at(second), Duration::from_millis(50));
            assert_eq!(rtt.shortest(), Duration::from_millis(10), "{second}");
        }
        for second in 12..31 {
            rtt.sample(at(second), Duration::from_millis(50));
        }
        assert_eq!(
            rtt.shortest(),
            Duration::from_millis(50),
            "the path changed"
        );
    }
}
