//! Slots with generations, for connections that other threads and late completions may name
//! after they have gone.

use crate::pages::Pages;

/// Names an entry: a slot, and how often the slot was used before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

/// A table of `T` in which a key is never used twice.
pub(crate) struct Table<T> {
    slots: Pages<Slot<T>>,
    /// The free slot to use next; `NONE` when a new one has to be opened.
    free: u32,
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

const NONE: u32 = u32::MAX;

impl<T> Table<T> {
    /// A table of at most `limit` entries.
    pub(crate) fn new(limit: u32) -> Self {
        Self {
            slots: Pages::new(),
            free: NONE,
            len: 0,
            limit: limit.min(NONE - 1),
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// Slots in use or used once: [`at`](Self::at) knows those below this.
    pub(crate) fn slots(&self) -> u32 {
        self.slots.len()
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
            let generation = self.slots.get(self.free)?.generation;
            return Some(Key {
                slot: self.free,
                generation,
            });
        }
        (self.slots.len() < NONE - 1).then_some(Key {
            slot: self.slots.len(),
            generation: 0,
        })
    }

    /// Adds an entry; `None` when the table is full.
    pub(crate) fn insert(&mut self, value: T) -> Option<Key> {
        let key = self.vacant_key()?;
        if self.free == NONE {
            self.free = self.slots.push(Slot {
                generation: 0,
                entry: Entry::Free(NONE),
            });
        }
        let slot = self.slots.get_mut(key.slot)?;
        let Entry::Free(next) = std::mem::replace(&mut slot.entry, Entry::Used(value)) else {
            unreachable!("the free list names free slots");
        };
        self.free = next;
        self.len += 1;
        Some(key)
    }

    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        match self.slots.get(key.slot)? {
            Slot {
                generation,
                entry: Entry::Used(value),
            } if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        match self.slots.get_mut(key.slot)? {
            Slot {
                generation,
                entry: Entry::Used(value),
            } if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    /// The entry in a slot, for those who let go of a slot when its entry goes.
    pub(crate) fn at(&self, slot: u32) -> Option<(Key, &T)> {
        let Slot { generation, entry } = self.slots.get(slot)?;
        let Entry::Used(value) = entry else {
            return None;
        };
        let generation = *generation;
        Some((Key { slot, generation }, value))
    }

    /// As [`at`](Self::at).
    pub(crate) fn at_mut(&mut self, slot: u32) -> Option<(Key, &mut T)> {
        let Slot { generation, entry } = self.slots.get_mut(slot)?;
        let Entry::Used(value) = entry else {
            return None;
        };
        let generation = *generation;
        Some((Key { slot, generation }, value))
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let free = self.free;
        let slot = self.slots.get_mut(key.slot)?;
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

    /// Bytes of memory held, whatever the entries own besides.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.slots.bytes()
    }

    /// All entries, in slot order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.slots
            .iter()
            .filter_map(|(slot, place)| match &place.entry {
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
        table.slots.get_mut(key.slot).unwrap().generation = u32::MAX;
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
