//! Limits, lists and the firewall, one at a time.

use super::*;

fn swarm(quotas: Quotas, config: SwarmConfig) -> Swarm {
    let counts = SharedCounts::new(1, quotas, 1);
    Swarm::new(config, Arc::new(counts), 1)
}

fn at(ms: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(10_000 + ms)
}

fn addr(net: u8, host: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, net, host], 1))
}

fn conn(slot: u32) -> ConnId {
    ConnId {
        shard: 0,
        slot,
        generation: 0,
    }
}

fn actions(swarm: &mut Swarm) -> Vec<Action> {
    std::iter::from_fn(|| swarm.poll_action()).collect()
}

fn dialled(swarm: &mut Swarm) -> Vec<(CandidateId, SocketAddr)> {
    let dial = |action| match action {
        Action::Dial {
            candidate, addr, ..
        } => Some((candidate, addr)),
        _ => None,
    };
    actions(swarm).into_iter().filter_map(dial).collect()
}

/// Lets somebody in and up to its id.
fn inbound(swarm: &mut Swarm, slot: u32, addr: SocketAddr) -> Result<(), RefuseReason> {
    swarm.inbound(at(0), Transport::Utp, addr)?;
    swarm.inbound_started(at(0), conn(slot), addr, Transport::Utp);
    let peer = PeerId::new(&slot.to_be_bytes()).unwrap();
    swarm.handshake_done(at(0), conn(slot), peer);
    Ok(())
}

#[test]
fn an_inbound_limit_leaves_room_for_dials() {
    let quotas = Quotas {
        inbound: 1,
        ..Quotas::default()
    };
    let mut swarm = swarm(quotas, config(0, 1));
    assert_eq!(inbound(&mut swarm, 1, addr(0, 1)), Ok(()));
    let refused = inbound(&mut swarm, 2, addr(0, 2));
    assert_eq!(refused, Err(RefuseReason::TooManyInbound));
    assert_eq!(swarm.counters().inbound_over_limit, 1);
    swarm.add_peer(at(0), "c".into(), addr(0, 3));
    assert_eq!(dialled(&mut swarm).len(), 1);
    swarm.closed(at(1), conn(1), CloseReason::PeerClosed, 0, 0);
    assert_eq!(inbound(&mut swarm, 3, addr(0, 2)), Ok(()));
}

#[test]
fn an_outbound_limit_leaves_room_for_inbound() {
    let quotas = Quotas {
        outbound: 1,
        ..Quotas::default()
    };
    let mut swarm = swarm(quotas, config(0, 1));
    swarm.add_peer(at(0), "c".into(), addr(0, 1));
    swarm.add_peer(at(0), "c".into(), addr(0, 2));
    let first = dialled(&mut swarm);
    assert_eq!((first.len(), swarm.stats().queued), (1, 1));
    swarm.dial_established(at(0), first[0].0, conn(1), Transport::Tcp);
    swarm.handshake_done(at(0), conn(1), PeerId::new(&[9]).unwrap());
    assert!(dialled(&mut swarm).is_empty(), "admitted, it still counts");
    assert_eq!(inbound(&mut swarm, 2, addr(0, 2)), Ok(()));
    actions(&mut swarm);
    swarm.closed(at(1), conn(1), CloseReason::PeerClosed, 0, 0);
    assert_eq!(dialled(&mut swarm)[0].1, addr(0, 2));
}

#[test]
fn one_place_has_so_many_connections_in_both_directions() {
    let quotas = Quotas {
        per_ip: 1,
        per_subnet: 2,
        ..Quotas::default()
    };
    let mut swarm = swarm(quotas, config(0, 1));
    assert_eq!(inbound(&mut swarm, 1, addr(0, 1)), Ok(()));
    let again = inbound(&mut swarm, 2, addr(0, 1));
    assert_eq!(again, Err(RefuseReason::TooManyFromIp));
    actions(&mut swarm);
    for found in [addr(0, 1), addr(0, 2), addr(0, 3), addr(1, 1)] {
        swarm.add_peer(at(0), "c".into(), found);
    }
    let dials: Vec<_> = dialled(&mut swarm).iter().map(|dial| dial.1).collect();
    assert_eq!(dials, [addr(0, 2), addr(1, 1)]);
    let crowd = inbound(&mut swarm, 3, addr(0, 4));
    assert_eq!(crowd, Err(RefuseReason::TooManyFromSubnet));
    let counters = swarm.counters();
    assert_eq!(
        (counters.inbound_over_ip, counters.inbound_over_subnet),
        (1, 1)
    );
    assert_eq!(counters.dials_deferred, 2);
    swarm.closed(at(1), conn(1), CloseReason::PeerClosed, 0, 0);
    let (mut dials, mut retries) = (Vec::new(), Vec::new());
    for second in 1..3 {
        swarm.on_deadline(at(1_100 * second));
        for action in actions(&mut swarm) {
            match action {
                Action::Dial { addr, .. } => dials.push(addr),
                Action::Emit(Event::Connecting(peer)) => retries.push(peer.retries),
                _ => {}
            }
        }
    }
    let freed = [addr(0, 1), addr(0, 3)];
    assert!(freed.contains(&dials[0]) && dials.len() == 1, "{dials:?}");
    assert_eq!(retries, [0], "waiting for a place is no attempt");
}

/// However many candidates of one place there are, the turn that finds it full is short.
#[test]
fn a_queue_of_one_network_does_not_hold_up_a_turn() {
    let quotas = Quotas {
        per_subnet: 1,
        ..Quotas::default()
    };
    let config = SwarmConfig {
        candidates: 2_000,
        ..config(0, 1)
    };
    let mut swarm = swarm(quotas, config);
    swarm.suspend_starts(at(0), true);
    for port in 1..=1_000 {
        let found = SocketAddr::from(([10, 0, 0, 1], port));
        swarm.add_peer(at(0), "c".into(), found);
    }
    swarm.add_peer(at(0), "c".into(), addr(7, 7));
    actions(&mut swarm);
    swarm.suspend_starts(at(0), false);
    assert_eq!(dialled(&mut swarm).len(), 1);
    assert!(swarm.counters().dials_deferred <= 256);
    let mut turns = 0;
    while dialled(&mut swarm).is_empty() {
        turns += 1;
        assert!(turns < 10, "the other network's turn never comes");
        swarm.on_deadline(at(turns));
    }
}

#[test]
fn accepting_has_a_rate() {
    let quotas = Quotas {
        accept_rate: 3,
        ..Quotas::default()
    };
    let mut swarm = swarm(quotas, config(0, 1));
    for slot in 1..=3 {
        assert_eq!(inbound(&mut swarm, slot, addr(0, 1)), Ok(()));
    }
    let fourth = inbound(&mut swarm, 4, addr(0, 1));
    assert_eq!(fourth, Err(RefuseReason::AcceptRate));
    assert_eq!(swarm.counters().inbound_over_rate, 1);
    let later = swarm.inbound(at(334), Transport::Tcp, addr(0, 1));
    assert_eq!(later, Ok(()));
}

#[test]
fn the_denylist_is_stronger_than_the_whitelist() {
    let config = SwarmConfig {
        whitelist: vec!["10.0.0.0/16".parse().unwrap()],
        denylist: vec!["10.0.3.0/24".parse().unwrap()],
        ..config(0, 1)
    };
    let mut swarm = swarm(Quotas::default(), config);
    let denied = inbound(&mut swarm, 1, addr(3, 1));
    assert_eq!(denied, Err(RefuseReason::Denied));
    swarm.add_peer(at(0), "c".into(), addr(3, 1));
    let rejected = actions(&mut swarm).into_iter().any(|action| {
        matches!(
            action,
            Action::Emit(Event::PeerRejected {
                reason: RejectReason::Denied,
                ..
            })
        )
    });
    assert!(rejected);
    assert_eq!(inbound(&mut swarm, 2, addr(2, 1)), Ok(()));
    let counters = swarm.counters();
    assert_eq!(
        (counters.inbound_denied, counters.candidates_denied),
        (1, 1)
    );
}

#[test]
fn the_firewall_is_asked_about_addresses_and_ids() {
    let forbidden = PeerId::new(&7u32.to_be_bytes()).unwrap();
    let firewall = Firewall::new(move |approach| match approach {
        Approach::Inbound { addr, transport } => {
            *transport == Transport::Utp && addr.port() == 1 && addr.ip().to_string() != "10.0.0.1"
        }
        Approach::Outbound { addr } => addr.ip().to_string() != "10.0.0.2",
        Approach::Identified(info) => info.peer_id.as_ref() != Some(&forbidden),
    });
    let config = SwarmConfig {
        firewall: Some(firewall),
        ..config(0, 1)
    };
    let mut swarm = swarm(Quotas::default(), config);
    let refused = inbound(&mut swarm, 1, addr(0, 1));
    assert_eq!(refused, Err(RefuseReason::Firewall));
    swarm.add_peer(at(0), "c".into(), addr(0, 2));
    assert!(dialled(&mut swarm).is_empty());
    assert_eq!(inbound(&mut swarm, 7, addr(0, 3)), Ok(()));
    let closed = actions(&mut swarm).into_iter().any(|action| {
        matches!(
            action,
            Action::Close {
                reason: CloseReason::Firewall,
                ..
            }
        )
    });
    assert!(closed);
    let counters = swarm.counters();
    assert_eq!(counters.inbound_firewalled, 1);
    assert_eq!(counters.candidates_firewalled, 1);
    assert_eq!((counters.peers_firewalled, counters.claims_sent), (1, 0));
}

#[test]
fn with_a_tail_nobody_is_dropped() {
    let config = SwarmConfig {
        retry_tail: Some(Duration::from_secs(600)),
        ..config(0, 1)
    };
    let mut swarm = swarm(Quotas::default(), config);
    swarm.add_peer(at(0), "c".into(), addr(0, 1));
    let mut waits = Vec::new();
    let mut now = at(0);
    // Far more failures than a byte counts.
    for _ in 0..300 {
        let last = now;
        let mut dials = dialled(&mut swarm);
        while dials.is_empty() {
            now = swarm.next_deadline().expect("it is dialled again");
            swarm.on_deadline(now);
            dials = dialled(&mut swarm);
        }
        waits.push((now - last).as_secs());
        swarm.dial_failed(now, dials[0].0, Transport::Tcp, false);
    }
    assert!(
        waits[5..].iter().all(|wait| (539..=661).contains(wait)),
        "{waits:?}"
    );
    assert_eq!(swarm.counters().drops, 0);
}
