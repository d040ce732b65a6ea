use super::carrier::Carrier;
use crate::frame::FrameReader;
use flock_engine::io::Instant;
use std::time::Duration;

/// When a peer is given up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    /// From the dial to established.
    pub(crate) connect: Duration,
    /// From established to both ids exchanged.
    pub(crate) handshake: Duration,
}

/// Where a peer's life stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Connecting,
    Handshaking,
    /// Hands are shaken; the connection stays.
    Held,
    /// The close was asked for; a failed life is not timed.
    Closing {
        failed: bool,
    },
}

/// One simulated peer between its dial and the end of its connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Life {
    pub(crate) peer: u32,
    pub(crate) carrier: Carrier,
    pub(crate) phase: Phase,
    /// Whether the kernel, or the uTP connection, has taken our id frame.
    pub(crate) sent: bool,
    pub(crate) reader: FrameReader,
    /// When it should have been dialled; latencies count from here.
    pub(crate) intended: Instant,
    /// When its phase began; timeouts count from here.
    pub(crate) since: Instant,
}

impl Life {
    pub(crate) fn new(peer: u32, carrier: Carrier, intended: Instant, now: Instant) -> Self {
        Self {
            peer,
            carrier,
            phase: Phase::Connecting,
            sent: false,
            reader: FrameReader::default(),
            intended,
            since: now,
        }
    }

    pub(crate) fn has_shaken_hands(&self) -> bool {
        self.sent && self.reader == FrameReader::Done
    }

    pub(crate) fn is_unsettled(&self) -> bool {
        matches!(self.phase, Phase::Connecting | Phase::Handshaking)
    }

    pub(crate) fn is_late(&self, now: Instant, timeouts: Timeouts) -> bool {
        match self.phase {
            Phase::Connecting => now - self.since >= timeouts.connect,
            Phase::Handshaking => now - self.since >= timeouts.handshake,
            Phase::Held | Phase::Closing { .. } => false,
        }
    }
}
