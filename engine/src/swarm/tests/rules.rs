//! One rule each, on a single shard.

use super::*;

fn swarm(limit: u32) -> Swarm {
    Swarm::new(config(0, 1), Arc::new(SharedCounts::limited(1, limit)), 1)
}

fn at(seconds: u64) -> Instant {
    Instant::ZERO + Duration::from_secs(seconds)
}

fn addr(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 1))
}

fn peer(id: u8) -> PeerId {
    PeerId::new(&[id]).unwrap()
}

fn conn(slot: u32) -> ConnId {
    ConnId {
        shard: 0,
        slot,
        generation: 0,
    }
}

/// What the swarm asked for: the names of events, and the dials.
fn drain(swarm: &mut Swarm) -> (Vec<&'static str>, Vec<CandidateId>) {
    let (mut events, mut dials) = (Vec::new(), Vec::new());
    while let Some(action) = swarm.poll_action() {
        match action {
            Action::Emit(event) => events.push(event.name()),
            Action::Dial { candidate, .. } => dials.push(candidate),
            Action::Admit(_) => events.push("connection"),
            Action::Close { .. } | Action::AbortDial { .. } | Action::Begin { .. } => {}
            Action::Send { .. } => panic!("one shard has nobody to write to"),
        }
    }
    (events, dials)
}

fn dials(swarm: &mut Swarm) -> Vec<CandidateId> {
    let dial = |action| match action {
        Action::Dial { candidate, .. } => Some(candidate),
        _ => None,
    };
    std::iter::from_fn(|| swarm.poll_action())
        .filter_map(dial)
        .collect()
}

/// A connection that this side dialled, to peer 9, admitted.
fn connected(swarm: &mut Swarm) -> ConnId {
    swarm.add_peer(at(1), "c".into(), addr(1));
    let (_, dials) = drain(swarm);
    swarm.dial_established(at(1), dials[0], conn(1), Transport::Tcp);
    swarm.handshake_done(at(1), conn(1), peer(9));
    let (events, _) = drain(swarm);
    assert_eq!(events, ["handshaking", "connection"]);
    conn(1)
}

fn close(swarm: &mut Swarm, conn: ConnId) {
    swarm.closed(at(2), conn, CloseReason::PeerClosed, 33, 33);
}

#[test]
fn what_was_held_back_starts_as_soon_as_the_hold_ends() {
    let mut swarm = swarm(0);
    swarm.suspend_starts(at(1), true);
    swarm.add_peer(at(1), "c".into(), addr(1));
    assert_eq!(drain(&mut swarm), (vec!["peer"], vec![]));
    swarm.suspend_starts(at(1), false);
    assert_eq!(drain(&mut swarm).0, ["connecting"]);
}

#[test]
fn after_a_connection_the_retries_begin_anew_as_the_originals_do() {
    let mut swarm = swarm(0);
    let conn = connected(&mut swarm);
    close(&mut swarm, conn);
    let mut waits = Vec::new();
    let (mut now, mut last) = (at(2), at(2));
    loop {
        let (events, dials) = drain(&mut swarm);
        if events.contains(&"drop") {
            break;
        }
        for dial in dials {
            waits.push((now - last).as_millis());
            last = now;
            swarm.dial_failed(now, dial, Transport::Tcp, false);
        }
        if let Some(next) = swarm.next_deadline() {
            now = next;
            swarm.on_deadline(now);
        }
    }
    // A second before the first dial, and three retries where a new candidate has four.
    let planned = [1_000, 1_000, 5_000, 15_000];
    assert_eq!(waits.len(), planned.len(), "{waits:?}");
    for (wait, planned) in waits.iter().zip(planned) {
        assert!(wait.abs_diff(planned) <= planned / 10 + 1, "{waits:?}");
    }
}

#[test]
fn an_address_banned_while_connected_is_not_dialled_again() {
    let mut swarm = swarm(0);
    let conn = connected(&mut swarm);
    swarm.ban(at(1), &addr(1).into(), None, None);
    assert_eq!(drain(&mut swarm).0, ["peer-banned"]);
    close(&mut swarm, conn);
    assert_eq!(swarm.next_deadline(), None, "nothing is planned");
    swarm.add_peer(at(2), "c".into(), addr(1));
    assert_eq!(drain(&mut swarm).0, ["connection-closed", "peer-rejected"]);
}

/// The way into the table is open before the ban, and has to be shut behind it.
#[test]
fn what_is_banned_during_its_handshake_is_not_admitted() {
    let bans: [BanTarget; 3] = [addr(1).into(), addr(1).ip().into(), peer(9).into()];
    for (nth, ban) in (0u32..).zip(bans.iter().cycle().take(12)) {
        // Dialled or not; banned before the id is known, or between claim and answer.
        let (inbound, claiming) = (nth % 2 == 0, nth >= 6);
        let counts = Arc::new(SharedCounts::limited(2, 0));
        let homes = Homes::new(7, 2);
        let at_home = homes.of_peer(&peer(9));
        let mut swarm = Swarm::new(config(1 - at_home, 2), counts.clone(), 1);
        if inbound {
            swarm.inbound(at(1), Transport::Tcp, addr(1)).unwrap();
            swarm.inbound_started(at(1), conn(1), addr(1), Transport::Tcp);
        } else {
            swarm.add_peer(at(1), "c".into(), addr(1));
            let dials = dials(&mut swarm);
            swarm.dial_established(at(1), dials[0], conn(1), Transport::Tcp);
        }
        if claiming {
            swarm.handshake_done(at(1), conn(1), peer(9));
            swarm.ban(at(1), ban, None, None);
            swarm.message(at(1), PeerMessage::Granted { conn: conn(1) });
        } else {
            swarm.ban(at(1), ban, None, None);
            swarm.handshake_done(at(1), conn(1), peer(9));
        }
        let actions: Vec<_> = std::iter::from_fn(|| swarm.poll_action()).collect();
        let closes = |action: &Action| matches!(action, Action::Close { reason, .. } if *reason == CloseReason::Banned);
        assert!(actions.iter().any(closes), "{ban:?} {nth}: {actions:?}");
        let admits = |action: &Action| matches!(action, Action::Admit(_));
        assert!(!actions.iter().any(admits), "{ban:?} {nth}: {actions:?}");
        swarm.closed(at(1), conn(1), CloseReason::Banned, 33, 33);
        let released = std::iter::from_fn(|| swarm.poll_action()).any(
            |action| matches!(action, Action::Send { shard, message: PeerMessage::Release { .. } } if shard == at_home),
        );
        assert_eq!(released, claiming, "the home has to know if it was asked");
        assert_eq!(
            (swarm.next_deadline(), swarm.stats()),
            (None, Stats::default())
        );
        assert_eq!(swarm.counters().peers_banned, 1);
    }
}

#[test]
fn a_channel_left_during_the_handshake_is_not_dialled_for_again() {
    let mut swarm = swarm(0);
    swarm.add_peer(at(1), "c".into(), addr(1));
    let (_, dials) = drain(&mut swarm);
    swarm.dial_established(at(1), dials[0], conn(1), Transport::Tcp);
    swarm.leave(at(1), &"c".into());
    close(&mut swarm, conn(1));
    assert_eq!(swarm.next_deadline(), None, "nothing is planned");
}

#[test]
fn the_way_to_a_connected_peer_is_not_dialled_until_it_has_gone() {
    let mut swarm = swarm(0);
    let first = connected(&mut swarm);
    // Another address of the same peer. Our id is the smaller one, so the newer connection of
    // ours stays, and the first address is the one that waits.
    swarm.add_peer(at(1), "c".into(), addr(2));
    let (_, dials) = drain(&mut swarm);
    swarm.dial_established(at(1), dials[0], conn(2), Transport::Tcp);
    swarm.handshake_done(at(1), conn(2), peer(9));
    assert_eq!(drain(&mut swarm).0, ["handshaking", "redundant-connection"]);
    swarm.closed(at(1), first, CloseReason::Redundant, 33, 33);
    assert_eq!(drain(&mut swarm).0, ["connection-closed", "connection"]);
    for known in [1, 2] {
        swarm.add_peer(at(1), "c".into(), addr(known));
        assert_eq!(drain(&mut swarm).0, ["peer-rejected"]);
    }
    assert_eq!(swarm.next_deadline(), None);
    close(&mut swarm, conn(2));
    drain(&mut swarm);
    swarm.on_deadline(at(4));
    assert_eq!(drain(&mut swarm).1.len(), 2, "both addresses are tried");
}

/// A swarm that dials both transports, with the two dials of one candidate under way.
fn both_dialled() -> (Swarm, CandidateId) {
    let config = SwarmConfig {
        utp: Some(Duration::from_secs(4)),
        ..config(0, 1)
    };
    let mut swarm = Swarm::new(config, Arc::new(SharedCounts::limited(1, 1)), 1);
    swarm.add_peer(at(1), "c".into(), addr(1));
    let dials = dials(&mut swarm);
    assert_eq!((dials.len(), swarm.stats().connecting), (2, 1));
    assert_eq!(dials[0], dials[1]);
    (swarm, dials[0])
}

#[test]
fn utp_leaves_tcp_half_a_second_and_is_named_in_what_follows() {
    let (mut swarm, id) = both_dialled();
    swarm.dial_established(at(1), id, conn(1), Transport::Utp);
    assert!(swarm.poll_action().is_none(), "TCP may still come");
    let later = at(1) + Duration::from_millis(500);
    assert!(swarm.next_deadline().is_some_and(|at| at <= later));
    swarm.on_deadline(at(1) + Duration::from_millis(499));
    assert!(swarm.poll_action().is_none(), "TCP may still come");
    swarm.on_deadline(later);
    let tcp = Transport::Tcp;
    let aborted = swarm.poll_action();
    assert!(
        matches!(aborted, Some(Action::AbortDial { transport, .. }) if transport == tcp),
        "{aborted:?}"
    );
    assert_eq!(drain(&mut swarm).0, ["handshaking"]);
    assert_eq!(swarm.info(conn(1)).unwrap().transport, Transport::Utp);
    swarm.handshake_done(later, conn(1), peer(9));
    let admitted = swarm.poll_action();
    assert!(
        matches!(&admitted, Some(Action::Admit(info)) if info.transport == Transport::Utp),
        "{admitted:?}"
    );
    assert_eq!((swarm.next_deadline(), swarm.stats().connected), (None, 1));
}

#[test]
fn tcp_that_comes_in_time_takes_the_place_of_utp() {
    let (mut swarm, id) = both_dialled();
    swarm.dial_established(at(1), id, conn(1), Transport::Utp);
    swarm.dial_established(at(1), id, conn(2), Transport::Tcp);
    let aborted = swarm.poll_action();
    assert!(
        matches!(aborted, Some(Action::AbortDial { transport, .. }) if transport == Transport::Utp),
        "{aborted:?}"
    );
    assert_eq!(drain(&mut swarm).0, ["handshaking"]);
    assert!(swarm.info(conn(1)).is_none());
    assert_eq!(swarm.info(conn(2)).unwrap().transport, Transport::Tcp);
    assert_eq!((swarm.next_deadline(), swarm.stats().connecting), (None, 1));
}

#[test]
fn what_is_banned_while_utp_waits_is_given_up() {
    let (mut swarm, id) = both_dialled();
    swarm.dial_established(at(1), id, conn(1), Transport::Utp);
    swarm.ban(at(1), &addr(1).into(), None, None);
    let aborts = std::iter::from_fn(|| swarm.poll_action())
        .filter(|action| matches!(action, Action::AbortDial { .. }))
        .count();
    assert_eq!(aborts, 2, "the one that stands, too");
    assert_eq!(
        (swarm.next_deadline(), swarm.stats()),
        (None, Stats::default())
    );
    assert_eq!(swarm.counters().dials_given_up, 1);
    assert!(swarm.counts.is_unused());
}

#[test]
fn a_dial_fails_when_both_transports_have() {
    let (mut swarm, id) = both_dialled();
    swarm.dial_failed(at(1), id, Transport::Tcp, false);
    assert_eq!(drain(&mut swarm).0, [""; 0]);
    swarm.on_deadline(at(5));
    assert_eq!(drain(&mut swarm).0, ["connect-failed"]);
    let counters = swarm.counters();
    let dials = (
        counters.dials_tcp,
        counters.dials_utp,
        counters.dials_failed,
    );
    assert_eq!((dials, counters.dials_timed_out), ((1, 1, 1), 1));
}

#[test]
fn a_ban_of_many_leaves_no_memory_behind() {
    let config = SwarmConfig {
        candidates: 1 << 16,
        ..config(0, 1)
    };
    let mut swarm = Swarm::new(config, Arc::new(SharedCounts::limited(1, 0)), 1);
    swarm.suspend_starts(at(1), true);
    for n in 0..10_000_u16 {
        let [high, low] = n.to_be_bytes();
        swarm.add_peer(at(1), "c".into(), SocketAddr::from(([10, 1, high, low], 1)));
        assert_eq!(drain(&mut swarm).0, ["peer"]);
    }
    let all: IpNet = "10.1.0.0/16".parse().unwrap();
    swarm.ban(at(1), &all.into(), None, None);
    assert_eq!(drain(&mut swarm).0.len(), 10_000);
    assert_eq!(swarm.stats().queued, 0);
    assert!(swarm.actions.capacity() <= 2 * ACTIONS_KEPT);
}

#[test]
fn leaving_forgets_what_was_found_for_the_channel_alone() {
    let mut swarm = swarm(0);
    swarm.suspend_starts(at(1), true);
    for n in 0..4 {
        swarm.add_peer(at(1), "c".into(), addr(n));
    }
    swarm.add_peer(at(1), "d".into(), addr(0));
    assert_eq!(swarm.stats().queued, 4);
    swarm.leave(at(1), &"c".into());
    assert_eq!(swarm.stats().queued, 1);
    drain(&mut swarm);
    swarm.suspend_starts(at(1), false);
    let connecting = swarm.poll_action();
    assert!(
        matches!(&connecting, Some(Action::Emit(Event::Connecting(peer))) if peer.channel == "d".into()),
        "{connecting:?}"
    );
}

#[test]
fn we_are_not_our_own_peer() {
    let mut swarm = swarm(0);
    swarm.add_peer(at(1), "c".into(), addr(1));
    let (_, dials) = drain(&mut swarm);
    swarm.dial_established(at(1), dials[0], conn(1), Transport::Tcp);
    swarm.handshake_done(at(1), conn(1), own());
    let actions: Vec<_> = std::iter::from_fn(|| swarm.poll_action()).collect();
    let closes = |action: &Action| matches!(action, Action::Close { reason, .. } if *reason == CloseReason::DetectedSelf);
    assert!(actions.iter().any(closes), "{actions:?}");
    swarm.closed(at(1), conn(1), CloseReason::DetectedSelf, 2, 2);
    swarm.add_peer(at(1), "c".into(), addr(1));
    assert_eq!(drain(&mut swarm).0, ["connection-closed", "peer-rejected"]);
    assert_eq!(swarm.stats(), Stats::default());
}

#[test]
fn a_retry_may_be_for_never() {
    let config = SwarmConfig {
        retry: [Duration::MAX; 4],
        ..config(0, 1)
    };
    let mut swarm = Swarm::new(config, Arc::new(SharedCounts::limited(1, 0)), 1);
    swarm.add_peer(at(1), "c".into(), addr(1));
    let dial = dials(&mut swarm)[0];
    swarm.dial_failed(at(1), dial, Transport::Tcp, false);
    swarm.on_deadline(at(1 << 32));
    assert!(dials(&mut swarm).is_empty());
}

#[test]
fn what_is_unbanned_is_dialled() {
    let mut swarm = swarm(0);
    let target = BanTarget::from(addr(1));
    swarm.ban(at(1), &target, None, None);
    swarm.add_peer(at(1), "c".into(), addr(1));
    let (events, dials) = drain(&mut swarm);
    assert_eq!(
        (&events[..], dials.len()),
        (&["peer-banned", "peer-rejected"][..], 0)
    );
    swarm.unban(&target);
    swarm.add_peer(at(1), "c".into(), addr(1));
    assert_eq!(drain(&mut swarm).1.len(), 1);
}

#[test]
fn silent_listeners_do_not_take_every_connection() {
    let mut swarm = swarm(0);
    for last in 1..=8 {
        swarm.add_peer(at(1), "c".into(), addr(last));
    }
    let mut slots = 1..;
    let mut handshaking = Vec::new();
    loop {
        let started = dials(&mut swarm);
        if started.is_empty() {
            break;
        }
        for dial in started {
            handshaking.push(conn(slots.next().unwrap()));
            let conn = *handshaking.last().unwrap();
            swarm.dial_established(at(1), dial, conn, Transport::Tcp);
        }
    }
    // What was being dialled when the limit of four was reached may still come through.
    assert_eq!((handshaking.len(), swarm.stats().queued), (6, 2));
    for conn in handshaking.drain(..3) {
        swarm.closed(at(6), conn, CloseReason::HandshakeTimeout, 0, 33);
    }
    assert_eq!(dials(&mut swarm).len(), 2);
}

#[test]
fn retries_follow_the_table_and_end_in_a_drop() {
    let counts = Arc::new(SharedCounts::limited(1, 0));
    let mut swarm = Swarm::new(config(0, 1), counts, 1);
    let start = Instant::from_nanos(1_000_000_000);
    let mut now = start;
    swarm.add_peer(now, "c".into(), "10.0.0.1:1".parse().unwrap());
    let mut dialled = Vec::new();
    loop {
        let mut dropped = false;
        while let Some(action) = swarm.poll_action() {
            match action {
                Action::Dial { candidate, .. } => {
                    dialled.push((now - start).as_secs_f64());
                    swarm.dial_failed(now, candidate, Transport::Tcp, false);
                }
                Action::Emit(Event::PeerDropped(peer)) => {
                    assert_eq!(peer.retries, 4);
                    dropped = true;
                }
                _ => {}
            }
        }
        if dropped {
            break;
        }
        now = swarm.next_deadline().expect("a retry is planned");
        swarm.on_deadline(now);
    }
    let expected = [0.0, 1.0, 2.0, 7.0, 22.0];
    assert_eq!(dialled.len(), expected.len());
    for (at, expected) in dialled.iter().zip(expected) {
        assert!(
            (at - expected).abs() <= expected * 0.1 + 0.01,
            "{dialled:?}"
        );
    }
}

#[test]
fn a_handshake_that_times_out_is_a_failed_attempt() {
    let mut swarm = swarm(0);
    swarm.add_peer(at(1), "c".into(), addr(1));
    let (mut now, mut last) = (at(1), None);
    for slot in 1..=5 {
        let mut dials = dials(&mut swarm);
        while dials.is_empty() {
            now = swarm.next_deadline().expect("it is dialled again");
            swarm.on_deadline(now);
            dials = self::dials(&mut swarm);
        }
        swarm.dial_established(now, dials[0], conn(slot), Transport::Tcp);
        swarm.handshake_timeout(conn(slot));
        swarm.closed(now, conn(slot), CloseReason::HandshakeTimeout, 0, 33);
        last = drain(&mut swarm).0.last().copied();
    }
    assert_eq!((last, swarm.counters().drops), (Some("drop"), 1));
}
