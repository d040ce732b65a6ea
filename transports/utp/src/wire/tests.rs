use super::*;
use proptest::prelude::*;

fn kind(n: u8) -> Kind {
    [Kind::Data, Kind::Fin, Kind::State, Kind::Reset, Kind::Syn][usize::from(n % 5)]
}

#[test]
fn a_packet_has_the_bytes_of_bep_29() {
    let header = Header {
        kind: Kind::Syn,
        id: 0x1234,
        timestamp: 0x0102_0304,
        timestamp_diff: 0x0506_0708,
        window: 0x090a_0b0c,
        seq: Seq::new(0xd0e0),
        ack: Seq::new(0xf011),
    };
    let bytes = [
        0x41, 0, 0x12, 0x34, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0xd0, 0xe0, 0xf0, 0x11,
    ];
    assert_eq!(header.encode(0), bytes);
    assert_eq!(decode(&bytes).unwrap().header, header);
}

#[test]
fn extensions_are_skipped_by_length_and_the_first_sack_counts() {
    let mut packet = vec![0; 20];
    packet[..2].copy_from_slice(&[0x21, 2]);
    // Extension bits, then a close reason, then two selective acknowledgements.
    packet.extend([3, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
    packet.extend([1, 4, 0, 0, 0, 1]);
    packet.extend([1, 3, 7, 8, 9]);
    packet.extend([0, 1, 5]);
    packet.extend(b"payload");
    let decoded = decode(&packet).unwrap();
    assert_eq!(decoded.sack, Some(&[7, 8, 9][..]));
    assert_eq!(&packet[decoded.payload..], b"payload");
    for cut in 21..packet.len() - 7 {
        assert!(decode(&packet[..cut]).is_none(), "cut at {cut}");
    }
}

#[test]
fn other_protocols_on_the_port_are_told_apart_by_the_first_byte() {
    let mut packet = [0; 20];
    let valid: Vec<u8> = (0..=255)
        .filter(|first| {
            packet[0] = *first;
            decode(&packet).is_some()
        })
        .collect();
    assert_eq!(valid, [0x01, 0x11, 0x21, 0x31, 0x41]);
    assert!(decode(&packet[..19]).is_none());
}

#[test]
fn numbers_go_round() {
    let (last, first) = (Seq::new(0xffff), Seq::new(0));
    assert_eq!((last.next(), first.previous()), (first, last));
    assert_eq!((last.distance_to(first), first.distance_to(last)), (1, -1));
    assert_eq!(first.distance_to(Seq::new(0x7fff)), 0x7fff);
    assert_eq!(first.distance_to(Seq::new(0x8000)), -0x8000);
}

proptest! {
    /// Whatever comes is decoded or refused, and what is decoded lies within it.
    #[test]
    fn decoding_is_total(bytes in prop::collection::vec(any::<u8>(), 0..120), first in 0..8_u8) {
        let mut bytes = bytes;
        if let Some(byte) = bytes.first_mut()
            && first < 5
        {
            *byte = first << 4 | 1;
        }
        if let Some(packet) = decode(&bytes) {
            prop_assert!(packet.payload >= HEADER && packet.payload <= bytes.len());
        }
    }

    #[test]
    fn what_is_encoded_is_decoded(n: u8, id: u16, timestamp: u32, timestamp_diff: u32, window: u32, seq: u16, ack: u16) {
        let header = Header {
            kind: kind(n),
            id,
            timestamp,
            timestamp_diff,
            window,
            seq: Seq::new(seq),
            ack: Seq::new(ack),
        };
        let bytes = header.encode(0);
        let packet = decode(&bytes).unwrap();
        prop_assert_eq!(packet.header, header);
        prop_assert!(packet.sack.is_none() && packet.payload == HEADER);
    }
}
