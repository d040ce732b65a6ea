//! Which of several endpoints a datagram is for.
//!
//! Shards that share one UDP port divide its connections by the id in the packets: a dialler picks
//! a receive id that belongs to its own shard, and an acceptor receives on the id of the SYN plus
//! one (BEP 29, "connection id"). So each datagram names its shard, with no table between them.

/// First byte of a SYN, and those of all other packets of version 1: type and version.
const SYN: u8 = 0x41;
const OTHERS: [u8; 4] = [0x01, 0x11, 0x21, 0x31];

/// The endpoint that `datagram` is for, of `shards` which share an address. Whatever cannot be a
/// uTP packet is for the first.
#[must_use]
pub fn steer(datagram: &[u8], shards: u16) -> u16 {
    let &[first, _, high, low, ..] = datagram else {
        return 0;
    };
    let id = u16::from_be_bytes([high, low]);
    let id = match first {
        SYN => id.wrapping_add(1),
        other if OTHERS.contains(&other) => id,
        _ => return 0,
    };
    id.checked_rem(shards).unwrap_or(0)
}

/// The other endpoints, of `shards` which share an address, that a RESET may be for if it bears the
/// id of the packets that it answers, as some stacks' do: the owners of the ids beside it.
pub fn reset_owners(reset: &[u8], shards: u16) -> impl Iterator<Item = u16> + use<> {
    let id = match reset {
        &[_, _, high, low, ..] => Some(u16::from_be_bytes([high, low])),
        _ => None,
    };
    let owner = move |id: u16| id.checked_rem(shards).unwrap_or(0);
    let [own, before, after] = [0, u16::MAX, 1].map(|by| id.map(|id| owner(id.wrapping_add(by))));
    let before = before.filter(|_| before != own);
    let after = after.filter(|_| after != own && after != before);
    before.into_iter().chain(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_may_be_for_the_owners_of_the_ids_beside_its() {
        let owners = |id: u16, shards| {
            let [high, low] = id.to_be_bytes();
            reset_owners(&[0x31, 0, high, low], shards).collect::<Vec<_>>()
        };
        assert_eq!(owners(5, 1), []);
        assert_eq!(owners(5, 2), [0]);
        assert_eq!(owners(5, 3), [1, 0]);
        assert_eq!(owners(0, 4), [3, 1]);
        assert_eq!(reset_owners(&[0x31], 2).count(), 0);
    }

    #[test]
    fn both_directions_of_a_connection_meet_at_their_shards() {
        for id in [0, 1, 7, 0x7fff, 0xfffe, 0xffff_u16] {
            let [high, low] = id.to_be_bytes();
            let [next_high, next_low] = id.wrapping_add(1).to_be_bytes();
            let syn = steer(&[0x41, 0, high, low, 0, 0], 3);
            let data = steer(&[0x01, 0, next_high, next_low], 3);
            assert_eq!(syn, data, "the acceptor's, for {id}");
            assert_eq!(steer(&[0x21, 0, high, low], 3), id % 3, "the dialler's");
        }
    }

    #[test]
    fn what_is_no_packet_is_for_the_first() {
        for datagram in [
            &[][..],
            b"\x41\0\x01",
            b"d1:ad2:id20:",
            &[0x51, 0, 0, 1],
            &[0x02; 20],
        ] {
            assert_eq!(steer(datagram, 4), 0, "{datagram:?}");
        }
        assert_eq!(steer(&[0x01, 0, 0, 9], 0), 0);
    }
}
