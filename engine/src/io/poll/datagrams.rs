//! Datagram sockets: receiving many a call, trains many a call.

use super::PollDriver;
use super::slots::Source;
use super::wait::poll_token;
use crate::io::sys::{self, Blocking, DatagramSocket, Inbox, Moment, Outbox};
use crate::io::{
    BoundDatagrams, DatagramOptions, LoanId, Outcome, QueueFull, SocketId, TRAINS_MAX, Token,
};
use flock_transport::{Errno, Train};
use mio::Interest;
use mio::net::UdpSocket;
use std::collections::VecDeque;
use std::io;
use std::net::{self, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

/// What a turn receives at the most where messages are long: half of a usual second-level cache.
const HOT_BYTES: usize = 512 * 1024;
/// Never fewer messages than this are asked for.
const ASKED_MIN: usize = 8;
/// Marks the loans of datagrams among those of streams.
const MARK: u32 = 1 << 31;
const INDEX_BITS: u32 = 20;
/// Empty trains kept for the next ones.
const SPARES: usize = 2 * TRAINS_MAX;

/// The datagram sockets of a driver, and the memory they share. Made with the first of them.
#[derive(Debug)]
pub(super) struct Datagrams {
    inbox: Inbox,
    outbox: Outbox,
    /// Messages of the inbox that hold this turn's datagrams.
    lent: usize,
    epoch: u32,
    /// Moving mean of the length of a message, in bytes.
    fill: usize,
    pub(super) sockets: Vec<Socket>,
    spares: Vec<Train>,
}

#[derive(Debug)]
pub(super) struct Socket {
    id: SocketId,
    local: SocketAddr,
    trains: VecDeque<Train>,
    /// The device cannot cut trains.
    split: bool,
}

impl Datagrams {
    fn new() -> Self {
        Self {
            inbox: Inbox::new(),
            outbox: Outbox::default(),
            lent: 0,
            epoch: 0,
            fill: 0,
            sockets: Vec::new(),
            spares: Vec::new(),
        }
    }

    /// Takes every loan back.
    pub(super) fn recycle(&mut self) {
        if self.lent > 0 {
            self.lent = 0;
            self.epoch = (self.epoch + 1) & (u32::MAX >> (INDEX_BITS + 1));
        }
    }

    fn name(&self, index: usize) -> LoanId {
        let index = u32::try_from(index).expect("an index of the inbox");
        LoanId(MARK | self.epoch << INDEX_BITS | index)
    }

    /// Whether the loan is one of datagrams.
    pub(super) fn has_lent(loan: LoanId) -> bool {
        loan.0 & MARK != 0
    }

    pub(super) fn bytes(&self, loan: LoanId) -> &[u8] {
        let index = loan.0 & ((1 << INDEX_BITS) - 1);
        assert_eq!(loan, self.name(index as usize), "a loan of an earlier turn");
        self.inbox.message(index as usize).payload
    }

    /// How many messages to ask for: fewer when they are long, so that they stay in the cache.
    fn wanted(&self) -> usize {
        let hot = (HOT_BYTES / self.fill.max(1)).clamp(ASKED_MIN, Inbox::MESSAGES);
        hot.saturating_sub(self.lent)
    }

    fn keep_spare(&mut self, mut train: Train) {
        if self.spares.len() < SPARES {
            train.reset(train.to());
            self.spares.push(train);
        }
    }

    /// Forgets a socket that is closed, with its trains.
    pub(super) fn forget(&mut self, id: SocketId) {
        self.sockets.retain(|socket| socket.id != id);
    }
}

impl PollDriver {
    pub(super) fn open_datagrams(
        &mut self,
        addr: SocketAddr,
        options: &DatagramOptions,
        token: Token,
    ) -> io::Result<BoundDatagrams> {
        if self.slots.full() {
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, QueueFull));
        }
        let made = sys::datagram_socket(addr, options, Blocking::No)?;
        self.watch_datagrams(made, token)
    }

    /// As `open_datagrams`, with a socket that somebody else made.
    pub(super) fn take_datagrams(
        &mut self,
        socket: OwnedFd,
        options: &DatagramOptions,
        token: Token,
    ) -> io::Result<BoundDatagrams> {
        let made = sys::adopt_datagrams(socket, options)?;
        self.watch_datagrams(made, token)
    }

    fn watch_datagrams(
        &mut self,
        made: DatagramSocket,
        token: Token,
    ) -> io::Result<BoundDatagrams> {
        let socket = UdpSocket::from_std(net::UdpSocket::from(made.fd));
        let Some(id) = self.slots.insert(Source::Datagrams(socket), token) else {
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, QueueFull));
        };
        let slot = self.slots.at_mut(id.slot);
        slot.writable = true;
        if let Source::Datagrams(socket) = &mut slot.source
            && let Err(error) =
                self.waiter
                    .registry()
                    .register(socket, poll_token(id), Interest::READABLE)
        {
            self.slots.remove(id.slot);
            return Err(error);
        }
        let datagrams = self.datagrams.get_or_insert_with(Datagrams::new);
        datagrams.sockets.push(Socket {
            id,
            local: made.addr,
            trains: VecDeque::new(),
            split: false,
        });
        Ok(BoundDatagrams {
            socket: id,
            addr: made.addr,
            reaches_v4: made.reaches_v4,
            recv_buffer: made.recv_buffer,
            send_buffer: made.send_buffer,
        })
    }

    pub(super) fn attach_steering(&mut self, id: SocketId, shards: u16) -> io::Result<()> {
        match self.slots.get_mut(id).map(|slot| &slot.source) {
            Some(Source::Datagrams(socket)) => sys::steer(socket.as_fd(), shards),
            _ => Err(io::Error::from_raw_os_error(libc::EBADF)),
        }
    }

    pub(super) fn queue_train(&mut self, id: SocketId, train: &mut Train) -> Result<(), QueueFull> {
        assert!(!train.is_empty(), "an empty train");
        if self.slots.get_mut(id).is_none() {
            train.reset(train.to());
            return Ok(());
        }
        let datagrams = self.datagrams.as_mut().expect("made with the first socket");
        let socket = datagrams.sockets.iter_mut().find(|socket| socket.id == id);
        let socket = socket.expect("trains leave by datagram sockets");
        if socket.trains.len() >= TRAINS_MAX {
            return Err(QueueFull);
        }
        self.counters.trains += 1;
        let empty = datagrams.spares.pop().unwrap_or_default();
        socket.trains.push_back(std::mem::replace(train, empty));
        Ok(())
    }

    /// Offers the kernel what trains there are on sockets with room.
    pub(super) fn send_trains(&mut self) {
        let Some(mut datagrams) = self.datagrams.take() else {
            return;
        };
        for at in 0..datagrams.sockets.len() {
            while self.send_some(&mut datagrams, at) {}
            let index = datagrams.sockets[at].id.slot;
            let slot = self.slots.at(index);
            if slot.watches_writable && slot.writable && self.watch_for_room(index, false).is_err()
            {
                self.counters.soft_errors += 1;
            }
        }
        self.datagrams = Some(datagrams);
    }

    /// Asks for writable edges, or for no more. They are wanted only while trains wait: the kernel
    /// tells of room whenever a datagram has left.
    fn watch_for_room(&mut self, index: u32, wanted: bool) -> io::Result<()> {
        let token = poll_token(self.slots.name(index));
        let slot = self.slots.at_mut(index);
        if slot.watches_writable == wanted {
            return Ok(());
        }
        let interest = match wanted {
            true => Interest::READABLE | Interest::WRITABLE,
            false => Interest::READABLE,
        };
        if let Source::Datagrams(socket) = &mut slot.source {
            self.waiter.registry().reregister(socket, token, interest)?;
        }
        slot.watches_writable = wanted;
        Ok(())
    }

    /// Sends the next trains of a socket; whether to go on.
    fn send_some(&mut self, datagrams: &mut Datagrams, at: usize) -> bool {
        let socket = &mut datagrams.sockets[at];
        let index = socket.id.slot;
        let slot = self.slots.at_mut(index);
        let Source::Datagrams(udp) = &slot.source else {
            return false;
        };
        let Some(first) = socket.trains.front() else {
            return false;
        };
        if !slot.writable {
            return false;
        }
        let fd = udp.as_fd();
        let result = if first.dont_fragment {
            sys::send_unfragmented(fd, socket.local, first).map(|()| 1)
        } else if socket.split {
            self.counters.trains_split += 1;
            sys::send_split(fd, socket.local, first).map(|()| 1)
        } else {
            let together = socket
                .trains
                .iter()
                .take_while(|train| !train.dont_fragment);
            datagrams.outbox.send(fd, socket.local, together)
        };
        let result = match result {
            Err(error) if sys::may_split(first, &error) && !socket.split => {
                socket.split = error.raw_os_error() == Some(libc::EIO);
                self.counters.trains_split += 1;
                sys::send_split(fd, socket.local, first).map(|()| 1)
            }
            other => other,
        };
        let (taken, errno) = match result {
            Ok(taken) => (taken, None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                slot.writable = false;
                match self.watch_for_room(index, true) {
                    Ok(()) => return false,
                    Err(error) => (1, Some(Errno::from_io(&error))),
                }
            }
            Err(error) => (1, Some(Errno::from_io(&error))),
        };
        for _ in 0..taken {
            let Some(train) = datagrams.sockets[at].trains.pop_front() else {
                break;
            };
            let tag = train.tag;
            datagrams.keep_spare(train);
            self.complete(
                index,
                match errno {
                    Some(errno) => Outcome::TrainRefused { tag, errno },
                    None => Outcome::TrainSent { tag },
                },
            );
        }
        true
    }

    /// Receives until the socket is drained, or the inbox or the batch is full.
    pub(super) fn receive_datagrams(&mut self, index: u32) {
        let Some(mut datagrams) = self.datagrams.take() else {
            return;
        };
        self.receive_into(&mut datagrams, index);
        self.datagrams = Some(datagrams);
    }

    fn receive_into(&mut self, datagrams: &mut Datagrams, index: u32) {
        loop {
            let room = self.config.batch.saturating_sub(self.done.len());
            let most = datagrams.wanted().min(room);
            let slot = self.slots.at_mut(index);
            let Source::Datagrams(udp) = &slot.source else {
                return;
            };
            if most == 0 {
                return;
            }
            let first = datagrams.lent;
            let received = match datagrams.inbox.receive(udp.as_fd(), first, most) {
                Ok(received) => received,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => continue,
                    Some(libc::EAGAIN) => {
                        slot.readable = false;
                        return;
                    }
                    Some(libc::EBADF | libc::ENOTSOCK | libc::EINVAL | libc::EFAULT) => {
                        slot.receiving = false;
                        let ended = Outcome::RecvEnded(Errno::from_io(&error));
                        return self.complete(index, ended);
                    }
                    // An error of a single datagram, which is told once.
                    _ => {
                        self.counters.datagrams_dropped += 1;
                        return;
                    }
                },
            };
            let moment = Moment::take(self.waiter.clock());
            for at in first..first + received {
                if self.tell(datagrams, index, at, moment) {
                    datagrams.lent = first + received;
                }
            }
            if received < most {
                // Drained: the next datagram is a new edge.
                self.slots.at_mut(index).readable = false;
                return;
            }
        }
    }

    /// Lends a message; whether there was anything in it.
    fn tell(&mut self, datagrams: &mut Datagrams, index: u32, at: usize, moment: Moment) -> bool {
        let message = datagrams.inbox.message(at);
        let length = u16::try_from(message.payload.len())
            .ok()
            .filter(|len| *len > 0);
        let Some((from, length)) = sys::source(message.name).zip(length) else {
            self.counters.datagrams_dropped += 1;
            return false;
        };
        let beside = sys::beside(message.control);
        datagrams.fill = (datagrams.fill * 7 + usize::from(length)) / 8;
        let outcome = Outcome::Datagrams {
            from,
            received_at: moment.of_stamp(beside.stamp),
            segment: beside.segment.unwrap_or(length).max(1),
            loan: datagrams.name(at),
        };
        self.complete(index, outcome);
        true
    }
}
