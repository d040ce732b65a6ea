use smallvec::SmallVec;
use std::fmt;
use triomphe::ThinArc;

/// The id a peer states in its handshake: 1 to 1,024 bytes, 32 by convention. Ids of up to 32
/// bytes are stored in place.
///
/// Ids compare byte by byte, which orders them as the original orders their lower-case hex text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(SmallVec<[u8; 32]>);

impl PeerId {
    /// The longest id this engine takes from a peer, in bytes.
    pub const MAX: usize = 1024;

    /// The id made of `bytes`, or `None` when they are too few or too many.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (1..=Self::MAX)
            .contains(&bytes.len())
            .then(|| Self(SmallVec::from_slice(bytes)))
    }

    /// The bytes of the id.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerId({self})")
    }
}

/// What one joins: a name, hash or id, as given; any bytes. Cloning shares it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
// One word: an engine may have a hundred thousand, and each is in several tables.
pub struct ChannelKey(ThinArc<(), u8>);

impl ChannelKey {
    /// The bytes of the key.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0.slice
    }
}

impl From<&[u8]> for ChannelKey {
    fn from(bytes: &[u8]) -> Self {
        Self(ThinArc::from_header_and_slice((), bytes))
    }
}

impl From<&str> for ChannelKey {
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

impl From<String> for ChannelKey {
    fn from(text: String) -> Self {
        text.as_bytes().into()
    }
}

impl From<Vec<u8>> for ChannelKey {
    fn from(bytes: Vec<u8>) -> Self {
        bytes.as_slice().into()
    }
}

impl<const N: usize> From<&[u8; N]> for ChannelKey {
    fn from(bytes: &[u8; N]) -> Self {
        bytes.as_slice().into()
    }
}

impl fmt::Display for ChannelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(self.as_bytes(), f)
    }
}

impl fmt::Debug for ChannelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChannelKey({self})")
    }
}

/// Names a connection of one engine; never reused within a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    pub(crate) shard: u16,
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

impl ConnId {
    /// The shard that owns the connection.
    #[must_use]
    pub fn shard(self) -> usize {
        usize::from(self.shard)
    }
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.shard, self.slot, self.generation)
    }
}

fn hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_ids_have_limits_and_order_like_their_hex() {
        assert!(PeerId::new(b"").is_none());
        assert!(PeerId::new(&[0; 1025]).is_none());
        let (short, long) = (
            PeerId::new(&[0x0a]).unwrap(),
            PeerId::new(&[0x0a, 0]).unwrap(),
        );
        assert!(short < long && short.to_string() < long.to_string());
        assert_eq!(long.to_string(), "0a00");
    }
}
