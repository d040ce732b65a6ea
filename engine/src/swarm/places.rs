//! Places of dialled peers in their channels.

use super::Swarm;
use super::candidates::{CandidateId, State};
use crate::names::ChannelKey;
use flock_transport::Instant;
use hashbrown::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// How many peers may be dialled for a channel at a time, and are; shared by all shards.
#[derive(Debug)]
pub(crate) struct ChannelQuota {
    limit: AtomicU32,
    used: AtomicU32,
}

impl ChannelQuota {
    pub(crate) fn new(limit: u32) -> Self {
        Self {
            limit: AtomicU32::new(limit),
            used: AtomicU32::new(0),
        }
    }

    pub(crate) fn set_limit(&self, limit: u32) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    fn take(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        let more = |used| (used < limit).then_some(used + 1);
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
    }
}

/// The place of a candidate that is dialled or connected, until it is dropped.
struct Place {
    channel: ChannelKey,
    /// None: the channel has no limit, but another one of the candidate has.
    quota: Option<Arc<ChannelQuota>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(quota) = &self.quota {
            let before = quota.used.fetch_sub(1, Ordering::Relaxed);
            debug_assert!(before > 0, "a place was given back twice");
        }
    }
}

/// The places of a shard's candidates, as far as their channels have limits.
pub(super) struct Places {
    quotas: HashMap<ChannelKey, Arc<ChannelQuota>, ahash::RandomState>,
    taken: HashMap<CandidateId, Place, ahash::RandomState>,
}

impl Places {
    pub(super) fn new(hasher: ahash::RandomState) -> Self {
        Self {
            quotas: HashMap::with_hasher(hasher.clone()),
            taken: HashMap::with_hasher(hasher),
        }
    }

    /// The candidate is neither dialled nor connected any more.
    pub(super) fn release(&mut self, id: CandidateId) {
        self.taken.remove(&id);
    }

    /// The channel a candidate was dialled for, if that is not simply its first.
    pub(super) fn channel(&self, id: CandidateId) -> Option<ChannelKey> {
        self.taken.get(&id).map(|place| place.channel.clone())
    }

    /// Takes a place in the first of a candidate's channels that has one.
    fn take(&mut self, id: CandidateId, channels: Vec<ChannelKey>) -> bool {
        for channel in channels {
            let quota = self.quotas.get(&channel).cloned();
            if quota.as_ref().is_none_or(|quota| quota.take()) {
                self.taken.insert(id, Place { channel, quota });
                return true;
            }
        }
        false
    }
}

impl Swarm {
    /// Limits the peers dialled for a channel; none: they are limited no longer. Those there are
    /// count, and stay.
    pub(crate) fn limit_channel(
        &mut self,
        now: Instant,
        channel: ChannelKey,
        quota: Option<Arc<ChannelQuota>>,
    ) {
        let Some(quota) = quota else {
            self.places.quotas.remove(&channel);
            return self.made_room(now);
        };
        for id in self.candidates.found_for(&channel) {
            let state = self.candidates.get(id).map(|candidate| candidate.state);
            let counts = matches!(state, Some(State::Dialling | State::Connection(_)));
            let same = |old: &Arc<ChannelQuota>| Arc::ptr_eq(old, &quota);
            let takes = match self.places.taken.get(&id) {
                // It may have a place below a limit that was there before.
                Some(place) => place.channel == channel && !place.quota.as_ref().is_some_and(same),
                None => self.candidates.channel(id).as_ref() == Some(&channel),
            };
            if counts && takes {
                quota.used.fetch_add(1, Ordering::Relaxed);
                let place = Place {
                    channel: channel.clone(),
                    quota: Some(quota.clone()),
                };
                self.places.taken.insert(id, place);
            }
        }
        self.places.quotas.insert(channel, quota);
        self.made_room(now);
    }

    /// Takes a place for a dial in one of the candidate's channels.
    pub(super) fn take_place(&mut self, id: CandidateId) -> bool {
        self.places.quotas.is_empty() || self.places.take(id, self.candidates.channels_of(id))
    }
}
