//! One dial over one or two transports: which of them becomes the connection. Pure.
//!
//! The original dials TCP and uTP at the same instant and prefers TCP: when uTP is there first,
//! TCP gets half a second more. Unlike the original's, each transport has a deadline of its own,
//! so that a uTP connection that took long is not given up while TCP gets its grace.

use crate::names::ConnId;
use flock_transport::{Instant, Transport};
use smallvec::SmallVec;
use std::time::Duration;

/// How much longer TCP may take once uTP is there.
pub(super) const GRACE: Duration = Duration::from_millis(500);

/// A dial in progress.
#[derive(Clone, Copy, Debug)]
pub(super) struct Race {
    tcp: Leg,
    utp: Leg,
    /// When an established uTP stops waiting for TCP.
    grace: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leg {
    Dialling {
        until: Instant,
    },
    /// Established, and not the connection yet.
    Standing(ConnId),
    /// Failed, aborted or never begun.
    Over,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// Dial over this transport.
    Start(Transport),
    /// End this dial or, if it was established, this connection; no more is heard of it.
    Abort(Transport),
    /// The race is over: this one is the connection.
    Won(Transport, ConnId),
    /// The race is over, and there is no connection; whether a deadline ended it.
    Failed { timed_out: bool },
}

/// What one input leads to: at most an end of each transport and of the race.
pub(super) type Outputs = SmallVec<[Output; 3]>;

impl Race {
    /// Dials each transport until its time has passed; those without one are switched off.
    pub(super) fn start(
        now: Instant,
        tcp: Option<Duration>,
        utp: Option<Duration>,
    ) -> (Self, Outputs) {
        debug_assert!(tcp.or(utp).is_some(), "checked with the options");
        let mut outputs = Outputs::new();
        let mut begin = |transport, time: Option<Duration>| {
            let Some(time) = time else {
                return Leg::Over;
            };
            outputs.push(Output::Start(transport));
            Leg::Dialling { until: now + time }
        };
        let race = Self {
            tcp: begin(Transport::Tcp, tcp),
            utp: begin(Transport::Utp, utp),
            grace: None,
        };
        (race, outputs)
    }

    fn leg(&mut self, transport: Transport) -> &mut Leg {
        match transport {
            Transport::Tcp => &mut self.tcp,
            Transport::Utp => &mut self.utp,
        }
    }

    /// A dial succeeded: `conn` is what came of it.
    pub(super) fn established(
        &mut self,
        now: Instant,
        transport: Transport,
        conn: ConnId,
    ) -> Outputs {
        let mut outputs = Outputs::new();
        let leg = self.leg(transport);
        if matches!(leg, Leg::Dialling { .. }) {
            *leg = Leg::Standing(conn);
            self.grace = (transport == Transport::Utp).then_some(now + GRACE);
            self.settle(now, false, &mut outputs);
        }
        outputs
    }

    /// A dial failed, perhaps because its transport waited long enough, or what it established
    /// broke.
    pub(super) fn failed(
        &mut self,
        now: Instant,
        transport: Transport,
        timed_out: bool,
    ) -> Outputs {
        let mut outputs = Outputs::new();
        let leg = self.leg(transport);
        if *leg != Leg::Over {
            *leg = Leg::Over;
            if transport == Transport::Utp {
                self.grace = None;
            }
            self.settle(now, timed_out, &mut outputs);
        }
        outputs
    }

    /// Time has passed.
    pub(super) fn expire(&mut self, now: Instant) -> Outputs {
        let mut outputs = Outputs::new();
        for transport in [Transport::Tcp, Transport::Utp] {
            let leg = self.leg(transport);
            if matches!(leg, Leg::Dialling { until } if *until <= now) {
                *leg = Leg::Over;
                outputs.push(Output::Abort(transport));
            }
        }
        let timed_out = !outputs.is_empty();
        self.settle(now, timed_out, &mut outputs);
        outputs
    }

    /// Nobody wants the connection any more.
    pub(super) fn give_up(mut self) -> Outputs {
        let mut outputs = Outputs::new();
        for transport in [Transport::Tcp, Transport::Utp] {
            self.abort(transport, &mut outputs);
        }
        outputs
    }

    /// When to call [`expire`](Self::expire) next.
    pub(super) fn deadline(&self) -> Instant {
        let until = |leg| match leg {
            Leg::Dialling { until } => until,
            Leg::Standing(_) | Leg::Over => Instant::FAR_FUTURE,
        };
        let grace = self.grace.unwrap_or(Instant::FAR_FUTURE);
        until(self.tcp).min(until(self.utp)).min(grace)
    }

    fn abort(&mut self, transport: Transport, outputs: &mut Outputs) {
        if std::mem::replace(self.leg(transport), Leg::Over) != Leg::Over {
            outputs.push(Output::Abort(transport));
        }
    }

    /// Ends the race if it is decided.
    fn settle(&mut self, now: Instant, timed_out: bool, outputs: &mut Outputs) {
        let waits = |leg| matches!(leg, Leg::Dialling { .. });
        let graced = self.grace.is_some_and(|grace| now < grace);
        match (self.tcp, self.utp) {
            (Leg::Standing(conn), _) => {
                self.tcp = Leg::Over;
                self.abort(Transport::Utp, outputs);
                outputs.push(Output::Won(Transport::Tcp, conn));
            }
            (tcp, Leg::Standing(conn)) if !(waits(tcp) && graced) => {
                self.utp = Leg::Over;
                self.abort(Transport::Tcp, outputs);
                outputs.push(Output::Won(Transport::Utp, conn));
            }
            (Leg::Over, Leg::Over) => outputs.push(Output::Failed { timed_out }),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Output::{Abort, Failed, Start, Won};
    use Transport::{Tcp, Utp};
    use proptest::prelude::*;

    const CONN: ConnId = ConnId {
        shard: 0,
        slot: 1,
        generation: 0,
    };
    const TCP: Duration = Duration::from_secs(3);
    const UTP: Duration = Duration::from_secs(4);

    fn ms(ms: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(ms)
    }

    fn both() -> Race {
        let (race, outputs) = Race::start(ms(0), Some(TCP), Some(UTP));
        assert_eq!(outputs[..], [Start(Tcp), Start(Utp)]);
        race
    }

    #[test]
    fn without_utp_it_is_a_tcp_dial() {
        let (mut race, outputs) = Race::start(ms(0), Some(TCP), None);
        assert_eq!(outputs[..], [Start(Tcp)]);
        assert_eq!(race.deadline(), ms(3000));
        assert!(race.established(ms(5), Utp, CONN).is_empty());
        assert_eq!(race.established(ms(10), Tcp, CONN)[..], [Won(Tcp, CONN)]);
        let (mut race, _) = Race::start(ms(0), Some(TCP), None);
        assert_eq!(
            race.failed(ms(1), Tcp, false)[..],
            [Failed { timed_out: false }]
        );
        let (mut race, _) = Race::start(ms(0), Some(TCP), None);
        assert!(race.expire(ms(2999)).is_empty());
        assert_eq!(
            race.expire(ms(3000))[..],
            [Abort(Tcp), Failed { timed_out: true }]
        );
    }

    #[test]
    fn without_tcp_there_is_nothing_to_wait_for() {
        let (mut race, outputs) = Race::start(ms(0), None, Some(UTP));
        assert_eq!(outputs[..], [Start(Utp)]);
        assert_eq!(race.deadline(), ms(4000));
        assert_eq!(race.established(ms(9), Utp, CONN)[..], [Won(Utp, CONN)]);
    }

    #[test]
    fn tcp_wins_at_once_and_also_within_the_grace() {
        assert_eq!(
            both().established(ms(40), Tcp, CONN)[..],
            [Abort(Utp), Won(Tcp, CONN)]
        );
        let mut race = both();
        assert!(race.established(ms(40), Utp, CONN).is_empty());
        assert_eq!(race.deadline(), ms(540));
        assert!(race.expire(ms(539)).is_empty());
        assert_eq!(
            race.established(ms(539), Tcp, CONN)[..],
            [Abort(Utp), Won(Tcp, CONN)]
        );
    }

    #[test]
    fn utp_wins_when_tcp_has_failed_or_the_grace_is_over() {
        let mut race = both();
        race.established(ms(40), Utp, CONN);
        assert_eq!(race.failed(ms(60), Tcp, false)[..], [Won(Utp, CONN)]);
        let mut race = both();
        assert!(race.failed(ms(1), Tcp, false).is_empty());
        assert_eq!(race.established(ms(90), Utp, CONN)[..], [Won(Utp, CONN)]);
        let mut race = both();
        race.established(ms(40), Utp, CONN);
        assert_eq!(race.expire(ms(540))[..], [Abort(Tcp), Won(Utp, CONN)]);
    }

    /// The original gives up both 3 s after the start, whatever stands.
    #[test]
    fn late_utp_is_kept() {
        let mut race = both();
        assert!(race.established(ms(2900), Utp, CONN).is_empty());
        assert_eq!(race.deadline(), ms(3000));
        assert_eq!(race.expire(ms(3000))[..], [Abort(Tcp), Won(Utp, CONN)]);
        let mut race = both();
        assert_eq!(race.expire(ms(3000))[..], [Abort(Tcp)]);
        assert_eq!(race.established(ms(3900), Utp, CONN)[..], [Won(Utp, CONN)]);
    }

    #[test]
    fn both_fail() {
        let mut race = both();
        assert!(race.failed(ms(1), Utp, false).is_empty());
        assert_eq!(
            race.failed(ms(2), Tcp, false)[..],
            [Failed { timed_out: false }]
        );
        let mut race = both();
        race.failed(ms(1), Tcp, false);
        assert_eq!(
            race.expire(ms(4000))[..],
            [Abort(Utp), Failed { timed_out: true }]
        );
        let mut race = both();
        assert_eq!(
            race.expire(ms(9000))[..],
            [Abort(Tcp), Abort(Utp), Failed { timed_out: true }]
        );
        let mut race = both();
        race.established(ms(10), Utp, CONN);
        assert!(
            race.failed(ms(20), Utp, false).is_empty(),
            "TCP is still tried"
        );
        assert_eq!(race.established(ms(800), Tcp, CONN)[..], [Won(Tcp, CONN)]);
    }

    #[test]
    fn giving_up_ends_what_is_under_way() {
        assert_eq!(both().give_up()[..], [Abort(Tcp), Abort(Utp)]);
        let mut race = both();
        race.established(ms(10), Utp, CONN);
        race.failed(ms(10), Utp, false);
        assert_eq!(race.give_up()[..], [Abort(Tcp)]);
    }

    proptest! {
        /// Whatever the network does and however late the clock is looked at.
        #[test]
        fn every_race_ends_once_and_leaves_nothing_behind(
            utp in any::<bool>(),
            inputs in proptest::collection::vec((0u64..900, 0u8..8), 0..40),
        ) {
            let (mut race, started) = Race::start(ms(0), Some(TCP), utp.then_some(UTP));
            // Legs that were started and neither failed, nor were aborted, nor won.
            let mut open: Vec<Transport> = Vec::new();
            let mut standing: Vec<(Transport, Instant)> = Vec::new();
            for output in started {
                let Start(leg) = output else { panic!("{output:?} at the start") };
                open.push(leg);
            }
            let mut end = None;
            let mut now = ms(0);
            // In the end there is nothing but the clock.
            let waits = std::iter::repeat_n((900, 7), 10);
            for (wait, input) in inputs.into_iter().chain(waits) {
                now = now + Duration::from_millis(wait);
                let leg = if input & 1 == 0 { Tcp } else { Utp };
                let was_open = open.contains(&leg);
                let outputs = match input {
                    0 | 1 => {
                        if was_open && !standing.iter().any(|(other, _)| *other == leg) {
                            standing.push((leg, now));
                        }
                        race.established(now, leg, CONN)
                    }
                    2 | 3 => {
                        open.retain(|other| *other != leg);
                        standing.retain(|(other, _)| *other != leg);
                        race.failed(now, leg, false)
                    }
                    _ => race.expire(now),
                };
                for output in &outputs {
                    prop_assert!(end.is_none(), "{:?} after the end", output);
                    match output {
                        Start(_) => prop_assert!(false, "starts late"),
                        Abort(leg) => {
                            prop_assert!(open.contains(leg), "{:?} was over", leg);
                            open.retain(|other| other != leg);
                        }
                        Won(leg, _) => {
                            let stood = standing.iter().find(|(other, _)| other == leg);
                            prop_assert!(open.contains(leg) && stood.is_some());
                            open.retain(|other| other != leg);
                            prop_assert!(open.is_empty(), "the loser goes on");
                            let waited = now - stood.unwrap().1;
                            prop_assert!(*leg == Utp || waited == Duration::ZERO);
                            end = Some(*output);
                        }
                        Failed { .. } => {
                            prop_assert!(open.is_empty(), "failed with {:?} under way", open);
                            end = Some(*output);
                        }
                    }
                }
                if end.is_some() {
                    break;
                }
                if input >= 4 {
                    prop_assert!(race.deadline() > now, "a deadline that is over");
                }
            }
            prop_assert!(end.is_some(), "the race goes on for ever");
        }
    }
}
