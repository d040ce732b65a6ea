use bytes::Bytes;
use flock_transport::{CHUNKS_MAX, Chunks};
use std::collections::VecDeque;

/// Bytes waiting to be sent. The first piece lies in place, so that the usual case, one send at
/// a time, allocates nothing; what queues behind it is boxed, since most connections are idle
/// and every byte here counts as often as there are connections.
#[derive(Debug, Default)]
pub(crate) struct SendQueue {
    first: Bytes,
    #[expect(
        clippy::box_collection,
        reason = "a box is 24 bytes less than an empty deque in every idle connection"
    )]
    rest: Option<Box<VecDeque<Bytes>>>,
    /// Bytes waiting.
    waiting: u64,
}

/// Bytes in one send operation at the most, so that progress shows while much is queued.
const OPERATION_MAX: usize = 256 << 10;

impl SendQueue {
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting
    }

    /// Bytes that the next operation takes at the most.
    pub(crate) fn ready(&self) -> usize {
        usize::try_from(self.waiting).map_or(OPERATION_MAX, |waiting| waiting.min(OPERATION_MAX))
    }

    pub(crate) fn push(&mut self, data: Bytes) {
        self.waiting += data.len() as u64;
        if self.first.is_empty() {
            self.first = data;
        } else {
            self.rest.get_or_insert_default().push_back(data);
        }
    }

    /// Takes what the next operation carries; not empty unless the queue is.
    pub(crate) fn take(&mut self) -> Chunks {
        let mut chunks = Chunks::new();
        let mut room = OPERATION_MAX;
        while chunks.len() < CHUNKS_MAX && room > 0 && !self.first.is_empty() {
            let chunk = self.first.split_to(self.first.len().min(room));
            room -= chunk.len();
            self.waiting -= chunk.len() as u64;
            chunks.push(chunk);
            if self.first.is_empty() {
                self.first = self.next();
            }
        }
        chunks
    }

    /// The next piece behind the first; the memory of an empty overflow is given back.
    fn next(&mut self) -> Bytes {
        let next = self.rest.as_mut().and_then(|rest| rest.pop_front());
        if next.is_none() {
            self.rest = None;
        }
        next.unwrap_or_default()
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    static PATTERN: LazyLock<Bytes> =
        LazyLock::new(|| (0..=250_u8).cycle().take(1 << 20).collect());

    proptest! {
        /// What comes out is what went in, in order, whatever the pieces and whenever taken.
        #[test]
        fn bytes_keep_their_order(steps in prop::collection::vec((0_usize..5, 0_usize..700_000), 1..60)) {
            let pattern = &*PATTERN;
            let mut queue = SendQueue::default();
            let (mut pushed, mut taken) = (0_usize, 0_usize);
            let mut check = |queue: &mut SendQueue, pushed: usize| {
                let chunks = queue.take();
                let len: usize = chunks.iter().map(Bytes::len).sum();
                assert!(len <= OPERATION_MAX && chunks.iter().all(|chunk| !chunk.is_empty()));
                assert_eq!(len == 0, taken == pushed, "empty only when all is out");
                for chunk in chunks {
                    let at = taken % 251;
                    assert_eq!(chunk, pattern.slice(at..at + chunk.len()));
                    taken += chunk.len();
                }
                assert_eq!(queue.waiting(), (pushed - taken) as u64);
            };
            for (kind, len) in steps {
                if kind == 0 {
                    check(&mut queue, pushed);
                } else {
                    // Short pieces more often than long ones.
                    let len = if kind == 1 { len } else { len % 2_000 } + 1;
                    queue.push(pattern.slice(pushed % 251..pushed % 251 + len));
                    pushed += len;
                }
            }
            while queue.waiting() > 0 {
                check(&mut queue, pushed);
            }
            check(&mut queue, pushed);
            prop_assert!(queue.rest.is_none(), "the overflow is given back");
        }
    }
}
