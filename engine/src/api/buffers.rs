//! Memory for large pieces, used again and again: an allocator that gives 64 KiB back to the system
//! and asks for it anew with every piece spends more on page faults than the copy costs.

use bytes::Bytes;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of a buffer.
pub(super) const SIZE: usize = 64 * 1024;

/// What is shorter has memory of its own: a buffer is held whole until the last of a piece is
/// dropped.
const SHORT: usize = SIZE / 2;

/// Free buffers kept.
const KEPT: usize = 32;

/// The free buffers of a shard's connections. Those in use are bounded by what the connections may
/// hold.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    free: Mutex<Vec<Vec<u8>>>,
}

/// A buffer in use, which goes back when it is dropped.
struct Lent {
    data: Vec<u8>,
    home: Arc<Buffers>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut data = std::mem::take(&mut self.data);
        let mut free = self.home.lock();
        if free.len() < KEPT {
            data.clear();
            free.push(data);
        }
    }
}

impl Buffers {
    fn lock(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `len` bytes that `fill` appends.
    pub(super) fn make(self: &Arc<Self>, len: usize, fill: impl FnOnce(&mut Vec<u8>)) -> Bytes {
        if !(SHORT..=SIZE).contains(&len) {
            let mut data = Vec::with_capacity(len);
            fill(&mut data);
            return data.into();
        }
        let free = self.lock().pop();
        let mut data = free.unwrap_or_else(|| Vec::with_capacity(SIZE));
        fill(&mut data);
        Bytes::from_owner(Lent {
            data,
            home: self.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_once_nobody_has_any_of_it() {
        let buffers = Arc::new(Buffers::default());
        let make = |byte| buffers.make(SIZE, |data| data.resize(SIZE, byte));
        let first = make(1);
        let (at, part) = (first.as_ptr(), first.slice(9..10));
        drop(first);
        assert_ne!(make(2).as_ptr(), at, "somebody has a part of it");
        assert_eq!(part[..], [1]);
        drop(part);
        assert_eq!(make(3).as_ptr(), at);
        drop((0..2 * KEPT).map(|_| make(4)).collect::<Vec<_>>());
        assert_eq!(buffers.lock().len(), KEPT);
    }

    #[test]
    fn what_is_short_or_long_takes_what_it_needs() {
        let buffers = Arc::new(Buffers::default());
        for len in [1, SHORT - 1, SIZE + 1] {
            assert_eq!(buffers.make(len, |data| data.resize(len, 0)).len(), len);
        }
        assert!(buffers.lock().is_empty());
    }
}
