//! The sending half of a connection: what goes out when.

use super::flow::{FLOOR, Flow, Learnt, datagram};
use crate::Config;
use crate::congestion::AckInfo;
use crate::sending::{Fired, Segment, Sending};
use crate::wire::{HEADER, Header, Kind, Packet, Seq};
use bytes::Bytes;
use flock_transport::{Instant, Queued, SendRefused, Train};
use std::time::Duration;

/// Beyond this, a peer's window is larger than that of any stack that keeps few packets.
const WINDOW_LARGE: u32 = 3 << 19;
/// After so long with nothing to send its memory is given back: by then what a burst brought into
/// queues is gone, and of many peers that were met at once only the latest hold any.
const REST: Duration = Duration::from_secs(3);
/// What is known about the window ages in this time without sending, or in a timeout.
const AGED: Duration = Duration::from_secs(1);
/// What the system refused is offered again after this time at the latest.
const RETRY: Duration = Duration::from_millis(5);
/// The first wait before a closed window is tried, and the longest.
const PERSIST: Duration = Duration::from_millis(500);
const PERSIST_MAX: Duration = Duration::from_secs(15);

/// The numbers that a train carried, to be told when it was refused.
#[derive(Debug)]
pub(crate) struct Flight {
    first: Seq,
    count: u16,
    /// Payload bytes, if it was a probe of the MTU.
    probe: Option<u16>,
}

/// The peer did not answer for too long.
#[derive(Debug)]
pub(crate) struct GaveUp;

/// What is queued, what is on its way, and how fast it may go.
#[derive(Debug)]
pub(crate) struct Sender {
    sending: Sending,
    peer_window: u32,
    /// What was known of the path when there was no flow.
    learnt: Learnt,
    /// Kept while there is something to send, and a little longer.
    flow: Option<Box<Flow>>,
}

impl Sender {
    pub(crate) fn new(first: Seq, config: &Config) -> Self {
        Self {
            sending: Sending::new(first, config.send),
            // libtorrent's and librqbit's SYN says nothing of their window.
            peer_window: 1 << 20,
            learnt: Learnt::new(config, None),
            flow: None,
        }
    }

    /// Begins the search of the path's MTU with what was found before.
    pub(crate) fn set_mtu(&mut self, config: &Config, known: u16) {
        self.learnt = Learnt::new(config, Some(known));
    }

    /// What the path was found to carry, if that is more than what all carry.
    pub(crate) fn mtu(&self) -> Option<u16> {
        let size = self.flow.as_ref().map_or(self.learnt.mtu, |f| f.mtu).size();
        (size > FLOOR).then_some(size)
    }

    fn flow(&mut self, config: &Config) -> &mut Flow {
        let learnt = &self.learnt;
        self.flow
            .get_or_insert_with(|| Box::new(Flow::new(config, learnt)))
    }

    pub(crate) fn on_connected(&mut self, now: Instant, window: u32, took: Option<Duration>) {
        self.peer_window = window;
        if let Some(took) = took {
            self.on_round_trip(now, took);
        }
    }

    /// The handshake was a round trip.
    pub(crate) fn on_round_trip(&mut self, now: Instant, took: Duration) {
        debug_assert!(self.flow.is_none(), "nothing was sent yet");
        self.learnt.rtt.sample(now, took);
    }

    pub(crate) fn push(&mut self, data: Bytes) -> Result<Queued, SendRefused> {
        self.sending.send(data)
    }

    pub(crate) fn queued(&self) -> u64 {
        self.sending.queued()
    }

    /// Payload bytes the peer has.
    pub(crate) fn acked(&self) -> u64 {
        self.sending.acked()
    }

    /// Whether the send queue fell below its low-water mark after having been above the high one;
    /// said once.
    pub(crate) fn take_writable(&mut self) -> bool {
        self.sending.take_writable()
    }

    pub(crate) fn end(&mut self) {
        self.sending.end();
    }

    /// Whether the peer has everything, our FIN included.
    pub(crate) fn ended(&self) -> bool {
        self.sending.is_over()
    }

    pub(crate) fn oldest(&self) -> Seq {
        self.sending.oldest()
    }

    pub(crate) fn next_seq(&self) -> Seq {
        self.sending.next_seq()
    }

    /// Takes the acknowledgement of a packet. `took`: how long it took by the two clocks.
    pub(crate) fn on_ack(&mut self, now: Instant, config: &Config, packet: &Packet<'_>, took: u32) {
        let header = &packet.header;
        self.peer_window = header.window;
        if !self.sending.is_flying() {
            return;
        }
        self.flow(config);
        let Some(flow) = self.flow.as_deref_mut() else {
            return;
        };
        flow.many |= header.window >= WINDOW_LARGE;
        let timing = flow.timing();
        let state = header.kind == Kind::State;
        let in_flight = self.sending.in_flight();
        let result = self
            .sending
            .on_ack(now, header.ack, packet.sack, state, &timing);
        let Ok(acked) = result else {
            return;
        };
        if let Some(rtt) = acked.rtt {
            flow.rtt.sample(now, rtt);
        }
        if acked.packets > 0 {
            flow.persisted = 0;
            flow.mtu.on_progress();
            flow.delay.on_theirs(now, took);
            flow.delay.on_ours(now, header.timestamp_diff, acked.rtt);
        }
        flow.conclude(now, &acked);
        if acked.bytes > 0 {
            let srtt = flow.rtt.smoothed().unwrap_or(timing.rto);
            flow.controller.on_ack(&AckInfo {
                now,
                bytes: acked.bytes,
                srtt,
                rtt: acked.rtt.unwrap_or(srtt),
                min_rtt: flow.rtt.shortest(),
                queueing: flow.delay.queueing(),
                app_limited: in_flight + u64::from(flow.mss()) * 2 <= flow.controller.window(),
                recovering: self.sending.in_recovery(),
            });
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        let flow = self.flow.as_deref()?;
        let idle = !self.sending.is_flying() && self.sending.queued() == 0;
        let rest = idle.then(|| flow.last_sent + REST);
        [
            self.sending.deadline(),
            flow.paced_until,
            flow.persist_at,
            rest,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    pub(crate) fn on_deadline(&mut self, now: Instant) -> Result<(), GaveUp> {
        let Some(flow) = self.flow.as_deref_mut() else {
            return Ok(());
        };
        if flow.paced_until.is_some_and(|at| at <= now) {
            flow.paced_until = None;
        }
        if flow.persist_at.is_some_and(|at| at <= now) {
            flow.persist_at = None;
            flow.insist = true;
        }
        let timing = flow.timing();
        while let Some(fired) = self.sending.on_deadline(now, &timing) {
            match fired {
                Fired::Losses(acked) => flow.conclude(now, &acked),
                Fired::Probe => break,
                // What a full receiver drops says nothing of the path.
                Fired::Timeout if self.peer_window < flow.mss().into() => {}
                Fired::Timeout => {
                    flow.controller.on_timeout(now);
                    if flow.mtu.on_timeout(now, flow.limits) {
                        flow.controller.on_mss(flow.mss());
                    }
                }
                Fired::GiveUp => return Err(GaveUp),
            }
        }
        let idle = !self.sending.is_flying() && self.sending.queued() == 0;
        if idle && now >= flow.last_sent + REST {
            self.sending.rest();
            self.learnt = flow.learnt();
            self.flow = None;
        }
        Ok(())
    }

    /// Whether [`fill`](Self::fill) would give something.
    pub(crate) fn wants_to_send(&self, now: Instant) -> bool {
        let Some(flow) = self.flow.as_deref() else {
            return self.sending.has_more();
        };
        let allowance = flow.allowance(now, self.peer_window, false);
        let segment = self.sending.next_segment(&allowance);
        segment.is_some_and(|segment| flow.is_paced(now, &segment, true))
    }

    /// Fills the train; all its packets have the header given, but for kind and number.
    pub(crate) fn fill(
        &mut self,
        now: Instant,
        config: &Config,
        header: &Header,
        train: &mut Train,
    ) -> Option<Flight> {
        if !self.sending.has_more() && !self.sending.is_flying() {
            return None;
        }
        self.flow(config);
        let flow = self.flow.as_deref_mut()?;
        let mut flight: Option<Flight> = None;
        loop {
            let allowance = flow.allowance(now, self.peer_window, config.hold_short);
            let Some(segment) = self.sending.next_segment(&allowance) else {
                break;
            };
            if !self.sending.is_flying() && now - flow.last_sent > flow.rtt.timeout().max(AGED) {
                flow.controller.on_idle();
            }
            if !flow.is_paced(now, &segment, flight.is_none()) {
                let rate = flow.rate().unwrap_or(u64::MAX);
                flow.paced_until = Some(flow.pacer.next(now, rate, flow.mss()));
                break;
            }
            if !joins(flight.as_ref(), &segment, train, &self.sending) {
                break;
            }
            push(header, &segment, train, &self.sending);
            self.sending.commit(now, &segment, &flow.timing());
            if let Some(rate) = flow.rate() {
                flow.pacer.sent(now, segment.size.into(), rate);
            }
            flow.last_sent = now;
            flow.insist = false;
            if segment.probe {
                flow.mtu.probed();
            }
            match &mut flight {
                Some(flight) => flight.count += 1,
                None => {
                    flight = Some(Flight {
                        first: segment.seq,
                        count: 1,
                        probe: segment.probe.then_some(segment.size),
                    });
                }
            }
        }
        if self.sending.is_shut_out() && flow.persist_at.is_none() && flow.paced_until.is_none() {
            let wait = (PERSIST * (1 << flow.persisted.min(5))).min(PERSIST_MAX);
            flow.persisted = flow.persisted.saturating_add(1);
            flow.persist_at = Some(now + wait);
        }
        flight
    }

    /// The train with this flight was not taken.
    pub(crate) fn refused(&mut self, now: Instant, flight: &Flight) {
        for offset in 0..flight.count {
            let number = flight.first.get().wrapping_add(offset);
            self.sending.refused(Seq::new(number));
        }
        let Some(flow) = self.flow.as_deref_mut() else {
            return;
        };
        // Whoever refused may say when there is room again, or may not.
        flow.paced_until = Some(now + RETRY);
        if let Some(size) = flight.probe {
            flow.mtu.lost(now, datagram(size), true);
        }
    }
}

/// Whether the segment may go into the train, behind what is there.
fn joins(flight: Option<&Flight>, segment: &Segment, train: &Train, sending: &Sending) -> bool {
    let follows = flight.is_none_or(|flight| {
        let next = flight.first.get().wrapping_add(flight.count);
        flight.probe.is_none() && !segment.probe && segment.seq.get() == next
    });
    let len = HEADER + usize::from(segment.size);
    follows && train.fits(len, 1 + sending.pieces(segment))
}

fn push(header: &Header, segment: &Segment, train: &mut Train, sending: &Sending) {
    let header = Header {
        kind: if segment.fin { Kind::Fin } else { Kind::Data },
        seq: segment.seq,
        ..*header
    };
    let len = HEADER + usize::from(segment.size);
    train.push_datagram(len, &header.encode(0));
    train.dont_fragment = segment.probe;
    sending.fill(train, segment);
}
