//! Bytes received on a connection and not taken by the application yet.

use bytes::Bytes;
use std::collections::VecDeque;

/// Pieces below this are joined: a piece costs some hundred bytes whatever is in it, and the peer
/// decides how small they are.
const JOINED: usize = 4096;

/// A queue of received bytes, in pieces of any size.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    pieces: VecDeque<Bytes>,
    /// Small pieces behind them.
    tail: Vec<u8>,
    len: usize,
}

impl Incoming {
    pub(super) fn push(&mut self, data: &[u8]) {
        self.len += data.len();
        if self.tail.len() + data.len() > JOINED {
            self.finish_tail();
        }
        if data.len() > JOINED {
            self.pieces.push_back(Bytes::copy_from_slice(data));
        } else {
            self.tail.extend_from_slice(data);
        }
    }

    /// The next piece, never empty.
    pub(super) fn pop(&mut self) -> Option<Bytes> {
        if self.pieces.is_empty() {
            self.finish_tail();
        }
        let piece = self.pieces.pop_front()?;
        self.len -= piece.len();
        Some(piece)
    }

    /// Bytes in the queue.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
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
            ops in proptest::collection::vec((0u8..8, 1usize..9_000), 1..200),
        ) {
            let mut queue = Incoming::default();
            let (mut pushed, mut popped) = (0_usize, 0_usize);
            let byte = |at: usize| u8::try_from(at % 251).unwrap();
            for (op, len) in ops {
                if op == 0 {
                    let piece = queue.pop();
                    prop_assert_eq!(piece.is_none(), popped == pushed);
                    for got in piece.unwrap_or_default() {
                        prop_assert_eq!(got, byte(popped));
                        popped += 1;
                    }
                } else {
                    let len = if op == 1 { len } else { len % 100 + 1 };
                    let data: Vec<u8> = (pushed..pushed + len).map(byte).collect();
                    queue.push(&data);
                    pushed += len;
                }
                prop_assert_eq!(queue.len(), pushed - popped);
                prop_assert_eq!(queue.is_empty(), pushed == popped);
                // Two neighbours are more than what would have been joined.
                prop_assert!(queue.pieces.len() <= 2 * queue.len() / JOINED + 2);
            }
        }
    }

    #[test]
    fn bytes_that_come_one_by_one_take_little_more_than_their_own_room() {
        let mut queue = Incoming::default();
        for _ in 0..256 << 10 {
            queue.push(&[7]);
        }
        let held: usize = queue.pieces.iter().map(Bytes::len).sum();
        assert_eq!(held + queue.tail.len(), 256 << 10);
        assert!(queue.pieces.len() <= (256 << 10) / JOINED);
    }
}
