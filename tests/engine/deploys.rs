//! Holding an engine, letting it run out, and asking what goes on in it.

use super::peers::{Ground, PATIENCE, engine, id, local, next_event, wait_for};
use flock_engine::{
    BanTarget, CloseReason, Event, Flock, FlockError, IdChoice, JoinOptions, MinRate,
};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

super::on_every_ground!(
    a_suspended_engine_starts_nothing_and_goes_on_later,
    a_drained_engine_waits_for_its_connections,
    a_drain_has_an_end,
    the_worst_are_evicted,
    who_is_too_slow_is_let_go,
    bans_can_be_looked_at,
);

fn listening(ground: Ground) -> (Flock, SocketAddr) {
    let flock = engine(ground).start().unwrap();
    let addr = local(flock.listen(0).unwrap());
    (flock, addr)
}

fn dial(flock: &Flock, addr: SocketAddr) {
    flock.join("c", JoinOptions { announce: false }).unwrap();
    flock.add_peer("c", addr).unwrap();
}

fn a_suspended_engine_starts_nothing_and_goes_on_later(ground: Ground) {
    let (held, addr) = listening(ground);
    let (early, late) = (
        engine(ground).start().unwrap(),
        engine(ground).start().unwrap(),
    );
    let (other, elsewhere) = listening(ground);
    dial(&early, addr);
    let near = early.accept_timeout(PATIENCE).unwrap();
    let far = held.accept_timeout(PATIENCE).unwrap();
    held.suspend().unwrap();
    // Commands keep their order, and an answer comes from a turn after this one.
    held.connections().unwrap();
    held.connections().unwrap();
    dial(&late, addr);
    dial(&held, elsewhere);
    wait_for("the dial", || late.stats().connecting == 1);
    wait_for("the candidate", || held.stats().queued == 1);
    near.send_timeout("still there", PATIENCE).unwrap();
    assert_eq!(far.recv_timeout(PATIENCE).unwrap().unwrap(), "still there");
    assert_eq!((held.stats().connecting, held.stats().connected), (0, 1));
    held.resume().unwrap();
    wait_for("both", || held.stats().connected == 3);
    for flock in [held, early, late, other] {
        flock.shutdown(PATIENCE);
    }
}

fn a_drained_engine_waits_for_its_connections(ground: Ground) {
    let (drained, addr) = listening(ground);
    let peer = engine(ground).start().unwrap();
    dial(&peer, addr);
    let near = peer.accept_timeout(PATIENCE).unwrap();
    let far = drained.accept_timeout(PATIENCE).unwrap();
    std::thread::scope(|scope| {
        let ended = scope.spawn(|| drained.drain(PATIENCE));
        let gone = |ground: Ground| {
            let late = engine(ground)
                .retry([Duration::from_millis(1); 4])
                .start()
                .unwrap();
            let mut events = late.events().unwrap();
            dial(&late, addr);
            next_event(&mut events, "failed dial", |event| {
                matches!(event, Event::ConnectFailed { .. }).then_some(())
            });
            late.shutdown(Duration::ZERO);
        };
        wait_for("the listener to go", || drained.listening().is_empty());
        // Every shard has read that, since mail keeps its order.
        drained.connections().unwrap();
        gone(ground);
        assert!(!ended.is_finished(), "a peer is connected");
        near.send_timeout("last words", PATIENCE).unwrap();
        assert_eq!(far.recv_timeout(PATIENCE).unwrap().unwrap(), "last words");
        peer.remove_peer("c", addr).unwrap();
        drop(near);
        drop(far);
        assert!(ended.join().unwrap().unwrap(), "all ended by themselves");
    });
    assert!(matches!(drained.suspend(), Err(FlockError::ShutDown)));
    peer.shutdown(PATIENCE);
}

fn a_drain_has_an_end(ground: Ground) {
    let (drained, addr) = listening(ground);
    let peer = engine(ground).start().unwrap();
    dial(&peer, addr);
    let near = peer.accept_timeout(PATIENCE).unwrap();
    let far = drained.accept_timeout(PATIENCE).unwrap();
    far.send_timeout("first words", PATIENCE).unwrap();
    assert!(!drained.drain(Duration::from_millis(50)).unwrap());
    assert_eq!(near.recv_timeout(PATIENCE).unwrap().unwrap(), "first words");
    assert_eq!(near.recv_timeout(PATIENCE).unwrap(), None);
    peer.shutdown(PATIENCE);
}

fn the_worst_are_evicted(ground: Ground) {
    const PEERS: u8 = 5;
    let (seeder, addr) = listening(ground);
    let mut events = seeder.events().unwrap();
    let peers: Vec<_> = (1..=PEERS)
        .map(|n| {
            let peer = engine(ground).id(IdChoice::Fixed(id(n))).start().unwrap();
            dial(&peer, addr);
            let end = peer.accept_timeout(PATIENCE).unwrap();
            end.send_timeout(vec![n; 1000 * usize::from(n)], PATIENCE)
                .unwrap();
            (peer, end)
        })
        .collect();
    let _ends: Vec<_> = (0..PEERS)
        .map(|_| seeder.accept_timeout(PATIENCE).unwrap())
        .collect();
    let sent = |n: u8| 33 + 1000 * u64::from(n);
    wait_for("all bytes", || {
        let reports = seeder.reports().unwrap();
        reports.iter().map(|report| report.bytes_in).sum::<u64>() == (1..=PEERS).map(sent).sum()
    });
    // The first is the worst, but spared.
    let worth = |report: &flock_engine::ConnectionReport| {
        assert!(report.age < PATIENCE && report.queued == 0, "{report:?}");
        (report.info.peer_id != Some(id(1))).then_some(report.bytes_in)
    };
    let evicted = seeder.evict(2, worth).unwrap();
    let ids: Vec<_> = evicted
        .iter()
        .map(|report| report.info.peer_id.clone())
        .collect();
    assert_eq!(ids, [Some(id(2)), Some(id(3))]);
    for _ in 0..2 {
        let (who, why) = next_event(&mut events, "connection-closed", |event| match event {
            Event::ConnectionClosed { info, reason, .. } => Some((info.peer_id.clone(), *reason)),
            _ => None,
        });
        assert!(ids.contains(&who), "{who:?}");
        assert_eq!(why, CloseReason::Evicted);
    }
    drop(events);
    for (peer, _) in peers {
        peer.shutdown(Duration::ZERO);
    }
    seeder.shutdown(PATIENCE);
}

fn who_is_too_slow_is_let_go(ground: Ground) {
    let rate = MinRate {
        bytes_per_second: 1_000,
        over: Duration::from_secs(3),
    };
    let flock = engine(ground).min_rate(Some(rate)).start().unwrap();
    let addr = local(flock.listen(0).unwrap());
    let mut events = flock.events().unwrap();
    let (slow, fast) = (
        engine(ground).id(IdChoice::Fixed(id(1))),
        engine(ground).id(IdChoice::Fixed(id(2))),
    );
    let (slow, fast) = (slow.start().unwrap(), fast.start().unwrap());
    dial(&fast, addr);
    let fast_end = fast.accept_timeout(PATIENCE).unwrap();
    let here = flock.accept_timeout(PATIENCE).unwrap();
    dial(&slow, addr);
    let slow_end = slow.accept_timeout(PATIENCE).unwrap();
    let over = AtomicBool::new(false);
    let (who, why) = std::thread::scope(|scope| {
        let over = &over;
        scope.spawn(move || {
            // The other direction counts as well.
            while !over.load(Ordering::Relaxed) {
                here.send_timeout(vec![7; 50_000], PATIENCE).unwrap();
                std::thread::yield_now();
            }
        });
        scope.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let _ = fast_end.recv_timeout(Duration::from_millis(100));
            }
        });
        let _ = slow_end.send_timeout(vec![7; 1_000], PATIENCE);
        let closed = next_event(&mut events, "connection-closed", |event| match event {
            Event::ConnectionClosed { info, reason, .. } => Some((info.peer_id.clone(), *reason)),
            _ => None,
        });
        over.store(true, Ordering::Relaxed);
        closed
    });
    assert_eq!((who, why), (Some(id(1)), CloseReason::TooSlow));
    for flock in [flock, slow, fast] {
        flock.shutdown(Duration::ZERO);
    }
    let nothing = MinRate {
        bytes_per_second: 0,
        over: Duration::from_secs(1),
    };
    let both = engine(ground)
        .min_rate(Some(rate))
        .idle_timeout(Some(Duration::from_secs(1)));
    for wrong in [engine(ground).min_rate(Some(nothing)), both] {
        assert!(matches!(wrong.start().err(), Some(FlockError::Option(_))));
    }
}

fn bans_can_be_looked_at(ground: Ground) {
    let (flock, addr) = listening(ground);
    assert_eq!(flock.bans().unwrap(), []);
    let net: BanTarget = BanTarget::Net("10.1.0.0/16".parse().unwrap());
    let hour = Duration::from_secs(3600);
    flock.ban(net.clone(), Some(hour)).unwrap();
    flock.ban(id(9), None).unwrap();
    flock.remove_peer("c", addr).unwrap();
    let mut bans = flock.bans().unwrap();
    bans.sort_by(|a, b| a.target.cmp(&b.target));
    let targets: Vec<_> = bans.iter().map(|ban| ban.target.clone()).collect();
    assert_eq!(targets, [addr.into(), net.clone(), id(9).into()]);
    let left = bans[1].expires_in.unwrap();
    assert!(left <= hour && left > hour - PATIENCE, "{left:?}");
    assert_eq!((bans[0].expires_in, bans[2].expires_in), (None, None));
    flock.unban(net).unwrap();
    flock.unban(addr).unwrap();
    assert_eq!(flock.bans().unwrap().len(), 1);
    let soon = Instant::now() + Duration::from_millis(1);
    flock.ban(addr, Some(Duration::from_millis(1))).unwrap();
    wait_for("its end", || {
        Instant::now() > soon && flock.bans().unwrap().len() == 1
    });
    flock.shutdown(PATIENCE);
}
