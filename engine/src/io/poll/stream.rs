//! Receiving and sending.

use super::slots::Source;
use super::wait::poll_token;
use super::{CANCELED, PollDriver};
use crate::io::Outcome;
use flock_transport::Errno;
use mio::Interest;
use mio::net::TcpStream;
use socket2::SockRef;
use std::io::{self, ErrorKind, IoSlice, Read};

/// What one stream may receive in one turn, so that a fast one does not hold up the others.
const READS: usize = 32;
const BYTES: usize = 256 * 1024;

impl PollDriver {
    /// Receives until the stream is drained, its budget or the batch is used up, or buffers lack.
    pub(super) fn receive_some(&mut self, index: u32) {
        let mut budget = BYTES;
        for _ in 0..READS {
            if self.full() || budget == 0 {
                return;
            }
            let slot = self.slots.at_mut(index);
            let Some(space) = self.loans.space() else {
                slot.parked = true;
                self.starved.push_back(index);
                self.counters.receives_parked += 1;
                return;
            };
            let Source::Stream(stream) = &slot.source else {
                return;
            };
            let offered = space.len();
            let outcome = match (&mut &*stream).read(space) {
                Ok(0) => {
                    slot.receiving = false;
                    Outcome::Eof
                }
                Ok(len) => {
                    // A short read drained the stream: the next byte is a new edge (epoll(7),
                    // question 9). Not so if an end is behind it, whose edge has been.
                    slot.readable = len == offered || slot.hung_up;
                    budget = budget.saturating_sub(len);
                    Outcome::Data(self.loans.lend(len))
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    slot.readable = false;
                    return;
                }
                Err(error) => {
                    slot.receiving = false;
                    Outcome::RecvEnded(Errno::from_io(&error))
                }
            };
            let ends = slot.receiving && slot.once;
            slot.receiving &= !ends;
            let go_on = slot.receiving && slot.readable;
            self.complete(index, outcome);
            if ends {
                self.complete(index, Outcome::RecvEnded(CANCELED));
            }
            if !go_on {
                return;
            }
        }
    }

    /// Hands the kernel what it takes of the send in progress.
    pub(super) fn send_more(&mut self, index: u32) {
        let slot = self.slots.at_mut(index);
        let (Some(send), Source::Stream(stream)) = (slot.send, &slot.source) else {
            return;
        };
        let sending = self.sends.get_mut(send);
        let slices = sending.slices();
        let result = offer(stream, &slices);
        drop(slices);
        let outcome = match result {
            Ok(taken) if sending.advance(taken) => Outcome::Sent {
                bytes: sending.sent,
            },
            Err(error) if error.kind() != ErrorKind::WouldBlock => {
                Outcome::SendFailed(Errno::from_io(&error))
            }
            _ => match self.wait_for_room(index, send) {
                Ok(()) => return,
                Err(error) => Outcome::SendFailed(Errno::from_io(&error)),
            },
        };
        self.drop_send(index);
        self.complete(index, outcome);
    }

    /// Continues a send at the next writable edge. A call that took less than all filled the
    /// buffer, so there will be one (epoll(7), question 9).
    fn wait_for_room(&mut self, index: u32, send: u32) -> io::Result<()> {
        let sending = self.sends.get_mut(send);
        if !sending.short {
            sending.short = true;
            self.counters.short_sends += 1;
        }
        self.slots.at_mut(index).writable = false;
        self.watch_writable(index)
    }

    /// Asks for writable edges. Accepted streams start without, because most never fill their
    /// buffer and a fresh socket would report itself writable at once.
    fn watch_writable(&mut self, index: u32) -> io::Result<()> {
        let token = poll_token(self.slots.name(index));
        let slot = self.slots.at_mut(index);
        if slot.watches_writable {
            return Ok(());
        }
        let Source::Stream(stream) = &mut slot.source else {
            return Ok(());
        };
        let both = Interest::READABLE | Interest::WRITABLE;
        self.waiter.registry().reregister(stream, token, both)?;
        slot.watches_writable = true;
        Ok(())
    }
}

/// One call for what `slices` hold; `send` is cheaper than `sendmsg` where it will do.
fn offer(stream: &TcpStream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    let socket = SockRef::from(stream);
    loop {
        let result = match slices {
            [one] => socket.send_with_flags(one, libc::MSG_NOSIGNAL),
            all => socket.send_vectored_with_flags(all, libc::MSG_NOSIGNAL),
        };
        match result {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
