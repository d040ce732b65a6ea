use std::ops::RangeInclusive;
use std::time::Duration;

/// What a simulated network does to its traffic. Probabilities are between 0 and 1; every choice
/// is drawn from the world's seed.
#[derive(Clone, Debug)]
pub struct Faults {
    /// Chance that a dial is answered with RST although somebody listens.
    pub refuse: f64,
    /// Chance that a dial is never answered.
    pub blackhole: f64,
    /// Chance, per segment of data, that the connection is reset in both directions.
    pub reset: f64,
    /// Chance, per segment, of [`Self::spike_delay`] on top of its delay.
    pub spike: f64,
    /// How long a delay spike lasts.
    pub spike_delay: Duration,
    /// Chance that a datagram between two nodes is lost.
    pub loss: f64,
    /// Chance that a datagram between two nodes arrives twice.
    pub duplicate: f64,
    /// Chance that a train is refused for want of memory (`ENOBUFS`).
    pub train_refused: f64,
    /// One-way delay between two nodes; drawn once per pair.
    pub latency: RangeInclusive<Duration>,
    /// Most delay added to a segment at random; never reorders a stream, but datagrams.
    pub jitter: Duration,
    /// Bytes of a segment; drawn for each.
    pub segment: RangeInclusive<usize>,
    /// Bytes a sending socket takes before `Send` has to wait, unless `SO_SNDBUF` is set.
    pub send_buffer: usize,
    /// Bytes in flight and unread on one direction of a stream, unless `SO_RCVBUF` is set.
    pub receive_buffer: usize,
    /// Chance that what was faster wins against a cancellation.
    pub natural_wins: f64,
    /// Chance that received segments or datagrams are delivered one by one although more are
    /// there.
    pub split: f64,
    /// Chance, after each completion, that a turn delivers no more of what is ready.
    pub early_end: f64,
    /// Most time between `Close` and its completion.
    pub close_delay: Duration,
}

impl Default for Faults {
    /// A network without mishaps, of 0.1 to 30 ms delay.
    fn default() -> Self {
        Self {
            refuse: 0.0,
            blackhole: 0.0,
            reset: 0.0,
            spike: 0.0,
            spike_delay: Duration::from_secs(1),
            loss: 0.0,
            duplicate: 0.0,
            train_refused: 0.0,
            latency: Duration::from_micros(100)..=Duration::from_millis(30),
            jitter: Duration::from_millis(2),
            segment: 1..=1460,
            send_buffer: 64 * 1024,
            receive_buffer: 64 * 1024,
            natural_wins: 0.5,
            split: 0.3,
            early_end: 0.1,
            close_delay: Duration::from_micros(300),
        }
    }
}

impl Faults {
    /// A network that does everything it can do, often enough to be met by every seed.
    #[must_use]
    pub fn hostile() -> Self {
        Self {
            refuse: 0.05,
            blackhole: 0.05,
            reset: 0.01,
            spike: 0.02,
            spike_delay: Duration::from_secs(4),
            loss: 0.05,
            duplicate: 0.02,
            train_refused: 0.02,
            send_buffer: 600,
            receive_buffer: 900,
            ..Self::default()
        }
    }
}
