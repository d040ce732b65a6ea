use super::*;
use crate::sending::Fired;

/// `count` full segments in flight, sent at 0, from number 0xfffe on.
fn flight(count: usize) -> Sending {
    let mut sending = Sending::new(Seq::new(0xfffe), limits());
    sending
        .send(Bytes::from(vec![7; count * usize::from(MSS)]))
        .unwrap();
    assert_eq!(flush(&mut sending, at(0), &wide()).len(), count);
    sending
}

fn ack(sending: &mut Sending, millis: u64, number: u16, sack: &[u8]) -> Acked {
    let sack = (!sack.is_empty()).then_some(sack);
    sending
        .on_ack(at(millis), Seq::new(number), sack, true, &timing())
        .unwrap()
}

#[test]
fn segments_have_the_size_of_the_path_and_the_last_what_is_left() {
    let mut sending = Sending::new(Seq::new(5), limits());
    sending.send(Bytes::from_static(&[1; 1500])).unwrap();
    sending.send(Bytes::from_static(&[2; 700])).unwrap();
    sending.end();
    let sent = flush(&mut sending, at(0), &wide());
    let sizes: Vec<_> = sent.iter().map(|s| (s.seq.get(), s.size, s.fin)).collect();
    assert_eq!(
        sizes,
        [
            (5, 1000, false),
            (6, 1000, false),
            (7, 200, false),
            (8, 0, true)
        ]
    );
    let mut second = vec![1; 500];
    second.extend([2; 500]);
    assert_eq!(payload(&sending, &sent[1]), second);
    assert_eq!(sending.pieces(&sent[1]), 2);
    let over = ack(&mut sending, 40, 8, &[]);
    assert_eq!((over.bytes, over.packets, over.fin), (2200, 4, true));
    assert!(sending.is_over() && !sending.is_flying());
    assert_eq!(sending.acked(), 2200);
    sending.rest();
    assert!(sending.active.is_none());
    assert_eq!(sending.next_seq().get(), 9);
}

#[test]
fn what_a_repetition_uncovers_is_no_round_trip() {
    let mut sending = flight(4);
    // Three of four arrived, and all acknowledgements were lost.
    assert_eq!(
        sending.on_deadline(at(300), &timing()),
        Some(Fired::Timeout)
    );
    let once = Allowance {
        window: 1_000,
        ..wide()
    };
    assert_eq!(numbers(&flush(&mut sending, at(300), &once)), [0xfffe]);
    let acked = ack(&mut sending, 9_000, 0xffff, &[1]);
    assert_eq!((acked.packets, acked.rtt), (3, None));
}

#[test]
fn windows_limit_what_goes() {
    let mut sending = Sending::new(Seq::new(0), limits());
    sending.send(Bytes::from(vec![0; 100_000])).unwrap();
    let narrow = Allowance {
        window: 2_500,
        ..wide()
    };
    assert_eq!(flush(&mut sending, at(0), &narrow).len(), 2);
    let few = Allowance {
        packets: 5,
        ..wide()
    };
    assert_eq!(flush(&mut sending, at(0), &few).len(), 3);
    let small_peer = Allowance {
        peer_window: 7_900,
        ..wide()
    };
    assert_eq!(flush(&mut sending, at(0), &small_peer).len(), 2);
    assert_eq!(sending.in_flight(), 7_000);
    ack(&mut sending, 40, 6, &[]);
    let none = Allowance {
        window: 0,
        ..wide()
    };
    let alone = flush(&mut sending, at(41), &none);
    assert_eq!(alone.len(), 1, "one packet may always be on its way");
}

#[test]
fn a_short_segment_waits_where_asked_and_not_at_the_end() {
    let mut sending = Sending::new(Seq::new(0), limits());
    let nagle = Allowance {
        hold_short: true,
        ..wide()
    };
    sending.send(Bytes::from_static(&[0; 10])).unwrap();
    assert_eq!(flush(&mut sending, at(0), &nagle).len(), 1);
    sending.send(Bytes::from_static(&[0; 10])).unwrap();
    assert_eq!(flush(&mut sending, at(0), &nagle).len(), 0);
    sending.end();
    assert_eq!(flush(&mut sending, at(0), &nagle).len(), 2, "and the FIN");
}

#[test]
fn what_was_never_sent_cannot_be_acknowledged_and_old_news_is_none() {
    let mut sending = flight(3);
    let beyond = sending.on_ack(at(1), Seq::new(1), None, true, &timing());
    assert_eq!(beyond, Err(BadAck));
    assert_eq!(ack(&mut sending, 40, 0xffff, &[]).packets, 2);
    assert_eq!(ack(&mut sending, 41, 0xfffe, &[]), Acked::default());
    assert_eq!(sending.in_flight(), 1000);
    let mut idle = Sending::new(Seq::new(9), limits());
    assert!(
        idle.on_ack(at(0), Seq::new(8), None, true, &timing())
            .is_ok()
    );
    assert!(
        idle.on_ack(at(0), Seq::new(9), None, true, &timing())
            .is_err()
    );
}

#[test]
fn three_packets_beyond_a_hole_make_a_loss_once_a_round_trip() {
    let mut sending = flight(8);
    assert!(!ack(&mut sending, 40, 0xfffd, &[0b1]).congestion);
    assert!(!ack(&mut sending, 40, 0xfffd, &[0b11]).congestion);
    let third = ack(&mut sending, 40, 0xfffd, &[0b111]);
    assert!(third.congestion);
    assert_eq!(third.lost, 1000);
    let again = flush(&mut sending, at(40), &wide());
    assert_eq!(numbers(&again)[0], 0xfffe, "the hole goes first");
    // A second hole of the same round trip is the same event.
    let more = ack(&mut sending, 41, 0xfffd, &[0b110_0111]);
    assert!(more.lost > 0 && !more.congestion);
}

#[test]
fn without_sack_three_repeated_acknowledgements_do() {
    let mut sending = flight(8);
    ack(&mut sending, 40, 0xfffe, &[]);
    for _ in 0..2 {
        assert_eq!(ack(&mut sending, 40, 0xfffe, &[]).lost, 0);
    }
    // Those that come with data say nothing.
    let with_data = sending.on_ack(at(40), Seq::new(0xfffe), None, false, &timing());
    assert_eq!(with_data.unwrap().lost, 0);
    for _ in 0..2 {
        assert_eq!(ack(&mut sending, 40, 0xfffe, &[]).lost, 0);
    }
    let third = ack(&mut sending, 40, 0xfffe, &[]);
    assert!(third.congestion && third.lost == 1000);
    assert_eq!(numbers(&flush(&mut sending, at(40), &wide()))[0], 0xffff);
}

#[test]
fn reordered_packets_get_time_once_reordering_was_seen() {
    let mut sending = flight(16);
    // The first arrives after the second: an overtaking, no loss.
    ack(&mut sending, 40, 0xfffd, &[0b1]);
    ack(&mut sending, 41, 0xffff, &[]);
    let three_beyond = ack(&mut sending, 42, 0xffff, &[0b111]);
    assert_eq!(
        three_beyond.lost, 0,
        "a quarter of a round trip has not passed"
    );
    let due = sending.deadline().unwrap();
    assert!(due <= at(53), "{due:?}");
    let Some(Fired::Losses(late)) = sending.on_deadline(due, &timing()) else {
        panic!("the packet is late");
    };
    assert!(late.congestion && late.lost == 1000);
}

#[test]
fn a_tail_loss_is_probed_before_the_timeout() {
    let mut sending = flight(3);
    ack(&mut sending, 40, 0xfffe, &[]);
    let due = sending.deadline().unwrap();
    assert!(due > at(110) && due < at(140), "two round trips: {due:?}");
    assert_eq!(sending.on_deadline(due, &timing()), Some(Fired::Probe));
    let probe = flush(&mut sending, due, &wide());
    assert_eq!(numbers(&probe), [0], "the last one again");
    // The probe arrives, and with it the knowledge of the hole.
    let sack = ack(&mut sending, 165, 0xfffe, &[0b1]);
    assert!(sack.lost == 1000 && sack.congestion);
    assert_eq!(numbers(&flush(&mut sending, at(165), &wide())), [0xffff]);
}

#[test]
fn a_timeout_takes_all_for_lost_and_backs_off() {
    let mut sending = flight(4);
    let mut now = at(0);
    let mut fired = Vec::new();
    while !fired.contains(&Fired::GiveUp) {
        now = sending.deadline().unwrap();
        while let Some(what) = sending.on_deadline(now, &timing()) {
            fired.push(what);
        }
        let narrow = Allowance {
            window: 1000,
            ..wide()
        };
        flush(&mut sending, now, &narrow);
        assert!(sending.in_flight() <= 4000);
    }
    let timeouts = fired.iter().filter(|what| **what == Fired::Timeout).count();
    assert!((5..=9).contains(&timeouts), "{timeouts}");
    assert!(
        now - at(0) >= Duration::from_secs(25),
        "not sooner than the others"
    );
}

#[test]
fn a_premature_timeout_is_taken_back() {
    let mut sending = flight(6);
    let mut now = at(0);
    loop {
        now = sending.deadline().unwrap().max(now);
        match sending.on_deadline(now, &timing()) {
            Some(Fired::Timeout) => break,
            _ => drop(flush(&mut sending, now, &wide())),
        }
    }
    let one = Allowance {
        window: 1000,
        ..wide()
    };
    assert_eq!(flush(&mut sending, now, &one).len(), 1);
    // The path had only been slow: the first acknowledgements of the first transmissions come.
    let late = now + Duration::from_millis(5);
    let acked = sending
        .on_ack(late, Seq::new(0xffff), None, true, &timing())
        .unwrap();
    assert!(acked.spurious && !acked.congestion, "{acked:?}");
    assert!(!sending.has_waiting(), "nothing is sent again");
}

#[test]
fn a_lost_probe_of_the_mtu_is_no_congestion() {
    let mut sending = Sending::new(Seq::new(0), limits());
    sending.send(Bytes::from(vec![0; 20_000])).unwrap();
    let three = Allowance {
        window: 3000,
        ..wide()
    };
    flush(&mut sending, at(0), &three);
    let larger = Allowance {
        probe: Some(1400),
        window: 4400,
        ..wide()
    };
    let probe = flush(&mut sending, at(0), &larger);
    assert!(probe[0].probe && probe[0].size == 1400);
    flush(&mut sending, at(0), &wide());
    ack(&mut sending, 40, 2, &[]);
    let lost = ack(&mut sending, 41, 2, &[0b1111]);
    assert_eq!(lost.probe_lost, Some(1400));
    assert!(!lost.congestion && lost.lost == 0);
    let again = flush(&mut sending, at(41), &wide());
    assert_eq!((again[0].seq, again[0].size), (Seq::new(3), 1400));
    assert!(!again[0].probe, "without DF");
}

#[test]
fn what_the_system_refused_was_never_sent() {
    let mut sending = flight(3);
    for number in [0xfffe_u16, 0xffff, 0] {
        sending.refused(Seq::new(number));
    }
    assert_eq!((sending.in_flight(), sending.deadline()), (0, None));
    let again = flush(&mut sending, at(900), &wide());
    assert_eq!(numbers(&again), [0xfffe, 0xffff, 0]);
    let acked = ack(&mut sending, 940, 0, &[]);
    assert_eq!(acked.rtt, Some(Duration::from_millis(40)));
    assert!(!acked.congestion && !acked.spurious);
}

#[test]
fn the_queue_has_marks() {
    let limits = SendLimits {
        high: 1000,
        low: 500,
        max: 2000,
    };
    let mut sending = Sending::new(Seq::new(0), limits);
    assert_eq!(sending.send(Bytes::from_static(&[0; 999])), Ok(Queued::Ok));
    assert_eq!(
        sending.send(Bytes::from_static(&[0; 1])),
        Ok(Queued::AboveHigh)
    );
    let refused = sending.send(Bytes::from_static(&[0; 1001]));
    assert!(matches!(refused, Err(SendRefused::Full(data)) if data.len() == 1001));
    let small = Allowance { mss: 500, ..wide() };
    flush(&mut sending, at(0), &small);
    assert!(sending.take_writable(), "what is in flight does not count");
    assert!(!sending.take_writable(), "once");
    sending.end();
    assert!(matches!(
        sending.send(Bytes::from_static(b"x")),
        Err(SendRefused::Closed(_))
    ));
}

#[test]
fn a_segment_of_many_tiny_pieces_still_fits_a_train() {
    let mut sending = Sending::new(Seq::new(0), limits());
    for byte in 0..=255 {
        sending.send(Bytes::copy_from_slice(&[byte])).unwrap();
    }
    let sent = flush(&mut sending, at(0), &wide());
    let sizes: Vec<_> = sent.iter().map(|segment| segment.size).collect();
    assert_eq!(sizes, [64; 4]);
    assert_eq!(sending.pieces(&sent[1]), 64);
    assert_eq!(payload(&sending, &sent[1]), (64..128).collect::<Vec<u8>>());
}

#[test]
fn an_idle_connection_is_small() {
    assert!(size_of::<Sending>() <= 64, "{}", size_of::<Sending>());
    assert_eq!(size_of::<records::Record>(), 16);
}
