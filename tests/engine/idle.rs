//! Connections on which nothing happens.

use super::peers::{Ground, PATIENCE, engine, local, next_event, wait_for};
use flock_engine::{CloseReason, Event, FlockError, JoinOptions};
use std::time::{Duration, Instant};

super::on_every_ground!(who_is_idle_is_let_go, who_is_not_stays,);

const IDLE: Duration = Duration::from_secs(1);

fn who_is_idle_is_let_go(ground: Ground) {
    let flock = engine(ground).idle_timeout(Some(IDLE)).start().unwrap();
    let other = engine(ground).start().unwrap();
    let addr = local(flock.listen(0).unwrap());
    let mut events = flock.events().unwrap();
    other.join("c", JoinOptions::default()).unwrap();
    other.add_peer("c", addr).unwrap();
    next_event(&mut events, "connection", |event| {
        matches!(event, Event::Connection(_)).then_some(())
    });
    let begun = Instant::now();
    let reason = next_event(&mut events, "connection-closed", |event| match event {
        Event::ConnectionClosed { reason, .. } => Some(*reason),
        _ => None,
    });
    assert_eq!(reason, CloseReason::IdleTimeout);
    assert!(begun.elapsed() >= IDLE * 9 / 10, "{:?}", begun.elapsed());
    for flock in [flock, other] {
        flock.shutdown(PATIENCE);
    }
}

/// Bytes of one direction are enough, whichever it is.
fn who_is_not_stays(ground: Ground) {
    stays(ground, false);
    stays(ground, true);
    let zero = engine(ground).idle_timeout(Some(Duration::ZERO)).start();
    assert!(matches!(zero.err(), Some(FlockError::Option(_))));
}

fn stays(ground: Ground, sends: bool) {
    let flock = engine(ground).idle_timeout(Some(IDLE)).start().unwrap();
    let other = engine(ground).start().unwrap();
    let addr = local(flock.listen(0).unwrap());
    other.join("c", JoinOptions::default()).unwrap();
    other.add_peer("c", addr).unwrap();
    let near = other.accept_timeout(PATIENCE).unwrap();
    let far = flock.accept_timeout(PATIENCE).unwrap();
    let (from, to) = if sends { (&far, &near) } else { (&near, &far) };
    let begun = Instant::now();
    while begun.elapsed() < IDLE * 5 / 2 {
        from.send_timeout("still here", PATIENCE).unwrap();
        assert!(to.recv_timeout(PATIENCE).unwrap().is_some());
        let rest = to.recv_timeout(IDLE / 20);
        assert!(!matches!(rest, Ok(None)), "let go");
    }
    wait_for("both", || flock.stats().connected == 1);
    for flock in [flock, other] {
        flock.shutdown(PATIENCE);
    }
}
