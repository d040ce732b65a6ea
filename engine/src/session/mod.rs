//! The handshake: each side states its id at once, as a LEB128 length and that many bytes, as
//! npm `length-prefixed-message` writes them.
//!
//! The engine performs it by itself, unless the embedder has a [`Protocol`] of its own. The machine is public for programs that speak the wire
//! without an engine.

use crate::names::PeerId;
use bytes::{BufMut, Bytes, BytesMut};
use flock_transport::HandshakeError;
use smallvec::SmallVec;

mod connector;
mod protocol;
#[cfg(test)]
mod tests;

pub use connector::{Connector, ConnectorError, ToLocal, ToPeer};
pub(crate) use connector::{Connectors, Failed, Joint, Output};
pub use protocol::Protocol;
pub(crate) use protocol::{Factory, Session};

/// What a peer's bytes amount to so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The handshake goes on.
    More,
    /// The peer has stated its id. What follows in the input belongs to the application.
    Done {
        /// The id.
        peer_id: PeerId,
        /// Bytes of the last input that were part of the handshake.
        consumed: usize,
    },
    /// This is no handshake.
    Reject(HandshakeError),
}

/// Reads the peer's side of the handshake, from input cut anywhere.
#[derive(Debug, Default)]
pub struct Handshake {
    length: u32,
    /// Bytes of the length prefix read.
    prefix: u8,
    complete: bool,
    id: SmallVec<[u8; 32]>,
}

/// The longest length prefix: five bytes hold 35 bits, far more than any id allowed.
const PREFIX_MAX: u8 = 5;

/// Our side of the handshake, to be sent as soon as the transport is up: LEB128 length, then id.
#[must_use]
pub fn frame(id: &PeerId) -> Bytes {
    let bytes = id.as_bytes();
    let mut frame = BytesMut::with_capacity(bytes.len() + 2);
    let mut length = bytes.len();
    while length >= 0x80 {
        frame.put_u8(0x80 | u8::try_from(length & 0x7f).expect("seven bits"));
        length >>= 7;
    }
    frame.put_u8(u8::try_from(length).expect("below 0x80"));
    frame.put_slice(bytes);
    frame.freeze()
}

impl Handshake {
    /// Takes the next bytes of the peer. After `Done` or `Reject` there is nothing more to ask.
    pub fn feed(&mut self, input: &[u8]) -> Progress {
        let mut used = 0;
        while !self.complete {
            let Some(&byte) = input.get(used) else {
                return Progress::More;
            };
            used += 1;
            if let Err(error) = self.prefix_byte(byte) {
                return Progress::Reject(error);
            }
        }
        let missing = self.length as usize - self.id.len();
        let take = missing.min(input.len() - used);
        self.id.extend_from_slice(&input[used..used + take]);
        if take < missing {
            return Progress::More;
        }
        let peer_id = PeerId::new(&self.id).expect("the length was checked");
        Progress::Done {
            peer_id,
            consumed: used + take,
        }
    }

    /// Whether the peer has said anything: an end is a truncated handshake then.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.prefix > 0
    }

    fn prefix_byte(&mut self, byte: u8) -> Result<(), HandshakeError> {
        let bits = u64::from(byte & 0x7f) << (7 * self.prefix);
        let length = u64::from(self.length) | bits;
        self.prefix += 1;
        let limit = u16::try_from(PeerId::MAX).expect("a small constant");
        if length > u64::from(limit) {
            // What follows could only make it longer, so this is the least that was announced.
            return Err(HandshakeError::IdTooLong {
                announced: u32::try_from(length).unwrap_or(u32::MAX),
                limit,
            });
        }
        self.length = u32::try_from(length).expect("within the limit");
        if byte & 0x80 == 0 {
            self.complete = true;
            return if self.length == 0 {
                Err(HandshakeError::EmptyId)
            } else {
                Ok(())
            };
        }
        if self.prefix == PREFIX_MAX {
            Err(HandshakeError::LengthTooLong)
        } else {
            Ok(())
        }
    }
}
