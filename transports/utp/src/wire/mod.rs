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

/// Bytes of selective acknowledgement that we send at the most.
pub(crate) const SACK_MAX: usize = 32;

/// A STATE as it is sent.
pub(crate) struct State {
    bytes: [u8; HEADER + 2 + SACK_MAX],
    len: usize,
}

impl State {
    /// With these bits behind the header, at most [`SACK_MAX`] bytes of them; none: without the
    /// extension.
    pub(crate) fn encode(header: &Header, sack: &[u8]) -> Self {
        let mut bytes = [0; HEADER + 2 + SACK_MAX];
        let mut len = HEADER;
        bytes[..HEADER].copy_from_slice(&header.encode(u8::from(!sack.is_empty())));
        if !sack.is_empty() {
            debug_assert!(sack.len() <= SACK_MAX, "as many as are kept");
            bytes[HEADER + 1] = u8::try_from(sack.len()).unwrap_or(u8::MAX);
            len += 2 + sack.len();
            bytes[HEADER + 2..len].copy_from_slice(sack);
        }
        Self { bytes, len }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
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

/// For the fuzzer: what is understood of a datagram is understood of its encoding, too.
#[cfg(fuzzing)]
pub fn recode(datagram: &[u8]) {
    let Some(packet) = decode(datagram) else {
        return;
    };
    assert!(packet.payload <= datagram.len() && packet.payload >= HEADER);
    let sack = packet.sack.unwrap_or_default();
    let sack = &sack[..sack.len().min(SACK_MAX)];
    let state = State::encode(&packet.header, sack);
    let again = decode(state.as_bytes()).expect("our own encoding");
    assert_eq!(again.header, packet.header);
    assert_eq!(again.sack.unwrap_or_default(), sack);
    assert_eq!(again.payload, state.as_bytes().len());
    let bare = packet.header.encode(0);
    assert_eq!(
        decode(&bare).map(|packet| packet.header),
        Some(packet.header)
    );
}
