//! What a scripted peer is going to do, drawn from the seed.

use bytes::Bytes;
use flock_transport::CloseHow;
use rand::Rng;
use rand::rngs::SmallRng;
use std::net::SocketAddr;
use std::time::Duration;

/// How a peer behaves on each of its connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Shakes hands, sends, waits for all of it to come back, stays a while and closes.
    Polite {
        /// Bytes to send after the handshake.
        payload: usize,
        /// Whether they follow the id in one piece.
        at_once: bool,
        /// How long to stay after the echo.
        stay: Duration,
        /// How to close.
        close: CloseHow,
    },
    /// As polite, but its handshake comes byte by byte.
    Slow {
        /// Time between two bytes.
        gap: Duration,
    },
    /// Never says anything.
    Silent,
    /// Sends this instead of a handshake.
    Garbage(Bytes),
    /// Leaves within its handshake.
    Leaves {
        /// Bytes of the handshake it sends before.
        after: usize,
        /// How it closes.
        close: CloseHow,
    },
    /// Shakes hands, sends, reads nothing but the handshake, stays and resets.
    Deaf {
        /// Bytes to send after the handshake.
        payload: usize,
        /// How long to stay.
        stay: Duration,
    },
}

impl Behaviour {
    /// A behaviour by chance, half of them polite.
    pub fn draw(rng: &mut SmallRng) -> Self {
        let close = if rng.random() {
            CloseHow::Fin
        } else {
            CloseHow::Rst
        };
        let stay = Duration::from_millis(rng.random_range(0..8_000));
        match rng.random_range(0..12) {
            0 => Self::Slow {
                gap: Duration::from_millis(rng.random_range(1..400)),
            },
            1 => Self::Silent,
            2 => Self::Garbage(garbage(rng)),
            3 => Self::Leaves {
                after: rng.random_range(0..33),
                close,
            },
            4 => Self::Deaf {
                payload: rng.random_range(1..100_000),
                stay,
            },
            _ => Self::Polite {
                payload: rng.random_range(1..5_000),
                at_once: rng.random(),
                stay,
                close,
            },
        }
    }
}

/// Bytes that are no handshake.
fn garbage(rng: &mut SmallRng) -> Bytes {
    match rng.random_range(0..4) {
        // An empty id.
        0 => Bytes::from_static(&[0]),
        // An id of 2^31 bytes.
        1 => Bytes::from_static(&[0x80, 0x80, 0x80, 0x80, 0x08, 1, 2, 3]),
        // A length that does not end.
        2 => Bytes::from_static(&[0xff; 40]),
        // Something else's first words.
        _ => Bytes::from_static(b"\xd4\x07GET / HTTP/1.1\r\n\r\n"),
    }
}

/// A scripted peer.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The id it states; others may state the same.
    pub id: Bytes,
    /// What it does.
    pub behaviour: Behaviour,
    /// Whom it dials.
    pub dials: Option<SocketAddr>,
    /// How many connections it opens at a time.
    pub at_a_time: u32,
    /// How often it dials again after a connection ended, all connections together.
    pub again: u32,
    /// When it begins, after the start of the world.
    pub begins: Duration,
    /// Where it listens.
    pub listens: Option<SocketAddr>,
}

impl Plan {
    /// The id as it goes over the wire: its length as a varint of seven bits a byte, least
    /// significant first, then the id.
    #[must_use]
    pub fn frame(&self) -> Bytes {
        frame(&self.id)
    }
}

/// An id with its length before it.
pub(super) fn frame(id: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(id.len() + 2);
    let mut rest = id.len();
    loop {
        let low = u8::try_from(rest & 0x7f).expect("seven bits");
        rest >>= 7;
        if rest == 0 {
            bytes.push(low);
            break;
        }
        bytes.push(low | 0x80);
    }
    bytes.extend_from_slice(id);
    Bytes::from(bytes)
}

#[cfg(test)]
mod tests {
    use super::frame;

    #[test]
    fn frames_carry_their_length() {
        assert_eq!(&frame(&[7; 32])[..2], [0x20, 7]);
        assert_eq!(&frame(&[7; 300])[..3], [0xac, 0x02, 7]);
    }
}
