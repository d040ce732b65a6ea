use super::bucket::{BURST, advance};
use super::{SharedRates, Way};
use crate::table::Key;
use flock_transport::Instant;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// The connections of a shard that wait for tokens of one direction, each at most once: for those
/// of all first come first served, for their own until these are there.
#[derive(Debug)]
pub(crate) struct Turns {
    way: Way,
    waiting: VecDeque<Key>,
    later: BinaryHeap<Reverse<(Instant, u32, u32)>>,
    /// Until when this shard has spent its part of what all shards may.
    share_until: Instant,
}

impl Turns {
    pub(crate) fn new(way: Way) -> Self {
        Self {
            way,
            waiting: VecDeque::new(),
            later: BinaryHeap::new(),
            share_until: Instant::ZERO,
        }
    }

    /// Adds a connection behind the others.
    pub(crate) fn wait(&mut self, shared: &SharedRates, key: Key) {
        self.waiting.push_back(key);
        shared.change_waiting(self.way, 0, 1);
    }

    /// Adds a connection that has no tokens of its own before `at`.
    pub(crate) fn wait_until(&mut self, at: Instant, key: Key) {
        self.later.push(Reverse((at, key.slot, key.generation)));
    }

    /// How many wait, those gone meanwhile included.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len() + self.later.len()
    }

    /// Forgets those that are gone.
    pub(crate) fn retain(&mut self, shared: &SharedRates, is_there: impl Fn(Key) -> bool) {
        let was = self.waiting.len();
        self.waiting.retain(|key| is_there(*key));
        let gone = u32::try_from(was - self.waiting.len()).unwrap_or(u32::MAX);
        shared.change_waiting(self.way, gone, 0);
        self.later.retain(|Reverse((_, slot, generation))| {
            is_there(Key {
                slot: *slot,
                generation: *generation,
            })
        });
    }

    /// Rates have changed: whoever waits for tokens of its own may have some.
    pub(crate) fn look_again(&mut self, shared: &SharedRates) {
        self.share_until = Instant::ZERO;
        while let Some(Reverse((_, slot, generation))) = self.later.pop() {
            self.wait(shared, Key { slot, generation });
        }
    }

    /// Whose turn it is, if all connections together have tokens. It is taken out.
    pub(crate) fn next(&mut self, now: Instant, shared: &SharedRates) -> Option<Key> {
        while self
            .later
            .peek()
            .is_some_and(|Reverse((at, ..))| *at <= now)
        {
            if let Some(Reverse((_, slot, generation))) = self.later.pop() {
                self.wait(shared, Key { slot, generation });
            }
        }
        if self.ready_at(shared) > now {
            return None;
        }
        let key = self.waiting.pop_front()?;
        shared.change_waiting(self.way, 1, 0);
        Some(key)
    }

    /// The one whose turn it was got `bytes`; it does not wait again yet.
    pub(crate) fn spent(&mut self, now: Instant, shared: &SharedRates, bytes: u64) {
        let bucket = shared.all.bucket(self.way);
        bucket.spend(now, bytes, BURST);
        let own = u32::try_from(self.waiting.len())
            .unwrap_or(u32::MAX)
            .saturating_add(1);
        let all = shared.all_waiting(self.way).saturating_add(1).max(own);
        let cost = bucket.cost(bytes).mul_f64(f64::from(all) / f64::from(own));
        self.share_until = advance(self.share_until, now, cost, BURST);
    }

    /// When to look again.
    pub(crate) fn deadline(&self, shared: &SharedRates) -> Option<Instant> {
        let turn = (!self.waiting.is_empty()).then(|| self.ready_at(shared));
        let later = self.later.peek().map(|Reverse((at, ..))| *at);
        turn.into_iter().chain(later).min()
    }

    fn ready_at(&self, shared: &SharedRates) -> Instant {
        let bucket = shared.all.bucket(self.way);
        match bucket.rate() {
            Some(_) => bucket.ready_at().max(self.share_until),
            None => Instant::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bandwidth::Bandwidth;
    use std::time::Duration;

    const QUANTUM: u64 = 10_000;

    fn key(slot: u32) -> Key {
        Key {
            slot,
            generation: 0,
        }
    }

    /// Lets shards with so many connections each, that always want more, run for ten seconds;
    /// what each connection got.
    fn run(rate: u64, shards: &[u32]) -> Vec<Vec<u64>> {
        let shared = SharedRates::new(Bandwidth::both(rate));
        let mut got: Vec<Vec<u64>> = shards.iter().map(|n| vec![0; *n as usize]).collect();
        let mut turns: Vec<Turns> = shards.iter().map(|_| Turns::new(Way::Up)).collect();
        for (turns, count) in turns.iter_mut().zip(shards) {
            (0..*count).for_each(|slot| turns.wait(&shared, key(slot)));
        }
        let start = Instant::from_nanos(1 << 40);
        let mut now = start;
        while now < start + Duration::from_secs(10) {
            for (turns, got) in turns.iter_mut().zip(&mut got) {
                while let Some(key) = turns.next(now, &shared) {
                    got[key.slot as usize] += QUANTUM;
                    turns.spent(now, &shared, QUANTUM);
                    turns.wait(&shared, key);
                }
            }
            let next = turns
                .iter()
                .filter_map(|turns| turns.deadline(&shared))
                .min();
            now = next.unwrap().max(now + Duration::from_micros(50));
        }
        got
    }

    #[test]
    fn all_together_get_the_rate_and_each_the_same() {
        for shards in [&[1][..], &[7], &[1, 10], &[30, 3, 1]] {
            let rate = 5_000_000;
            let got = run(rate, shards);
            let all: Vec<u64> = got.iter().flatten().copied().collect();
            let sum: u64 = all.iter().sum();
            let wanted = rate * 10;
            assert!(sum <= wanted + wanted / 100, "{shards:?}: {sum}");
            assert!(sum >= wanted * 9 / 10, "{shards:?}: {sum}");
            let (least, most) = (all.iter().min().unwrap(), all.iter().max().unwrap());
            assert!(*least * 5 >= *most * 4, "{shards:?}: {least} to {most}");
        }
    }

    #[test]
    fn who_has_no_tokens_of_its_own_waits_apart() {
        let shared = SharedRates::default();
        let mut turns = Turns::new(Way::Down);
        let soon = Instant::from_nanos(1_000);
        turns.wait_until(soon, key(1));
        turns.wait(&shared, key(2));
        assert_eq!(turns.next(Instant::ZERO, &shared), Some(key(2)));
        assert_eq!(turns.next(Instant::ZERO, &shared), None);
        assert_eq!(turns.deadline(&shared), Some(soon));
        assert_eq!(turns.next(soon, &shared), Some(key(1)));
        assert_eq!((turns.len(), shared.all_waiting(Way::Down)), (0, 0));
    }

    #[test]
    fn who_is_gone_is_forgotten_and_a_new_rate_wakes_those_that_wait() {
        let shared = SharedRates::default();
        let mut turns = Turns::new(Way::Up);
        (0..4).for_each(|slot| turns.wait(&shared, key(slot)));
        turns.wait_until(Instant::FAR_FUTURE, key(4));
        turns.wait_until(Instant::FAR_FUTURE, key(5));
        turns.retain(&shared, |key| key.slot % 2 == 1);
        assert_eq!((turns.len(), shared.all_waiting(Way::Up)), (3, 2));
        turns.look_again(&shared);
        let next: Vec<u32> = std::iter::from_fn(|| turns.next(Instant::ZERO, &shared))
            .map(|key| key.slot)
            .collect();
        assert_eq!(next, [1, 3, 5]);
    }
}
