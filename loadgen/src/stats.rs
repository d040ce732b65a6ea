//! What one generator thread counts and times. Threads keep their own and are merged at the end:
//! all histograms share bounds and precision, so merging adds slot by slot and loses nothing.

use flock_engine::io::{Errno, HandshakeError};
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::time::Duration;

/// The longest latency a histogram tells apart; longer ones are recorded as this and counted.
pub(crate) const LONGEST: Duration = Duration::from_secs(120);

/// A latency distribution in nanoseconds, three significant digits.
#[derive(Clone, Debug)]
pub(crate) struct Latency {
    histogram: Histogram<u64>,
    clipped: u64,
}

impl Latency {
    pub(crate) fn new() -> Self {
        let longest = u64::try_from(LONGEST.as_nanos()).expect("two minutes fit");
        Self {
            histogram: Histogram::new_with_bounds(1, longest, 3)
                .expect("the bounds are constants the crate takes"),
            clipped: 0,
        }
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        self.clipped += u64::from(latency > LONGEST);
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.histogram.saturating_record(nanos.max(1));
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.histogram
            .add(&other.histogram)
            .expect("all histograms have the same bounds");
        self.clipped += other.clipped;
    }

    pub(crate) fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// Latencies above [`LONGEST`].
    pub(crate) fn clipped(&self) -> u64 {
        self.clipped
    }

    /// The latency that the share `quantile` (0 to 1) does not exceed; zero when empty.
    pub(crate) fn quantile(&self, quantile: f64) -> Duration {
        Duration::from_nanos(self.histogram.value_at_quantile(quantile))
    }

    pub(crate) fn min(&self) -> Duration {
        Duration::from_nanos(self.histogram.min())
    }

    pub(crate) fn max(&self) -> Duration {
        Duration::from_nanos(self.histogram.max())
    }

    pub(crate) fn mean(&self) -> Duration {
        Duration::from_secs_f64(self.histogram.mean() / 1e9)
    }
}

/// The part of a peer's life in which something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Stage {
    Connect,
    Handshake,
    Hold,
    Close,
}

impl Stage {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Handshake => "handshake",
            Self::Hold => "hold",
            Self::Close => "close",
        }
    }
}

/// Why a peer failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Failure {
    /// The operating system's error number.
    Os(i32),
    /// The stage took longer than its timeout.
    Timeout,
    /// The target ended the stream before its id was complete, or while held.
    Closed,
    /// What the target sent is no id frame.
    Garbage(&'static str),
    /// The generator's own driver had no room: a bug of the generator's arithmetic.
    NoRoom,
}

impl Failure {
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Os(_) => "os-error",
            Self::Timeout => "timeout",
            Self::Closed => "closed-early",
            Self::Garbage(_) => "bad-handshake",
            Self::NoRoom => "no-room",
        }
    }

    /// The sentence a person reads.
    pub(crate) fn text(self) -> String {
        match self {
            Self::Os(number) => Errno(number).to_string(),
            Self::Timeout => "timed out".into(),
            Self::Closed => "the target ended the connection".into(),
            Self::Garbage(what) => format!("bad handshake: {what}"),
            Self::NoRoom => "the generator's socket table is full".into(),
        }
    }
}

impl From<HandshakeError> for Failure {
    fn from(error: HandshakeError) -> Self {
        Self::Garbage(match error {
            HandshakeError::EmptyId => "empty id",
            HandshakeError::IdTooLong { .. } => "id too long",
            HandshakeError::LengthTooLong => "length prefix longer than five bytes",
            _ => "not an id frame",
        })
    }
}

/// Counters and latencies of a run, or of one thread's part in it.
#[derive(Clone, Debug)]
pub(crate) struct Stats {
    /// Dials begun.
    pub(crate) started: u64,
    /// Dials that were established.
    pub(crate) connected: u64,
    /// Peers that had sent their id and read the target's.
    pub(crate) handshaken: u64,
    /// Peers that had shaken hands and whose close has completed.
    pub(crate) closed: u64,
    /// Connections alive when a hold ended.
    pub(crate) survived: u64,
    /// Peers given up half-way because the run was interrupted; no failures.
    pub(crate) abandoned: u64,
    /// Open loop: arrivals that were due within the run but never started.
    pub(crate) missed: u64,
    /// Most connections open at a time.
    pub(crate) peak: u64,
    /// Bytes read from the target.
    pub(crate) bytes_in: u64,
    /// Connects completed inside the window.
    pub(crate) window_connected: u64,
    /// Handshakes completed inside the window.
    pub(crate) window_handshaken: u64,
    /// From the first dial to the last start that was planned (or the last handshake).
    pub(crate) window: Duration,
    /// From the start (open loop: the intended one) to established.
    pub(crate) connect: Latency,
    /// From established to both ids exchanged.
    pub(crate) handshake: Latency,
    /// From asking for the close to its completion.
    pub(crate) close: Latency,
    /// From the start (open loop: the intended one) to both ids exchanged.
    pub(crate) ready: Latency,
    /// Open loop: from the intended to the real start.
    pub(crate) lag: Latency,
    /// Failed peers, by where and why.
    pub(crate) errors: BTreeMap<(Stage, Failure), u64>,
}

impl Stats {
    pub(crate) fn new() -> Self {
        Self {
            started: 0,
            connected: 0,
            handshaken: 0,
            closed: 0,
            survived: 0,
            abandoned: 0,
            missed: 0,
            peak: 0,
            bytes_in: 0,
            window_connected: 0,
            window_handshaken: 0,
            window: Duration::ZERO,
            connect: Latency::new(),
            handshake: Latency::new(),
            close: Latency::new(),
            ready: Latency::new(),
            lag: Latency::new(),
            errors: BTreeMap::new(),
        }
    }

    /// Peers that failed.
    pub(crate) fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    pub(crate) fn fail(&mut self, stage: Stage, failure: Failure) {
        *self.errors.entry((stage, failure)).or_insert(0) += 1;
    }

    /// Handshakes completed per second of the window.
    pub(crate) fn handshake_rate(&self) -> f64 {
        per_second(self.window_handshaken, self.window)
    }

    /// Connects completed per second of the window.
    pub(crate) fn connect_rate(&self) -> f64 {
        per_second(self.window_connected, self.window)
    }

    /// Adds another thread's part. Peaks add up: the threads ran at the same time.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.started += other.started;
        self.connected += other.connected;
        self.handshaken += other.handshaken;
        self.closed += other.closed;
        self.survived += other.survived;
        self.abandoned += other.abandoned;
        self.missed += other.missed;
        self.peak += other.peak;
        self.bytes_in += other.bytes_in;
        self.window_connected += other.window_connected;
        self.window_handshaken += other.window_handshaken;
        self.window = self.window.max(other.window);
        self.connect.merge(&other.connect);
        self.handshake.merge(&other.handshake);
        self.close.merge(&other.close);
        self.ready.merge(&other.ready);
        self.lag.merge(&other.lag);
        for (&key, count) in &other.errors {
            *self.errors.entry(key).or_insert(0) += count;
        }
    }
}

fn per_second(count: u64, window: Duration) -> f64 {
    if window.is_zero() {
        return 0.0;
    }
    count as f64 / window.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_histograms_equal_one_that_saw_everything() {
        let (mut a, mut b, mut whole) = (Latency::new(), Latency::new(), Latency::new());
        for ms in 1..=2_000u64 {
            let latency = Duration::from_millis(ms);
            if ms <= 1_000 { &mut a } else { &mut b }.record(latency);
            whole.record(latency);
        }
        a.merge(&b);
        assert_eq!(a.histogram, whole.histogram);
        // Averaging the two p99 would say 1,485 ms.
        let p99 = a.quantile(0.99).as_millis();
        assert!((1_978..=1_982).contains(&p99), "{p99}");
    }

    #[test]
    fn latencies_beyond_the_bounds_are_counted_not_lost() {
        let mut latency = Latency::new();
        latency.record(Duration::ZERO);
        latency.record(LONGEST * 2);
        assert_eq!((latency.count(), latency.clipped()), (2, 1));
        assert!(latency.max() >= LONGEST);
    }

    #[test]
    fn threads_add_up() {
        let (mut one, mut two) = (Stats::new(), Stats::new());
        one.fail(Stage::Connect, Failure::Os(111));
        two.fail(Stage::Connect, Failure::Os(111));
        two.fail(Stage::Handshake, Failure::Timeout);
        (one.window, two.window) = (Duration::from_secs(1), Duration::from_secs(2));
        (one.window_handshaken, two.window_handshaken) = (100, 300);
        one.merge(&two);
        assert_eq!(one.failed(), 3);
        assert_eq!(one.errors[&(Stage::Connect, Failure::Os(111))], 2);
        assert!((one.handshake_rate() - 200.0).abs() < 1e-9);
    }
}
