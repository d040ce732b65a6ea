use bytes::Bytes;
use flock_transport::Train;
use std::collections::VecDeque;

/// The bytes to send, from the oldest unacknowledged one on: shared pieces, found by their place
/// in the stream, and freed as acknowledgements pass them.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    pieces: VecDeque<Piece>,
    /// Place in the stream of the oldest byte kept.
    start: u64,
    /// Place behind the last byte.
    end: u64,
    /// The piece in which the next new segment begins, which is what is mostly looked for.
    cursor: usize,
}

#[derive(Debug)]
struct Piece {
    start: u64,
    data: Bytes,
}

impl Piece {
    fn end(&self) -> u64 {
        self.start + self.data.len() as u64
    }
}

impl Buffer {
    /// Begins an empty buffer at `place`.
    pub(super) fn begin_at(&mut self, place: u64) {
        debug_assert!(self.pieces.is_empty(), "nothing was queued yet");
        (self.start, self.end) = (place, place);
    }

    /// Bytes kept.
    pub(super) fn len(&self) -> u64 {
        self.end - self.start
    }

    pub(super) fn start(&self) -> u64 {
        self.start
    }

    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Adds `data`, which is not empty.
    pub(super) fn push(&mut self, data: Bytes) {
        debug_assert!(!data.is_empty(), "an empty piece has no place");
        let start = self.end;
        self.end += data.len() as u64;
        self.pieces.push_back(Piece { start, data });
    }

    /// Lets go of what lies before `place`.
    pub(super) fn free(&mut self, place: u64) {
        debug_assert!(place <= self.end, "what was sent was queued");
        self.start = self.start.max(place);
        while self
            .pieces
            .front()
            .is_some_and(|piece| piece.end() <= place)
        {
            self.pieces.pop_front();
            self.cursor = self.cursor.saturating_sub(1);
        }
    }

    /// The next new segment begins at `place`.
    pub(super) fn move_to(&mut self, place: u64) {
        let behind = |piece: &Piece| piece.end() <= place;
        while self.pieces.get(self.cursor).is_some_and(behind) {
            self.cursor += 1;
        }
    }

    /// How many of the `len` bytes at `place` lie in the first `pieces` pieces.
    pub(super) fn limit(&self, place: u64, len: u64, pieces: usize) -> u64 {
        let last = self.index(place) + pieces - 1;
        let reach = |piece: &Piece| piece.end() - place;
        self.pieces
            .get(last)
            .map_or(len, |piece| len.min(reach(piece)))
    }

    /// How many pieces the `len` bytes at `place` lie in.
    pub(super) fn pieces(&self, place: u64, len: u64) -> usize {
        let first = self.index(place);
        let behind = |piece: &&Piece| piece.start < place + len;
        self.pieces.range(first..).take_while(behind).count()
    }

    /// Adds the `len` bytes at `place` to the datagram that was begun in `train`.
    pub(super) fn fill(&self, train: &mut Train, place: u64, len: u64) {
        let (mut at, end) = (place, place + len);
        for piece in self.pieces.range(self.index(place)..) {
            if at >= end {
                break;
            }
            let from = usize::try_from(at - piece.start).unwrap_or(usize::MAX);
            let upto = usize::try_from(end - piece.start).unwrap_or(usize::MAX);
            let upto = upto.min(piece.data.len());
            train.push_payload(&piece.data, from..upto);
            at = piece.start + upto as u64;
        }
        debug_assert_eq!(at, end, "all of a segment is kept until it is acknowledged");
    }

    /// The piece in which the byte at `place` lies.
    fn index(&self, place: u64) -> usize {
        let holds = |piece: &Piece| piece.start <= place && place < piece.end();
        if self.pieces.get(self.cursor).is_some_and(holds) {
            return self.cursor;
        }
        self.pieces.partition_point(|piece| piece.end() <= place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    fn bytes(train: &Train) -> Vec<u8> {
        train.parts().flatten().copied().collect()
    }

    #[test]
    fn a_byte_is_found_wherever_the_cursor_is() {
        let mut buffer = Buffer::default();
        for _ in 0..20 {
            buffer.push(Bytes::from_static(b"abc"));
        }
        for (freed, moved) in [(0, 0), (0, 7), (4, 9), (9, 31), (31, 60), (60, 60)] {
            buffer.free(freed);
            buffer.move_to(moved);
            buffer.push(Bytes::from_static(b"def"));
            for place in freed..buffer.end() {
                let piece = &buffer.pieces[buffer.index(place)];
                assert!((piece.start..piece.end()).contains(&place), "{place}");
            }
        }
    }

    #[test]
    fn segments_cross_pieces_and_acknowledged_ones_are_freed() {
        let mut buffer = Buffer::default();
        for piece in ["abc", "defgh", "i"] {
            buffer.push(Bytes::from_static(piece.as_bytes()));
        }
        let mut train = Train::default();
        train.reset(SocketAddr::from(([127, 0, 0, 1], 1)));
        train.push_datagram(7, b"");
        buffer.fill(&mut train, 2, 7);
        assert_eq!(bytes(&train), b"cdefghi");
        assert_eq!(buffer.pieces(2, 7), 3);
        assert_eq!(buffer.pieces(3, 5), 1);
        buffer.free(4);
        assert_eq!((buffer.len(), buffer.pieces.len()), (5, 2));
        train.reset(SocketAddr::from(([127, 0, 0, 1], 1)));
        train.push_datagram(2, b"");
        buffer.fill(&mut train, 4, 2);
        assert_eq!(bytes(&train), b"ef");
        buffer.free(9);
        assert_eq!((buffer.len(), buffer.pieces.len()), (0, 0));
    }
}
