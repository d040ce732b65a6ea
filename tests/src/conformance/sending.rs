//! Sending.

use super::{CANCELED, Fixture, Rig, pattern};
use bytes::Bytes;
use flock_engine::io::{DriverConfig, Op, Outcome, Verb};
use flock_transport::{CHUNKS_MAX, CloseHow};
use std::time::Duration;

/// A send far larger than what the kernel takes at once arrives whole, through small buffers.
pub fn big_sends_arrive_whole<F: Fixture>() {
    let mut rig = Rig::with::<F>(&DriverConfig {
        sockets: 16,
        buffers: 16,
        buffer_size: 2048,
        ..DriverConfig::default()
    });
    let (listener, addr) = rig.listen::<F>();
    let (dialled, accepted) = rig.pair(listener, addr);
    let bytes = pattern(3, 8 << 20);
    let whole = Bytes::from(bytes.clone());
    let piece = bytes.len() / CHUNKS_MAX;
    for (from, to) in [(dialled, accepted), (accepted, dialled)] {
        let before = rig.record(from).outcomes.len();
        rig.recv(to);
        rig.submit(Op::Send {
            socket: from,
            chunks: (0..CHUNKS_MAX)
                .map(|index| whole.slice(index * piece..(index + 1) * piece))
                .collect(),
        });
        rig.until("8 MiB", |rig| {
            rig.record(to).data.len() >= bytes.len() && !rig.outstanding(from, Verb::Send)
        });
        assert!(rig.record(to).data == bytes, "bytes changed");
        assert_eq!(
            rig.record(from).outcomes.len(),
            before + 1,
            "one completion"
        );
        assert_eq!(rig.record(from).sent(), 8 << 20);
    }
}

/// A receiver that does not read holds the sender, and nothing is lost when it goes on.
pub fn a_slow_reader_holds_the_sender<F: Fixture>() {
    let mut rig = Rig::new::<F>();
    let (listener, addr) = rig.listen::<F>();
    let (dialled, accepted) = rig.pair(listener, addr);
    let bytes = pattern(4, 32 << 20);
    rig.send(dialled, &bytes);
    rig.linger(Duration::from_millis(200));
    assert!(
        rig.outstanding(dialled, Verb::Send),
        "32 MiB without a reader"
    );
    rig.recv(accepted);
    rig.until("sent", |rig| rig.record(dialled).sent() == 32 << 20);
    rig.until("all", |rig| rig.record(accepted).data.len() >= bytes.len());
    assert!(rig.record(accepted).data == bytes, "bytes changed");
}

/// A cancelled send ends once; what was sent of it is a prefix.
pub fn cancelled_send_ends_once<F: Fixture>() {
    let mut rig = Rig::new::<F>();
    let (listener, addr) = rig.listen::<F>();
    let (dialled, accepted) = rig.pair(listener, addr);
    let bytes = pattern(5, 32 << 20);
    rig.send(dialled, &bytes);
    rig.linger(Duration::from_millis(50));
    rig.cancel(dialled, Verb::Send);
    rig.cancel(dialled, Verb::Send);
    rig.until("end of send", |rig| !rig.outstanding(dialled, Verb::Send));
    assert_eq!(
        rig.record(dialled).outcomes,
        [Outcome::Connected, Outcome::SendFailed(CANCELED)]
    );
    rig.close(dialled);
    rig.recv(accepted);
    rig.until("end", |rig| !rig.outstanding(accepted, Verb::Recv));
    let got = &rig.record(accepted).data;
    assert!(got.len() < bytes.len() && got[..] == bytes[..got.len()]);
}

/// Chunks of all lengths, empty ones too, arrive in order.
pub fn chunks_keep_their_order<F: Fixture>() {
    let mut rig = Rig::new::<F>();
    let (listener, addr) = rig.listen::<F>();
    let (dialled, accepted) = rig.pair(listener, addr);
    rig.recv(accepted);
    let parts: [&'static [u8]; CHUNKS_MAX] = [b"", b"a", b"", b"bc", b"def", b"", b"g", b""];
    let mut expected = Vec::new();
    for round in 1..=20 {
        expected.extend_from_slice(b"abcdefg");
        rig.submit(Op::Send {
            socket: dialled,
            chunks: parts.map(Bytes::from_static).into_iter().collect(),
        });
        rig.until("sent", |rig| rig.record(dialled).sent() == 7 * round);
    }
    rig.until("all", |rig| rig.record(accepted).data == expected);
}

/// Sending to a stream that the peer reset fails; it neither hangs nor kills the process.
pub fn send_to_a_reset_stream_fails<F: Fixture>() {
    let mut rig = Rig::new::<F>();
    let (listener, addr) = rig.listen::<F>();
    let (dialled, accepted) = rig.pair(listener, addr);
    rig.close_how(accepted, CloseHow::Rst);
    rig.until("close", |rig| rig.record(accepted).has(Outcome::Closed));
    rig.linger(Duration::from_millis(20));
    for _ in 0..2 {
        rig.send(dialled, b"anybody?");
        rig.until("end of send", |rig| !rig.outstanding(dialled, Verb::Send));
        let last = rig.record(dialled).outcomes.last();
        assert!(matches!(last, Some(Outcome::SendFailed(_))), "{last:?}");
    }
}
