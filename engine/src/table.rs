//! Slots with generations, for connections that other threads and late completions may name
//! after they have gone.

/// Names an entry: a slot, and how often the slot was used before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

/// A table of `T` in which a key is never used twice.
///
/// Entries lie in pages of [`PAGE`], so growth neither moves nor doubles what is there: with
/// many connections the one big vector of crate `slab` would cost twice its memory while it
/// grows.
pub(crate) struct Table<T> {
    pages: Vec<Box<[Slot<T>]>>,
    /// The free slot to use next; `NONE` when a new one has to be opened.
    free: u32,
    /// Slots ever opened.
    opened: u32,
    len: u32,
    limit: u32,
}

struct Slot<T> {
    generation: u32,
    entry: Entry<T>,
}

enum Entry<T> {
    Used(T),
    /// The next free slot.
    Free(u32),
}

const PAGE: u32 = 256;
const NONE: u32 = u32::MAX;

impl<T> Table<T> {
    /// A table of at most `limit` entries.
    pub(crate) fn new(limit: u32) -> Self {
        Self {
            pages: Vec::new(),
            free: NONE,
            opened: 0,
            len: 0,
            limit: limit.min(NONE - 1),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn is_full(&self) -> bool {
        self.vacant_key().is_none()
    }

    /// The key that the next [`insert`](Self::insert) will use.
    pub(crate) fn vacant_key(&self) -> Option<Key> {
        if self.len >= self.limit {
            return None;
        }
        if self.free != NONE {
            let generation = self.slot(self.free)?.generation;
            return Some(Key {
                slot: self.free,
                generation,
            });
        }
        (self.opened < NONE - 1).then_some(Key {
            slot: self.opened,
            generation: 0,
        })
    }

    /// Adds an entry; `None` when the table is full.
    pub(crate) fn insert(&mut self, value: T) -> Option<Key> {
        let key = self.vacant_key()?;
        if self.free == NONE {
            self.open();
        }
        let slot = self.slot_mut(key.slot)?;
        let Entry::Free(next) = std::mem::replace(&mut slot.entry, Entry::Used(value)) else {
            unreachable!("the free list names free slots");
        };
        self.free = next;
        self.len += 1;
        Some(key)
    }

    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        match self.slot(key.slot)? {
            Slot {
                generation,
                entry: Entry::Used(value),
            } if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        match self.slot_mut(key.slot)? {
            Slot {
                generation,
                entry: Entry::Used(value),
            } if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let free = self.free;
        let slot = self.slot_mut(key.slot)?;
        if slot.generation != key.generation || matches!(slot.entry, Entry::Free(_)) {
            return None;
        }
        let Entry::Used(value) = std::mem::replace(&mut slot.entry, Entry::Free(free)) else {
            unreachable!("looked at above");
        };
        if let Some(next) = slot.generation.checked_add(1) {
            slot.generation = next;
            self.free = key.slot;
        } else {
            // Used up: a key must never come back, so the slot is out of use for good.
            slot.entry = Entry::Free(NONE);
        }
        self.len -= 1;
        Some(value)
    }

    /// All entries, in slot order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        let slots = self.pages.iter().flat_map(|page| page.iter());
        (0..)
            .zip(slots)
            .filter_map(|(slot, place): (u32, &Slot<T>)| match &place.entry {
                Entry::Used(value) => Some((
                    Key {
                        slot,
                        generation: place.generation,
                    },
                    value,
                )),
                Entry::Free(_) => None,
            })
    }

    /// Puts a new slot at the head of the empty free list.
    fn open(&mut self) {
        if self.opened.is_multiple_of(PAGE) {
            let empty = || Slot {
                generation: 0,
                entry: Entry::Free(NONE),
            };
            self.pages.push((0..PAGE).map(|_| empty()).collect());
        }
        self.free = self.opened;
        self.opened += 1;
    }

    fn slot(&self, slot: u32) -> Option<&Slot<T>> {
        self.pages
            .get((slot / PAGE) as usize)?
            .get((slot % PAGE) as usize)
    }

    fn slot_mut(&mut self, slot: u32) -> Option<&mut Slot<T>> {
        self.pages
            .get_mut((slot / PAGE) as usize)?
            .get_mut((slot % PAGE) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_slot_whose_generations_are_used_up_is_retired() {
        let mut table = Table::new(8);
        let key = table.insert('a').unwrap();
        table.slot_mut(key.slot).unwrap().generation = u32::MAX;
        let last = Key {
            generation: u32::MAX,
            ..key
        };
        assert_eq!(table.remove(last), Some('a'));
        assert_ne!(table.insert('b').unwrap().slot, key.slot);
        assert_eq!(table.get(last), None);
    }

    proptest! {
        #[test]
        fn behaves_like_a_map_whose_keys_are_new(
            ops in proptest::collection::vec((any::<bool>(), any::<u16>()), 0..2000)
        ) {
            let mut table = Table::new(600);
            let mut model = BTreeMap::new();
            let mut used = std::collections::HashSet::new();
            for (add, pick) in ops {
                if add || model.is_empty() {
                    let vacant = table.vacant_key();
                    let key = table.insert(pick);
                    prop_assert_eq!(vacant, key);
                    prop_assert_eq!(key.is_none(), model.len() == 600);
                    if let Some(key) = key {
                        prop_assert!(used.insert(key), "a key came back");
                        model.insert((key.slot, key.generation), pick);
                    }
                } else {
                    let nth = usize::from(pick) % model.len();
                    let (&(slot, generation), &value) = model.iter().nth(nth).unwrap();
                    let key = Key { slot, generation };
                    prop_assert_eq!(table.get(key), Some(&value));
                    prop_assert_eq!(table.remove(key), Some(value));
                    prop_assert_eq!(table.remove(key), None);
                    model.remove(&(slot, generation));
                }
                prop_assert_eq!(table.is_empty(), model.is_empty());
            }
            let left: Vec<_> = table.iter().map(|(k, v)| ((k.slot, k.generation), *v)).collect();
            prop_assert_eq!(left, model.into_iter().collect::<Vec<_>>());
        }
    }
}
