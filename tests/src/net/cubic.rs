use flock_transport::Instant;
use std::time::Duration;

const BETA: f64 = 0.7;
const C: f64 = 0.4;
const INITIAL: f64 = 10.0;

/// The window of RFC 9438, in segments, written down independently of the one under test.
#[derive(Debug)]
pub(super) struct Cubic {
    window: f64,
    threshold: f64,
    max: f64,
    epoch: Option<Epoch>,
    round: Round,
}

/// What is counted since the last loss.
#[derive(Debug)]
struct Epoch {
    start: Instant,
    /// Seconds until the window is what it was before the loss.
    k: f64,
    origin: f64,
    reno: f64,
}

/// Round-trip times during one window's flight.
#[derive(Debug)]
struct Round {
    end: u64,
    least: Duration,
    previous: Duration,
    samples: u32,
}

impl Default for Cubic {
    fn default() -> Self {
        Self {
            window: INITIAL,
            threshold: f64::INFINITY,
            max: 0.0,
            epoch: None,
            round: Round {
                end: 0,
                least: Duration::MAX,
                previous: Duration::MAX,
                samples: 0,
            },
        }
    }
}

impl Cubic {
    /// Segments that may be in flight.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the integer part is what is wanted, and windows are small"
    )]
    pub(super) fn window(&self) -> usize {
        self.window as usize
    }

    /// A round-trip time: leaves slow start when the delay grows (HyStart, RFC 9406). `first` is
    /// the oldest segment in flight, `next` the one to be sent next.
    pub(super) fn on_rtt(&mut self, rtt: Duration, first: u64, next: u64) {
        let round = &mut self.round;
        if first >= round.end {
            round.previous = std::mem::replace(&mut round.least, Duration::MAX);
            round.end = next;
            round.samples = 0;
        }
        round.samples += 1;
        round.least = round.least.min(rtt);
        if self.window >= self.threshold || round.samples < 8 || round.previous == Duration::MAX {
            return;
        }
        let (low, high) = (Duration::from_millis(4), Duration::from_millis(16));
        if round.least >= round.previous + (round.previous / 8).clamp(low, high) {
            self.threshold = self.window;
        }
    }

    /// Segments were delivered while the window was full and nothing was lost.
    pub(super) fn on_delivered(&mut self, now: Instant, segments: usize, rtt: Duration) {
        let segments = segments as f64;
        if self.window < self.threshold {
            self.window += segments;
            return;
        }
        let (window, max) = (self.window, self.max.max(self.window));
        let epoch = self.epoch.get_or_insert_with(|| Epoch {
            start: now,
            k: ((max - window) / C).cbrt(),
            origin: max,
            reno: window,
        });
        let elapsed = (now.since(epoch.start) + rtt).as_secs_f64();
        let cubic = epoch.origin + C * (elapsed - epoch.k).powi(3);
        let target = cubic.clamp(window, window * 1.5);
        let slope = if epoch.reno < epoch.origin {
            3.0 * (1.0 - BETA) / (1.0 + BETA)
        } else {
            1.0
        };
        epoch.reno += slope * segments / window;
        self.window = (window + segments * (target - window) / window).max(epoch.reno);
    }

    /// Segments were lost, for the first time in this flight.
    pub(super) fn on_loss(&mut self) {
        // Fast convergence: a flow that did not get back to its window leaves room to others.
        let shrinks = self.window < self.max;
        self.max = if shrinks {
            self.window * (1.0 + BETA) / 2.0
        } else {
            self.window
        };
        self.window = (self.window * BETA).max(2.0);
        self.threshold = self.window;
        self.epoch = None;
    }

    /// The retransmission timer ran out.
    pub(super) fn on_timeout(&mut self) {
        self.max = self.window;
        self.threshold = (self.window * BETA).max(2.0);
        self.window = 1.0;
        self.epoch = None;
    }
}
