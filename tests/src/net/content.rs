use super::digest::Digest;
use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};

/// An endless stream of bytes that a seed decides, as what a connection carries: any part of it
/// can be had without a copy, and any part can be checked.
#[derive(Clone, Debug)]
pub struct Content {
    blob: Bytes,
}

/// After so many bytes it repeats: a prime, so that no power of two falls on the same place.
const PERIOD: usize = 1_048_573;

impl Content {
    /// The stream of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut blob = vec![0; PERIOD];
        SmallRng::seed_from_u64(Digest::fork(seed, "content", 0)).fill_bytes(&mut blob);
        Self { blob: blob.into() }
    }

    /// At most `max` bytes at `offset`; fewer where the memory ends, never none.
    #[must_use]
    pub fn slice(&self, offset: u64, max: usize) -> Bytes {
        let start = place(offset);
        let end = PERIOD.min(start.saturating_add(max.max(1)));
        self.blob.slice(start..end)
    }

    /// Whether these are the bytes at `offset`.
    #[must_use]
    pub fn agrees(&self, mut offset: u64, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let start = place(offset);
            let count = bytes.len().min(PERIOD - start);
            let (now, later) = bytes.split_at(count);
            if now != &self.blob[start..start + count] {
                return false;
            }
            offset += count as u64;
            bytes = later;
        }
        true
    }
}

fn place(offset: u64) -> usize {
    usize::try_from(offset % PERIOD as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_known_and_every_change_is_seen() {
        let content = Content::new(5);
        let mut stream = Vec::new();
        while stream.len() < 2 * PERIOD + 100 {
            let offset = stream.len() as u64;
            stream.extend_from_slice(&content.slice(offset, 60_000));
        }
        assert!(content.agrees(0, &stream));
        assert!(content.agrees(77, &stream[77..]));
        assert!(!content.agrees(78, &stream[77..]));
        stream[PERIOD + 3] ^= 1;
        assert!(!content.agrees(0, &stream));
        assert_ne!(content.slice(0, 64), Content::new(6).slice(0, 64));
    }
}
