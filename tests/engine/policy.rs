//! Limits, lists, duplicates and retries.

use super::peers::{Ground, PATIENCE, RawPeer, engine, id, local, next_event, wait_for};
use flock_engine::event::{BanReason, RefuseReason, RejectReason};
use flock_engine::io::Backend;
use flock_engine::{CloseReason, Event, IdChoice, JoinOptions};
use std::io::Write;
use std::net::Shutdown;
use std::time::Duration;

super::on_every_ground!(
    dialling_oneself_is_found_out_and_banned,
    two_engines_dialling_each_other_keep_one_connection,
    the_limit_holds_outbound_and_refills,
    a_dead_address_is_retried_and_dropped,
    a_removed_peer_is_not_dialled,
);
super::on_both_backends!(
    the_limit_holds_inbound,
    a_whitelist_works_in_both_directions,
    garbage_is_no_handshake,
    silence_times_out,
);

fn dialling_oneself_is_found_out_and_banned(ground: Ground) {
    let flock = engine(ground).start().unwrap();
    let addr = local(flock.listen(0).unwrap());
    let mut events = flock.events().unwrap();
    flock.join("c", JoinOptions::default()).unwrap();
    flock.add_peer("c", addr).unwrap();
    let banned = next_event(&mut events, "peer-banned", |event| match event {
        Event::PeerBanned {
            peer,
            reason: BanReason::DetectedSelf,
        } => Some(peer.addr),
        _ => None,
    });
    assert_eq!(banned, addr);
    flock.add_peer("c", addr).unwrap();
    next_event(&mut events, "peer-rejected", |event| {
        matches!(
            event,
            Event::PeerRejected {
                reason: RejectReason::Banned,
                ..
            }
        )
        .then_some(())
    });
    wait_for("quiet", || {
        flock.stats().connecting == 0 && flock.stats().connected == 0
    });
    flock.shutdown(PATIENCE);
}

fn two_engines_dialling_each_other_keep_one_connection(ground: Ground) {
    for (low, high) in [(1, 2), (2, 1)] {
        let a = engine(ground).id(IdChoice::Fixed(id(low))).start().unwrap();
        let b = engine(ground)
            .id(IdChoice::Fixed(id(high)))
            .start()
            .unwrap();
        let (at_a, at_b) = (local(a.listen(0).unwrap()), local(b.listen(0).unwrap()));
        let mut events = a.events().unwrap();
        for flock in [&a, &b] {
            flock.join("c", JoinOptions::default()).unwrap();
        }
        a.add_peer("c", at_b).unwrap();
        b.add_peer("c", at_a).unwrap();
        next_event(&mut events, "connection", |event| {
            matches!(event, Event::Connection(_)).then_some(())
        });
        wait_for("one connection each", || {
            [&a, &b]
                .iter()
                .all(|flock| flock.stats().connected == 1 && flock.stats().connecting == 0)
        });
        a.shutdown(PATIENCE);
        b.shutdown(PATIENCE);
    }
}

fn the_limit_holds_inbound(backend: Backend) {
    let flock = engine(backend).max_connections(2).start().unwrap();
    let addr = local(flock.listen(0).unwrap());
    let mut events = flock.events().unwrap();
    let first = RawPeer::handshake(addr, &id(1));
    let _second = RawPeer::handshake(addr, &id(2));
    wait_for("two peers", || flock.stats().connected == 2);
    let mut third = RawPeer::connect(addr);
    third.read_to_end();
    next_event(&mut events, "connection-refused", |event| {
        matches!(
            event,
            Event::ConnectionRefused {
                reason: RefuseReason::TooManyConnections,
                ..
            }
        )
        .then_some(())
    });
    let sums = || flock.counters().counters.swarm;
    wait_for("the sums", || sums().inbound_full == 1);
    assert_eq!((sums().handshakes_inbound, sums().claims_granted), (2, 2));
    drop(first);
    // Whoever keeps count of the peer that left may hear of it later than its shard.
    let mut third = None;
    wait_for("room", || {
        third = RawPeer::try_handshake(addr, &id(3)).ok();
        third.is_some()
    });
    wait_for("two peers again", || flock.stats().connected == 2);
    flock.shutdown(PATIENCE);
}

fn the_limit_holds_outbound_and_refills(ground: Ground) {
    let servers: Vec<_> = (0..6)
        .map(|_| engine(ground).shards(1).start().unwrap())
        .collect();
    let flock = engine(ground).max_connections(2).start().unwrap();
    flock.join("c", JoinOptions { announce: false }).unwrap();
    for server in &servers {
        flock
            .add_peer("c", local(server.listen(0).unwrap()))
            .unwrap();
    }
    wait_for("two connected, four queued", || {
        let stats = flock.stats();
        assert!(stats.connected <= 2);
        stats.connected == 2 && stats.queued == 4
    });
    for _ in 0..2 {
        let busy = servers
            .iter()
            .find(|server| server.stats().connected == 1)
            .unwrap();
        busy.shutdown(PATIENCE);
        wait_for("a refill", || flock.stats().connected == 2);
    }
    flock.shutdown(PATIENCE);
    for server in servers {
        server.shutdown(PATIENCE);
    }
}

fn a_whitelist_works_in_both_directions(backend: Backend) {
    let flock = engine(backend)
        .whitelist(vec!["127.0.0.7/32".parse().unwrap()])
        .start()
        .unwrap();
    let addr = local(flock.listen(0).unwrap());
    let mut events = flock.events().unwrap();
    let mut peer = RawPeer::connect(addr);
    assert_eq!(peer.read_to_end(), b"");
    next_event(&mut events, "connection-refused", |event| {
        matches!(
            event,
            Event::ConnectionRefused {
                reason: RefuseReason::Whitelist,
                ..
            }
        )
        .then_some(())
    });
    flock.join("c", JoinOptions::default()).unwrap();
    flock.add_peer("c", "127.0.0.8:9".parse().unwrap()).unwrap();
    next_event(&mut events, "peer-rejected", |event| {
        matches!(
            event,
            Event::PeerRejected {
                reason: RejectReason::Whitelist,
                ..
            }
        )
        .then_some(())
    });
    flock.shutdown(PATIENCE);
}

fn garbage_is_no_handshake(backend: Backend) {
    let flock = engine(backend).start().unwrap();
    let addr = local(flock.listen(0).unwrap());
    let mut events = flock.events().unwrap();
    // Zero length; a length of 2^31; a length prefix without end; an end within the id.
    let garbage: [&[u8]; 4] = [&[0], &[0x80, 0x80, 0x80, 0x80, 0x08], &[0xff; 6], &[32, 1]];
    for bytes in garbage {
        let mut peer = RawPeer::connect(addr);
        peer.stream.write_all(bytes).unwrap();
        if bytes[0] == 32 {
            peer.stream.shutdown(Shutdown::Write).unwrap();
        }
        peer.read_to_end();
        next_event(&mut events, "connection-closed", |event| match event {
            Event::ConnectionClosed {
                reason: CloseReason::Handshake(_),
                ..
            } => Some(()),
            _ => None,
        });
    }
    let _healthy = RawPeer::handshake(addr, &id(1));
    wait_for("the healthy peer", || flock.stats().connected == 1);
    assert_eq!(flock.counters().counters.bad_handshakes, 4);
    flock.shutdown(PATIENCE);
}

fn silence_times_out(backend: Backend) {
    let flock = engine(backend)
        .handshake_timeout(Duration::from_millis(200))
        .start()
        .unwrap();
    let addr = local(flock.listen(0).unwrap());
    let mut events = flock.events().unwrap();
    let mut peer = RawPeer::connect(addr);
    peer.read_id();
    let names: Vec<_> = (0..3)
        .map(|_| next_event(&mut events, "an event", |event| Some(event.name())))
        .collect();
    assert_eq!(
        names,
        ["handshaking", "handshake-timeout", "connection-closed"]
    );
    flock.shutdown(PATIENCE);
}

fn a_dead_address_is_retried_and_dropped(ground: Ground) {
    let dead = {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        socket.local_addr().unwrap()
    };
    let flock = engine(ground)
        .retry([Duration::from_millis(20); 4])
        .utp_connect_timeout(Duration::from_millis(100))
        .start()
        .unwrap();
    let mut events = flock.events().unwrap();
    flock.join("c", JoinOptions { announce: false }).unwrap();
    flock.add_peer("c", dead).unwrap();
    let mut dials = 0;
    let retries = next_event(&mut events, "drop", |event| match event {
        Event::Connecting(_) => {
            dials += 1;
            None
        }
        Event::PeerDropped(peer) => Some(peer.retries),
        _ => None,
    });
    assert_eq!((dials, retries), (5, 4));
    flock.shutdown(PATIENCE);
}

fn a_removed_peer_is_not_dialled(ground: Ground) {
    let flock = engine(ground).start().unwrap();
    let mut events = flock.events().unwrap();
    let addr = "127.0.0.9:9".parse().unwrap();
    flock.join("c", JoinOptions { announce: false }).unwrap();
    flock.remove_peer("c", addr).unwrap();
    flock.add_peer("c", addr).unwrap();
    let mut names = Vec::new();
    next_event(&mut events, "peer-rejected", |event| {
        names.push(event.name());
        (event.name() == "peer-rejected").then_some(())
    });
    assert!(names.starts_with(&["peer-banned"]), "{names:?}");
    assert!(!names.contains(&"connecting"));
    flock.shutdown(PATIENCE);
}
