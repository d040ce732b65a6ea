//! Deadlines of connections: a hierarchical timing wheel (Varghese and Lauck, SOSP 1987).

use crate::pages::Pages;
use flock_transport::Instant;
use std::num::NonZeroU32;

/// Names a deadline in a wheel; stale once it fired or was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimerId {
    index: u32,
    /// Not zero, so that an absent name takes no room.
    generation: NonZeroU32,
}

/// Deadlines at a resolution of one millisecond, rounded up: never early.
///
/// Each level has 64 slots of 64 times the width of the level below. A deadline lies at the
/// level of the highest digit in which it differs from the present, and moves down when that
/// digit is reached, so that arming and cancelling touch one list.
pub(crate) struct Wheel<K> {
    entries: Pages<Entry<K>>,
    free: u32,
    heads: [[u32; SLOTS]; LEVELS],
    occupied: [u64; LEVELS],
    /// The millisecond up to which everything has fired.
    tick: u64,
    armed: u32,
    limit: u32,
    refused: u64,
}

struct Entry<K> {
    key: Option<K>,
    at: u64,
    next: u32,
    prev: u32,
    generation: NonZeroU32,
    level: u8,
    slot: u8,
}

const BITS: u32 = 6;
const SLOTS: usize = 1 << BITS;
/// 64^8 milliseconds exceed what an `Instant` can say.
const LEVELS: usize = 8;
const NONE: u32 = u32::MAX;
const NANOS_PER_TICK: u64 = 1_000_000;

impl<K: Copy> Wheel<K> {
    /// A wheel of at most `limit` deadlines whose present is `now`.
    pub(crate) fn new(now: Instant, limit: u32) -> Self {
        Self {
            entries: Pages::new(),
            free: NONE,
            heads: [[NONE; SLOTS]; LEVELS],
            occupied: [0; LEVELS],
            tick: now.as_nanos() / NANOS_PER_TICK,
            armed: 0,
            limit: limit.min(NONE - 1),
            refused: 0,
        }
    }

    /// Arms a deadline. `None` when the wheel is full, which is counted.
    pub(crate) fn insert(&mut self, key: K, at: Instant) -> Option<TimerId> {
        if self.armed >= self.limit {
            self.refused += 1;
            return None;
        }
        let index = self.take_free();
        let entry = &mut self.entries[index];
        entry.key = Some(key);
        // What is due already fires with the next millisecond.
        entry.at = at.as_nanos().div_ceil(NANOS_PER_TICK).max(self.tick + 1);
        let generation = entry.generation;
        self.armed += 1;
        self.link(index);
        Some(TimerId { index, generation })
    }

    /// Disarms a deadline; nothing happens if it has fired or was cancelled.
    pub(crate) fn cancel(&mut self, timer: TimerId) {
        if self.is_armed(timer) {
            self.unlink(timer.index);
            self.release(timer.index);
        }
    }

    /// Whether the deadline is still to come.
    pub(crate) fn is_armed(&self, timer: TimerId) -> bool {
        let entry = self.entries.get(timer.index);
        entry.is_some_and(|e| e.generation == timer.generation && e.key.is_some())
    }

    /// When to call [`expire`](Self::expire) next: the earliest deadline, or earlier, when
    /// deadlines far away have to move down a level.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let (_, _, tick) = self.next_slot()?;
        Some(Instant::from_nanos(tick.saturating_mul(NANOS_PER_TICK)))
    }

    /// Calls `fire` for every deadline that has passed, earliest millisecond first.
    pub(crate) fn expire(&mut self, now: Instant, fire: &mut impl FnMut(K)) {
        let target = now.as_nanos() / NANOS_PER_TICK;
        while let Some((level, slot, tick)) = self.next_slot() {
            if tick > target {
                break;
            }
            self.tick = tick;
            let mut index = std::mem::replace(&mut self.heads[level][slot], NONE);
            self.occupied[level] &= !(1 << slot);
            while index != NONE {
                let Entry { next, at, key, .. } = self.entries[index];
                if at > tick {
                    self.link(index);
                } else if let Some(key) = key {
                    self.release(index);
                    fire(key);
                }
                index = next;
            }
        }
        self.tick = self.tick.max(target);
    }

    /// Deadlines refused because the wheel was full.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    /// Bytes of memory held for deadlines.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.entries.bytes()
    }

    /// The first slot to come, with the millisecond it begins at.
    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        (0..LEVELS).find_map(|level| {
            let shift = BITS * u32::try_from(level).unwrap_or(0);
            let position = (self.tick >> shift) & (SLOTS as u64 - 1);
            // Everything at this level lies behind the present digit: what had this digit or a
            // smaller one would differ from the present elsewhere.
            let ahead = self.occupied[level] & (u64::MAX << position);
            if ahead == 0 {
                return None;
            }
            let slot = ahead.trailing_zeros();
            let above = (self.tick >> shift) & !(SLOTS as u64 - 1);
            Some((level, slot as usize, (above | u64::from(slot)) << shift))
        })
    }

    fn link(&mut self, index: u32) {
        let at = self.entries[index].at;
        let digit = (u64::BITS - 1 - (at ^ self.tick).max(1).leading_zeros()) / BITS;
        let level = (digit as usize).min(LEVELS - 1);
        let digits = at >> (BITS * digit) & (SLOTS as u64 - 1);
        let slot = usize::try_from(digits).expect("64 slots");
        let head = std::mem::replace(&mut self.heads[level][slot], index);
        if head != NONE {
            self.entries[head].prev = index;
        }
        self.occupied[level] |= 1 << slot;
        let entry = &mut self.entries[index];
        (entry.next, entry.prev) = (head, NONE);
        entry.level = u8::try_from(level).expect("eight levels");
        entry.slot = u8::try_from(digits).expect("64 slots");
    }

    fn unlink(&mut self, index: u32) {
        let Entry {
            next,
            prev,
            level,
            slot,
            ..
        } = self.entries[index];
        if next != NONE {
            self.entries[next].prev = prev;
        }
        if prev != NONE {
            self.entries[prev].next = next;
            return;
        }
        let (level, slot) = (usize::from(level), usize::from(slot));
        self.heads[level][slot] = next;
        if next == NONE {
            self.occupied[level] &= !(1 << slot);
        }
    }

    fn take_free(&mut self) -> u32 {
        if self.free != NONE {
            let index = self.free;
            self.free = self.entries[index].next;
            return index;
        }
        let entry = Entry {
            key: None,
            at: 0,
            next: NONE,
            prev: NONE,
            generation: NonZeroU32::MIN,
            level: 0,
            slot: 0,
        };
        self.entries.push(entry)
    }

    fn release(&mut self, index: u32) {
        let entry = &mut self.entries[index];
        entry.key = None;
        // A name that is 2^32 uses old may be taken for a new one; nobody keeps one that long.
        entry.generation = entry.generation.checked_add(1).unwrap_or(NonZeroU32::MIN);
        entry.next = self.free;
        self.free = index;
        self.armed -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn ms(ms: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(ms)
    }

    #[test]
    fn never_early_and_at_most_a_millisecond_late() {
        let mut wheel = Wheel::new(ms(1000), 8);
        wheel
            .insert('a', Instant::from_nanos(1_000_000_001))
            .unwrap();
        let mut fired = Vec::new();
        wheel.expire(Instant::from_nanos(1_000_999_999), &mut |key| {
            fired.push(key);
        });
        assert!(fired.is_empty());
        wheel.expire(ms(1001), &mut |key| fired.push(key));
        assert_eq!(fired, ['a']);
        wheel.insert('b', Instant::FAR_FUTURE).unwrap();
        assert!(wheel.next_deadline().is_some());
    }

    #[test]
    fn a_full_wheel_refuses_and_counts() {
        let mut wheel = Wheel::new(Instant::ZERO, 1);
        let timer = wheel.insert((), ms(5)).unwrap();
        assert!(wheel.insert((), ms(5)).is_none());
        assert_eq!(wheel.refused(), 1);
        wheel.cancel(timer);
        wheel.cancel(timer);
        assert!(wheel.insert((), ms(5)).is_some());
    }

    proptest! {
        #[test]
        fn behaves_like_a_sorted_list(
            ops in proptest::collection::vec((0u8..4, 0u64..200_000, any::<u16>()), 1..300)
        ) {
            let mut now = 10_000;
            let mut wheel = Wheel::new(ms(now), 1000);
            let mut model: Vec<(u64, u32, TimerId)> = Vec::new();
            let mut serial = 0;
            for (op, amount, pick) in ops {
                match op {
                    0 | 1 => {
                        let at = now + amount;
                        let timer = wheel.insert(serial, ms(at)).unwrap();
                        model.push((at.max(now + 1), serial, timer));
                        serial += 1;
                    }
                    2 if !model.is_empty() => {
                        let (_, _, timer) = model.swap_remove(usize::from(pick) % model.len());
                        wheel.cancel(timer);
                    }
                    _ => {
                        now += amount / 40;
                        let mut fired = Vec::new();
                        wheel.expire(ms(now), &mut |key| fired.push(key));
                        fired.sort_unstable();
                        let mut due: Vec<u32> =
                            model.iter().filter(|e| e.0 <= now).map(|e| e.1).collect();
                        due.sort_unstable();
                        prop_assert_eq!(fired, due);
                        model.retain(|e| e.0 > now);
                    }
                }
                let first = model.iter().map(|e| e.0).min();
                let next = wheel.next_deadline();
                prop_assert_eq!(next.is_none(), first.is_none());
                if let (Some(first), Some(next)) = (first, next) {
                    prop_assert!(next > ms(now) && next <= ms(first));
                }
            }
        }
    }
}
