//! Datagram sockets on the ring: multishot receives into buffers of their own, trains out.

use super::buffers::{self, Buffers};
use super::reap::{self, Report};
use super::slots::{Ops, State};
use super::{Ring, UringDriver};
use crate::io::sys::{
    self, Blocking, CONTROL_BYTES, DatagramSocket, Moment, NAME_BYTES, PAYLOAD_BYTES,
};
use crate::io::{
    BoundDatagrams, Completions, DatagramOptions, Outcome, QueueFull, SocketId, TRAINS_MAX, Token,
};
use flock_transport::{Errno, Train};
use io_uring::types::RecvMsgOut;
use io_uring::{opcode, squeue, types};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, RawFd};

/// What the kernel writes before the payload: its own header (`struct io_uring_recvmsg_out`), the
/// name and the control messages.
const PAYLOAD_AT: usize = 16 + NAME_BYTES + CONTROL_BYTES;
/// Bytes of a receive buffer.
const BUFFER_BYTES: usize = (PAYLOAD_AT + PAYLOAD_BYTES).next_multiple_of(1024);

/// The memory that the kernel receives datagrams with.
pub(super) struct Memory {
    buffers: Buffers,
    template: Box<Template>,
}

/// How much room names and control messages get.
struct Template(libc::msghdr);

// SAFETY: its pointers are null.
unsafe impl Send for Template {}

impl Memory {
    /// Makes the buffers known to the ring.
    fn register(ring: &Ring, entries: u16) -> io::Result<Self> {
        let size = u32::try_from(BUFFER_BYTES).expect("66 KiB");
        let buffers = Buffers::new(buffers::DATAGRAMS, entries, size)?;
        let (address, entries) = buffers.registration();
        // SAFETY: the driver frees the buffers after it has unregistered them, or never.
        unsafe { ring.register_buffers(address, entries, buffers::DATAGRAMS) }?;
        // SAFETY: a msghdr is plain old data and valid when zero.
        let mut template: libc::msghdr = unsafe { std::mem::zeroed() };
        template.msg_namelen = u32::try_from(NAME_BYTES).expect("28");
        template.msg_controllen = CONTROL_BYTES;
        Ok(Self {
            buffers,
            template: Box::new(Template(template)),
        })
    }

    pub(super) fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    pub(super) fn buffers_mut(&mut self) -> &mut Buffers {
        &mut self.buffers
    }

    pub(super) fn receive(&self, fd: RawFd) -> squeue::Entry {
        let template = &raw const self.template.0;
        opcode::RecvMsgMulti::new(types::Fd(fd), template, buffers::DATAGRAMS).build()
    }
}

/// The datagram sockets of a driver: a few, so a list.
#[derive(Default)]
pub(super) struct Bound {
    sockets: Vec<Socket>,
    /// Those whose receive found no buffer.
    pub(super) starved: Vec<SocketId>,
}

struct Socket {
    id: SocketId,
    local: SocketAddr,
    /// Trains the kernel has or will get.
    under_way: usize,
    /// The device cannot cut trains.
    split: bool,
}

impl Bound {
    fn find(&mut self, id: SocketId) -> Option<&mut Socket> {
        self.sockets.iter_mut().find(|socket| socket.id == id)
    }

    /// Forgets a socket that is closed.
    pub(super) fn forget(&mut self, id: SocketId) {
        self.sockets.retain(|socket| socket.id != id);
    }
}

impl UringDriver {
    pub(super) fn open_datagrams(
        &mut self,
        addr: SocketAddr,
        options: &DatagramOptions,
        token: Token,
    ) -> io::Result<BoundDatagrams> {
        self.prepare_datagrams()?;
        let made = sys::datagram_socket(addr, options, Blocking::Yes)?;
        self.own_datagrams(made, token)
    }

    /// Makes what the first datagram socket needs.
    pub(super) fn prepare_datagrams(&mut self) -> io::Result<()> {
        if self.down {
            return Err(io::Error::from_raw_os_error(libc::ESHUTDOWN));
        }
        if self.memory.is_none() {
            *self.memory = Some(Memory::register(&self.ring, self.datagram_buffers)?);
        }
        Ok(())
    }

    pub(super) fn own_datagrams(
        &mut self,
        made: DatagramSocket,
        token: Token,
    ) -> io::Result<BoundDatagrams> {
        let socket = self.own_socket(made.fd, token, State::Datagrams)?;
        self.bound.sockets.push(Socket {
            id: socket,
            local: made.addr,
            under_way: 0,
            split: false,
        });
        Ok(BoundDatagrams {
            socket,
            addr: made.addr,
            reaches_v4: made.reaches_v4,
            recv_buffer: made.recv_buffer,
            send_buffer: made.send_buffer,
        })
    }

    pub(super) fn attach_steering(&mut self, id: SocketId, shards: u16) -> io::Result<()> {
        let Some(slot) = self.slots.live(id) else {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        };
        // SAFETY: the slot owns the descriptor, which is open.
        let fd = unsafe { BorrowedFd::borrow_raw(slot.fd) };
        sys::steer(fd, shards)
    }

    pub(super) fn queue_train(&mut self, id: SocketId, train: &mut Train) -> Result<(), QueueFull> {
        let Some(slot) = self.slots.live(id) else {
            train.reset(train.to());
            return Ok(());
        };
        assert_eq!(
            slot.state,
            State::Datagrams,
            "trains leave by datagram sockets"
        );
        assert!(!train.is_empty(), "an empty train");
        let fd = slot.fd;
        let socket = self.bound.find(id).expect("bound with its slot");
        if socket.under_way >= TRAINS_MAX {
            return Err(QueueFull);
        }
        self.counters.trains += 1;
        let (local, tag) = (socket.local, train.tag);
        if train.dont_fragment || socket.split {
            let sent = self.send_now(fd, local, train);
            train.reset(train.to());
            self.later(id, told(tag, sent));
            return Ok(());
        }
        socket.under_way += 1;
        slot.held.add(Ops::TRAIN);
        let cargo = self.cargo.load_train(id, local, train);
        self.push_train(cargo, fd);
        Ok(())
    }

    fn push_train(&mut self, cargo: u32, fd: RawFd) {
        let entry = self.cargo.train(cargo).entry(fd);
        self.in_flight += 1;
        // SAFETY: the cargo stays loaded and in place until the completion, and the slot keeps the
        // descriptor open until no train is held.
        unsafe { self.push(entry, reap::train_tag(cargo)) };
    }

    /// Sends a train outside the ring.
    fn send_now(&mut self, fd: RawFd, local: SocketAddr, train: &Train) -> io::Result<()> {
        // SAFETY: the slot that the number comes from owns the descriptor, which is open.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        if train.dont_fragment {
            return sys::send_unfragmented(fd, local, train);
        }
        self.counters.trains_split += 1;
        sys::send_split(fd, local, train)
    }

    /// The kernel is done with a train.
    pub(super) fn on_train(&mut self, cargo: u32, result: i32, out: &mut Completions) {
        self.in_flight -= 1;
        let loaded = self.cargo.train(cargo);
        let (id, tag) = (loaded.socket, loaded.train.tag);
        let slot = self.slots.find(id).expect("kept while a train is held");
        let (fd, open) = (slot.fd, slot.state == State::Datagrams);
        let socket = self.bound.find(id).expect("kept as long as its slot");
        let error = (result < 0).then(|| io::Error::from_raw_os_error(-result));
        let again = matches!(-result, libc::EAGAIN | libc::EINTR);
        if open && again {
            return self.push_train(cargo, fd);
        }
        socket.under_way -= 1;
        if socket.under_way == 0 {
            slot.held.remove(Ops::TRAIN);
        }
        let sent = match error {
            Some(error) if open && sys::may_split(&loaded.train, &error) => {
                socket.split |= error.raw_os_error() == Some(libc::EIO);
                self.split(cargo, fd)
            }
            Some(error) => Err(error),
            None => Ok(()),
        };
        self.cargo.unload_train(cargo);
        if open {
            self.push_out(id, told(tag, sent), out);
        } else {
            self.counters.stale_completions += 1;
            self.finish_close(id);
        }
    }

    fn split(&mut self, cargo: u32, fd: RawFd) -> io::Result<()> {
        self.counters.trains_split += 1;
        let loaded = self.cargo.train(cargo);
        let local = self.bound.find(loaded.socket).expect("bound").local;
        // SAFETY: the slot owns the descriptor, which is open.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        sys::send_split(fd, local, &loaded.train)
    }

    pub(super) fn on_recvmsg(&mut self, report: &Report, out: &mut Completions) {
        const CANCELED: Outcome = Outcome::RecvEnded(reap::CANCELED);
        if let Some(buffer) = report.buffer {
            self.lend_datagrams(report, buffer, out);
        }
        if report.more {
            return;
        }
        let errno = report.errno();
        match errno.0 {
            // The kernel ends a receive now and then, and always with an empty datagram.
            ..=0 | libc::EAGAIN | libc::EINTR => self.go_on(report, CANCELED),
            libc::ENOBUFS => {
                if self.is_cancelled(report) {
                    self.go_on(report, CANCELED);
                } else {
                    self.counters.receives_parked += 1;
                    self.bound.starved.push(report.id);
                }
            }
            libc::ECANCELED | libc::EBADF | libc::ENOTSOCK | libc::EINVAL | libc::EFAULT => {
                self.end(report, Outcome::RecvEnded(errno), out);
            }
            _ => {
                self.counters.datagrams_dropped += 1;
                self.go_on(report, CANCELED);
            }
        }
    }

    fn lend_datagrams(&mut self, report: &Report, buffer: u16, out: &mut Completions) {
        let memory = self.memory.as_mut().expect("made with the first socket");
        let length = u32::try_from(report.result).unwrap_or(0);
        let filled = memory.buffers.filled(buffer, length);
        let message = RecvMsgOut::parse(filled, &memory.template.0).ok();
        let heard = message.filter(|m| !m.is_payload_truncated() && !m.payload_data().is_empty());
        let Some((from, beside, length)) = heard.and_then(|message| {
            let length = u16::try_from(message.payload_data().len()).ok()?;
            let beside = sys::beside(message.control_data());
            Some((sys::source(message.name_data())?, beside, length))
        }) else {
            self.counters.datagrams_dropped += 1;
            memory.buffers.give_back(buffer);
            return;
        };
        let start = u32::try_from(PAYLOAD_AT).expect("108");
        let loan = memory.buffers.lend(buffer, start, length.into());
        let clock = &self.clock;
        let moment = self.moment.get_or_insert_with(|| Moment::take(clock));
        let outcome = Outcome::Datagrams {
            from,
            received_at: moment.of_stamp(beside.stamp),
            segment: beside.segment.unwrap_or(length).max(1),
            loan,
        };
        self.push_out(report.id, outcome, out);
    }

    /// Receives again where buffers lacked: those of the turn before are back.
    pub(super) fn resume_datagrams(&mut self) {
        while let Some(id) = self.bound.starved.pop() {
            self.resume_one(id, Ops::RECVMSG);
        }
    }
}

fn told(tag: u64, sent: io::Result<()>) -> Outcome {
    match sent {
        Ok(()) => Outcome::TrainSent { tag },
        Err(error) => Outcome::TrainRefused {
            tag,
            errno: Errno::from_io(&error),
        },
    }
}
