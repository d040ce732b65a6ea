//! Which connection ids were given to dials lately.

/// A bit for each id.
const WORDS: usize = (u16::MAX as usize + 1) / u64::BITS as usize;

/// The ids of the latest dials, whatever address they went to: a peer that listens on all of its
/// addresses sees only where a packet comes from and the id in it, so that two dials to two of its
/// addresses with the same id would be one to it. Forgotten when half of all ids were given.
#[derive(Default)]
pub(super) struct LateIds {
    /// Made with the first dial: 8 KiB.
    given: Option<Box<[u64; WORDS]>>,
    count: u32,
}

fn place(id: u16) -> (usize, u64) {
    (
        usize::from(id) / u64::BITS as usize,
        1 << (u32::from(id) % u64::BITS),
    )
}

impl LateIds {
    pub(super) fn has(&self, id: u16) -> bool {
        let (word, bit) = place(id);
        self.given
            .as_ref()
            .is_some_and(|given| given[word] & bit != 0)
    }

    /// Notes that `id`, one of `all`, was given.
    pub(super) fn give(&mut self, id: u16, all: u32) {
        if self.count >= all / 2 {
            *self = Self::default();
        }
        let (word, bit) = place(id);
        let given = self.given.get_or_insert_with(|| Box::new([0; WORDS]));
        self.count += u32::from(given[word] & bit == 0);
        given[word] |= bit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_is_known_until_half_are() {
        let mut ids = LateIds::default();
        assert!(!ids.has(0) && !ids.has(u16::MAX));
        for id in [0, 63, 64, u16::MAX] {
            ids.give(id, 10);
            ids.give(id, 10);
            assert!(ids.has(id));
        }
        assert!(!ids.has(1) && ids.count == 4);
        ids.give(7, 10);
        assert!(ids.has(0), "five of ten");
        ids.give(8, 10);
        assert!(ids.has(8) && !ids.has(0) && !ids.has(7));
    }
}
