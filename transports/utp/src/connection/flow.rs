//! What is learnt about a path while data flows, and what of it outlasts a pause.

use crate::Config;
use crate::congestion::{Controller, Pacer};
use crate::path::{Delay, Mtu, MtuLimits, Rtt};
use crate::sending::{Acked, Allowance, Segment, Timing};
use crate::wire::HEADER;
use flock_transport::Instant;

/// What every path is taken to carry, in bytes of UDP payload: with all headers it fits the
/// smallest MTU that IPv6 allows.
pub(super) const FLOOR: u16 = 1232;
/// Packets on their way to a peer of unknown make: what the smallest reorder buffer among the
/// stacks in use holds.
const PACKETS: u16 = 700;
/// Packets on their way to a peer whose window is larger than any of those has.
const PACKETS_MANY: u16 = 16_000;

/// What outlasts a pause: enough to go on as before, except that queues have drained and the
/// window has aged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Learnt {
    pub(super) rtt: Rtt,
    pub(super) mtu: Mtu,
    /// Congestion window and slow-start threshold, in bytes; no window: nothing was sent yet.
    window: u32,
    threshold: u32,
}

impl Learnt {
    /// Nothing yet but what the path was found to carry before, if it was.
    pub(super) fn new(config: &Config, mtu: Option<u16>) -> Self {
        Self {
            rtt: Rtt::default(),
            mtu: Mtu::new(limits(config), mtu),
            window: 0,
            threshold: u32::MAX,
        }
    }
}

fn limits(config: &Config) -> MtuLimits {
    MtuLimits {
        floor: FLOOR,
        cap: config.mtu_max,
    }
}

/// What is learnt while data flows.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) rtt: Rtt,
    pub(super) delay: Delay,
    pub(super) controller: Controller,
    pub(super) pacer: Pacer,
    pub(super) mtu: Mtu,
    pub(super) limits: MtuLimits,
    /// The peer has room for more packets than most.
    pub(super) many: bool,
    /// When the pacer lets the next packet go.
    pub(super) paced_until: Option<Instant>,
    pub(super) persist_at: Option<Instant>,
    pub(super) persisted: u8,
    /// The peer's window is to be tried.
    pub(super) insist: bool,
    pub(super) last_sent: Instant,
}

impl Flow {
    pub(super) fn new(config: &Config, learnt: &Learnt) -> Self {
        let mut controller = Controller::new(config.congestion, payload(learnt.mtu.size()));
        if learnt.window > 0 {
            controller.go_on(learnt.window, learnt.threshold);
        }
        Self {
            rtt: learnt.rtt,
            delay: Delay::default(),
            controller,
            pacer: Pacer::new(config.pacing_quantum),
            mtu: learnt.mtu,
            limits: limits(config),
            many: false,
            paced_until: None,
            persist_at: None,
            persisted: 0,
            insist: false,
            last_sent: Instant::ZERO,
        }
    }

    /// What is worth keeping when nothing is to be sent for a while.
    pub(super) fn learnt(&mut self) -> Learnt {
        self.controller.on_idle();
        let (window, threshold) = self.controller.kept();
        Learnt {
            rtt: self.rtt,
            mtu: self.mtu,
            window,
            threshold,
        }
    }

    pub(super) fn timing(&self) -> Timing {
        Timing {
            srtt: self.rtt.smoothed(),
            min_rtt: self.rtt.shortest(),
            rto: self.rtt.timeout(),
        }
    }

    pub(super) fn mss(&self) -> u16 {
        payload(self.mtu.size())
    }

    pub(super) fn rate(&self) -> Option<u64> {
        self.controller.pacing_rate(self.rtt.smoothed())
    }

    pub(super) fn allowance(&self, now: Instant, peer_window: u32, hold_short: bool) -> Allowance {
        let peer_window = if self.insist {
            u64::MAX
        } else {
            peer_window.into()
        };
        Allowance {
            window: self.controller.window(),
            peer_window,
            packets: if self.insist {
                1
            } else if self.many {
                PACKETS_MANY
            } else {
                PACKETS
            },
            mss: self.mss(),
            probe: self.mtu.probe(now, self.limits).map(payload),
            hold_short,
        }
    }

    /// Whether the pacer lets `segment` go: behind others of its train as long as the burst lasts, as the
    /// first only when there is room for a train of some length.
    pub(super) fn is_paced(&self, now: Instant, segment: &Segment, first: bool) -> bool {
        let Some(rate) = self.rate() else {
            return true;
        };
        let size = u64::from(segment.size);
        let fits = self.pacer.budget(now, rate, self.mss()) >= size;
        fits && (!first || self.pacer.begins(now, rate, self.mss()))
    }

    /// Draws what an acknowledgement or a deadline brought.
    pub(super) fn conclude(&mut self, now: Instant, acked: &Acked) {
        if acked.spurious {
            self.controller.on_spurious();
        }
        if acked.congestion {
            self.controller.on_congestion(now);
        }
        if let Some(size) = acked.probe_lost {
            self.mtu.lost(now, datagram(size), false);
        }
        if let Some(size) = acked.probe_acked
            && self.mtu.arrived(datagram(size))
        {
            self.controller.on_mss(self.mss());
        }
    }
}

const HEADER_BYTES: u16 = 20;
const _: () = assert!(HEADER_BYTES as usize == HEADER);

/// Payload of a packet that is `size` bytes of UDP payload.
fn payload(size: u16) -> u16 {
    size.saturating_sub(HEADER_BYTES).max(1)
}

pub(super) fn datagram(payload: u16) -> u16 {
    payload.saturating_add(HEADER_BYTES)
}
