use super::*;
use proptest::prelude::*;

const ROOM: u64 = u64::MAX;

fn seq(n: u16) -> Seq {
    Seq::new(n)
}

fn drain(receiver: &mut Receiver) -> Vec<Ready> {
    std::iter::from_fn(|| receiver.next_ready()).collect()
}

fn data(bytes: &'static [u8]) -> Ready {
    Ready::Data(Bytes::from_static(bytes))
}

#[test]
fn order_is_restored_across_the_wrap() {
    let mut receiver = Receiver::new(seq(0xfffe), 10_000);
    assert_eq!(receiver.on_data(seq(1), b"c", ROOM), Arrival::Ahead);
    assert_eq!(receiver.on_data(seq(0), b"b", ROOM), Arrival::Ahead);
    assert_eq!(receiver.on_data(seq(1), b"c", ROOM), Arrival::Repeated);
    assert!(receiver.has_gap());
    assert_eq!(receiver.selective(), {
        let mut bits = [0; SACK_MAX];
        bits[0] = 0b11;
        (bits, 4)
    });
    assert_eq!(receiver.on_data(seq(0xffff), b"a", ROOM), Arrival::Deliver);
    assert_eq!(drain(&mut receiver), [data(b"b"), data(b"c")]);
    assert_eq!((receiver.ack(), receiver.held()), (seq(1), 0));
    assert!(!receiver.has_gap() && receiver.kept.is_none());
    assert_eq!(receiver.on_data(seq(0xfff0), b"x", ROOM), Arrival::Repeated);
}

#[test]
fn a_fin_waits_for_what_comes_before_it() {
    let mut receiver = Receiver::new(seq(9), 10_000);
    assert_eq!(receiver.on_fin(seq(12)), Arrival::Ahead);
    assert_eq!(receiver.on_fin(seq(12)), Arrival::Repeated);
    assert_eq!(receiver.on_fin(seq(11)), Arrival::Beyond);
    assert_eq!(receiver.on_data(seq(12), b"no", ROOM), Arrival::Beyond);
    assert_eq!(receiver.on_data(seq(13), b"no", ROOM), Arrival::Beyond);
    assert_eq!(receiver.on_data(seq(11), b"b", ROOM), Arrival::Ahead);
    assert_eq!(receiver.selective().0[0], 0b11);
    assert_eq!(receiver.on_data(seq(10), b"a", ROOM), Arrival::Deliver);
    assert_eq!(drain(&mut receiver), [data(b"b"), Ready::End]);
    assert_eq!(receiver.ack(), seq(12));
    assert!(receiver.complete() && receiver.ended() && !receiver.has_gap());
    assert_eq!(receiver.on_fin(seq(12)), Arrival::Repeated);
    assert_eq!(drain(&mut receiver), []);
}

#[test]
fn a_fin_in_order_ends_at_once_and_not_before_data_that_is_here() {
    let mut receiver = Receiver::new(seq(9), 10_000);
    assert_eq!(receiver.on_data(seq(11), b"b", ROOM), Arrival::Ahead);
    assert_eq!(receiver.on_fin(seq(10)), Arrival::Beyond);
    let mut receiver = Receiver::new(seq(9), 10_000);
    assert_eq!(receiver.on_fin(seq(10)), Arrival::Kept);
    assert_eq!(drain(&mut receiver), [Ready::End]);
}

#[test]
fn a_paused_stream_is_kept_up_to_the_window() {
    let mut receiver = Receiver::new(seq(0), 3000);
    receiver.pause();
    let mut n = 0;
    while receiver.on_data(seq(n + 1), &[7; 1000], ROOM) == Arrival::Kept {
        n += 1;
    }
    assert_eq!(n, 5, "the window and one packet's tolerance");
    assert_eq!((receiver.window(), receiver.ack()), (0, seq(5)));
    assert_eq!(receiver.on_fin(seq(6)), Arrival::Kept);
    assert_eq!(drain(&mut receiver), []);
    receiver.resume();
    assert_eq!(drain(&mut receiver).len(), 6);
    assert_eq!((receiver.window(), receiver.ended()), (3000, true));
}

#[test]
fn pausing_over_a_gap_keeps_the_order() {
    let mut receiver = Receiver::new(seq(0), 9000);
    assert_eq!(receiver.on_data(seq(2), b"2", ROOM), Arrival::Ahead);
    receiver.pause();
    assert_eq!(receiver.on_data(seq(1), b"1", ROOM), Arrival::Kept);
    assert_eq!(receiver.ack(), seq(2));
    receiver.resume();
    assert_eq!(receiver.on_data(seq(3), b"3", ROOM), Arrival::Kept);
    assert_eq!(drain(&mut receiver), [data(b"1"), data(b"2"), data(b"3")]);
}

#[test]
fn what_is_kept_is_bounded() {
    let mut receiver = Receiver::new(seq(0), 1 << 20);
    assert_eq!(
        receiver.on_data(seq(SPAN_MAX + 1), b"x", ROOM),
        Arrival::Beyond
    );
    assert_eq!(receiver.on_data(seq(2), b"x", 255), Arrival::Beyond);
    let mut kept = 0;
    for n in 2..SPAN_MAX {
        kept += u32::from(receiver.on_data(seq(n), b"x", ROOM) == Arrival::Ahead);
    }
    assert_eq!(kept, ((1 << 20) + TOLERANCE) / COST_MIN);
    assert_eq!(receiver.selective().1, SACK_MAX);
    // What is next in order is always taken.
    assert_eq!(receiver.on_data(seq(1), b"x", 0), Arrival::Deliver);
}

proptest! {
    #[test]
    fn any_order_gives_the_same_stream(
        start in any::<u16>(),
        order in proptest::collection::vec(0u16..60, 1..400),
        pauses in proptest::collection::vec(any::<bool>(), 400),
    ) {
        let mut receiver = Receiver::new(seq(start), 1 << 20);
        let mut stream = Vec::new();
        let fin = 60;
        let deliver = |receiver: &mut Receiver, stream: &mut Vec<u8>| {
            while let Some(ready) = receiver.next_ready() {
                match ready {
                    Ready::Data(bytes) => stream.extend_from_slice(&bytes),
                    Ready::End => stream.push(255),
                }
            }
        };
        for (n, pause) in order.into_iter().chain(0..=fin).zip(pauses.iter().cycle()) {
            if *pause { receiver.pause() } else { receiver.resume() }
            deliver(&mut receiver, &mut stream);
            let number = seq(start.wrapping_add(n).wrapping_add(1));
            let byte = u8::try_from(n).unwrap();
            if n == fin {
                receiver.on_fin(number);
            } else if receiver.on_data(number, &[byte], ROOM) == Arrival::Deliver {
                stream.push(byte);
            }
            deliver(&mut receiver, &mut stream);
        }
        receiver.resume();
        deliver(&mut receiver, &mut stream);
        let expected: Vec<u8> = (0..60).chain([255]).collect();
        prop_assert_eq!(stream, expected);
        prop_assert_eq!(receiver.held(), 0);
    }
}
