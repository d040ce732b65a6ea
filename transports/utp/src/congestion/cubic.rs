use super::AckInfo;
use flock_transport::Instant;

/// CUBIC (RFC 9438), in segments.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cubic {
    /// The window before the latest reduction (`W_max`).
    most: f64,
    /// The one before that, for a reduction that was none.
    most_before: f64,
    /// When this epoch of growth began, and the window then.
    epoch: Option<(Instant, f64)>,
    /// What Reno would have (`W_est`).
    reno: f64,
    /// Growth not yet worth a byte.
    rest: f64,
}

const C: f64 = 0.4;
const BETA: f64 = 0.7;

/// Whole bytes; the windows meant are far from what a float cannot say.
#[expect(clippy::cast_possible_truncation, reason = "rounded, and saturating")]
fn bytes(value: f64) -> u64 {
    value.round() as u64
}

/// Newton's method, since that of the C library may differ from host to host, and with it a run
/// that is replayed.
fn cube_root(value: f64) -> f64 {
    if value <= 0.0 {
        return 0.0;
    }
    let mut root = value.max(1.0);
    for _ in 0..64 {
        root -= (root - value / (root * root)) / 3.0;
    }
    root
}

impl Cubic {
    /// The window after losses.
    pub(super) fn on_congestion(&mut self, _: Instant, window: u64, mss: u16) -> u64 {
        let segments = window as f64 / f64::from(mss);
        self.most_before = self.most;
        // Fast convergence: one that lost before it was back where it was makes room.
        self.most = if segments < self.most {
            segments * (1.0 + BETA) / 2.0
        } else {
            segments
        };
        self.epoch = None;
        bytes(window as f64 * BETA)
    }

    pub(super) fn on_spurious(&mut self) {
        self.most = self.most_before;
        self.epoch = None;
    }

    pub(super) fn on_ack(&mut self, ack: &AckInfo, window: &mut u64, mss: u16) {
        if ack.app_limited || ack.recovering {
            // Time without use is no time of growth.
            self.epoch = None;
            return;
        }
        let mss = f64::from(mss);
        let now = *window as f64 / mss;
        let (began, first) = *self.epoch.get_or_insert((ack.now, now));
        if began == ack.now {
            self.reno = now;
        }
        self.most = self.most.max(first);
        let k = cube_root((self.most - first) / C);
        let time = (ack.now - began).as_secs_f64() + ack.srtt.as_secs_f64();
        let cubic = (C * (time - k).powi(3) + self.most).min(now * 1.5);
        let acked = ack.bytes as f64 / mss;
        let alpha = if self.reno < self.most {
            3.0 * (1.0 - BETA) / (1.0 + BETA)
        } else {
            1.0
        };
        self.reno += alpha * acked / now;
        let target = cubic.max(self.reno);
        if target > now {
            let grown = (target - now) / now * acked * mss + self.rest;
            self.rest = grown.fract();
            *window += bytes(grown.floor());
        }
    }
}
