use crate::queue::SendQueue;
use bytes::Bytes;
use flock_transport::{Chunks, CloseHow, CloseReason, Errno, Queued, SendLimits, SendRefused};

#[cfg(test)]
mod tests;

/// What the connection wants done to its socket. One answer comes to each, except to
/// `CancelRecv` and `ShutdownWrite`.
#[derive(Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "verbs are passed on at once and never kept; a box would cost an allocation a send"
)]
pub enum Verb {
    /// Receive until told to stop.
    Recv,
    /// Receive one buffer's worth, which then ends as if it had been cancelled.
    RecvOnce,
    /// Stop receiving; the answer is that of the `Recv`.
    CancelRecv,
    /// Send this; never empty, one at a time.
    Send(Chunks),
    /// Send no more after this (FIN).
    ShutdownWrite,
    /// Close; nothing follows.
    Close(CloseHow),
}

/// What a completion meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer ended its direction.
    PeerEnded,
    /// The send queue fell below its low-water mark after having been above the high one.
    Writable,
    /// The stream is broken. The owner decides to [`abort`](Connection::abort).
    Broken(CloseReason),
}

/// One TCP stream, as a pure machine: completions and wishes in, verbs and events out.
///
/// After every input, [`next_verb`](Self::next_verb) is to be called until it returns `None`.
#[derive(Debug)]
pub struct Connection {
    queue: SendQueue,
    /// Bytes of the send operation under way, of which there is one at a time.
    in_flight: u32,
    bytes_in: u64,
    bytes_out: u64,
    limits: SendLimits,
    recv: Recv,
    want_recv: bool,
    metered: bool,
    above_high: bool,
    end: End,
    close: Close,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recv {
    Idle,
    Armed,
    /// For one buffer.
    ArmedOnce,
    Cancelling,
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open,
    Wanted,
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Close {
    Open,
    /// Everything queued goes out, then FIN, then the peer's end is awaited.
    Graceful,
    Now(CloseHow),
    /// The close was handed over.
    Done,
}

impl Connection {
    /// An established stream that wants to receive.
    #[must_use]
    pub fn new(limits: SendLimits) -> Self {
        Self {
            queue: SendQueue::default(),
            in_flight: 0,
            bytes_in: 0,
            bytes_out: 0,
            limits,
            recv: Recv::Idle,
            want_recv: true,
            metered: false,
            above_high: false,
            end: End::Open,
            close: Close::Open,
        }
    }

    /// Queues `data` by reference. Empty data does nothing.
    ///
    /// # Errors
    /// The queue would exceed its hard limit, or nothing may be sent any more.
    pub fn send(&mut self, data: Bytes) -> Result<Queued, SendRefused> {
        if self.close != Close::Open || self.end != End::Open {
            return Err(SendRefused::Closed(data));
        }
        let queued = self.queued() as u64;
        if queued > 0 && queued + data.len() as u64 > u64::from(self.limits.max) {
            return Err(SendRefused::Full(data));
        }
        if !data.is_empty() {
            self.queue.push(data);
        }
        self.above_high |= self.queued() as u64 >= u64::from(self.limits.high).max(1);
        Ok(if self.above_high {
            Queued::AboveHigh
        } else {
            Queued::Ok
        })
    }

    /// Bytes that the kernel has not taken yet.
    #[must_use]
    pub fn queued(&self) -> usize {
        usize::try_from(self.queue.waiting() + u64::from(self.in_flight)).unwrap_or(usize::MAX)
    }

    /// Ends our direction after what is queued; receiving goes on. Once the peer's has ended, too,
    /// the stream is closed.
    pub fn end(&mut self) {
        if self.end == End::Open {
            self.end = End::Wanted;
        }
    }

    /// Closes after what is queued: with FIN, then waiting for the peer's end, so that the kernel
    /// has no reason to reset the stream under data on its way. Nothing is delivered any more.
    pub fn close(&mut self) {
        if self.close == Close::Open {
            self.close = Close::Graceful;
        }
    }

    /// Resets the stream; what is queued is lost.
    pub fn abort(&mut self) {
        if self.close != Close::Done {
            self.close = Close::Now(CloseHow::Rst);
            self.queue.clear();
        }
    }

    /// The peer of a graceful close took too long: close anyway, with a reset if something of
    /// ours is still queued.
    pub fn linger_expired(&mut self) {
        if self.close == Close::Graceful {
            let how = if self.queued() > 0 {
                CloseHow::Rst
            } else {
                CloseHow::Fin
            };
            self.close = Close::Now(how);
            self.queue.clear();
        }
    }

    /// Stops receiving. Bytes on their way may still be delivered.
    pub fn pause_recv(&mut self) {
        self.want_recv = false;
    }

    /// Receives again.
    pub fn resume_recv(&mut self) {
        self.want_recv = true;
    }

    /// Whether to receive a buffer at a time, so that no more comes than was asked for. It costs an
    /// operation for each. Whether that is new.
    pub fn meter_recv(&mut self, metered: bool) -> bool {
        std::mem::replace(&mut self.metered, metered) != metered
    }

    /// `len` bytes arrived; whether to deliver them.
    pub fn on_data(&mut self, len: usize) -> bool {
        self.bytes_in += len as u64;
        self.close == Close::Open
    }

    /// The peer ended its direction.
    pub fn on_eof(&mut self) -> Option<Event> {
        self.recv = Recv::Ended;
        (self.close == Close::Open).then_some(Event::PeerEnded)
    }

    /// Receiving ended without the peer ending it.
    pub fn on_recv_ended(&mut self, errno: Errno) -> Option<Event> {
        if errno == Errno::CANCELED {
            self.recv = Recv::Idle;
            return None;
        }
        self.recv = Recv::Ended;
        self.broken(errno)
    }

    /// The send operation is complete.
    pub fn on_sent(&mut self, bytes: u64) -> Option<Event> {
        self.in_flight = 0;
        self.bytes_out += bytes;
        let room = self.queued() as u64 <= u64::from(self.limits.low);
        if !self.above_high || !room {
            return None;
        }
        self.above_high = false;
        (self.close == Close::Open && self.end == End::Open).then_some(Event::Writable)
    }

    /// The send operation failed; an unknown part was sent.
    pub fn on_send_failed(&mut self, errno: Errno) -> Option<Event> {
        self.in_flight = 0;
        self.queue.clear();
        self.broken(errno)
    }

    fn broken(&mut self, errno: Errno) -> Option<Event> {
        match self.close {
            Close::Open => Some(Event::Broken(CloseReason::from_errno(errno))),
            Close::Graceful => {
                // Nobody to be graceful to.
                self.close = Close::Now(CloseHow::Rst);
                None
            }
            Close::Now(_) | Close::Done => None,
        }
    }

    /// The next thing to do to the socket.
    pub fn next_verb(&mut self) -> Option<Verb> {
        let ending = self.end != End::Open || self.close == Close::Graceful;
        match self.close {
            Close::Done => return None,
            Close::Now(how) => {
                self.close = Close::Done;
                return Some(Verb::Close(how));
            }
            Close::Graceful | Close::Open => {
                if ending && self.queued() == 0 && self.recv == Recv::Ended {
                    // Both directions have ended: there is nothing to wait for.
                    self.close = Close::Done;
                    return Some(Verb::Close(CloseHow::Fin));
                }
            }
        }
        if self.in_flight == 0 && self.queue.waiting() > 0 {
            let chunks = self.queue.take();
            let bytes: usize = chunks.iter().map(Bytes::len).sum();
            self.in_flight = u32::try_from(bytes).expect("an operation has a limit");
            return Some(Verb::Send(chunks));
        }
        if ending && self.end != End::Done && self.queued() == 0 {
            self.end = End::Done;
            return Some(Verb::ShutdownWrite);
        }
        // A closing stream reads on, to see the peer's end.
        let want = self.want_recv || self.close == Close::Graceful;
        match self.recv {
            Recv::Idle if want && self.metered => {
                self.recv = Recv::ArmedOnce;
                Some(Verb::RecvOnce)
            }
            Recv::Idle if want => {
                self.recv = Recv::Armed;
                Some(Verb::Recv)
            }
            Recv::Armed | Recv::ArmedOnce if !want => {
                self.recv = Recv::Cancelling;
                Some(Verb::CancelRecv)
            }
            Recv::Armed if self.metered => {
                self.recv = Recv::Cancelling;
                Some(Verb::CancelRecv)
            }
            _ => None,
        }
    }

    /// Bytes that the next send operation takes at the most; 0 if there is none now.
    #[must_use]
    pub fn ready_to_send(&self) -> usize {
        let sends = self.in_flight == 0 && matches!(self.close, Close::Open | Close::Graceful);
        if sends { self.queue.ready() } else { 0 }
    }

    /// Whether the peer ended its direction.
    #[must_use]
    pub fn peer_ended(&self) -> bool {
        self.recv == Recv::Ended
    }

    /// Bytes received.
    #[must_use]
    pub fn bytes_in(&self) -> u64 {
        self.bytes_in
    }

    /// Bytes the kernel has taken.
    #[must_use]
    pub fn bytes_out(&self) -> u64 {
        self.bytes_out
    }
}
