//! For which channels candidates were found.

use crate::names::ChannelKey;
use crate::pages::Pages;
use hashbrown::HashTable;

/// Channels remembered per candidate; being found for more changes nothing but these names.
const CHANNELS_MAX: u32 = 256;

/// No place: the end of a list.
pub(super) const NONE: u32 = u32::MAX;

/// Pairs of a channel and a candidate, each in the list of its channel and in that of its
/// candidate, so that leaving a channel costs what was found for it and nothing else.
pub(super) struct Channels {
    hasher: ahash::RandomState,
    index: HashTable<u32>,
    channels: Pages<Channel>,
    free_channel: u32,
    finds: Pages<Find>,
    free_find: u32,
    /// Pairs that are not the first of their candidate, and how many there may be.
    further: u32,
    limit: u32,
    refused: u64,
}

struct Channel {
    /// None while free.
    key: Option<ChannelKey>,
    /// The first pair of the channel; while free, the next free place.
    first: u32,
}

/// One pair; while free, `next` is the next free place.
struct Find {
    candidate: u32,
    channel: u32,
    next: u32,
    prev: u32,
    next_of_candidate: u32,
}

/// What noting a find came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Noted {
    New,
    Known,
    /// There is no room, which is counted.
    Full,
}

impl Channels {
    /// One pair for each candidate, and at most `limit` further ones.
    pub(super) fn new(limit: u32, hasher: ahash::RandomState) -> Self {
        Self {
            hasher,
            index: HashTable::new(),
            channels: Pages::new(),
            free_channel: NONE,
            finds: Pages::new(),
            free_find: NONE,
            further: 0,
            limit,
            refused: 0,
        }
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// Notes that the candidate, whose list begins at `first`, was found for a channel.
    pub(super) fn add(&mut self, first: &mut u32, candidate: u32, key: ChannelKey) -> Noted {
        let known = self.find(&key);
        let (mut last, mut count) = (NONE, 0);
        let mut at = *first;
        while at != NONE {
            let find = &self.finds[at];
            if Some(find.channel) == known {
                return Noted::Known;
            }
            (last, at) = (at, find.next_of_candidate);
            count += 1;
        }
        let full = count >= CHANNELS_MAX || self.further >= self.limit;
        if last != NONE && full {
            self.refused += 1;
            return Noted::Full;
        }
        let channel = known.unwrap_or_else(|| self.open(key));
        let pair = self.insert(candidate, channel);
        if last == NONE {
            *first = pair;
        } else {
            self.further += 1;
            self.finds[last].next_of_candidate = pair;
        }
        Noted::New
    }

    /// The channel of the pair at `first`, the one the candidate was found for first.
    pub(super) fn first(&self, first: u32) -> Option<&ChannelKey> {
        let find = self.finds.get(first)?;
        self.channels[find.channel].key.as_ref()
    }

    /// The channels of a candidate, whose list begins at `first`.
    pub(super) fn of(&self, first: u32) -> impl Iterator<Item = &ChannelKey> {
        let find = |at: u32| self.finds.get(at);
        let pairs = std::iter::successors(find(first), move |pair| find(pair.next_of_candidate));
        pairs.filter_map(|pair| self.channels[pair.channel].key.as_ref())
    }

    /// The candidates that were found for a channel, the latest first.
    pub(super) fn candidates_of(&self, key: &ChannelKey) -> impl Iterator<Item = u32> {
        let find = |at: u32| self.finds.get(at);
        let first = self.find(key).map_or(NONE, |at| self.channels[at].first);
        let pairs = std::iter::successors(find(first), move |pair| find(pair.next));
        pairs.map(|pair| pair.candidate)
    }

    /// Forgets all pairs of a candidate.
    pub(super) fn forget(&mut self, first: u32) {
        let mut at = first;
        while at != NONE {
            let next = self.finds[at].next_of_candidate;
            self.further -= u32::from(next != NONE);
            self.remove(at);
            at = next;
        }
    }

    /// A candidate that was found for the channel.
    pub(super) fn candidate_of(&self, key: &ChannelKey) -> Option<u32> {
        let first = self.channels[self.find(key)?].first;
        Some(self.finds[first].candidate)
    }

    /// Takes the channel out of the candidate's list.
    pub(super) fn leave(&mut self, first: &mut u32, key: &ChannelKey) {
        let Some(channel) = self.find(key) else {
            return;
        };
        let (mut last, mut at) = (NONE, *first);
        while at != NONE {
            let next = self.finds[at].next_of_candidate;
            if self.finds[at].channel == channel {
                if last == NONE {
                    *first = next;
                } else {
                    self.finds[last].next_of_candidate = next;
                }
                self.further -= u32::from(*first != NONE);
                return self.remove(at);
            }
            (last, at) = (at, next);
        }
    }

    fn find(&self, key: &ChannelKey) -> Option<u32> {
        let same = |at: &u32| self.channels[*at].key.as_ref() == Some(key);
        self.index.find(self.hasher.hash_one(key), same).copied()
    }

    fn open(&mut self, key: ChannelKey) -> u32 {
        let hash = self.hasher.hash_one(&key);
        let channel = Channel {
            key: Some(key),
            first: NONE,
        };
        let at = self.free_channel;
        let at = if at == NONE {
            self.channels.push(channel)
        } else {
            self.free_channel = std::mem::replace(&mut self.channels[at], channel).first;
            at
        };
        let (channels, hasher) = (&self.channels, &self.hasher);
        self.index.insert_unique(hash, at, |at| {
            let key = channels[*at].key.as_ref();
            hasher.hash_one(key.expect("indexed channels are in use"))
        });
        at
    }

    fn insert(&mut self, candidate: u32, channel: u32) -> u32 {
        let next = self.channels[channel].first;
        let find = Find {
            candidate,
            channel,
            next,
            prev: NONE,
            next_of_candidate: NONE,
        };
        let at = self.free_find;
        let at = if at == NONE {
            self.finds.push(find)
        } else {
            self.free_find = std::mem::replace(&mut self.finds[at], find).next;
            at
        };
        self.channels[channel].first = at;
        if next != NONE {
            self.finds[next].prev = at;
        }
        at
    }

    /// Takes a pair out of its channel's list, and frees it.
    fn remove(&mut self, at: u32) {
        let Find {
            channel,
            next,
            prev,
            ..
        } = self.finds[at];
        if next != NONE {
            self.finds[next].prev = prev;
        }
        if prev == NONE {
            self.channels[channel].first = next;
        } else {
            self.finds[prev].next = next;
        }
        self.finds[at].next = self.free_find;
        self.free_find = at;
        if self.channels[channel].first == NONE {
            self.close(channel);
        }
    }

    /// Frees a channel without pairs.
    fn close(&mut self, at: u32) {
        let Some(key) = self.channels[at].key.take() else {
            return;
        };
        let hash = self.hasher.hash_one(&key);
        if let Ok(entry) = self.index.find_entry(hash, |other| *other == at) {
            entry.remove();
        }
        self.channels[at].first = self.free_channel;
        self.free_channel = at;
    }

    /// Bytes of memory held; the keys are shared with who joined.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.index.allocation_size() + self.channels.bytes() + self.finds.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn key(n: u8) -> ChannelKey {
        ChannelKey::from(&[n])
    }

    fn channels(limit: u32) -> Channels {
        Channels::new(limit, ahash::RandomState::with_seeds(1, 2, 3, 4))
    }

    #[test]
    fn a_candidate_has_so_many_channels_and_no_more() {
        let mut channels = channels(1000);
        let mut first = NONE;
        for n in 0..CHANNELS_MAX {
            let key = ChannelKey::from(&n.to_be_bytes());
            assert_eq!(channels.add(&mut first, 0, key), Noted::New);
        }
        assert_eq!(channels.add(&mut first, 0, key(1)), Noted::Full);
        assert_eq!(channels.refused(), 1);
        assert_eq!(channels.first(first).unwrap().as_bytes(), [0; 4]);
    }

    proptest! {
        #[test]
        fn behaves_like_a_set_of_pairs(
            ops in proptest::collection::vec((0u8..8, 0u8..6, 0u32..9), 0..300)
        ) {
            const LIMIT: usize = 12;
            let mut channels = channels(u32::try_from(LIMIT).unwrap());
            let mut firsts = [NONE; 9];
            let mut model: BTreeSet<(u8, u32)> = BTreeSet::new();
            for (op, name, candidate) in ops {
                let first = &mut firsts[candidate as usize];
                match op {
                    0 => {
                        channels.forget(*first);
                        *first = NONE;
                        model.retain(|(_, other)| *other != candidate);
                    }
                    1 => {
                        // As the swarm does: one candidate after the other.
                        while let Some(found) = channels.candidate_of(&key(name)) {
                            prop_assert!(model.remove(&(name, found)));
                            channels.leave(&mut firsts[found as usize], &key(name));
                        }
                        prop_assert!(model.iter().all(|(other, _)| *other != name));
                    }
                    _ => {
                        let known = model.contains(&(name, candidate));
                        let found: BTreeSet<u32> = model.iter().map(|(_, c)| *c).collect();
                        let room = model.len() - found.len() < LIMIT;
                        let expected = if known {
                            Noted::Known
                        } else if room || !found.contains(&candidate) {
                            Noted::New
                        } else {
                            Noted::Full
                        };
                        prop_assert_eq!(channels.add(first, candidate, key(name)), expected);
                        if expected == Noted::New {
                            model.insert((name, candidate));
                        }
                    }
                }
                let found: BTreeSet<u32> = model.iter().map(|(_, c)| *c).collect();
                prop_assert_eq!(channels.further as usize, model.len() - found.len());
                for (candidate, first) in (0..).zip(firsts) {
                    let found = model.iter().any(|(_, other)| *other == candidate);
                    prop_assert_eq!(channels.first(first).is_some(), found);
                }
                let open: BTreeSet<u8> = model.iter().map(|(name, _)| *name).collect();
                prop_assert_eq!(channels.index.len(), open.len(), "unused channels stay");
            }
        }
    }
}
