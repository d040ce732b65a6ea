use rand::Rng;
use rand::rngs::SmallRng;

/// How a link loses packets, whatever its queue does.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Loss {
    /// It does not.
    #[default]
    None,
    /// Each packet with this probability, independently.
    Uniform(f64),
    /// Gilbert–Elliott: a good state without loss and a bad one.
    Bursts {
        /// Probability, per packet, of going from good to bad.
        enter: f64,
        /// Probability, per packet, of going back.
        leave: f64,
        /// Probability of losing a packet while bad.
        within: f64,
    },
}

/// Packets that fall behind others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reorder {
    /// Probability that a packet is held back.
    pub probability: f64,
    /// At most so many later packets overtake it; how many is drawn from 1 to this.
    pub depth: u32,
}

/// Packets that arrive damaged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Damage {
    /// Probability that a packet is damaged.
    pub probability: f64,
    /// What becomes of it.
    pub kind: DamageKind,
}

/// What becomes of a damaged packet. Never a wrong payload in a right header: the UDP checksum
/// exists to prevent that, and uTP relies on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DamageKind {
    /// Its checksum is wrong: it is dropped.
    Caught,
    /// It arrives cut off within the first 19 bytes, so that no uTP header remains.
    Truncated,
    /// Random bytes, of a random length, arrive from the same address instead.
    Garbage,
}

/// The state of a [`Loss`].
#[derive(Debug)]
pub(super) struct Losing {
    model: Loss,
    bad: bool,
    rng: SmallRng,
}

impl Losing {
    pub(super) fn new(model: Loss, rng: SmallRng) -> Self {
        Self {
            model,
            bad: false,
            rng,
        }
    }

    /// Whether the next packet is lost.
    pub(super) fn next(&mut self) -> bool {
        match self.model {
            Loss::None => false,
            Loss::Uniform(probability) => self.rng.random_bool(probability),
            Loss::Bursts {
                enter,
                leave,
                within,
            } => {
                let turns = self.rng.random_bool(if self.bad { leave } else { enter });
                self.bad ^= turns;
                self.bad && self.rng.random_bool(within)
            }
        }
    }
}
