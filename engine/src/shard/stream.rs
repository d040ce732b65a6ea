//! What a connection runs over. The rest of the shard does not ask which transport it is.

use super::link::{Links, Phase, Timer};
use crate::io::SocketId;
use crate::table::Key;
use bytes::Bytes;
use flock_tcp::{Connection, Queued, SendRefused};
use flock_transport::{CloseReason, Transport};
use std::time::Duration;

/// How long a shutdown waits for the end of a peer that has acknowledged everything: enough to end
/// when ours is read, for whoever does that at all.
const PARTING: Duration = Duration::from_secs(1);

/// The transport's part of a connection.
pub(crate) enum Stream {
    Tcp {
        machine: Connection,
        socket: SocketId,
    },
    Utp(UtpStream),
}

/// A connection of one of the shard's uTP endpoints.
#[derive(Clone, Copy)]
pub(crate) struct UtpStream {
    /// Which of the shard's datagram sockets.
    pub(crate) side: u32,
    pub(crate) key: flock_utp::Key,
    /// The peer ended its direction.
    pub(crate) ended: bool,
    /// Application bytes received.
    pub(crate) bytes_in: u64,
    /// Application bytes that the peer acknowledged, once the connection is gone; before, as many
    /// as when its close was last looked after.
    pub(crate) bytes_out: u64,
}

impl UtpStream {
    pub(crate) fn new(side: u32, key: flock_utp::Key) -> Self {
        Self {
            side,
            key,
            ended: false,
            bytes_in: 0,
            bytes_out: 0,
        }
    }
}

impl Stream {
    pub(crate) fn transport(&self) -> Transport {
        match self {
            Self::Tcp { .. } => Transport::Tcp,
            Self::Utp(_) => Transport::Utp,
        }
    }

    pub(crate) fn peer_ended(&self) -> bool {
        match self {
            Self::Tcp { machine, .. } => machine.peer_ended(),
            Self::Utp(utp) => utp.ended,
        }
    }

    /// Notes `len` bytes received; whether to deliver them.
    pub(crate) fn on_data(&mut self, len: usize) -> bool {
        match self {
            Self::Tcp { machine, .. } => machine.on_data(len),
            Self::Utp(utp) => {
                utp.bytes_in += len as u64;
                true
            }
        }
    }

    pub(crate) fn bytes_in(&self) -> u64 {
        match self {
            Self::Tcp { machine, .. } => machine.bytes_in(),
            Self::Utp(utp) => utp.bytes_in,
        }
    }

    pub(crate) fn bytes_out(&self) -> u64 {
        match self {
            Self::Tcp { machine, .. } => machine.bytes_out(),
            Self::Utp(utp) => utp.bytes_out,
        }
    }
}

impl Links {
    /// Queues `data` on an admitted, open link.
    pub(crate) fn send(&mut self, key: Key, data: Bytes) -> Result<Queued, SendRefused> {
        match self.table.get(key) {
            Some(link) if matches!(link.phase, Phase::Open) && link.reason.is_none() => {
                match link.shaping {
                    Some(_) => self.send_limited(key, data),
                    None => self.send_raw(key, data),
                }
            }
            _ => Err(SendRefused::Closed(data)),
        }
    }

    /// Queues `data`, whatever phase the link is in.
    pub(crate) fn send_raw(&mut self, key: Key, data: Bytes) -> Result<Queued, SendRefused> {
        match self.joints.is_unused() {
            true => self.send_wire(key, data),
            false => self.send_joined(key, data),
        }
    }

    /// The same, behind the connector.
    pub(super) fn send_wire(&mut self, key: Key, data: Bytes) -> Result<Queued, SendRefused> {
        let queued = match self.table.get_mut(key).map(|link| &mut link.stream) {
            Some(Stream::Tcp { machine, .. }) => machine.send(data)?,
            Some(Stream::Utp(utp)) => self.utp.endpoint(utp.side).send(utp.key, data)?,
            None => return Err(SendRefused::Closed(data)),
        };
        self.touch(key);
        Ok(queued)
    }

    /// Bytes queued that have not left for good: with TCP when the kernel has them, with uTP when
    /// the peer has acknowledged them.
    pub(crate) fn queued(&self, key: Key) -> usize {
        let Some(link) = self.table.get(key) else {
            return 0;
        };
        let backlog = link.shaping.as_ref().map_or(0, |shaping| shaping.backlog());
        backlog.saturating_add(self.queued_wire(key))
    }

    /// The same, behind backlog and connector.
    pub(super) fn queued_wire(&self, key: Key) -> usize {
        match self.table.get(key).map(|link| &link.stream) {
            None => 0,
            Some(Stream::Tcp { machine, .. }) => machine.queued(),
            Some(Stream::Utp(utp)) => {
                let queued = self.utp.queued(utp.side, utp.key);
                usize::try_from(queued).unwrap_or(usize::MAX)
            }
        }
    }

    /// Bytes received, and bytes sent that the kernel has taken, over uTP that the peer has.
    pub(crate) fn bytes_moved(&self, key: Key) -> u64 {
        let Some(link) = self.table.get(key) else {
            return 0;
        };
        let sent = match &link.stream {
            Stream::Tcp { machine, .. } => machine.bytes_out(),
            Stream::Utp(utp) => self.utp.sides[utp.side as usize].endpoint.acked(utp.key),
        };
        link.stream.bytes_in() + sent
    }

    /// Ends our direction after what is queued.
    pub(crate) fn end(&mut self, key: Key) {
        if !self.end_after_backlog(key, false) {
            self.end_transport(key);
        }
    }

    /// The same, when nothing waits in front of the transport.
    pub(super) fn end_transport(&mut self, key: Key) {
        self.end_joint(key);
        match self.table.get_mut(key).map(|link| &mut link.stream) {
            Some(Stream::Tcp { machine, .. }) => machine.end(),
            Some(Stream::Utp(utp)) => self.utp.endpoint(utp.side).end(utp.key),
            None => return,
        }
        self.touch(key);
    }

    /// Stops receiving. Bytes on their way may still be delivered.
    pub(crate) fn pause(&mut self, key: Key) {
        if self.note_pause(key, true) {
            self.stop_receiving(key);
        }
    }

    /// The same, whoever wants it.
    pub(super) fn stop_receiving(&mut self, key: Key) {
        match self.table.get_mut(key).map(|link| &mut link.stream) {
            Some(Stream::Tcp { machine, .. }) => machine.pause_recv(),
            Some(Stream::Utp(utp)) => self.utp.endpoint(utp.side).pause(utp.key),
            None => return,
        }
        self.touch(key);
    }

    /// Receives again.
    pub(crate) fn resume(&mut self, key: Key) {
        if !self.note_pause(key, false) {
            return;
        }
        if self.may_receive(key) == 0 {
            self.hold(key);
        } else {
            self.start_receiving(key);
        }
    }

    /// The same, when nothing else forbids it.
    pub(super) fn start_receiving(&mut self, key: Key) {
        let now = self.now;
        let most = self.may_receive(key);
        match self.table.get_mut(key).map(|link| &mut link.stream) {
            Some(Stream::Tcp { machine, .. }) => machine.resume_recv(),
            Some(Stream::Utp(utp)) => self.utp.endpoint(utp.side).resume_for(now, utp.key, most),
            None => return,
        }
        self.touch(key);
    }

    /// Starts a graceful close: what is queued goes out first. The first reason given counts.
    pub(crate) fn close(&mut self, key: Key, reason: CloseReason) {
        let Some(link) = self.table.get_mut(key) else {
            return;
        };
        if link.reason.is_some() {
            return;
        }
        link.reason = Some(reason);
        if !self.end_after_backlog(key, true) {
            self.close_transport(key);
        }
        self.set_stage_timer(Timer::Linger(key), self.linger);
        self.touch(key);
    }

    /// Closes the transport: nothing waits in front of it.
    pub(super) fn close_transport(&mut self, key: Key) {
        let now = self.now;
        self.end_joint(key);
        match self.table.get_mut(key).map(|link| &mut link.stream) {
            Some(Stream::Tcp { machine, .. }) => machine.close(),
            Some(Stream::Utp(utp)) => {
                let endpoint = self.utp.endpoint(utp.side);
                utp.bytes_out = endpoint.acked(utp.key);
                endpoint.close(now, utp.key);
            }
            None => {}
        }
        self.touch(key);
    }

    /// Waits for the end of a peer that has everything as long as a shutdown does, if there is one.
    pub(crate) fn part(&mut self, key: Key) {
        if self.has_parted(key) {
            self.set_stage_timer(Timer::Linger(key), self.linger.min(PARTING));
        }
    }

    /// Whether a shutdown owes the peer nothing more.
    fn has_parted(&self, key: Key) -> bool {
        let stream = self.table.get(key).map(|link| &link.stream);
        match stream {
            // What the system has taken it delivers; whether it has, it does not say.
            Some(Stream::Utp(utp)) if self.parting => self.utp.delivered(utp),
            _ => false,
        }
    }

    /// Ends the link now, dropping what is queued; also one that is closing gracefully.
    pub(crate) fn abort(&mut self, key: Key, reason: CloseReason) {
        let now = self.now;
        self.drop_backlog(key);
        self.joints.detach(key);
        let Some(link) = self.table.get_mut(key) else {
            return;
        };
        link.reason.get_or_insert(reason);
        match &mut link.stream {
            Stream::Tcp { machine, .. } => machine.abort(),
            Stream::Utp(utp) => self.utp.endpoint(utp.side).abort(now, utp.key),
        }
        self.touch(key);
    }

    /// The time that a closing link had without progress is over.
    pub(crate) fn linger_expired(&mut self, key: Key) {
        if self.waits_to_send(key) {
            // The peer is not to blame.
            return self.set_stage_timer(Timer::Linger(key), self.linger);
        }
        if self.end_after_backlog(key, true) {
            return self.abort(key, CloseReason::Local);
        }
        let now = self.now;
        let parted = self.has_parted(key);
        let Some(link) = self.table.get_mut(key) else {
            return;
        };
        match &mut link.stream {
            Stream::Tcp { machine, .. } => {
                machine.linger_expired();
                self.touch(key);
            }
            Stream::Utp(utp) => {
                let endpoint = self.utp.endpoint(utp.side);
                let acked = endpoint.acked(utp.key);
                if acked > utp.bytes_out && !parted {
                    utp.bytes_out = acked;
                    self.set_stage_timer(Timer::Linger(key), self.linger);
                } else {
                    endpoint.abort(now, utp.key);
                }
            }
        }
    }
}
