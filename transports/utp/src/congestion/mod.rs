//! How much may be in flight.
//!
//! One enum, not a trait object: a connection has its controller in place, and only while data
//! flows.

mod cubic;
mod ledbat;
mod pacer;
mod plus;
mod slow_start;
#[cfg(test)]
mod tests;

use cubic::Cubic;
use flock_transport::Instant;
use ledbat::Ledbat;
use plus::Plus;
use slow_start::SlowStart;
use std::time::Duration;

pub(crate) use pacer::Pacer;

/// Which congestion controller a connection uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Congestion {
    /// LEDBAT (RFC 6817, BEP 29): keeps the queue at `target`, and gives way to others. Unlike
    /// libutp it begins with an exponential slow start, and it decreases by a share.
    Ledbat {
        /// Queueing delay aimed at; 100 ms is what the field uses.
        target: Duration,
    },
    /// LEDBAT++ (draft-irtf-iccrg-ledbat-plus-plus): by round trips, fair among its like through
    /// periodic slowdowns.
    LedbatPlusPlus {
        /// Queueing delay aimed at; 60 ms in the draft.
        target: Duration,
    },
    /// CUBIC (RFC 9438): takes its share as TCP does.
    Cubic,
    /// A rate in bytes a second, whatever happens: for tests and networks of one's own.
    FixedRate(u64),
}

impl Default for Congestion {
    fn default() -> Self {
        Self::Ledbat {
            target: Duration::from_millis(100),
        }
    }
}

/// What an acknowledgement means for the window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AckInfo {
    pub(crate) now: Instant,
    /// Payload bytes newly delivered.
    pub(crate) bytes: u64,
    /// Smoothed round trip.
    pub(crate) srtt: Duration,
    /// The latest round trip, and the shortest lately.
    pub(crate) rtt: Duration,
    pub(crate) min_rtt: Duration,
    /// Queueing delay on the way to the peer, where it is known.
    pub(crate) queueing: Option<Duration>,
    /// Whether the window was not used up, so that nothing was learnt about a larger one.
    pub(crate) app_limited: bool,
    /// Whether losses are being repaired.
    pub(crate) recovering: bool,
}

/// The congestion window of one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Controller {
    /// Bytes that may be in flight.
    window: u64,
    /// Slow start ends here.
    threshold: u64,
    mss: u16,
    start: SlowStart,
    /// Window and threshold before the latest congestion event.
    before: Option<(u64, u64)>,
    law: Law,
}

#[derive(Clone, Copy, Debug)]
enum Law {
    Ledbat(Ledbat),
    Plus(Plus),
    Cubic(Cubic),
    Fixed(u64),
}

/// Segments in flight at first (RFC 6928).
const FIRST: u64 = 10;
/// Segments in flight at the least.
const FLOOR: u64 = 2;
/// Bytes in flight at the most: beyond it no peer has room.
const CEILING: u64 = 1 << 30;

impl Controller {
    pub(crate) fn new(kind: Congestion, mss: u16) -> Self {
        let law = match kind {
            Congestion::Ledbat { target } => Law::Ledbat(Ledbat::new(target)),
            Congestion::LedbatPlusPlus { target } => Law::Plus(Plus::new(target)),
            Congestion::Cubic => Law::Cubic(Cubic::default()),
            Congestion::FixedRate(rate) => Law::Fixed(rate),
        };
        Self {
            window: FIRST * u64::from(mss),
            threshold: u64::MAX,
            mss,
            start: SlowStart::default(),
            before: None,
            law,
        }
    }

    fn floor(&self) -> u64 {
        FLOOR * u64::from(self.mss)
    }

    fn clamp(&mut self) {
        self.window = self.window.clamp(self.floor(), CEILING);
        self.threshold = self.threshold.max(self.floor());
    }

    /// Bytes that may be in flight.
    pub(crate) fn window(&self) -> u64 {
        match self.law {
            // What flies in a second: only the pacer limits.
            Law::Fixed(rate) => rate.max(self.floor()),
            _ => self.window,
        }
    }

    pub(crate) fn in_slow_start(&self) -> bool {
        self.window < self.threshold && !matches!(self.law, Law::Fixed(_))
    }

    /// Bytes a second to send at; `None` while nothing is known of the path.
    pub(crate) fn pacing_rate(&self, srtt: Option<Duration>) -> Option<u64> {
        if let Law::Fixed(rate) = self.law {
            return Some(rate.max(1));
        }
        let micros = u64::try_from(srtt?.as_micros()).unwrap_or(u64::MAX).max(1);
        // Room to grow into: a pacer at just the window's rate would keep it from filling.
        let percent = match self.law {
            _ if self.in_slow_start() => 200,
            Law::Cubic(_) => 125,
            _ => 110,
        };
        const { assert!(CEILING * 1_000_000 < u64::MAX / 200, "it does not overflow") };
        Some((self.window * 1_000_000 / micros * percent / 100).max(1))
    }

    pub(crate) fn on_ack(&mut self, ack: &AckInfo) {
        // More than a window was sent in another one, before a timeout, and says nothing of this.
        let ack = &AckInfo {
            bytes: ack.bytes.min(self.window),
            ..*ack
        };
        if let Law::Plus(plus) = &mut self.law {
            plus.slow_down(ack, &mut self.window, &mut self.threshold, self.mss);
        }
        if self.in_slow_start() {
            if !ack.recovering && !ack.app_limited {
                self.grow_exponentially(ack);
            }
        } else {
            match &mut self.law {
                Law::Ledbat(law) => law.on_ack(ack, &mut self.window, self.mss),
                Law::Plus(law) => law.on_ack(ack, &mut self.window, self.mss),
                Law::Cubic(law) => law.on_ack(ack, &mut self.window, self.mss),
                Law::Fixed(_) => {}
            }
            // What the law took away is not for slow start to bring back.
            if !self.is_slowed() {
                self.threshold = self.threshold.min(self.window);
            }
        }
        self.clamp();
    }

    /// Whether the window is kept down on purpose, and comes back by itself.
    fn is_slowed(&self) -> bool {
        matches!(&self.law, Law::Plus(plus) if plus.is_slowed())
    }

    fn grow_exponentially(&mut self, ack: &AckInfo) {
        let gain = match &self.law {
            Law::Plus(plus) => plus.gain(ack.min_rtt),
            _ => 1,
        };
        if self.is_slowed() {
            // The way back is known; nothing has to be found out.
            self.window += ack.bytes / gain;
            return;
        }
        let share = self.start.share(ack);
        self.window += ack.bytes / gain / share.divisor;
        let crowded = match &self.law {
            Law::Ledbat(law) => law.is_crowded(ack),
            Law::Plus(law) => law.is_crowded(ack),
            Law::Cubic(_) | Law::Fixed(_) => false,
        };
        if share.over || crowded {
            self.threshold = self.window;
            self.start = SlowStart::default();
            if let Law::Plus(plus) = &mut self.law {
                plus.started(ack);
            }
        }
    }

    /// Packets were lost, for the first time this round trip.
    pub(crate) fn on_congestion(&mut self, now: Instant) {
        self.before = Some((self.window, self.threshold));
        match &mut self.law {
            Law::Ledbat(_) | Law::Plus(_) => self.window /= 2,
            Law::Cubic(cubic) => self.window = cubic.on_congestion(now, self.window, self.mss),
            Law::Fixed(_) => return,
        }
        self.clamp();
        self.threshold = self.window;
    }

    /// The congestion event before was none.
    pub(crate) fn on_spurious(&mut self) {
        if let Some((window, threshold)) = self.before.take() {
            self.window = self.window.max(window);
            self.threshold = self.threshold.max(threshold);
            if let Law::Cubic(cubic) = &mut self.law {
                cubic.on_spurious();
            }
        }
    }

    /// Nothing came back: begin again, up to half of what there was.
    pub(crate) fn on_timeout(&mut self, now: Instant) {
        // Timeouts in a row are one event, whose beginning counts.
        if self.window > self.floor() {
            self.on_congestion(now);
        }
        self.window = self.floor();
        self.start = SlowStart::default();
        self.clamp();
    }

    /// Nothing was sent for a while: what was learnt about the window has aged (RFC 7661 keeps the
    /// threshold and lets the window go).
    pub(crate) fn on_idle(&mut self) {
        let first = FIRST * u64::from(self.mss);
        if self.window > first && !matches!(self.law, Law::Fixed(_)) {
            self.threshold = self.threshold.max(self.window / 4 * 3);
            self.window = first;
        }
    }

    /// Window and threshold, for a controller that is to [`go_on`](Self::go_on) later.
    pub(crate) fn kept(&self) -> (u32, u32) {
        let narrow = |bytes| u32::try_from(bytes).unwrap_or(u32::MAX);
        (narrow(self.window), narrow(self.threshold))
    }

    /// Begins where another left off after [`on_idle`](Self::on_idle).
    pub(crate) fn go_on(&mut self, window: u32, threshold: u32) {
        self.window = window.into();
        self.threshold = match threshold {
            u32::MAX => u64::MAX,
            threshold => threshold.into(),
        };
        self.clamp();
    }

    /// Segments have another size.
    pub(crate) fn on_mss(&mut self, mss: u16) {
        self.mss = mss;
        self.clamp();
    }
}
