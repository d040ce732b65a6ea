//! The progress line, on a terminal only.

use crate::progress::Reading;
use crate::text::{grouped, one_decimal, per_second};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_millis(250);

/// Writes one line to stderr, over and over.
#[derive(Debug)]
pub(crate) struct Ticker {
    shown: bool,
    begun: Instant,
    last: Option<(Instant, u64)>,
    dirty: bool,
}

impl Ticker {
    /// A ticker that is silent when asked to be, and where stderr is no terminal.
    pub(crate) fn new(quiet: bool) -> Self {
        Self {
            shown: !quiet && std::io::stderr().is_terminal(),
            begun: Instant::now(),
            last: None,
            dirty: false,
        }
    }

    pub(crate) fn tick(&mut self, reading: Reading) {
        let now = Instant::now();
        let (at, before) = self.last.unwrap_or((self.begun, 0));
        if !self.shown || now - at < EVERY {
            return;
        }
        let line = line(now - self.begun, now - at, before, reading);
        self.last = Some((now, reading.handshaken));
        self.dirty = true;
        self.write(&format!("\r{line}\x1b[K"));
    }

    /// Leaves the terminal as it was.
    pub(crate) fn clear(&mut self) {
        if self.dirty {
            self.write("\r\x1b[K");
        }
        (self.begun, self.last, self.dirty) = (Instant::now(), None, false);
    }

    fn write(&mut self, text: &str) {
        let mut stderr = std::io::stderr().lock();
        // A terminal that went away is no reason to end a measurement.
        self.shown = stderr
            .write_all(text.as_bytes())
            .and_then(|()| stderr.flush())
            .is_ok();
    }
}

fn line(elapsed: Duration, interval: Duration, before: u64, reading: Reading) -> String {
    let fresh = reading.handshaken.saturating_sub(before) as f64;
    format!(
        "{} s   {} handshakes/s   {} done   {} up   {} failed",
        one_decimal(elapsed.as_secs_f64()),
        per_second(fresh / interval.as_secs_f64()),
        grouped(reading.handshaken),
        grouped(reading.open),
        grouped(reading.failed),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_shows_the_rate_of_the_last_interval() {
        let reading = Reading {
            handshaken: 12_345,
            failed: 2,
            open: 256,
        };
        assert_eq!(
            line(
                Duration::from_millis(1_500),
                Duration::from_millis(500),
                10_000,
                reading
            ),
            "1.5 s   4,690 handshakes/s   12,345 done   256 up   2 failed"
        );
    }

    #[test]
    fn quiet_means_silent() {
        let mut ticker = Ticker::new(true);
        ticker.tick(Reading::default());
        assert!(!ticker.dirty);
    }
}
