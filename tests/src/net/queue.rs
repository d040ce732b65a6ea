use super::codel::Codel;
use flock_transport::Instant;
use rand::Rng;
use rand::rngs::SmallRng;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// What a queue does beside dropping what does not fit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Discipline {
    /// Nothing.
    #[default]
    TailDrop,
    /// Drops at its head what stood for more than `target` during `interval` (RFC 8289).
    Codel {
        /// Acceptable standing time; 5 ms as a rule.
        target: Duration,
        /// Reaction time; 100 ms as a rule.
        interval: Duration,
    },
    /// A queue for each pair of addresses, served in turn, each with CoDel (RFC 8290). What does
    /// not fit is taken from the longest.
    FairCodel {
        /// As with CoDel.
        target: Duration,
        /// As with CoDel.
        interval: Duration,
    },
    /// Random early detection: drops what comes with a probability that rises with the smoothed
    /// length, from zero at `least` to a tenth at `most` bytes; beyond, all.
    Red {
        /// Bytes up to which nothing is dropped.
        least: usize,
        /// Bytes from which all is dropped.
        most: usize,
    },
}

/// A packet that waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    /// Its key.
    pub(super) packet: usize,
    /// Its length, with headers.
    pub(super) size: usize,
    pub(super) since: Instant,
    /// Whose it is: sender and receiver.
    pub(super) flow: (usize, usize),
}

/// Bytes a flow may send in its turn.
const QUANTUM: usize = 1_514;
/// Share of a new length in RED's smoothed one.
const RED_WEIGHT: f64 = 0.002;
/// RED's probability of dropping just below its upper limit.
const RED_MOST: f64 = 0.1;

/// Packets in the order in which one flow, or all, sent them.
#[derive(Debug, Default)]
struct Line {
    packets: VecDeque<Waiting>,
    bytes: usize,
    codel: Option<Codel>,
    credit: usize,
}

impl Line {
    fn push(&mut self, waiting: Waiting) {
        self.bytes += waiting.size;
        self.packets.push_back(waiting);
    }

    fn pop(&mut self) -> Option<Waiting> {
        let head = self.packets.pop_front()?;
        self.bytes -= head.size;
        Some(head)
    }

    /// The next packet that the discipline lets pass.
    fn next(&mut self, now: Instant, dropped: &mut Vec<usize>) -> Option<Waiting> {
        loop {
            let head = self.pop()?;
            let stood = now.since(head.since);
            let left = self.bytes;
            let drops = |codel: &mut Codel| codel.drops(now, stood, left);
            if !self.codel.as_mut().is_some_and(drops) {
                return Some(head);
            }
            dropped.push(head.packet);
        }
    }
}

/// The queue of a link.
#[derive(Debug)]
pub(super) struct Queue {
    discipline: Discipline,
    limit: usize,
    bytes: usize,
    lines: BTreeMap<(usize, usize), Line>,
    /// Flows in the order of their turns.
    turns: VecDeque<(usize, usize)>,
    smoothed: f64,
    rng: SmallRng,
}

/// What became of a packet that came to a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// It is in.
    In,
    /// There was no room.
    Full,
    /// It was dropped early.
    Early,
    /// It is in, and this other one is out.
    Instead(usize),
}

impl Queue {
    pub(super) fn new(discipline: Discipline, limit: usize, rng: SmallRng) -> Self {
        Self {
            discipline,
            limit,
            bytes: 0,
            lines: BTreeMap::new(),
            turns: VecDeque::new(),
            smoothed: 0.0,
            rng,
        }
    }

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Puts a packet in, if it may. One always fits.
    pub(super) fn push(&mut self, waiting: Waiting) -> Entry {
        let full = self.bytes > 0 && self.bytes + waiting.size > self.limit;
        let fair = matches!(self.discipline, Discipline::FairCodel { .. });
        if full && !fair {
            return Entry::Full;
        }
        if let Discipline::Red { least, most } = self.discipline
            && self.red(least, most)
        {
            return Entry::Early;
        }
        let codel = match self.discipline {
            Discipline::Codel { target, interval } | Discipline::FairCodel { target, interval } => {
                Some((target, interval))
            }
            Discipline::TailDrop | Discipline::Red { .. } => None,
        };
        let flow = if fair { waiting.flow } else { (0, 0) };
        let line = self.lines.entry(flow).or_insert_with(|| Line {
            codel: codel.map(|(target, interval)| Codel::new(target, interval)),
            ..Line::default()
        });
        if line.packets.is_empty() {
            line.credit = QUANTUM;
            if !self.turns.contains(&flow) {
                self.turns.push_back(flow);
            }
        }
        line.push(waiting);
        self.bytes += waiting.size;
        if !full {
            return Entry::In;
        }
        let longest = self.lines.values_mut().max_by_key(|line| line.bytes);
        let Some(out) = longest.and_then(Line::pop) else {
            return Entry::In;
        };
        self.bytes -= out.size;
        Entry::Instead(out.packet)
    }

    fn red(&mut self, least: usize, most: usize) -> bool {
        self.smoothed += RED_WEIGHT * (self.bytes as f64 - self.smoothed);
        let (least, most) = (least as f64, most as f64);
        let above = (self.smoothed - least) / (most - least);
        above >= 1.0 || (above > 0.0 && self.rng.random_bool(above * RED_MOST))
    }

    /// Takes out the next packet. The keys of those the discipline drops go to `dropped`.
    pub(super) fn pop(&mut self, now: Instant, dropped: &mut Vec<usize>) -> Option<Waiting> {
        loop {
            let flow = *self.turns.front()?;
            let Some(line) = self.lines.get_mut(&flow) else {
                self.turns.pop_front();
                continue;
            };
            let before = line.bytes;
            let next = line.next(now, dropped);
            self.bytes -= before - line.bytes;
            let Some(next) = next else {
                self.turns.pop_front();
                continue;
            };
            if line.packets.is_empty() {
                self.turns.pop_front();
            } else if line.credit < next.size {
                line.credit += QUANTUM;
                self.turns.rotate_left(1);
            }
            line.credit = line.credit.saturating_sub(next.size);
            return Some(next);
        }
    }
}
