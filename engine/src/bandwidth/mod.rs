//! Limits of bandwidth: how fast bytes of admitted connections may go up and down, in all, per
//! channel and per peer.

mod bucket;
mod turns;

pub(crate) use bucket::{BURST, Bucket, OWN_BURST};
pub(crate) use turns::Turns;

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How many bytes a second may go in each direction, application bytes without headers and
/// handshakes. `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// From us to peers.
    pub up: Option<NonZeroU64>,
    /// From peers to us.
    pub down: Option<NonZeroU64>,
}

impl Bandwidth {
    /// No limit in either direction.
    pub const UNLIMITED: Self = Self {
        up: None,
        down: None,
    };

    /// As many bytes a second in each direction; 0 is no limit.
    #[must_use]
    pub const fn both(bytes_per_second: u64) -> Self {
        Self {
            up: NonZeroU64::new(bytes_per_second),
            down: NonZeroU64::new(bytes_per_second),
        }
    }
}

/// What a connection has to send and receive, both together, not to be closed. How slow a peer may be
/// is for the application to know; where places are few, a slow one takes that of a fast one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MinRate {
    /// Bytes of the application, as those of the handshake are over when it begins to count.
    pub bytes_per_second: u32,
    /// Over how long that is looked at. A connection gets as long from its admission on; at most
    /// 4 GiB may be asked for in that time.
    pub over: Duration,
}

impl MinRate {
    /// Bytes to be moved in `over`; none when that is no number of 32 bits, or zero.
    pub(crate) fn bytes(self) -> Option<NonZeroU32> {
        let bytes = u128::from(self.bytes_per_second) * self.over.as_millis() / 1000;
        NonZeroU32::new(u32::try_from(bytes).ok()?)
    }
}

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Up,
    Down,
}

impl Way {
    pub(crate) const BOTH: [Self; 2] = [Self::Up, Self::Down];
}

/// A bucket for each direction.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    up: Bucket,
    down: Bucket,
}

impl Rates {
    pub(crate) fn new(bandwidth: Bandwidth) -> Self {
        let rates = Self::default();
        rates.set(bandwidth);
        rates
    }

    /// Takes effect with the next bytes.
    pub(crate) fn set(&self, bandwidth: Bandwidth) {
        self.up.set_rate(bandwidth.up);
        self.down.set_rate(bandwidth.down);
    }

    pub(crate) fn bucket(&self, way: Way) -> &Bucket {
        match way {
            Way::Up => &self.up,
            Way::Down => &self.down,
        }
    }

    pub(crate) fn is_limited(&self) -> bool {
        Way::BOTH
            .iter()
            .any(|way| self.bucket(*way).rate().is_some())
    }
}

/// What the shards of an engine share.
#[derive(Debug, Default)]
pub(crate) struct SharedRates {
    /// Of all connections together.
    pub(crate) all: Rates,
    /// Connections that wait for their turn, so that a shard takes no more than its part.
    waiting: [AtomicU32; 2],
}

impl SharedRates {
    pub(crate) fn new(bandwidth: Bandwidth) -> Self {
        Self {
            all: Rates::new(bandwidth),
            waiting: Default::default(),
        }
    }

    fn waiting(&self, way: Way) -> &AtomicU32 {
        &self.waiting[usize::from(way == Way::Down)]
    }

    /// Notes that a shard has now so many connections waiting where it had `was`.
    pub(crate) fn change_waiting(&self, way: Way, was: u32, is: u32) {
        // Wraps when it shrinks, and the sum is right again.
        self.waiting(way)
            .fetch_add(is.wrapping_sub(was), Ordering::Relaxed);
    }

    /// How many wait on all shards together.
    pub(crate) fn all_waiting(&self, way: Way) -> u32 {
        self.waiting(way).load(Ordering::Relaxed)
    }
}
