use super::*;
use proptest::prelude::*;

fn feed_in_pieces(input: &[u8], mut cuts: Vec<usize>) -> (Progress, usize) {
    cuts.sort_unstable();
    let mut handshake = Handshake::default();
    let mut from = 0;
    for cut in cuts.into_iter().chain([input.len()]) {
        let piece = &input[from..cut];
        match handshake.feed(piece) {
            Progress::More => from = cut,
            Progress::Done { peer_id, consumed } => {
                return (
                    Progress::Done {
                        peer_id,
                        consumed: from + consumed,
                    },
                    from + consumed,
                );
            }
            rejected => return (rejected, from),
        }
    }
    (Progress::More, from)
}

#[test]
fn the_usual_frame_is_33_bytes() {
    let frame = frame(&PeerId::new(&[9; 32]).unwrap());
    assert_eq!((frame.len(), frame[0]), (33, 0x20));
}

#[test]
fn prefixes_that_are_not_minimal_are_taken() {
    let mut handshake = Handshake::default();
    let done = handshake.feed(&[0x84, 0x00, 1, 2, 3, 4, 5]);
    let peer_id = PeerId::new(&[1, 2, 3, 4]).unwrap();
    assert_eq!(
        done,
        Progress::Done {
            peer_id,
            consumed: 6
        }
    );
}

#[test]
fn what_is_no_handshake_is_rejected_at_its_first_wrong_byte() {
    let reject = |bytes: &[u8]| Handshake::default().feed(bytes);
    let limit = 1024;
    assert_eq!(reject(&[0]), Progress::Reject(HandshakeError::EmptyId));
    assert_eq!(
        reject(&[0x80, 0x80, 0x80, 0x80, 0x08]),
        Progress::Reject(HandshakeError::IdTooLong {
            announced: 1 << 31,
            limit
        })
    );
    assert_eq!(
        reject(&[0x81, 0x08]),
        Progress::Reject(HandshakeError::IdTooLong {
            announced: 1025,
            limit
        })
    );
    assert_eq!(
        reject(&[0x80, 0x80, 0x80, 0x80, 0x80]),
        Progress::Reject(HandshakeError::LengthTooLong)
    );
    assert_eq!(
        reject(&[0x80, 0x08]),
        Progress::More,
        "1,024 bytes are allowed"
    );
}

proptest! {
    #[test]
    fn any_id_survives_any_cut(
        id in proptest::collection::vec(any::<u8>(), 1..=1024),
        tail in proptest::collection::vec(any::<u8>(), 0..64),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let peer_id = PeerId::new(&id).unwrap();
        let frame = frame(&peer_id);
        let input = [&frame[..], &tail].concat();
        let cuts = cuts.iter().map(|cut| cut.index(input.len() + 1)).collect();
        let (progress, consumed) = feed_in_pieces(&input, cuts);
        prop_assert_eq!(progress, Progress::Done { peer_id, consumed: frame.len() });
        prop_assert_eq!(consumed, frame.len());
    }

    #[test]
    fn any_bytes_are_judged_the_same_however_they_are_cut(
        input in proptest::collection::vec(any::<u8>(), 0..200),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let cuts = cuts.iter().map(|cut| cut.index(input.len() + 1)).collect();
        let whole = feed_in_pieces(&input, Vec::new()).0;
        prop_assert_eq!(feed_in_pieces(&input, cuts).0, whole);
    }
}
