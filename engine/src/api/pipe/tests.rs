use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

#[derive(Default)]
struct Counting(AtomicUsize);

impl Wake for Counting {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn task() -> (Arc<Counting>, Waker) {
    let count = Arc::new(Counting::default());
    (count.clone(), Waker::from(count))
}

/// Does what the shard does with a send queue that has room, or has not.
fn serve(pipe: &Pipe, above_high: bool, woken: &mut Vec<Waker>) -> (usize, Asked) {
    let mut out = Vec::new();
    let asked = pipe.look(&mut out);
    let bytes = out.iter().map(Bytes::len).sum();
    pipe.queued(bytes, above_high, woken);
    (bytes, asked)
}

#[test]
fn many_writes_are_told_once_and_taken_together() {
    let (pipe, (_, waker)) = (Pipe::new(1, std::sync::Arc::default()), task());
    let told = (0..10)
        .map(|_| pipe.write(&mut Bytes::from(vec![0; 600]), &waker))
        .filter(|(write, tell)| {
            assert_eq!(*write, Write::Taken(600));
            tell.0
        });
    assert_eq!(told.count(), 1);
    assert_eq!(serve(&pipe, false, &mut Vec::new()).0, 6_000);
    let parts = [IoSlice::new(b"one"), IoSlice::new(b"two")];
    assert_eq!(
        pipe.write_copy(&parts, &waker),
        (Write::Taken(6), Tell(true))
    );
}

#[test]
fn what_is_under_way_is_bounded_whatever_is_written_while_the_shard_looks() {
    let (pipe, (count, waker)) = (Pipe::new(1, std::sync::Arc::default()), task());
    let fill = |sizes: usize| {
        let mut sum = 0;
        while let (Write::Taken(len), _) = pipe.write(&mut Bytes::from(vec![0; sizes]), &waker) {
            sum += len;
        }
        sum
    };
    let mut under_way = fill(PIECE - 1);
    let mut out = Vec::new();
    let _ = pipe.look(&mut out);
    under_way += fill(PIECE);
    assert!(under_way <= ABOVE_HIGH_MAX && under_way > OUT_LIMIT - PIECE);
    assert_eq!(pipe.held().1, under_way);
    let mut woken = Vec::new();
    pipe.queued(under_way, true, &mut woken);
    assert_eq!(fill(1), 0, "the send queue is above its mark");
    assert!(woken.is_empty());
    pipe.writable(&mut woken);
    wake_all(&mut woken);
    assert_eq!(count.0.load(Ordering::Relaxed), 1);
}

#[test]
fn more_than_a_piece_goes_in_parts_and_the_rest_stays_with_the_caller() {
    let (pipe, (_, waker)) = (Pipe::new(1, std::sync::Arc::default()), task());
    let mut much = Bytes::from(vec![0; 1 << 20]);
    assert_eq!(pipe.write(&mut much, &waker).0, Write::Taken(OUT_LIMIT));
    assert_eq!(much.len(), (1 << 20) - OUT_LIMIT);
    assert_eq!(pipe.write(&mut much, &waker).0, Write::Full);
    assert_eq!(
        pipe.write_copy(&[IoSlice::new(&much)], &waker).0,
        Write::Full
    );
}

#[test]
fn a_peer_held_back_is_let_go_when_half_is_read_and_not_if_more_came() {
    let (pipe, (count, waker)) = (Pipe::new(1_000, std::sync::Arc::default()), task());
    assert_eq!(pipe.read(1, &waker).0, Read::Nothing);
    let mut woken = Vec::new();
    assert!(!pipe.receive(&[1; 999], &mut woken));
    assert!(pipe.receive(&[2; 1], &mut woken));
    assert!(
        !pipe.receive(&[2; 1], &mut woken),
        "it is held back already"
    );
    wake_all(&mut woken);
    assert_eq!(count.0.load(Ordering::Relaxed), 1);
    assert_eq!(
        pipe.read(500, &waker),
        (Read::Data(Bytes::from(vec![1; 500])), Tell(false))
    );
    assert!(pipe.read(1, &waker).1.0, "half of it is left");
    assert!(pipe.receive(&[3; 500], &mut woken));
    assert!(
        !serve(&pipe, false, &mut woken).1.resume,
        "it is full again"
    );
    assert!(pipe.read(502, &waker).1.0);
    assert!(serve(&pipe, false, &mut woken).1.resume);
}

#[test]
fn each_request_is_made_once_and_ends_writing() {
    let (pipe, (_, waker)) = (Pipe::new(1, std::sync::Arc::default()), task());
    assert_eq!(pipe.ask(|asked| &mut asked.end), Tell(true));
    assert_eq!(pipe.ask(|asked| &mut asked.end), Tell(false));
    assert_eq!(
        pipe.ask(|asked| &mut asked.close),
        Tell(false),
        "told already"
    );
    let asked = serve(&pipe, false, &mut Vec::new()).1;
    assert!(asked.end && asked.close && !asked.abort);
    let write = pipe.write(&mut Bytes::from_static(b"late"), &waker).0;
    assert_eq!(write, Write::Closed(CloseReason::Local));
    assert_eq!(pipe.read(1, &waker).0, Read::End);
    pipe.close(CloseReason::Local, &mut Vec::new());
    assert_eq!(pipe.ask(|asked| &mut asked.abort), Tell(false));
}

#[test]
fn a_waker_that_replaces_another_is_called_too() {
    let (pipe, (first, one), (second, two)) =
        (Pipe::new(9, std::sync::Arc::default()), task(), task());
    let mut woken = Vec::new();
    for waker in [&one, &two, &two] {
        assert_eq!(pipe.read(1, waker).0, Read::Nothing);
    }
    pipe.receive(b"x", &mut woken);
    wake_all(&mut woken);
    assert_eq!(second.0.load(Ordering::Relaxed), 1);
    assert_eq!(first.0.load(Ordering::Relaxed), 1);
}

#[test]
fn what_was_received_is_read_before_the_end() {
    let (pipe, (_, waker)) = (Pipe::new(9, std::sync::Arc::default()), task());
    pipe.receive(b"last words", &mut Vec::new());
    pipe.close(CloseReason::PeerReset, &mut Vec::new());
    let words = Bytes::from_static(b"last words");
    assert_eq!(pipe.read(99, &waker).0, Read::Data(words));
    assert_eq!(
        pipe.read(99, &waker).0,
        Read::Closed(CloseReason::PeerReset)
    );
}
