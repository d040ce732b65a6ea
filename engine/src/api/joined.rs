//! Which channels are joined.
//!
//! The engine knows it in one place, which callers look at: shards know for which channels candidates
//! were found, joined or not, so that a channel costs the same at any number of shards.

use super::builder::FlockError;
use crate::names::ChannelKey;
use hashbrown::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Channels joined at a time.
const JOINED_MAX: usize = 1 << 20;

type Set = HashSet<ChannelKey, ahash::RandomState>;

pub(crate) struct Joined(Mutex<Set>);

impl Joined {
    pub(super) fn new(hash_seed: u64) -> Self {
        let hasher = ahash::RandomState::with_seeds(hash_seed, 5, 0, 0);
        Self(Mutex::new(HashSet::with_hasher(hasher)))
    }

    fn lock(&self) -> MutexGuard<'_, Set> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn contains(&self, channel: &ChannelKey) -> bool {
        self.lock().contains(channel)
    }

    /// The key to use for the channel from now on.
    pub(super) fn join(&self, channel: ChannelKey) -> Result<ChannelKey, FlockError> {
        let mut joined = self.lock();
        if let Some(known) = joined.get(&channel) {
            return Ok(known.clone());
        }
        if joined.len() >= JOINED_MAX {
            let text = format!("{JOINED_MAX} channels are joined already");
            return Err(FlockError::Option(text));
        }
        joined.insert(channel.clone());
        Ok(channel)
    }

    /// The key that the channel was joined with, so that its bytes exist once.
    pub(super) fn shared(&self, channel: ChannelKey) -> ChannelKey {
        self.lock().get(&channel).cloned().unwrap_or(channel)
    }

    /// Leaves the channel if `tell` succeeds. Who joins it again meanwhile waits: what is found after
    /// that must not be forgotten by shards that hear of the end only then.
    pub(super) fn leave(
        &self,
        channel: &ChannelKey,
        tell: impl FnOnce() -> Result<(), FlockError>,
    ) -> Result<(), FlockError> {
        let mut joined = self.lock();
        if joined.contains(channel) {
            tell()?;
            joined.remove(channel);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_left_once_everybody_was_told() {
        let joined = Joined::new(1);
        let key = ChannelKey::from("a");
        assert!(joined.leave(&key, || panic!("it was not joined")).is_ok());
        assert!(joined.join(key.clone()).is_ok());
        let busy = joined.leave(&key, || Err(FlockError::Busy));
        assert!(matches!(busy, Err(FlockError::Busy)) && joined.contains(&key));
        assert!(joined.leave(&key, || Ok(())).is_ok() && !joined.contains(&key));
    }

    #[test]
    fn the_bytes_of_a_key_exist_once() {
        let joined = Joined::new(1);
        let (first, again, found) = ("a".into(), "a".into(), "a".into());
        let first = joined.join(first).unwrap();
        for key in [joined.join(again).unwrap(), joined.shared(found)] {
            assert!(std::ptr::eq(key.as_bytes(), first.as_bytes()));
        }
        assert_eq!(joined.shared("b".into()).as_bytes(), b"b");
    }
}
