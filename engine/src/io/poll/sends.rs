use arrayvec::ArrayVec;
use flock_transport::{CHUNKS_MAX, Chunks};
use slab::Slab;
use std::io::IoSlice;

/// A send that is not complete.
#[derive(Debug)]
pub(super) struct Sending {
    chunks: Chunks,
    /// Chunks sent whole.
    front: usize,
    /// Bytes sent of the chunk at `front`.
    offset: usize,
    /// Bytes sent in all.
    pub(super) sent: u64,
    /// Whether a call took less than all.
    pub(super) short: bool,
}

impl Sending {
    fn new(chunks: Chunks) -> Self {
        Self {
            chunks,
            front: 0,
            offset: 0,
            sent: 0,
            short: false,
        }
    }

    /// What is left, for one call.
    pub(super) fn slices(&self) -> ArrayVec<IoSlice<'_>, CHUNKS_MAX> {
        let mut offset = self.offset;
        self.chunks[self.front..]
            .iter()
            .map(|chunk| IoSlice::new(&chunk[std::mem::take(&mut offset)..]))
            .collect()
    }

    /// Notes that the kernel took `taken` bytes; true once it has them all.
    pub(super) fn advance(&mut self, mut taken: usize) -> bool {
        self.sent += taken as u64;
        while let Some(chunk) = self.chunks.get(self.front) {
            let left = chunk.len() - self.offset;
            if taken < left {
                self.offset += taken;
                return false;
            }
            taken -= left;
            self.front += 1;
            self.offset = 0;
        }
        debug_assert_eq!(taken, 0, "the kernel took more than there was");
        true
    }
}

/// The sends in progress; memory of completed ones is used again.
#[derive(Debug, Default)]
pub(super) struct Sends(Slab<Sending>);

impl Sends {
    pub(super) fn insert(&mut self, chunks: Chunks) -> u32 {
        let index = self.0.insert(Sending::new(chunks));
        u32::try_from(index).expect("at most one for each slot, and those have u32 indices")
    }

    pub(super) fn get_mut(&mut self, index: u32) -> &mut Sending {
        &mut self.0[index as usize]
    }

    pub(super) fn remove(&mut self, index: u32) -> Sending {
        self.0.remove(index as usize)
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn short_sends_go_on_where_they_stopped() {
        let chunks: Chunks = ["", "abc", "", "defgh", ""]
            .map(|text| Bytes::from_static(text.as_bytes()))
            .into_iter()
            .collect();
        for step in 1..=8 {
            let mut sending = Sending::new(chunks.clone());
            let mut wire = Vec::new();
            loop {
                let mut call = Vec::new();
                for slice in sending.slices() {
                    call.extend_from_slice(&slice);
                }
                call.truncate(step);
                wire.extend_from_slice(&call);
                if sending.advance(call.len()) {
                    break;
                }
            }
            assert_eq!(wire, b"abcdefgh");
            assert_eq!(sending.sent, 8);
        }
    }
}
