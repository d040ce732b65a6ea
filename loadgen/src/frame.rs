//! The identity handshake as a simulated peer speaks it: a varint length, then the id.

use bytes::Bytes;
use flock_engine::io::HandshakeError;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

/// Bytes of an id.
const ID: usize = 32;
/// Bytes of an id frame: one of length, then the id.
pub(crate) const FRAME: usize = 1 + ID;
/// The longest remote id a simulated peer takes.
const LONGEST: u32 = 1024;

/// The id frames of a run's peers in one piece of memory; handing one out costs no allocation.
#[derive(Clone, Debug)]
pub(crate) struct Frames {
    all: Bytes,
}

impl Frames {
    /// The frames of peers `0..peers`. A peer's id depends on `seed` and its number only. Ids
    /// start with four zero bytes, so that a target keeps the connection the peer dialled when
    /// both sides dial each other.
    pub(crate) fn generate(seed: u64, peers: u32) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut all = vec![0; FRAME * peers as usize];
        for frame in all.chunks_exact_mut(FRAME) {
            frame[0] = 32;
            random.fill_bytes(&mut frame[5..]);
        }
        Self { all: all.into() }
    }

    /// The frame of one peer.
    pub(crate) fn of(&self, peer: u32) -> Bytes {
        let start = peer as usize * FRAME;
        self.all.slice(start..start + FRAME)
    }

    /// The bytes all frames take.
    pub(crate) fn memory(&self) -> usize {
        self.all.len()
    }
}

/// Reads the remote's id frame, however the stream cuts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameReader {
    /// In the length, `seen` of its bytes read.
    Length { value: u64, seen: u8 },
    /// In the id.
    Id { left: u32 },
    /// The frame is complete.
    Done,
}

impl Default for FrameReader {
    fn default() -> Self {
        Self::Length { value: 0, seen: 0 }
    }
}

impl FrameReader {
    /// Takes the next bytes of the stream; true once the frame is complete. What follows the
    /// frame is the application's and is ignored.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> Result<bool, HandshakeError> {
        while let Self::Length { value, seen } = *self {
            let Some((&byte, rest)) = bytes.split_first() else {
                return Ok(false);
            };
            bytes = rest;
            *self = Self::length(value | u64::from(byte & 0x7f) << (7 * seen), seen + 1, byte)?;
        }
        if let Self::Id { left } = self {
            let taken = u32::try_from(bytes.len()).unwrap_or(u32::MAX).min(*left);
            *left -= taken;
            if *left == 0 {
                *self = Self::Done;
            }
        }
        Ok(*self == Self::Done)
    }

    fn length(value: u64, seen: u8, byte: u8) -> Result<Self, HandshakeError> {
        if byte & 0x80 != 0 {
            return if seen == 5 {
                Err(HandshakeError::LengthTooLong)
            } else {
                Ok(Self::Length { value, seen })
            };
        }
        match u32::try_from(value) {
            Ok(0) => Err(HandshakeError::EmptyId),
            Ok(left) if left <= LONGEST => Ok(Self::Id { left }),
            _ => Err(HandshakeError::IdTooLong {
                announced: u32::try_from(value).unwrap_or(u32::MAX),
                limit: u16::try_from(LONGEST).unwrap_or(u16::MAX),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_depend_on_seed_and_number_only() {
        let (few, many) = (Frames::generate(7, 10), Frames::generate(7, 100));
        assert_eq!(few.of(9), many.of(9));
        assert_ne!(few.of(9), many.of(10));
        assert_ne!(few.of(0), Frames::generate(8, 1).of(0));
        assert_eq!(few.of(3)[..5], [32, 0, 0, 0, 0]);
        assert_eq!(few.memory(), 330);
    }

    #[test]
    fn a_frame_may_be_cut_anywhere() {
        let frame = Frames::generate(1, 1).of(0);
        for cut in 0..=FRAME {
            let mut reader = FrameReader::default();
            assert_eq!(reader.feed(&frame[..cut]), Ok(cut == FRAME), "{cut}");
            assert_eq!(reader.feed(&frame[cut..]), Ok(true), "{cut}");
        }
        let mut reader = FrameReader::default();
        for (at, byte) in frame.iter().enumerate() {
            assert_eq!(reader.feed(&[*byte]), Ok(at + 1 == FRAME));
        }
        assert_eq!(reader.feed(b"application bytes"), Ok(true));
    }

    #[test]
    fn long_ids_are_taken_up_to_the_limit() {
        let mut long = vec![0x80, 0x08];
        long.extend([7; 1024]);
        assert_eq!(FrameReader::default().feed(&long), Ok(true));
        assert_eq!(
            FrameReader::default().feed(&[0x81, 0x08]),
            Err(HandshakeError::IdTooLong {
                announced: 1025,
                limit: 1024
            })
        );
    }

    #[test]
    fn garbage_is_named() {
        assert_eq!(
            FrameReader::default().feed(&[0]),
            Err(HandshakeError::EmptyId)
        );
        assert_eq!(
            FrameReader::default().feed(&[0xff; 5]),
            Err(HandshakeError::LengthTooLong)
        );
        assert!(matches!(
            FrameReader::default().feed(&[0x80, 0x80, 0x80, 0x80, 0x08]),
            Err(HandshakeError::IdTooLong {
                announced: 0x8000_0000,
                ..
            })
        ));
    }
}
