use crate::io::LoanId;

/// Where received bytes lie until the next turn: one region that every turn fills from its start,
/// so that a quiet driver touches few pages and small messages lie side by side.
#[derive(Debug)]
pub(super) struct Loans {
    region: Box<[u8]>,
    /// What one receive is offered, in bytes.
    buffer_size: usize,
    filled: usize,
    spans: Vec<Span>,
    /// Part of each loan's name, so that one kept too long is recognised.
    epoch: u32,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    start: usize,
    len: usize,
}

/// What a turn receives at the most, where the limits allow more: about half of a usual
/// second-level cache, so that the region is not written to memory before it is written again.
const HOT_BYTES: usize = 512 * 1024;
/// Bits of a loan's name that are its index; the others, but the topmost, are the epoch.
const INDEX_BITS: u32 = 20;
const EPOCH_MASK: u32 = u32::MAX >> (INDEX_BITS + 1);
const INDEX_MASK: u32 = (1 << INDEX_BITS) - 1;
/// Loans start on multiples of this, as allocations do, so that copies start aligned.
const ALIGN: usize = 16;

impl Loans {
    /// The most loans of one turn.
    pub(super) const MAX: usize = INDEX_MASK as usize;

    pub(super) fn new(buffers: usize, buffer_size: usize) -> Self {
        let region = (buffers * buffer_size).min(HOT_BYTES.max(buffer_size));
        Self {
            region: vec![0; region].into_boxed_slice(),
            buffer_size,
            filled: 0,
            spans: Vec::new(),
            epoch: 0,
        }
    }

    /// Room for one receive, or `None` when it must wait for the next turn.
    pub(super) fn space(&mut self) -> Option<&mut [u8]> {
        self.region
            .get_mut(self.filled..self.filled + self.buffer_size)
    }

    /// Whether [`Self::space`] is `None`.
    pub(super) fn exhausted(&self) -> bool {
        self.filled + self.buffer_size > self.region.len()
    }

    /// Lends the first `len` bytes of what [`Self::space`] returned last.
    pub(super) fn lend(&mut self, len: usize) -> LoanId {
        debug_assert!(len <= self.buffer_size, "more than was offered");
        debug_assert!(self.spans.len() < Self::MAX, "batch is bounded");
        let index = u32::try_from(self.spans.len()).expect("batch is bounded") & INDEX_MASK;
        self.spans.push(Span {
            start: self.filled,
            len,
        });
        self.filled = (self.filled + len).next_multiple_of(ALIGN);
        LoanId(index | self.epoch << INDEX_BITS)
    }

    /// The bytes of a loan of this turn.
    pub(super) fn bytes(&self, loan: LoanId) -> &[u8] {
        assert!(
            loan.0 >> INDEX_BITS == self.epoch,
            "a loan of an earlier turn"
        );
        let span = self.spans[(loan.0 & INDEX_MASK) as usize];
        &self.region[span.start..span.start + span.len]
    }

    /// Takes every loan back.
    pub(super) fn recycle(&mut self) {
        if !self.spans.is_empty() {
            self.spans.clear();
            self.filled = 0;
            self.epoch = (self.epoch + 1) & EPOCH_MASK;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_loans_share_the_region_until_no_full_buffer_is_left() {
        let mut loans = Loans::new(2, 64);
        let mut lent = Vec::new();
        while let Some(space) = loans.space() {
            let byte = u8::try_from(lent.len()).unwrap();
            space[..10].fill(byte);
            lent.push(loans.lend(10));
        }
        assert_eq!(lent.len(), 5, "at 0, 16, ... 64");
        assert!(loans.exhausted());
        for (byte, loan) in lent.iter().enumerate() {
            assert_eq!(loans.bytes(*loan), [u8::try_from(byte).unwrap(); 10]);
        }
        loans.recycle();
        assert!(!loans.exhausted());
    }

    #[test]
    #[should_panic(expected = "a loan of an earlier turn")]
    fn a_loan_does_not_outlive_its_turn() {
        let mut loans = Loans::new(1, 128);
        let loan = loans.lend(1);
        loans.recycle();
        loans.bytes(loan);
    }
}
