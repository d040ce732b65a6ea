//! Connectors in their places: behind what waits for bandwidth, right before the transport on the way
//! out and right after it on the way in.

use super::Shard;
use super::datagrams::Incoming;
use super::link::{Link, Links};
use crate::api::Handler;
use crate::io::Driver;
use crate::session::{ConnectorError, Connectors, Failed, Joint, Output};
use crate::table::Key;
use bytes::Bytes;
use flock_tcp::{Queued, SendLimits, SendRefused};
use flock_transport::{CloseReason, Instant};

/// The connectors of a shard's connections, beside them, so that those without pay nothing.
#[derive(Default)]
pub(crate) struct Joints {
    connectors: Option<Connectors>,
    /// By slot of the link.
    joints: Vec<Option<Joint>>,
    /// What the latest call put out; empty between calls but for its memory.
    output: Output,
    panics: u64,
}

impl Joints {
    pub(super) fn new(connectors: Option<Connectors>) -> Self {
        Self {
            connectors,
            ..Self::default()
        }
    }

    /// Whether no connection of this engine has a connector.
    pub(super) fn is_unused(&self) -> bool {
        self.connectors.is_none()
    }

    pub(super) fn connectors(&self) -> Option<&Connectors> {
        self.connectors.as_ref()
    }

    /// The limits of the transports: whether there is room is decided before a connector is given
    /// bytes, and what it makes of them has to be taken.
    pub(super) fn below(&self, limits: SendLimits) -> SendLimits {
        let max = match self.is_unused() {
            true => limits.max,
            false => u32::MAX,
        };
        SendLimits { max, ..limits }
    }

    /// Calls that panicked since this was last asked.
    pub(super) fn take_panics(&mut self) -> u64 {
        std::mem::take(&mut self.panics)
    }

    fn attach(&mut self, key: Key, joint: Joint) {
        let slot = key.slot as usize;
        if self.joints.len() <= slot {
            self.joints.resize_with(slot + 1, || None);
        }
        self.joints[slot] = Some(joint);
    }

    /// Forgets the connector of a link.
    pub(super) fn detach(&mut self, key: Key) {
        if let Some(joint) = self.joints.get_mut(key.slot as usize) {
            *joint = None;
        }
    }

    /// The connector of a link, which the caller knows to be there.
    fn get(&mut self, key: Key) -> Option<&mut Joint> {
        self.joints.get_mut(key.slot as usize)?.as_mut()
    }

    fn call(
        &mut self,
        key: Key,
        run: impl FnOnce(&mut Joint, &mut Output) -> Result<(), Failed>,
    ) -> Result<(), Failed> {
        let Some(Some(joint)) = self.joints.get_mut(key.slot as usize) else {
            return Ok(());
        };
        run(joint, &mut self.output)
    }
}

impl Links {
    /// Puts a connector into its place, and lets it begin; whether it has. None: the embedder panicked.
    pub(super) fn attach(&mut self, key: Key, joint: Option<Joint>) -> bool {
        let Some(joint) = joint else {
            self.connector_failed(key, Failed::Panicked);
            return false;
        };
        if self.table.get(key).is_some() {
            self.joints.attach(key, joint);
        }
        self.call_joint(key, Joint::start)
    }

    /// Whether it goes on: what it put out for the peer is queued then.
    fn call_joint(
        &mut self,
        key: Key,
        run: impl FnOnce(&mut Joint, &mut Output) -> Result<(), Failed>,
    ) -> bool {
        if let Err(failed) = self.joints.call(key, run) {
            self.connector_failed(key, failed);
            return false;
        }
        self.send_output(key)
    }

    /// Queues what a connector put out for the peer; whether it was taken. Behind the end of our
    /// direction there is nobody for it.
    fn send_output(&mut self, key: Key) -> bool {
        let mut pieces = std::mem::take(&mut self.joints.output.peer);
        let mut full = false;
        for piece in pieces.drain(..) {
            full |= matches!(self.send_wire(key, piece), Err(SendRefused::Full(_)));
        }
        self.joints.output.peer = pieces;
        if full {
            self.abort(key, CloseReason::SendQueueFull);
        }
        !full
    }

    fn connector_failed(&mut self, key: Key, failed: Failed) {
        let reason = match failed {
            Failed::Panicked => {
                self.joints.panics += 1;
                CloseReason::HandlerPanicked
            }
            Failed::Connector(ConnectorError::Refused) => CloseReason::ConnectorRefused,
            Failed::Connector(ConnectorError::Overflow) => CloseReason::ConnectorOverflow,
        };
        self.abort(key, reason);
    }

    /// Queues `data` through the connector. Where that fails the bytes count as sent: the connection
    /// breaks behind them.
    pub(super) fn send_joined(&mut self, key: Key, data: Bytes) -> Result<Queued, SendRefused> {
        if self.table.get(key).is_none() {
            return Err(SendRefused::Closed(data));
        }
        match self.joints.get(key) {
            None => return self.send_wire(key, data),
            Some(joint) if joint.has_ended() => return Err(SendRefused::Closed(data)),
            Some(_) => {}
        }
        if !self.has_room(key, data.len()) {
            return Err(SendRefused::Full(data));
        }
        // Whether the transport takes anything at all.
        let Ok(queued) = self.send_wire(key, Bytes::new()) else {
            return Err(SendRefused::Closed(data));
        };
        if data.is_empty() || !self.call_joint(key, |joint, out| joint.outgoing(data, out)) {
            return Ok(queued);
        }
        Ok(self.send_wire(key, Bytes::new()).unwrap_or(queued))
    }

    /// Whether the hard limit of what is queued leaves room for `len` bytes: an empty queue does.
    fn has_room(&self, key: Key, len: usize) -> bool {
        let queued = self.queued_wire(key) as u64;
        queued == 0 || queued + len as u64 <= u64::from(self.send_limits.max)
    }

    /// Tells the connector that our direction ends.
    pub(super) fn end_joint(&mut self, key: Key) {
        if !self.joints.is_unused() && self.table.get(key).is_some() {
            self.call_joint(key, Joint::outgoing_ended);
        }
    }

    /// What the connector makes of the peer's bytes, or of their end. `None`: it failed. What is said
    /// in answer is bounded as what is sent is.
    fn translate(
        &mut self,
        key: Key,
        run: impl FnOnce(&mut Joint, &mut Output) -> Result<(), Failed>,
    ) -> Option<Made> {
        let gone = |link: &Link| link.reason.is_some();
        if self.table.get(key).is_none_or(gone) || self.joints.get(key).is_none() {
            return None;
        }
        if let Err(failed) = self.joints.call(key, run) {
            self.connector_failed(key, failed);
            return None;
        }
        let answer = self.joints.output.peer.iter().map(Bytes::len).sum();
        if answer > 0 && !self.has_room(key, answer) {
            self.joints.output.peer.clear();
            self.abort(key, CloseReason::SendQueueFull);
            return None;
        }
        if !self.send_output(key) {
            return None;
        }
        let output = &mut self.joints.output;
        match std::mem::take(&mut output.passed) {
            true => Some(Made::Same),
            false => Some(Made::Other(std::mem::take(&mut output.local))),
        }
    }
}

/// What a connector made of bytes.
enum Made {
    /// Themselves.
    Same,
    Other(Vec<u8>),
}

impl<D: Driver, H: Handler> Shard<D, H> {
    /// Hands on what a connection's connector makes of its peer's bytes.
    pub(super) fn deliver_joined(&mut self, now: Instant, key: Key, incoming: &Incoming) {
        let bytes = incoming.bytes(&self.driver);
        let len = bytes.len();
        let made = self
            .links
            .translate(key, |joint, out| joint.incoming(bytes, out));
        match made {
            None => {}
            Some(Made::Same) => self.deliver(now, key, incoming),
            Some(Made::Other(bytes)) => {
                // The limits of bandwidth hold on both sides of the connector.
                let rest = len.saturating_sub(bytes.len());
                self.deliver_made(now, key, bytes);
                self.links.note_received(key, rest);
            }
        }
    }

    fn deliver_made(&mut self, now: Instant, key: Key, bytes: Vec<u8>) {
        let made = Incoming::Made(bytes);
        if !made.bytes(&self.driver).is_empty() {
            self.deliver(now, key, &made);
        }
        if let Incoming::Made(bytes) = made {
            // Its memory serves the next.
            self.links.joints.output.local = bytes;
        }
    }

    /// Hands on what a connector has left at the end of its peer's bytes.
    pub(super) fn deliver_last(&mut self, key: Key) {
        if let Some(Made::Other(bytes)) = self.links.translate(key, Joint::incoming_ended) {
            self.deliver_made(self.links.now, key, bytes);
        }
    }
}
