use crate::wire::Seq;
use flock_transport::Instant;
use std::time::Duration;

/// When SYNs go out, in milliseconds after the first. Stacks in use do not answer a repeated SYN
/// of which the answer was lost, hence the second attempt, with another id, beside the first.
const SENDS: [u64; 7] = [0, 1_000, 3_000, 5_000, 6_000, 8_000, 12_000];

/// The SYN with which the second attempt begins.
const SECOND_ATTEMPT: u8 = 3;

/// The handshake of the side that dials.
#[derive(Debug)]
pub(crate) struct Dial {
    syn: Seq,
    started: Instant,
    timeout: Duration,
    sends: u8,
    first_id: Option<u16>,
}

impl Dial {
    pub(crate) fn new(now: Instant, syn: Seq, timeout: Duration) -> Self {
        Self {
            syn,
            started: now,
            timeout,
            sends: 0,
            first_id: None,
        }
    }

    pub(crate) fn syn(&self) -> Seq {
        self.syn
    }

    /// The id of the first attempt, once there is a second.
    pub(crate) fn first_id(&self) -> Option<u16> {
        self.first_id
    }

    /// How long the handshake takes already, if only one SYN was sent, so that the answer is
    /// surely to that one.
    pub(crate) fn round_trip(&self, now: Instant) -> Option<Duration> {
        (self.sends == 1).then(|| now.since(self.started))
    }

    fn next_send(&self) -> Option<Instant> {
        let after = SENDS.get(usize::from(self.sends))?;
        Some(self.started + Duration::from_millis(*after))
    }

    pub(crate) fn deadline(&self) -> Instant {
        let end = self.started + self.timeout;
        self.next_send().map_or(end, |at| at.min(end))
    }

    pub(crate) fn failed(&self, now: Instant) -> bool {
        self.started + self.timeout <= now
    }

    /// Whether a SYN is to go out now.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.next_send().is_some_and(|at| at <= now)
    }

    /// Whether the next SYN is to carry a new id.
    pub(crate) fn wants_new_id(&self, now: Instant) -> bool {
        self.sends == SECOND_ATTEMPT && self.first_id.is_none() && self.is_due(now)
    }

    pub(crate) fn use_new_id(&mut self, first: u16) {
        self.first_id = Some(first);
    }

    /// A SYN goes out.
    pub(crate) fn sent(&mut self) {
        self.sends = self.sends.saturating_add(1);
    }

    /// It did not go out after all.
    pub(crate) fn refused(&mut self) {
        self.sends = self.sends.saturating_sub(1);
    }
}
