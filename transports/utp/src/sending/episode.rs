use crate::wire::Seq;
use flock_transport::Instant;

/// The repair of losses, from the first one found until everything that was in flight then is
/// acknowledged: one congestion event. Proportional rate reduction (RFC 6937) paces it.
#[derive(Debug)]
pub(super) struct Episode {
    /// The first number that was not given when it began.
    pub(super) end: Seq,
    pub(super) began: Instant,
    /// Begun by a timeout.
    pub(super) timeout: bool,
    /// Packets taken for lost.
    pub(super) marked: u32,
    /// Those of them that turned out not to be.
    pub(super) refuted: u32,
    /// Bytes in flight when it began (`RecoverFS`).
    flight: u64,
    /// Bytes the peer got since (`prr_delivered`), and by the latest acknowledgement.
    delivered: u64,
    latest: u64,
    /// Bytes sent since (`prr_out`).
    out: u64,
}

impl Episode {
    pub(super) fn new(began: Instant, end: Seq, flight: u64, timeout: bool) -> Self {
        Self {
            end,
            began,
            timeout,
            marked: 0,
            refuted: 0,
            flight: flight.max(1),
            delivered: 0,
            latest: 0,
            out: 0,
        }
    }

    pub(super) fn delivered(&mut self, bytes: u64) {
        self.delivered += bytes;
        self.latest = bytes;
    }

    pub(super) fn sent(&mut self, bytes: u64) {
        self.out += bytes;
    }

    /// They were not, after all.
    pub(super) fn unsent(&mut self, bytes: u64) {
        self.out = self.out.saturating_sub(bytes);
    }

    /// Bytes that may go out now (RFC 6937, section 3.1, with the slow-start bound). `window` is
    /// what the flight is to shrink to.
    pub(super) fn allowance(&self, in_flight: u64, window: u64, mss: u16) -> u64 {
        let mss = u64::from(mss);
        let count = if in_flight > window {
            let share = u128::from(self.delivered) * u128::from(window);
            let share = share.div_ceil(u128::from(self.flight));
            u64::try_from(share)
                .unwrap_or(u64::MAX)
                .saturating_sub(self.out)
        } else {
            let limit = self.delivered.saturating_sub(self.out).max(self.latest) + mss;
            limit.min(window - in_flight)
        };
        // The first repair does not wait.
        if self.out == 0 { count.max(mss) } else { count }
    }
}
