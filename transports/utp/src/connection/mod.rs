//! One connection: its two halves, its handshake and its end.

mod dial;
mod flow;
mod input;
mod output;
mod sender;

use crate::config::Config;
use crate::receiving::{Ready, Receiver};

use crate::wire::Seq;
use crate::{Event, Key};
pub(crate) use dial::Dial;
use flock_transport::{CloseReason, Errno, Instant, Queued, SendRefused};
pub(crate) use input::{Incoming, Verdict};
pub(crate) use output::Filled;
use sender::Sender;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

/// Acknowledgements sent one by one while a gap is new: peers take it for a loss after three.
const GAP_ACKS: u8 = 4;

/// A connection that was dialled, or that its initiator has confirmed.
pub(crate) struct Connection {
    peer: SocketAddr,
    /// The id in packets to us, and in packets from us.
    recv_id: u16,
    send_id: u16,
    /// Until the peer's answer.
    dial: Option<Box<Dial>>,
    receiver: Receiver,
    sender: Sender,
    /// How long the last packet took by the two clocks, in microseconds: reported to the peer.
    took: u32,
    /// The window last told to the peer.
    advertised: u32,
    last_sent: Instant,
    /// Closing ends then at the latest; not closing: in the far future.
    linger_until: Instant,
    /// Acknowledgements owed.
    acks: u8,
    /// Acknowledgements sent since a gap opened.
    gap_acks: u8,
    /// A packet goes out only to keep the path alive.
    keepalive_due: bool,
    /// Nothing may be sent yet.
    quiet: bool,
    /// The application has closed: nothing is delivered.
    closing: bool,
    /// In the endpoint's list of those with something to send.
    pub(crate) listed: bool,
    /// In the endpoint's list of those that received in this batch.
    pub(crate) touched: bool,
    /// When the endpoint looks at it: at its deadline, or earlier. Without one, in the far future.
    pub(crate) armed: Instant,
}

/// The low 32 bits of the clock in microseconds; never zero, which says that there is no time.
pub(crate) fn micros(at: Instant) -> u32 {
    const MASK: u64 = u32::MAX as u64;
    u32::try_from((at.as_nanos() / 1000) & MASK)
        .unwrap_or(1)
        .max(1)
}

impl Connection {
    /// A connection to be dialled with this SYN.
    pub(crate) fn dialled(
        config: &Config,
        now: Instant,
        peer: SocketAddr,
        recv_id: u16,
        syn: Seq,
        quiet: bool,
    ) -> Self {
        let mut connection = Self::new(config, now, peer, Seq::new(0), syn.next());
        connection.recv_id = recv_id;
        connection.send_id = recv_id.wrapping_add(1);
        connection.quiet = quiet;
        connection.dial = Some(Box::new(Dial::new(now, syn, config.connect_timeout)));
        connection
    }

    /// A connection whose initiator has confirmed our answer `isn` to its SYN.
    pub(crate) fn accepted(
        config: &Config,
        now: Instant,
        peer: SocketAddr,
        recv_id: u16,
        syn: Seq,
        isn: Seq,
    ) -> Self {
        let mut connection = Self::new(config, now, peer, syn, isn);
        connection.recv_id = recv_id;
        connection.send_id = recv_id.wrapping_sub(1);
        connection
    }

    /// The initiator took so long to confirm our answer, the time in which it had nothing to say
    /// included.
    pub(crate) fn confirmed_after(&mut self, now: Instant, took: Duration) {
        // A timeout is three first round trips, and a second without one (RFC 6298, section 2):
        // what says too much must not make it later.
        const BELIEVED: Duration = Duration::from_millis(333);
        if took <= BELIEVED {
            self.sender.on_round_trip(now, took);
        }
    }

    fn new(config: &Config, now: Instant, peer: SocketAddr, ack: Seq, first: Seq) -> Self {
        Self {
            peer,
            recv_id: 0,
            send_id: 0,
            dial: None,
            receiver: Receiver::new(ack, config.receive_window),
            sender: Sender::new(first, config),
            took: 0,
            advertised: config.receive_window,
            last_sent: now,
            linger_until: Instant::FAR_FUTURE,
            acks: 0,
            gap_acks: 0,
            keepalive_due: false,
            quiet: false,
            closing: false,
            listed: false,
            touched: false,
            armed: Instant::FAR_FUTURE,
        }
    }

    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Whether packets from its peer with this id are for it.
    pub(crate) fn receives(&self, id: u16) -> bool {
        self.recv_id == id || self.other_id() == Some(id)
    }

    pub(crate) fn recv_id(&self) -> u16 {
        self.recv_id
    }

    pub(crate) fn send_id(&self) -> u16 {
        self.send_id
    }

    /// The id of the first attempt, while a second one runs beside it.
    pub(crate) fn other_id(&self) -> Option<u16> {
        self.dial.as_ref()?.first_id()
    }

    pub(crate) fn is_dialling(&self) -> bool {
        self.dial.is_some()
    }

    /// Begins the search of the path's MTU with what was found before.
    pub(crate) fn set_mtu(&mut self, config: &Config, known: u16) {
        self.sender.set_mtu(config, known);
    }

    /// What the path was found to carry, if that is more than what all carry.
    pub(crate) fn mtu(&self) -> Option<u16> {
        self.sender.mtu()
    }

    /// Payload bytes the peer has acknowledged.
    pub(crate) fn acked(&self) -> u64 {
        self.sender.acked()
    }

    /// Cost of what it keeps for its application.
    pub(crate) fn held(&self) -> u32 {
        self.receiver.held()
    }

    pub(crate) fn receiver_ack(&self) -> Seq {
        self.receiver.ack()
    }

    pub(crate) fn next_seq(&self) -> Seq {
        self.sender.next_seq()
    }

    /// See [`Endpoint::send`](crate::Endpoint::send).
    pub(crate) fn send(&mut self, data: bytes::Bytes) -> Result<Queued, SendRefused> {
        if self.closing {
            return Err(SendRefused::Closed(data));
        }
        self.sender.push(data)
    }

    pub(crate) fn queued(&self) -> u64 {
        self.sender.queued()
    }

    pub(crate) fn end(&mut self) {
        self.sender.end();
    }

    pub(crate) fn close(&mut self, now: Instant, config: &Config) {
        if !self.closing {
            self.closing = true;
            self.sender.end();
            self.receiver.resume();
            while self.receiver.next_ready().is_some() {}
            self.linger_until = now + config.linger;
        }
    }

    pub(crate) fn release(&mut self) {
        self.quiet = false;
    }

    pub(crate) fn pause(&mut self) {
        if !self.closing {
            self.receiver.pause();
        }
    }

    /// Delivers what was kept, as far as `most` bytes go, and tells the peer of the room if it
    /// matters to it.
    pub(crate) fn resume(&mut self, most: u64, key: Key, events: &mut VecDeque<Event>) {
        self.receiver.resume();
        self.deliver_ready(most, key, events);
        if self.receiver.is_waiting() {
            self.receiver.pause();
        }
        self.update_window();
    }

    fn update_window(&mut self) {
        const WORTH: u32 = 2 * 1452;
        let window = self.receiver.window();
        let opened = self.advertised == 0 && window > 0;
        let grown = window >= self.advertised.saturating_add(WORTH)
            && (window / 2 >= self.advertised || self.advertised < WORTH);
        if self.dial.is_none() && (opened || grown) {
            self.acks = self.acks.max(1);
        }
    }

    fn deliver_ready(&mut self, most: u64, key: Key, events: &mut VecDeque<Event>) {
        let mut left = most;
        while left > 0
            && let Some(ready) = self.receiver.next_ready()
        {
            if let Ready::Data(bytes) = &ready {
                left = left.saturating_sub(bytes.len() as u64);
            }
            if self.closing {
                continue;
            }
            events.push_back(match ready {
                Ready::Data(bytes) => Event::Buffered { key, bytes },
                Ready::End => Event::Eof { key },
            });
        }
    }

    /// Whether our direction has ended and the peer knows.
    pub(crate) fn delivered(&self) -> bool {
        self.dial.is_none() && self.sender.ended()
    }

    /// Whether both directions have ended and everybody knows.
    pub(crate) fn finished(&self) -> Option<CloseReason> {
        let done = self.delivered() && self.receiver.ended();
        done.then_some(if self.closing {
            CloseReason::Local
        } else {
            CloseReason::PeerClosed
        })
    }

    /// When it wants to be looked at.
    pub(crate) fn deadline(&self, config: &Config) -> Option<Instant> {
        if let Some(dial) = &self.dial {
            return Some(dial.deadline());
        }
        let keepalive = self.keepalive_at(config);
        let sender = self.sender.deadline().filter(|_| !self.quiet);
        let linger = self.closing.then_some(self.linger_until);
        [keepalive, sender, linger].into_iter().flatten().min()
    }

    /// Its deadline, or an earlier one, has come. `Err`: it ends, with a RESET.
    pub(crate) fn on_deadline(&mut self, now: Instant, config: &Config) -> Result<(), CloseReason> {
        if let Some(dial) = &self.dial {
            return if dial.failed(now) {
                Err(CloseReason::ConnectTimeout)
            } else {
                Ok(())
            };
        }
        if self.linger_until <= now {
            return Err(CloseReason::Local);
        }
        if !self.quiet && self.sender.on_deadline(now).is_err() {
            const TIMED_OUT: Errno = Errno(110);
            return Err(CloseReason::Io(TIMED_OUT));
        }
        self.keepalive_due |= self.keepalive_at(config).is_some_and(|at| at <= now);
        Ok(())
    }

    /// When the path must see a packet again: up to an eighth earlier than it must, by chance, so
    /// that connections made together do not speak together ever after.
    fn keepalive_at(&self, config: &Config) -> Option<Instant> {
        let after = config.keepalive.filter(|_| !self.quiet)?;
        let early = after / 8 * u32::from(self.recv_id) / (1 << 16);
        Some(self.last_sent + (after - early))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_is_small() {
        let size = size_of::<Connection>();
        assert!(size <= 224, "{size}");
    }

    #[test]
    fn there_is_always_a_time() {
        assert_eq!(micros(Instant::ZERO), 1);
        assert_eq!(micros(Instant::from_nanos((1 << 32) * 1000)), 1);
        assert_eq!(micros(Instant::from_nanos(((1 << 32) + 5) * 1000)), 5);
    }
}
