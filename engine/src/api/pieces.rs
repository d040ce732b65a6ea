//! Bytes on their way between a shard and a handle.

use bytes::Bytes;
use std::collections::VecDeque;

/// Pieces up to this are joined: a piece costs some hundred bytes whatever is in it, and who sends
/// decides how small they are.
pub(super) const JOINED: usize = 4096;

/// What of shared bytes is joined all the same, since keeping them by reference would cost more.
const COPIED: usize = 512;

/// A queue of bytes, in pieces of any size.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    pieces: VecDeque<Bytes>,
    /// Small pieces behind them.
    tail: Vec<u8>,
    len: usize,
}

impl Pieces {
    /// Appends a copy; for what is longer than [`JOINED`], make it before, without a lock.
    pub(super) fn push_copy(&mut self, data: &[u8]) {
        if self.tail.len() + data.len() > JOINED {
            self.finish_tail();
        }
        self.tail.extend_from_slice(data);
        self.len += data.len();
    }

    /// Appends shared bytes by reference, unless they are few.
    pub(super) fn push(&mut self, data: Bytes) {
        if data.len() <= COPIED {
            return self.push_copy(&data);
        }
        self.finish_tail();
        self.len += data.len();
        self.pieces.push_back(data);
    }

    /// The next piece, or so much of it as `max` allows; never empty.
    pub(super) fn pop(&mut self, max: usize) -> Option<Bytes> {
        if self.pieces.is_empty() {
            self.finish_tail();
        }
        let first = self.pieces.front_mut()?;
        let piece = if first.len() > max {
            first.split_to(max)
        } else {
            self.pieces.pop_front()?
        };
        self.len -= piece.len();
        Some(piece)
    }

    /// Moves everything to the end of `into`.
    pub(super) fn take(&mut self, into: &mut Vec<Bytes>) {
        self.finish_tail();
        into.extend(self.pieces.drain(..));
        self.len = 0;
    }

    /// Bytes in the queue.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn finish_tail(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push_back(std::mem::take(&mut self.tail).into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_comes_out_is_what_went_in_and_small_pieces_are_joined(
            ops in proptest::collection::vec((0u8..9, 1usize..9_000), 1..200),
        ) {
            let mut queue = Pieces::default();
            let (mut pushed, mut popped) = (0_usize, 0_usize);
            let byte = |at: usize| u8::try_from(at % 251).unwrap();
            let mut check = |piece: &Bytes| {
                for got in piece {
                    assert_eq!(*got, byte(popped));
                    popped += 1;
                }
                popped
            };
            let mut left = 0;
            for (op, len) in ops {
                let data = |len: usize| (pushed..pushed + len).map(byte).collect::<Vec<u8>>();
                match op {
                    0 => {
                        let piece = queue.pop(len);
                        prop_assert_eq!(piece.is_none(), left == 0);
                        let piece = piece.unwrap_or_default();
                        prop_assert!(piece.len() <= len);
                        left = pushed - check(&piece);
                    }
                    1 => {
                        let mut all = Vec::new();
                        queue.take(&mut all);
                        for piece in &all {
                            prop_assert!(!piece.is_empty());
                            left = pushed - check(piece);
                        }
                        prop_assert_eq!(left, 0);
                    }
                    2 => {
                        queue.push(data(len).into());
                        pushed += len;
                        left += len;
                    }
                    _ => {
                        let len = len % 100 + 1;
                        queue.push_copy(&data(len));
                        pushed += len;
                        left += len;
                    }
                }
                prop_assert_eq!(queue.len(), left);
            }
        }
    }

    #[test]
    fn bytes_that_come_one_by_one_take_little_more_than_their_own_room() {
        let mut queue = Pieces::default();
        for n in 0..256 << 10 {
            if n % 2 == 0 {
                queue.push_copy(&[7]);
            } else {
                queue.push(Bytes::from_static(&[7]));
            }
        }
        let held: usize = queue.pieces.iter().map(Bytes::len).sum();
        assert_eq!(held + queue.tail.len(), 256 << 10);
        assert!(queue.pieces.len() <= (256 << 10) / JOINED);
    }
}
