use flock_transport::Instant;
use std::time::Duration;

/// Controlled delay (RFC 8289): drops at the head of a queue in which packets have stood for too
/// long.
#[derive(Debug)]
pub(super) struct Codel {
    target: Duration,
    interval: Duration,
    /// When the standing time, too long since an interval before, calls for dropping.
    above_until: Option<Instant>,
    dropping: bool,
    drop_next: Instant,
    count: u32,
    last_count: u32,
}

impl Codel {
    pub(super) fn new(target: Duration, interval: Duration) -> Self {
        Self {
            target,
            interval,
            above_until: None,
            dropping: false,
            drop_next: Instant::ZERO,
            count: 0,
            last_count: 0,
        }
    }

    /// Whether the packet at the head, which stood for `stood`, is dropped; `left` bytes of the
    /// queue stay behind it. Asked again for the next head after a drop.
    pub(super) fn drops(&mut self, now: Instant, stood: Duration, left: usize) -> bool {
        let too_long = self.too_long(now, stood, left);
        if self.dropping {
            if !too_long {
                self.dropping = false;
                return false;
            }
            if now < self.drop_next {
                return false;
            }
            self.count += 1;
            self.drop_next = self.drop_next + self.spacing();
            return true;
        }
        if !too_long {
            return false;
        }
        self.dropping = true;
        let recent = self.count - self.last_count;
        let close = now.since(self.drop_next) < self.interval * 16;
        self.count = if recent > 1 && close { recent } else { 1 };
        self.last_count = self.count;
        self.drop_next = now + self.spacing();
        true
    }

    fn too_long(&mut self, now: Instant, stood: Duration, left: usize) -> bool {
        if stood < self.target || left <= super::link::FULL_PACKET {
            self.above_until = None;
            return false;
        }
        match self.above_until {
            None => {
                self.above_until = Some(now + self.interval);
                false
            }
            Some(until) => now >= until,
        }
    }

    fn spacing(&self) -> Duration {
        self.interval.div_f64(f64::from(self.count).sqrt())
    }
}
