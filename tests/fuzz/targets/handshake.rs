//! Any bytes, cut anywhere, are judged the same as in one piece; an id that is taken is exactly
//! what was announced.
#![no_main]

use flock_engine::session::{Handshake, Progress, frame};
use libfuzzer_sys::fuzz_target;

/// The verdict, with the bytes consumed since the start.
fn judge<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Progress, usize) {
    let mut handshake = Handshake::default();
    let mut before = 0;
    for piece in pieces {
        match handshake.feed(piece) {
            Progress::More => before += piece.len(),
            Progress::Done { peer_id, consumed } => {
                assert!(consumed <= piece.len());
                return (Progress::Done { peer_id, consumed: 0 }, before + consumed);
            }
            rejected => return (rejected, 0),
        }
    }
    (Progress::More, 0)
}

fuzz_target!(|input: &[u8]| {
    let Some((&step, bytes)) = input.split_first() else { return };
    let whole = judge(std::iter::once(bytes));
    let cut = judge(bytes.chunks(usize::from(step % 7) + 1));
    assert_eq!(whole, cut);
    if let (Progress::Done { peer_id, .. }, consumed) = whole {
        let id = peer_id.as_bytes();
        assert!(bytes[..consumed].ends_with(id));
        let again = frame(&peer_id);
        assert_eq!(judge(std::iter::once(&again[..])).1, again.len());
    }
});
