/// A running hash of what happened, the same on every machine. Not for strangers' data: it
/// withstands accidents, no attacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(u64);

const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

impl Default for Digest {
    fn default() -> Self {
        Self(0x243f_6a88_85a3_08d3)
    }
}

impl Digest {
    /// Takes in a number.
    pub fn number(&mut self, number: u64) {
        let mixed = (self.0 ^ number).wrapping_mul(MULTIPLIER);
        self.0 = (mixed ^ (mixed >> 29)).rotate_left(17);
    }

    /// Takes in bytes and how many they are.
    pub fn bytes(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.number(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.number(u64::from_le_bytes(last));
        self.number(bytes.len() as u64);
    }

    /// The hash of all that was taken in.
    #[must_use]
    pub fn value(self) -> u64 {
        self.0
    }

    /// A seed of its own for each `purpose` and `index`: what one draws moves no other.
    #[must_use]
    pub fn fork(seed: u64, purpose: &str, index: usize) -> u64 {
        let mut digest = Self::default();
        digest.number(seed);
        digest.bytes(purpose.as_bytes());
        digest.number(index as u64);
        digest.0
    }
}
