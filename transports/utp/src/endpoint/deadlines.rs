//! The earliest deadline among many connections.

use flock_transport::Instant;

/// A heap of one deadline per place, with four children a node; a place knows where it stands, so
/// that moving a deadline costs a few steps and leaves nothing behind.
#[derive(Default)]
pub(crate) struct Deadlines {
    heap: Vec<(Instant, u32)>,
    /// Where each place stands in the heap; `NOWHERE`: it has no deadline.
    stands: Vec<u32>,
}

const NOWHERE: u32 = u32::MAX;
const CHILDREN: usize = 4;

impl Deadlines {
    /// Sets or, with `None`, removes the deadline of `place`.
    pub(crate) fn set(&mut self, place: u32, at: Option<Instant>) {
        let index = place as usize;
        if self.stands.len() <= index {
            if at.is_none() {
                return;
            }
            self.stands.resize(index + 1, NOWHERE);
        }
        let stand = self.stands[index] as usize;
        match (at, self.stands[index] != NOWHERE) {
            (None, false) => {}
            (None, true) => self.remove(stand),
            (Some(at), false) => {
                self.heap.push((at, place));
                self.rise(self.heap.len() - 1);
            }
            (Some(at), true) => {
                let before = std::mem::replace(&mut self.heap[stand].0, at);
                if at < before {
                    self.rise(stand);
                } else if at > before {
                    self.sink(stand);
                }
            }
        }
    }

    /// The deadline of `place`.
    #[cfg(test)]
    pub(crate) fn get(&self, place: u32) -> Option<Instant> {
        let stand = *self.stands.get(place as usize)?;
        Some(self.heap.get(stand as usize)?.0)
    }

    /// The earliest deadline.
    pub(crate) fn first(&self) -> Option<Instant> {
        Some(self.heap.first()?.0)
    }

    /// Takes out a place whose deadline has come.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<u32> {
        let &(at, place) = self.heap.first()?;
        if at > now {
            return None;
        }
        self.remove(0);
        Some(place)
    }

    fn remove(&mut self, stand: usize) {
        let (_, place) = self.heap.swap_remove(stand);
        self.stands[place as usize] = NOWHERE;
        if stand < self.heap.len() {
            self.note(stand);
            self.rise(stand);
            let (_, moved) = self.heap[stand];
            self.sink(self.stands[moved as usize] as usize);
        }
    }

    fn note(&mut self, stand: usize) {
        let (_, place) = self.heap[stand];
        self.stands[place as usize] = u32::try_from(stand).unwrap_or(NOWHERE);
    }

    fn rise(&mut self, mut stand: usize) {
        while stand > 0 {
            let parent = (stand - 1) / CHILDREN;
            if self.heap[parent] <= self.heap[stand] {
                break;
            }
            self.heap.swap(parent, stand);
            self.note(stand);
            stand = parent;
        }
        self.note(stand);
    }

    fn sink(&mut self, mut stand: usize) {
        loop {
            let children = stand * CHILDREN + 1..(stand * CHILDREN + 1 + CHILDREN);
            let end = children.end.min(self.heap.len());
            let least = (children.start..end).min_by_key(|&child| self.heap[child]);
            let Some(least) = least.filter(|&child| self.heap[child] < self.heap[stand]) else {
                break;
            };
            self.heap.swap(least, stand);
            self.note(stand);
            stand = least;
        }
        self.note(stand);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn behaves_like_a_sorted_map(
            ops in proptest::collection::vec((0u8..4, 0u32..40, 0u64..1000), 1..400)
        ) {
            let mut deadlines = Deadlines::default();
            let mut model: BTreeMap<u32, Instant> = BTreeMap::new();
            for (op, place, at) in ops {
                let at = Instant::from_nanos(at);
                match op {
                    0 | 1 => {
                        deadlines.set(place, Some(at));
                        model.insert(place, at);
                    }
                    2 => {
                        deadlines.set(place, None);
                        model.remove(&place);
                    }
                    _ => {
                        let expected = model.iter().map(|(&p, &at)| (at, p)).min();
                        let expected = expected.filter(|&(due, _)| due <= at);
                        let popped = deadlines.pop_due(at);
                        prop_assert_eq!(popped, expected.map(|(_, p)| p));
                        popped.map(|p| model.remove(&p));
                    }
                }
                prop_assert_eq!(deadlines.first(), model.values().min().copied());
                prop_assert_eq!(deadlines.get(place), model.get(&place).copied());
            }
        }
    }
}
