use super::digest::Digest;
use super::fault::{Damage, DamageKind, Losing, Loss, Reorder};
use super::queue::{Discipline, Entry, Queue, Waiting};
use flock_transport::Instant;
use hdrhistogram::Histogram;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::ops::Range;
use std::time::Duration;

/// Bytes of a full packet on Ethernet.
pub(super) const FULL_PACKET: usize = 1_500;

/// One direction of a path: a queue, a wire that takes time, and faults. The default is a
/// perfect wire.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// Bytes per second, IP and UDP headers included; zero: no limit.
    pub rate: u64,
    /// Propagation delay.
    pub delay: Duration,
    /// Bytes that may wait; what does not fit is dropped. One packet always fits.
    pub queue: usize,
    /// What happens in the queue.
    pub discipline: Discipline,
    /// Drops what comes faster, without a queue.
    pub policer: Option<Policer>,
    /// Losses on the wire.
    pub loss: Loss,
    /// Packets overtaken by others.
    pub reorder: Option<Reorder>,
    /// Probability that a packet arrives twice.
    pub duplicate: f64,
    /// Damaged packets.
    pub damage: Option<Damage>,
    /// Extra delay of a packet, drawn from zero to this. It does not change the order.
    pub jitter: Duration,
    /// Packets arrive only at multiples of this, as frames that a radio sends together.
    pub aggregate: Duration,
    /// The longest packet that passes, in bytes of IP.
    pub mtu: usize,
    /// Whether longer packets pass in fragments, unless they forbid it; else all longer ones
    /// vanish. No message tells the sender.
    pub fragments: bool,
    /// When nothing passes.
    pub blackouts: Vec<Range<Instant>>,
    /// What changes, and when.
    pub changes: Vec<(Instant, Change)>,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            rate: 0,
            delay: Duration::ZERO,
            queue: usize::MAX,
            discipline: Discipline::default(),
            policer: None,
            loss: Loss::None,
            reorder: None,
            duplicate: 0.0,
            damage: None,
            jitter: Duration::ZERO,
            aggregate: Duration::ZERO,
            mtu: usize::MAX,
            fragments: true,
            blackouts: Vec::new(),
            changes: Vec::new(),
        }
    }
}

/// A token bucket that drops.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policer {
    /// Bytes per second.
    pub rate: u64,
    /// Bytes at once.
    pub burst: u64,
}

/// What may change during a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// A new rate, in bytes per second.
    Rate(u64),
    /// A new propagation delay.
    Delay(Duration),
    /// A new limit of packet length.
    Mtu(usize),
    /// Other losses.
    Loss(Loss),
}

/// What became of a link's packets since the start, or since it was
/// [forgotten](super::Network::forget).
#[derive(Clone, Debug)]
pub struct LinkReport {
    /// Packets put in.
    pub entered: u64,
    /// Packets that left at the other end, duplicates included.
    pub passed: u64,
    /// Bytes of them, with IP and UDP headers.
    pub passed_bytes: u64,
    /// Dropped because the queue was full.
    pub overflowed: u64,
    /// Dropped by the queue's discipline.
    pub early: u64,
    /// Dropped by the policer.
    pub policed: u64,
    /// Lost on the wire, damaged ones that the checksum catches included.
    pub lost: u64,
    /// Dropped during a blackout.
    pub blacked_out: u64,
    /// Dropped for their length.
    pub too_long: u64,
    /// Arrived twice.
    pub duplicated: u64,
    /// Held back.
    pub reordered: u64,
    /// Arrived as something else.
    pub damaged: u64,
    /// The most bytes that waited.
    pub queue_peak: usize,
    /// Microseconds that packets waited in the queue.
    pub waited: Histogram<u64>,
}

impl LinkReport {
    fn new() -> Self {
        let waited = Histogram::new_with_bounds(1, 100_000_000, 3)
            .expect("the bounds are in order and the precision is allowed");
        Self {
            entered: 0,
            passed: 0,
            passed_bytes: 0,
            overflowed: 0,
            early: 0,
            policed: 0,
            lost: 0,
            blacked_out: 0,
            too_long: 0,
            duplicated: 0,
            reordered: 0,
            damaged: 0,
            queue_peak: 0,
            waited,
        }
    }

    /// The time that 95 of 100 packets waited at most.
    #[must_use]
    pub fn waited_p95(&self) -> Duration {
        Duration::from_micros(self.waited.value_at_quantile(0.95))
    }

    /// Packets that did not arrive, for whatever reason.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.overflowed + self.early + self.policed + self.lost + self.blacked_out + self.too_long
    }
}

/// What becomes of a packet that has left the queue.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is gone.
    Lost,
    /// It arrives at this time.
    Arrives(Instant),
    /// It arrives twice.
    Twice(Instant, Instant),
    /// It waits to be overtaken.
    Held,
}

/// How a packet is to be changed before it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoil {
    /// Cut to so many bytes.
    Cut(usize),
    /// Replaced by random bytes from this seed.
    Replace(u64),
}

/// A link in operation.
#[derive(Debug)]
pub(super) struct Link {
    config: LinkConfig,
    queue: Queue,
    wire: Option<usize>,
    tokens: u64,
    tokens_at: Instant,
    losing: Losing,
    held: Vec<(u32, Instant, usize)>,
    latest: Instant,
    dice: Dice,
    pub(super) report: LinkReport,
}

/// One source of chance for each kind of fault: switching one on moves no other.
#[derive(Debug)]
struct Dice {
    reorder: SmallRng,
    duplicate: SmallRng,
    damage: SmallRng,
    jitter: SmallRng,
}

/// The longest that a packet is held back when too few others come to overtake it.
pub(super) const HELD_MAX: Duration = Duration::from_millis(50);

impl Link {
    pub(super) fn new(config: LinkConfig, seed: u64, index: usize) -> Self {
        let rng = |purpose| SmallRng::seed_from_u64(Digest::fork(seed, purpose, index));
        Self {
            queue: Queue::new(config.discipline, config.queue, rng("queue")),
            wire: None,
            tokens: config.policer.map_or(0, |policer| policer.burst),
            tokens_at: Instant::ZERO,
            losing: Losing::new(config.loss, rng("loss")),
            held: Vec::new(),
            latest: Instant::ZERO,
            dice: Dice {
                reorder: rng("reorder"),
                duplicate: rng("duplicate"),
                damage: rng("damage"),
                jitter: rng("jitter"),
            },
            report: LinkReport::new(),
            config,
        }
    }

    pub(super) fn changes(&self) -> &[(Instant, Change)] {
        &self.config.changes
    }

    pub(super) fn apply(&mut self, change: Change, seed: u64) {
        match change {
            Change::Rate(rate) => self.config.rate = rate,
            Change::Delay(delay) => self.config.delay = delay,
            Change::Mtu(mtu) => self.config.mtu = mtu,
            Change::Loss(loss) => self.losing = Losing::new(loss, SmallRng::seed_from_u64(seed)),
        }
    }

    pub(super) fn forget(&mut self) {
        self.report = LinkReport::new();
    }

    /// Whether a packet of `size` bytes gets as far as the queue.
    pub(super) fn admits(&mut self, now: Instant, size: usize, dont_fragment: bool) -> bool {
        let report = &mut self.report;
        report.entered += 1;
        if self.config.blackouts.iter().any(|dark| dark.contains(&now)) {
            report.blacked_out += 1;
            return false;
        }
        if size > self.config.mtu && (dont_fragment || !self.config.fragments) {
            report.too_long += 1;
            return false;
        }
        if !self.policed(now, size) {
            self.report.policed += 1;
            return false;
        }
        true
    }

    fn policed(&mut self, now: Instant, size: usize) -> bool {
        let Some(policer) = self.config.policer else {
            return true;
        };
        // Tokens are counted in billionths of a byte, so that no rounding loses any.
        let gained = now.since(self.tokens_at).as_nanos() * u128::from(policer.rate);
        let whole = u64::try_from(gained / 1_000_000_000).unwrap_or(u64::MAX);
        if whole > 0 {
            let spent = u128::from(whole) * 1_000_000_000 / u128::from(policer.rate.max(1));
            self.tokens_at =
                self.tokens_at + Duration::from_nanos(u64::try_from(spent).unwrap_or(u64::MAX));
            self.tokens = self.tokens.saturating_add(whole).min(policer.burst);
        }
        let size = size as u64;
        if self.tokens < size {
            return false;
        }
        self.tokens -= size;
        true
    }

    /// Puts an admitted packet into the queue, and says which packet is dropped for it, if any.
    pub(super) fn enqueue(&mut self, waiting: Waiting) -> Option<usize> {
        let out = match self.queue.push(waiting) {
            Entry::In => None,
            Entry::Full => {
                self.report.overflowed += 1;
                Some(waiting.packet)
            }
            Entry::Early => {
                self.report.early += 1;
                Some(waiting.packet)
            }
            Entry::Instead(other) => {
                self.report.overflowed += 1;
                Some(other)
            }
        };
        self.report.queue_peak = self.report.queue_peak.max(self.queue.bytes());
        out
    }

    /// If the wire is free, puts the next packet onto it and says when it will have left.
    /// Packets the discipline drops go to `dropped`.
    pub(super) fn start(&mut self, now: Instant, dropped: &mut Vec<usize>) -> Option<Instant> {
        if self.wire.is_some() {
            return None;
        }
        let before = dropped.len();
        let next = self.queue.pop(now, dropped);
        self.report.early += (dropped.len() - before) as u64;
        let next = next?;
        let stood = u64::try_from(now.since(next.since).as_micros()).unwrap_or(u64::MAX);
        self.report.waited.saturating_record(stood);
        self.wire = Some(next.packet);
        Some(now + self.on_the_wire(next.size))
    }

    fn on_the_wire(&self, size: usize) -> Duration {
        if self.config.rate == 0 {
            return Duration::ZERO;
        }
        Duration::from_nanos(size as u64 * 1_000_000_000 / self.config.rate)
    }

    /// The packet that was on the wire.
    pub(super) fn finish(&mut self) -> Option<usize> {
        self.wire.take()
    }

    /// Draws the fate of the packet that left the wire now.
    pub(super) fn fate(&mut self, now: Instant, packet: usize, spoil: &mut Option<Spoil>) -> Fate {
        if self.losing.next() {
            self.report.lost += 1;
            return Fate::Lost;
        }
        if let Some(damage) = self.config.damage
            && self.dice.damage.random_bool(damage.probability)
        {
            match damage.kind {
                DamageKind::Caught => {
                    self.report.lost += 1;
                    return Fate::Lost;
                }
                DamageKind::Truncated => {
                    *spoil = Some(Spoil::Cut(self.dice.damage.random_range(0..20)));
                }
                DamageKind::Garbage => *spoil = Some(Spoil::Replace(self.dice.damage.random())),
            }
            self.report.damaged += 1;
        }
        if let Some(reorder) = self.config.reorder
            && self.dice.reorder.random_bool(reorder.probability)
        {
            self.report.reordered += 1;
            let overtaken_by = self.dice.reorder.random_range(1..=reorder.depth.max(1));
            self.held.push((overtaken_by, now + HELD_MAX, packet));
            return Fate::Held;
        }
        let first = self.arrival(now);
        if self.config.duplicate > 0.0 && self.dice.duplicate.random_bool(self.config.duplicate) {
            self.report.duplicated += 1;
            return Fate::Twice(first, self.arrival(now));
        }
        Fate::Arrives(first)
    }

    /// When a packet that goes now arrives: in order, whatever the jitter.
    fn arrival(&mut self, now: Instant) -> Instant {
        let mut at = now + self.config.delay;
        if !self.config.jitter.is_zero() {
            at = at
                + self
                    .dice
                    .jitter
                    .random_range(Duration::ZERO..self.config.jitter);
        }
        if !self.config.aggregate.is_zero() {
            let step = u64::try_from(self.config.aggregate.as_nanos()).unwrap_or(u64::MAX);
            at = Instant::from_nanos(at.as_nanos().next_multiple_of(step));
        }
        self.latest = self.latest.max(at);
        self.latest
    }

    /// Packets held back that may go, because another has passed (`overtaken`) or their time is up.
    pub(super) fn release(
        &mut self,
        now: Instant,
        overtaken: bool,
        mut released: impl FnMut(usize, Instant),
    ) {
        if self.held.is_empty() {
            return;
        }
        let mut held = std::mem::take(&mut self.held);
        held.retain_mut(|(left, until, packet)| {
            *left -= u32::from(overtaken && *left > 0);
            if *left > 0 && *until > now {
                return true;
            }
            released(*packet, self.arrival(now));
            false
        });
        self.held = held;
    }
}
