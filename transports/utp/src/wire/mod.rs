//! Packets as they are on the wire.

#[cfg(test)]
mod tests;

/// Number of a packet, modulo 2^16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) struct Seq(u16);

impl Seq {
    pub(crate) const fn new(n: u16) -> Self {
        Self(n)
    }

    pub(crate) const fn get(self) -> u16 {
        self.0
    }

    pub(crate) const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }

    pub(crate) const fn previous(self) -> Self {
        Self(self.0.wrapping_sub(1))
    }

    /// How far ahead of this one `other` is; negative: behind.
    pub(crate) fn distance_to(self, other: Self) -> i32 {
        i32::from(other.0.wrapping_sub(self.0).cast_signed())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Data,
    Fin,
    State,
    Reset,
    Syn,
}

pub(crate) const HEADER: usize = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) id: u16,
    pub(crate) timestamp: u32,
    pub(crate) timestamp_diff: u32,
    pub(crate) window: u32,
    pub(crate) seq: Seq,
    pub(crate) ack: Seq,
}

impl Header {
    pub(crate) fn encode(&self, extension: u8) -> [u8; HEADER] {
        let kind = match self.kind {
            Kind::Data => 0,
            Kind::Fin => 1,
            Kind::State => 2,
            Kind::Reset => 3,
            Kind::Syn => 4,
        };
        let mut out = [0; HEADER];
        out[0] = kind << 4 | 1;
        out[1] = extension;
        out[2..4].copy_from_slice(&self.id.to_be_bytes());
        out[4..8].copy_from_slice(&self.timestamp.to_be_bytes());
        out[8..12].copy_from_slice(&self.timestamp_diff.to_be_bytes());
        out[12..16].copy_from_slice(&self.window.to_be_bytes());
        out[16..18].copy_from_slice(&self.seq.get().to_be_bytes());
        out[18..20].copy_from_slice(&self.ack.get().to_be_bytes());
        out
    }
}

#[derive(Debug)]
pub(crate) struct Packet<'a> {
    pub(crate) header: Header,
    pub(crate) sack: Option<&'a [u8]>,
    /// Offset of the payload.
    pub(crate) payload: usize,
}

pub(crate) fn decode(bytes: &[u8]) -> Option<Packet<'_>> {
    let head = bytes.first_chunk::<HEADER>()?;
    let kind = match head[0] {
        0x01 => Kind::Data,
        0x11 => Kind::Fin,
        0x21 => Kind::State,
        0x31 => Kind::Reset,
        0x41 => Kind::Syn,
        _ => return None,
    };
    let word = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let half = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let (mut next, mut at, mut sack) = (head[1], HEADER, None);
    while next != 0 {
        let id = next;
        next = *bytes.get(at)?;
        let len = usize::from(*bytes.get(at + 1)?);
        let body = bytes.get(at + 2..at + 2 + len)?;
        if id == 1 && sack.is_none() {
            sack = Some(body);
        }
        at += 2 + len;
    }
    Some(Packet {
        header: Header {
            kind,
            id: half(2),
            timestamp: word(4),
            timestamp_diff: word(8),
            window: word(12),
            seq: Seq(half(16)),
            ack: Seq(half(18)),
        },
        sack,
        payload: at,
    })
}
