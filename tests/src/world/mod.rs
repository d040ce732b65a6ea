//! A simulated swarm around an engine: scripted plain peers, and a checker that knows what must
//! never happen. Everything a run does follows from one seed.

mod cast;
mod check;
mod engine;
mod peer;
mod plan;

#[cfg(test)]
mod tests;

pub use cast::{Actor, Cast, Ended};
pub use check::{Checker, Limits, Note};
pub use engine::{Echo, EngineShard, Feed};
pub use peer::{Peer, PeerReport};
pub use plan::{Behaviour, Plan};

use std::ops::Range;

/// The seeds a test goes through: `FLOCK_SEED` alone if set, to replay a failure, else as many as
/// `FLOCK_SEEDS` says, else `usual`.
#[must_use]
pub fn seeds(usual: u64) -> Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    if let Some(seed) = number("FLOCK_SEED") {
        return seed..seed + 1;
    }
    0..number("FLOCK_SEEDS").unwrap_or(usual)
}
