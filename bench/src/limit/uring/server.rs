//! The server's side.

use super::buffers::{Buffers, GROUP};
use super::{Key, Ring, Verb, length};
use crate::engine::{Serve, add};
use crate::job::{FRAME_LEN, Frame, Job, SERVER_FRAME};
use io_uring::{cqueue, opcode, types};
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::Arc;

/// Direct descriptors, hence connections at a time.
const FILES: u32 = 16 * 1024;

/// One accepted connection; the slot of its direct descriptor is its index.
struct Session {
    life: u16,
    open: bool,
    frame: Frame,
    have: usize,
    /// Received buffers to be sent back: which, and from where to where.
    echoes: VecDeque<(u16, Range<usize>)>,
    /// Blobs still to be sent.
    blobs: usize,
    /// Bytes of the current echo or blob that the kernel has taken.
    sent: usize,
    sending: bool,
}

struct Server<'a> {
    cx: &'a Serve,
    ring: Ring,
    buffers: Buffers,
    sessions: Vec<Session>,
    /// Slots whose receive ended for want of buffers.
    starved: Vec<(u32, u16)>,
    listener: types::Fd,
}

pub(super) fn serve(cx: &Arc<Serve>) -> io::Result<()> {
    let ring = Ring::new(FILES)?;
    let size = cx.job.server_buffer();
    let count = if size > 4096 { 512 } else { 4096 };
    let buffers = Buffers::register(&ring.ring, count, size)?;
    let listener = cx.listen()?;
    let mut server = Server {
        cx,
        ring,
        buffers,
        sessions: Vec::new(),
        starved: Vec::new(),
        listener: types::Fd(listener.as_raw_fd()),
    };
    let result = server.run();
    server.ring.quiesce()?;
    result
}

impl Server<'_> {
    fn run(&mut self) -> io::Result<()> {
        self.accept()?;
        let mut out = Vec::new();
        while !self.cx.stopped() {
            self.ring.turn(&mut out)?;
            for entry in &out {
                self.completed(entry)?;
            }
            for (slot, life) in std::mem::take(&mut self.starved) {
                self.receive(slot, life)?;
            }
        }
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        let entry = opcode::AcceptMulti::new(self.listener)
            .allocate_file_index(true)
            .build();
        let key = Key {
            verb: Verb::Accept,
            slot: 0,
            life: 0,
        };
        self.ring.push(entry, key)
    }

    fn receive(&mut self, slot: u32, life: u16) -> io::Result<()> {
        let entry = opcode::RecvMulti::new(types::Fixed(slot), GROUP).build();
        let verb = Verb::Recv;
        self.ring.push(entry, Key { verb, slot, life })
    }

    fn completed(&mut self, entry: &cqueue::Entry) -> io::Result<()> {
        let key = Key::unpack(entry.user_data());
        match key.verb {
            Verb::Accept => {
                if let Ok(slot) = u32::try_from(entry.result()) {
                    self.accepted(slot)?;
                }
                if !cqueue::more(entry.flags()) {
                    self.accept()?;
                }
                Ok(())
            }
            Verb::Recv => self.received(key, entry),
            Verb::Send => self.sent(key, entry.result()),
            _ => Ok(()),
        }
    }

    fn accepted(&mut self, slot: u32) -> io::Result<()> {
        let index = slot as usize;
        while self.sessions.len() <= index {
            self.sessions.push(Session {
                life: 0,
                open: false,
                frame: [0; FRAME_LEN],
                have: 0,
                echoes: VecDeque::new(),
                blobs: 0,
                sent: 0,
                sending: false,
            });
        }
        let session = &mut self.sessions[index];
        session.life = session.life.wrapping_add(1);
        session.open = true;
        session.have = 0;
        session.blobs = 0;
        session.sent = 0;
        session.sending = false;
        let life = session.life;
        let entry = opcode::Send::new(types::Fixed(slot), SERVER_FRAME.as_ptr(), length(FRAME_LEN));
        let verb = Verb::Option;
        self.ring
            .push_quiet(entry.build(), Key { verb, slot, life })?;
        self.receive(slot, life)
    }

    fn received(&mut self, key: Key, entry: &cqueue::Entry) -> io::Result<()> {
        let buffer = cqueue::buffer_select(entry.flags());
        let Some(session) = self.sessions.get_mut(key.slot as usize) else {
            return Ok(());
        };
        let current = session.open && session.life == key.life;
        match (usize::try_from(entry.result()), buffer) {
            (Ok(len), Some(id)) if len > 0 => {
                let keep = current && session.take(self.cx, id, self.buffers.bytes(id, len));
                if !keep {
                    self.buffers.give_back(id);
                }
                if current {
                    self.send(key)?;
                    if !cqueue::more(entry.flags()) {
                        self.receive(key.slot, key.life)?;
                    }
                }
            }
            _ => {
                if let Some(id) = buffer {
                    self.buffers.give_back(id);
                }
                if current && entry.result() == -libc::ENOBUFS {
                    self.starved.push((key.slot, key.life));
                } else if current {
                    self.end(key)?;
                }
            }
        }
        Ok(())
    }

    /// Closes a connection whose peer has ended it.
    fn end(&mut self, key: Key) -> io::Result<()> {
        let session = &mut self.sessions[key.slot as usize];
        session.open = false;
        session.blobs = 0;
        if !session.sending {
            for (id, _) in session.echoes.drain(..) {
                self.buffers.give_back(id);
            }
        }
        self.cx.count_end();
        self.ring.close(key.slot, key.life)
    }

    /// Sends what is due next, unless a send is under way.
    fn send(&mut self, key: Key) -> io::Result<()> {
        let session = &mut self.sessions[key.slot as usize];
        if session.sending {
            return Ok(());
        }
        let source = if let Some((id, part)) = session.echoes.front() {
            &self.buffers.bytes(*id, part.end)[part.start..]
        } else if session.blobs > 0 {
            &self.cx.blob[..]
        } else {
            return Ok(());
        };
        let rest = &source[session.sent..];
        let len = length(rest.len());
        let entry = opcode::Send::new(types::Fixed(key.slot), rest.as_ptr(), len)
            .flags(libc::MSG_WAITALL)
            .build();
        session.sending = true;
        let (slot, life) = (key.slot, key.life);
        let verb = Verb::Send;
        self.ring.push(entry, Key { verb, slot, life })
    }

    fn sent(&mut self, key: Key, result: i32) -> io::Result<()> {
        let session = &mut self.sessions[key.slot as usize];
        if session.life != key.life {
            return Ok(());
        }
        session.sending = false;
        let Ok(len) = usize::try_from(result) else {
            // The connection is broken; the receive says so too.
            session.blobs = 0;
            for (id, _) in session.echoes.drain(..) {
                self.buffers.give_back(id);
            }
            return Ok(());
        };
        session.sent += len;
        if let Some((id, part)) = session.echoes.front() {
            if session.sent == part.len() {
                session.sent = 0;
                self.buffers.give_back(*id);
                session.echoes.pop_front();
            }
        } else if session.sent == self.cx.blob.len() {
            session.sent = 0;
            session.blobs = session.blobs.saturating_sub(1);
        }
        if session.open {
            return self.send(key);
        }
        for (id, _) in session.echoes.drain(..) {
            self.buffers.give_back(id);
        }
        Ok(())
    }
}

impl Session {
    /// Takes what arrived in buffer `id`; whether the buffer is kept to be sent back.
    fn take(&mut self, cx: &Serve, id: u16, data: &[u8]) -> bool {
        let mut start = 0;
        if self.have < FRAME_LEN {
            start = data.len().min(FRAME_LEN - self.have);
            self.frame[self.have..self.have + start].copy_from_slice(&data[..start]);
            self.have += start;
            if self.have == FRAME_LEN {
                cx.count_frame(&self.frame);
            }
        }
        let len = data.len() - start;
        if len == 0 {
            return false;
        }
        add(&cx.served.bytes, len as u64);
        match cx.job {
            Job::Echo(_) => {
                self.echoes.push_back((id, start..data.len()));
                true
            }
            Job::Blob(_) => {
                self.blobs += len;
                false
            }
            Job::Life(_) | Job::Bulk => false,
        }
    }
}
