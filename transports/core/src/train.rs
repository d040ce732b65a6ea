use bytes::Bytes;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::ops::Range;

/// The most datagrams one train carries (Linux, `UDP_MAX_SEGMENTS` of the oldest kernels with it).
pub const TRAIN_DATAGRAMS_MAX: usize = 64;

/// The most bytes one train carries: what an IPv4 packet holds after its own and the UDP header.
pub const TRAIN_BYTES_MAX: usize = 65_507;

/// The most separate pieces of memory one train is gathered from, well under `UIO_MAXIOV`.
pub const TRAIN_PARTS_MAX: usize = 256;

/// Datagrams to one address that go out in one system operation (`UDP_SEGMENT`): all as long as
/// the first, but the last, which may be shorter.
///
/// Each datagram is a short header, copied into the train, and a payload gathered from shared
/// [`Bytes`], which is referred to and never copied. A train is reused: [`reset`](Self::reset)
/// keeps its memory.
#[derive(Debug)]
pub struct Train {
    to: SocketAddr,
    /// What the sender of the train knows it by; the driver only carries it.
    pub tag: u64,
    /// Set the don't-fragment bit: for path MTU probes.
    pub dont_fragment: bool,
    segment: usize,
    last: usize,
    datagrams: usize,
    bytes: usize,
    headers: Vec<u8>,
    owners: Vec<Bytes>,
    parts: Vec<Part>,
}

/// A piece of memory of a train.
#[derive(Clone, Copy, Debug)]
struct Part {
    /// Index into the owners; `HEADER`: the train's own headers.
    owner: u32,
    start: u32,
    len: u32,
}

const HEADER: u32 = u32::MAX;

impl Default for Train {
    fn default() -> Self {
        Self {
            to: SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)),
            tag: 0,
            dont_fragment: false,
            segment: 0,
            last: 0,
            datagrams: 0,
            bytes: 0,
            headers: Vec::new(),
            owners: Vec::new(),
            parts: Vec::new(),
        }
    }
}

impl Train {
    /// Empties the train, which goes to `to` from now on, and keeps its memory.
    pub fn reset(&mut self, to: SocketAddr) {
        self.to = to;
        self.tag = 0;
        self.dont_fragment = false;
        self.segment = 0;
        self.last = 0;
        self.datagrams = 0;
        self.bytes = 0;
        self.headers.clear();
        self.owners.clear();
        self.parts.clear();
    }

    /// Whether one more datagram of `len` bytes, gathered from `parts` pieces (its header is one),
    /// may follow.
    #[must_use]
    pub fn fits(&self, len: usize, parts: usize) -> bool {
        let in_line = self.datagrams == 0 || (self.last == self.segment && len <= self.segment);
        in_line
            && self.datagrams < TRAIN_DATAGRAMS_MAX
            && self.bytes + len <= TRAIN_BYTES_MAX
            && self.parts.len() + parts <= TRAIN_PARTS_MAX
    }

    /// Begins a datagram of `len` bytes in all with its header. The caller has asked
    /// [`fits`](Self::fits), and pushes the payload next.
    pub fn push_datagram(&mut self, len: usize, header: &[u8]) {
        debug_assert!(self.fits(len, 1), "asked before");
        debug_assert!(header.len() <= len, "the header is part of the datagram");
        if self.datagrams == 0 {
            self.segment = len;
        }
        self.last = len;
        self.datagrams += 1;
        self.bytes += len;
        let start = self.headers.len();
        self.headers.extend_from_slice(header);
        self.push_part(HEADER, start..start + header.len());
    }

    /// Adds a piece of the current datagram's payload: `range` of `owner`. Neighbouring pieces of
    /// one owner share a reference to it.
    pub fn push_payload(&mut self, owner: &Bytes, range: Range<usize>) {
        debug_assert!(range.end <= owner.len(), "within its owner");
        let same = |last: &Bytes| last.as_ptr() == owner.as_ptr() && last.len() == owner.len();
        if !self.owners.last().is_some_and(same) {
            self.owners.push(owner.clone());
        }
        let index = u32::try_from(self.owners.len() - 1).unwrap_or(HEADER);
        self.push_part(index, range);
    }

    fn push_part(&mut self, owner: u32, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        let (Ok(start), Ok(len)) = (u32::try_from(range.start), u32::try_from(range.len())) else {
            debug_assert!(false, "pieces lie in the first 4 GiB of their owner");
            return;
        };
        self.parts.push(Part { owner, start, len });
    }

    /// Where the datagrams go.
    #[must_use]
    pub fn to(&self) -> SocketAddr {
        self.to
    }

    /// Bytes of every datagram but the last.
    #[must_use]
    pub fn segment(&self) -> usize {
        self.segment
    }

    /// How many datagrams it is.
    #[must_use]
    pub fn datagrams(&self) -> usize {
        self.datagrams
    }

    /// Bytes of all datagrams.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether there is no datagram.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.datagrams == 0
    }

    /// The pieces of memory that, one after another, are the datagrams. They stay where they are
    /// until the train is changed or dropped.
    pub fn parts(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.parts.iter().map(|part| {
            let memory: &[u8] = match self.owners.get(part.owner as usize) {
                Some(owner) => owner,
                None => &self.headers,
            };
            let start = part.start as usize;
            &memory[start..start + part.len as usize]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 9))
    }

    #[test]
    fn gathers_headers_and_shared_payload_in_order() {
        let blob = Bytes::from_static(b"abcdefgh");
        let mut train = Train::default();
        train.reset(to());
        for start in [0, 3] {
            assert!(train.fits(5, 2));
            train.push_datagram(5, b"h:");
            train.push_payload(&blob, start..start + 3);
        }
        assert!(train.fits(4, 2) && !train.fits(6, 2));
        train.push_datagram(4, b"h:");
        train.push_payload(&blob, 6..8);
        assert!(!train.fits(4, 2), "nothing follows a short datagram");
        let bytes: Vec<u8> = train.parts().flatten().copied().collect();
        assert_eq!(bytes, b"h:abch:defh:gh");
        assert_eq!(
            (train.segment(), train.datagrams(), train.len()),
            (5, 3, 14)
        );
        assert_eq!(train.owners.len(), 1, "one reference for neighbours");
    }

    #[test]
    fn is_bounded_in_datagrams_bytes_and_parts() {
        let mut train = Train::default();
        train.reset(to());
        while train.fits(100, 1) {
            train.push_datagram(100, &[7; 100]);
        }
        assert_eq!(train.datagrams(), TRAIN_DATAGRAMS_MAX);
        train.reset(to());
        while train.fits(1472, 2) {
            train.push_datagram(1472, &[7; 1472]);
        }
        assert!(train.len() <= TRAIN_BYTES_MAX && train.len() + 1472 > TRAIN_BYTES_MAX);
        train.reset(to());
        assert!(!train.fits(100, TRAIN_PARTS_MAX + 1));
        assert!(train.is_empty());
    }
}
