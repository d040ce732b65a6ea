//! Who is let in: directions, places, rates and the firewall, between whole engines.

use super::peers::{Ground, PATIENCE, engine, id, local, next_event, wait_for};
use bytes::Bytes;
use flock_engine::event::{RefuseReason, RejectReason};
use flock_engine::{
    Approach, Builder, CloseReason, Event, Flock, FlockError, IdChoice, JoinOptions,
};
use std::net::SocketAddr;
use std::time::Duration;

super::on_every_ground!(
    an_inbound_limit_does_not_keep_from_dialling,
    an_address_has_so_many_connections_on_all_shards,
    a_network_has_so_many_connections_on_all_shards,
    reserved_places_are_kept,
    nobody_is_served_above_the_watermark,
    what_comes_too_fast_is_refused,
    a_denied_address_is_not_dialled_and_refused,
    a_firewall_judges_addresses,
    a_firewall_judges_ids,
);

/// An engine that dials `to` and nobody else.
fn dialler(ground: Ground, byte: u8, to: SocketAddr) -> Flock {
    let flock = engine(ground).id(IdChoice::Fixed(id(byte))).shards(1);
    let flock = flock.retry([100; 4].map(Duration::from_millis));
    let flock = flock.start().unwrap();
    flock.join("c", JoinOptions::default()).unwrap();
    flock.add_peer("c", to).unwrap();
    flock
}

/// With as many engines as this dialling, the last is refused for `expected`.
fn refuses(ground: Ground, builder: Builder, diallers: u8, expected: RefuseReason) {
    let flock = builder.start().unwrap();
    let addr = local(flock.listen(0).unwrap());
    let mut events = flock.events().unwrap();
    let mut peers = Vec::new();
    for byte in 1..diallers {
        peers.push(dialler(ground, byte, addr));
        let connected = u64::from(byte);
        wait_for("a peer", || flock.stats().connected == connected);
    }
    peers.push(dialler(ground, diallers, addr));
    let by = next_event(&mut events, "connection-refused", |event| match event {
        Event::ConnectionRefused {
            reason, transport, ..
        } if *reason == expected => Some(*transport),
        _ => None,
    });
    assert_eq!(by, ground.transport);
    assert_eq!(flock.stats().connected, u64::from(diallers) - 1);
    flock.shutdown(PATIENCE);
    for peer in peers {
        peer.shutdown(PATIENCE);
    }
}

fn an_inbound_limit_does_not_keep_from_dialling(ground: Ground) {
    let builder = engine(ground).max_inbound(1);
    refuses(ground, builder, 2, RefuseReason::TooManyInbound);
    let flock = engine(ground).max_inbound(1).start().unwrap();
    let addr = local(flock.listen(0).unwrap());
    let first = dialler(ground, 1, addr);
    wait_for("the inbound peer", || flock.stats().connected == 1);
    let second = engine(ground).start().unwrap();
    let addr = local(second.listen(0).unwrap());
    flock.add_peer("c", addr).unwrap();
    wait_for("the outbound one", || flock.stats().connected == 2);
    for flock in [flock, first, second] {
        flock.shutdown(PATIENCE);
    }
}

fn an_address_has_so_many_connections_on_all_shards(ground: Ground) {
    let builder = engine(ground).shards(4).max_per_ip(3);
    refuses(ground, builder, 4, RefuseReason::TooManyFromIp);
}

fn a_network_has_so_many_connections_on_all_shards(ground: Ground) {
    let builder = engine(ground).shards(4).max_per_subnet(3);
    refuses(ground, builder, 4, RefuseReason::TooManyFromSubnet);
}

fn what_comes_too_fast_is_refused(ground: Ground) {
    let flock = engine(ground).accept_rate(1).start().unwrap();
    let addr = local(flock.listen(0).unwrap());
    let mut events = flock.events().unwrap();
    // Each dials again ten times a second until it is let in.
    let peers: Vec<_> = (1..8).map(|byte| dialler(ground, byte, addr)).collect();
    next_event(&mut events, "connection-refused", |event| {
        let reason = RefuseReason::AcceptRate;
        matches!(event, Event::ConnectionRefused { reason: why, .. } if *why == reason)
            .then_some(())
    });
    wait_for("somebody", || flock.stats().connected > 0);
    wait_for("the sum", || {
        flock.counters().counters.swarm.inbound_over_rate > 0
    });
    flock.shutdown(PATIENCE);
    for peer in peers {
        peer.shutdown(PATIENCE);
    }
}

fn a_denied_address_is_not_dialled_and_refused(ground: Ground) {
    let deny = || vec!["127.0.0.0/8".parse().unwrap()];
    let builder = engine(ground).denylist(deny());
    refuses(ground, builder, 1, RefuseReason::Denied);
    let flock = engine(ground).denylist(deny()).start().unwrap();
    not_dialled(&flock, RejectReason::Denied);
}

fn not_dialled(flock: &Flock, expected: RejectReason) {
    let mut events = flock.events().unwrap();
    flock.join("c", JoinOptions::default()).unwrap();
    flock.add_peer("c", "127.0.0.8:9".parse().unwrap()).unwrap();
    next_event(&mut events, "peer-rejected", |event| {
        matches!(event, Event::PeerRejected { reason, .. } if *reason == expected).then_some(())
    });
    flock.shutdown(PATIENCE);
}

fn a_firewall_judges_addresses(ground: Ground) {
    let transport = ground.transport;
    let builder = engine(ground).firewall(move |approach| match approach {
        Approach::Inbound { transport: by, .. } => *by != transport,
        _ => true,
    });
    refuses(ground, builder, 1, RefuseReason::Firewall);
    let closed = engine(ground).firewall(|approach| !matches!(approach, Approach::Outbound { .. }));
    not_dialled(&closed.start().unwrap(), RejectReason::Firewall);
}

fn a_firewall_judges_ids(ground: Ground) {
    let flock = engine(ground)
        .firewall(|approach| match approach {
            Approach::Identified(info) => info.peer_id != Some(id(2)),
            _ => true,
        })
        .start()
        .unwrap();
    let addr = local(flock.listen(0).unwrap());
    let mut events = flock.events().unwrap();
    let welcome = dialler(ground, 1, addr);
    wait_for("the welcome one", || flock.stats().connected == 1);
    let unwelcome = dialler(ground, 2, addr);
    let refused = next_event(&mut events, "connection-closed", |event| match event {
        Event::ConnectionClosed {
            info,
            reason: CloseReason::Firewall,
            ..
        } => info.peer_id.clone(),
        _ => None,
    });
    assert_eq!(refused, id(2));
    assert_eq!(flock.stats().connected, 1);
    for flock in [flock, welcome, unwelcome] {
        flock.shutdown(PATIENCE);
    }
}

fn reserved_places_are_kept(ground: Ground) {
    let limited = || engine(ground).max_connections(2).reserved(1);
    refuses(ground, limited(), 2, RefuseReason::TooManyConnections);
    let [one, other, friend] = [1, 2, 3].map(|byte| {
        let flock = engine(ground)
            .id(IdChoice::Fixed(id(byte)))
            .start()
            .unwrap();
        let addr = local(flock.listen(0).unwrap());
        (flock, addr)
    });
    let flock = limited().start().unwrap();
    flock.add_peer("c", one.1).unwrap();
    wait_for("a peer", || flock.stats().connected == 1);
    flock.add_peer("c", other.1).unwrap();
    wait_for("a candidate", || flock.stats().queued == 1);
    flock.add_reserved_peer("c", friend.1).unwrap();
    wait_for("the friend", || flock.stats().connected == 2);
    wait_for("its end", || friend.0.stats().connected == 1);
    assert_eq!(flock.stats().queued, 1, "there is no third place");
    // A place that is not reserved is for the one that waits, not for nobody.
    one.0.shutdown(PATIENCE);
    wait_for("the other", || other.0.stats().connected == 1);
    wait_for("both", || flock.stats().connected == 2);
    for flock in [flock, other.0, friend.0] {
        flock.shutdown(PATIENCE);
    }
    let wrong = engine(ground).max_connections(1).reserved(2).start();
    assert!(matches!(wrong.err(), Some(FlockError::Option(_))));
}

fn nobody_is_served_above_the_watermark(ground: Ground) {
    const WATERMARK: u64 = 1 << 20;
    let flock = engine(ground).memory_watermark(WATERMARK).start().unwrap();
    let addr = local(flock.listen(0).unwrap());
    let mut events = flock.events().unwrap();
    let first = dialler(ground, 1, addr);
    let slow = first.accept_timeout(PATIENCE).unwrap();
    // The other side may be admitted later.
    wait_for("the first", || flock.stats().connected == 1);
    let conn = flock.connections().unwrap()[0].conn;
    // More than the system takes of a peer that does not read.
    let blob = Bytes::from(vec![7; 16 << 20]);
    flock.send_to(conn, blob.clone()).unwrap();
    let second = dialler(ground, 2, addr);
    let refused = next_event(&mut events, "connection-refused", |event| match event {
        Event::ConnectionRefused { reason, .. } => Some(*reason),
        _ => None,
    });
    assert_eq!(refused, RefuseReason::Memory);
    let (near, there) = (engine(ground).start().unwrap(), "c");
    let elsewhere = local(near.listen(0).unwrap());
    flock.add_peer(there, elsewhere).unwrap();
    wait_for("a candidate", || flock.stats().queued == 1);
    assert_eq!((flock.stats().connected, flock.stats().connecting), (1, 0));
    let mut got = 0;
    while got < blob.len() {
        got += slow.recv_timeout(PATIENCE).unwrap().unwrap().len();
    }
    wait_for("everybody", || flock.stats().connected == 3);
    assert!(flock.counters().counters.swarm.inbound_over_memory > 0);
    for flock in [flock, first, second, near] {
        flock.shutdown(PATIENCE);
    }
}
