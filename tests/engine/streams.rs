//! Connections as byte streams, in threads of their own.

use super::peers::{Ground, PATIENCE, engine, local};
use flock_engine::{Event, JoinOptions};
use flock_tests::streams::{self, Threads};
use futures_core::Stream;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

super::on_every_ground!(
    halves_echo_in_tasks_of_their_own,
    a_slow_reader_holds_the_sender_back,
    nothing_is_lost_by_dropping_futures,
    a_waker_may_be_replaced,
    a_dropped_connection_is_closed,
    an_engine_that_is_dropped_ends_its_connections,
    events_are_a_stream_and_an_iterator,
);

/// The cases that simulated engines go through, too.
macro_rules! shared {
    ($($case:ident),* $(,)?) => {
        $(fn $case(ground: Ground) {
            let Ground { backend, transport } = ground;
            streams::$case(&mut Threads { backend, transport });
        })*
    };
}
shared!(
    halves_echo_in_tasks_of_their_own,
    a_slow_reader_holds_the_sender_back,
    nothing_is_lost_by_dropping_futures,
    a_waker_may_be_replaced,
    a_dropped_connection_is_closed,
    an_engine_that_is_dropped_ends_its_connections,
);

fn events_are_a_stream_and_an_iterator(ground: Ground) {
    let (a, b) = (
        engine(ground).start().unwrap(),
        engine(ground).start().unwrap(),
    );
    let mut events = b.events().unwrap();
    let cx = &mut Context::from_waker(Waker::noop());
    assert_eq!(Pin::new(&mut events).poll_next(cx), Poll::Pending);
    b.join("c", JoinOptions { announce: false }).unwrap();
    b.add_peer("c", local(a.listen(0).unwrap())).unwrap();
    let mut next = std::pin::pin!(poll_fn(|cx| Pin::new(&mut events).poll_next(cx)));
    // The task that asked before is not the one that asks now.
    let first = loop {
        if let Poll::Ready(event) = next.as_mut().poll(cx) {
            break event.unwrap();
        }
        std::thread::yield_now();
    };
    assert_eq!(first.name(), "peer");
    let connected = events
        .blocking()
        .find(|e| matches!(e, Event::Connection(_)));
    assert!(connected.is_some());
    a.shutdown(PATIENCE);
    b.shutdown(PATIENCE);
    let names: Vec<_> = events.blocking().map(|event| event.name()).collect();
    assert!(
        names.contains(&"connection-closed"),
        "{names:?}, and the end"
    );
    assert!(matches!(
        Pin::new(&mut events).poll_next(cx),
        Poll::Ready(None)
    ));
}
