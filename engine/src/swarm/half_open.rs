//! Which inbound handshake makes room for a newcomer when as many as may be are unfinished.

use crate::names::ConnId;
use flock_transport::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// Inbound handshakes in the order in which they began. Those that are over are skipped when
/// their turn comes.
///
/// A handshake takes its peer a round trip or two. Who is silent for much longer is not worth the
/// place of somebody new; who has just begun is, or a burst of peers would keep everybody, itself
/// included, from ever being done.
pub(super) struct HalfOpen {
    begun: VecDeque<(ConnId, Instant)>,
    /// How long a handshake keeps its place whatever comes.
    grace: Duration,
}

/// Entries of handshakes that are over, beyond which all of them are cleared away.
const OVER_MAX: usize = 64;

impl HalfOpen {
    pub(super) const fn new(grace: Duration) -> Self {
        Self {
            begun: VecDeque::new(),
            grace,
        }
    }

    /// A handshake begins, beside `unfinished` others. `is_open` says whether one goes on.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        conn: ConnId,
        unfinished: u32,
        is_open: impl Fn(ConnId) -> bool,
    ) {
        let limit = 2 * unfinished as usize + OVER_MAX;
        if self.begun.len() >= limit {
            self.begun.retain(|(conn, _)| is_open(*conn));
        }
        self.begun.push_back((conn, now));
    }

    /// The handshake that has taken longest, if that is long enough to end it.
    pub(super) fn stale(
        &mut self,
        now: Instant,
        is_open: impl Fn(ConnId) -> bool,
    ) -> Option<ConnId> {
        while let Some((conn, begun)) = self.begun.front().copied() {
            if is_open(conn) {
                return (now - begun >= self.grace).then_some(conn);
            }
            self.begun.pop_front();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conn(slot: u32) -> ConnId {
        ConnId {
            shard: 0,
            slot,
            generation: 0,
        }
    }

    fn ms(n: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(n)
    }

    #[test]
    fn the_oldest_that_goes_on_is_stale_after_the_grace() {
        let mut half_open = HalfOpen::new(Duration::from_millis(10));
        let all = |_: ConnId| true;
        for n in 0..3 {
            half_open.begin(ms(n), conn(u32::try_from(n).unwrap()), 3, all);
        }
        assert_eq!(half_open.stale(ms(9), all), None);
        assert_eq!(half_open.stale(ms(10), all), Some(conn(0)));
        let but_the_first = |other: ConnId| other != conn(0);
        assert_eq!(half_open.stale(ms(10), but_the_first), None);
        assert_eq!(half_open.stale(ms(11), but_the_first), Some(conn(1)));
        assert_eq!(half_open.stale(ms(99), |_| false), None);
    }

    #[test]
    fn handshakes_that_are_over_take_no_room() {
        let mut half_open = HalfOpen::new(Duration::ZERO);
        for n in 0..10_000 {
            // The first never ends; the others do before the next begins.
            half_open.begin(ms(0), conn(n), 1, |other| other == conn(0));
            assert!(half_open.begun.len() <= 2 + OVER_MAX);
        }
        assert_eq!(
            half_open.stale(ms(0), |other| other == conn(0)),
            Some(conn(0))
        );
    }
}
