//! The client's side.

use super::{Key, Ring, Verb, length};
use crate::engine::Drive;
use crate::job::{self, FRAME_LEN, Frame, Job};
use crate::limit::sys;
use io_uring::{opcode, types};
use std::io;
use std::net::SocketAddr;
use std::ptr;
use std::sync::Arc;

static ON: i32 = 1;
static OFF: i32 = 0;

/// One connection after the other; the slot of its direct descriptor is its index.
struct Peer {
    life: u16,
    hello: Frame,
    addr: libc::sockaddr_in,
    buffer: Vec<u8>,
    greeted: bool,
    /// Bytes of the frame or of the response that have arrived.
    have: usize,
    /// Bytes of the request that the kernel has taken; counted in jobs without a response.
    sent: usize,
}

struct Client<'a> {
    cx: &'a Drive,
    qa0: bool,
    ring: Ring,
    /// Addresses of peers' fields are given to the kernel: never moved after the start.
    peers: Box<[Peer]>,
    open: usize,
}

pub(super) fn drive(cx: &Arc<Drive>, qa0: bool) -> io::Result<()> {
    let peers = (0..cx.in_flight)
        .map(|_| Peer {
            life: 0,
            hello: [0; FRAME_LEN],
            addr: address(SocketAddr::from(([0, 0, 0, 0], 0))),
            buffer: vec![0; cx.job.client_buffer()],
            greeted: false,
            have: 0,
            sent: 0,
        })
        .collect();
    let files = u32::try_from(cx.in_flight).map_err(io::Error::other)?;
    let mut client = Client {
        cx,
        qa0,
        ring: Ring::new(files)?,
        peers,
        open: 0,
    };
    let result = client.run(files);
    client.ring.quiesce()?;
    result
}

/// An IPv4 address as the kernel reads it.
fn address(addr: SocketAddr) -> libc::sockaddr_in {
    let ip = match addr {
        SocketAddr::V4(addr) => *addr.ip(),
        SocketAddr::V6(_) => std::net::Ipv4Addr::UNSPECIFIED,
    };
    libc::sockaddr_in {
        sin_family: libc::sa_family_t::try_from(libc::AF_INET).unwrap_or_default(),
        sin_port: addr.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes(ip.octets()),
        },
        sin_zero: [0; 8],
    }
}

impl Client<'_> {
    fn run(&mut self, slots: u32) -> io::Result<()> {
        for slot in 0..slots {
            self.begin(slot)?;
        }
        let mut out = Vec::new();
        while self.open > 0 {
            self.ring.turn(&mut out)?;
            for entry in &out {
                self.completed(Key::unpack(entry.user_data()), entry.result())?;
            }
        }
        Ok(())
    }

    fn key(&self, verb: Verb, slot: u32) -> Key {
        let life = self.peers[slot as usize].life;
        Key { verb, slot, life }
    }

    /// Begins the next connection in `slot`, if there is one more to do.
    fn begin(&mut self, slot: u32) -> io::Result<()> {
        if !self.cx.next() {
            return Ok(());
        }
        let peer = &mut self.peers[slot as usize];
        let (addr, hello) = self.cx.connection();
        peer.life = peer.life.wrapping_add(1);
        peer.addr = address(addr);
        peer.hello = hello;
        peer.greeted = false;
        peer.have = 0;
        peer.sent = 0;
        self.open += 1;
        let target = types::DestinationSlot::try_from_slot_target(slot)
            .map_err(|_| io::ErrorKind::InvalidInput)?;
        let entry = opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_TCP)
            .file_index(Some(target))
            .build();
        let key = self.key(Verb::Socket, slot);
        self.ring.push(entry, key)
    }

    fn completed(&mut self, key: Key, result: i32) -> io::Result<()> {
        let Some(peer) = self.peers.get(key.slot as usize) else {
            return Ok(());
        };
        if peer.life != key.life {
            return Ok(());
        }
        let moved = match (usize::try_from(result), key.verb) {
            (Ok(moved), _) => moved,
            // Shows again in the connect or the receive that follows.
            (Err(_), Verb::Close | Verb::Option) => return Ok(()),
            (Err(_), _) => return self.end(key.slot, false),
        };
        match key.verb {
            Verb::Socket => self.connect(key.slot),
            Verb::Connect => self.greet(key.slot),
            Verb::Recv if moved == 0 => self.end(key.slot, false),
            Verb::Recv => self.received(key.slot, moved),
            Verb::Send => self.sent(key.slot, moved),
            _ => Ok(()),
        }
    }

    /// Sets the options and connects. Entries are issued in order and options are set at once,
    /// so no link is needed between them.
    fn connect(&mut self, slot: u32) -> io::Result<()> {
        let on = ptr::from_ref(&ON).cast();
        self.option(slot, libc::IPPROTO_TCP, libc::TCP_NODELAY, on, 4)?;
        if self.cx.job.resets() {
            let abort = ptr::from_ref(&sys::ABORT).cast();
            self.option(slot, libc::SOL_SOCKET, libc::SO_LINGER, abort, 8)?;
        }
        if self.qa0 {
            let off = ptr::from_ref(&OFF).cast();
            self.option(slot, libc::IPPROTO_TCP, libc::TCP_QUICKACK, off, 4)?;
        }
        let addr = &raw const self.peers[slot as usize].addr;
        let len = length(size_of::<libc::sockaddr_in>());
        let entry = opcode::Connect::new(types::Fixed(slot), addr.cast(), len).build();
        let key = self.key(Verb::Connect, slot);
        self.ring.push(entry, key)
    }

    fn option(
        &mut self,
        slot: u32,
        level: i32,
        name: i32,
        value: *const libc::c_void,
        len: u32,
    ) -> io::Result<()> {
        let (level, name) = (level.cast_unsigned(), name.cast_unsigned());
        let entry = opcode::SetSockOpt::new(types::Fixed(slot), level, name, value, len).build();
        let key = self.key(Verb::Option, slot);
        self.ring.push_quiet(entry, key)
    }

    /// Sends our frame and receives the server's, submitted together.
    fn greet(&mut self, slot: u32) -> io::Result<()> {
        let hello = self.peers[slot as usize].hello.as_ptr();
        let entry = opcode::Send::new(types::Fixed(slot), hello, length(FRAME_LEN)).build();
        let key = self.key(Verb::Option, slot);
        self.ring.push_quiet(entry, key)?;
        self.receive(slot, FRAME_LEN)
    }

    fn receive(&mut self, slot: u32, want: usize) -> io::Result<()> {
        let buffer = &mut self.peers[slot as usize].buffer;
        let len = length(want.min(buffer.len()));
        let entry = opcode::Recv::new(types::Fixed(slot), buffer.as_mut_ptr(), len)
            .flags(libc::MSG_WAITALL)
            .build();
        let key = self.key(Verb::Recv, slot);
        self.ring.push(entry, key)
    }

    fn received(&mut self, slot: u32, len: usize) -> io::Result<()> {
        let peer = &mut self.peers[slot as usize];
        if !peer.greeted {
            if !job::is_server_frame(&peer.buffer[..len.min(FRAME_LEN)]) {
                return self.end(slot, false);
            }
            peer.greeted = true;
            if let Job::Life(_) = self.cx.job {
                self.cx.count_done();
                return self.end(slot, true);
            }
            return self.ask(slot);
        }
        peer.have += len;
        let left = self.cx.job.response() - peer.have;
        if left > 0 {
            return self.receive(slot, left);
        }
        self.finished(slot)
    }

    /// Sends a request and receives the first of its response.
    fn ask(&mut self, slot: u32) -> io::Result<()> {
        let peer = &mut self.peers[slot as usize];
        peer.have = 0;
        let rest = &self.cx.request[peer.sent..];
        let len = length(rest.len());
        let entry = opcode::Send::new(types::Fixed(slot), rest.as_ptr(), len)
            .flags(libc::MSG_WAITALL)
            .build();
        let response = self.cx.job.response();
        if response == 0 {
            let key = self.key(Verb::Send, slot);
            return self.ring.push(entry, key);
        }
        let key = self.key(Verb::Option, slot);
        self.ring.push_quiet(entry, key)?;
        self.receive(slot, response)
    }

    fn sent(&mut self, slot: u32, len: usize) -> io::Result<()> {
        let peer = &mut self.peers[slot as usize];
        peer.sent += len;
        if peer.sent < self.cx.request.len() {
            return self.ask(slot);
        }
        peer.sent = 0;
        self.finished(slot)
    }

    fn finished(&mut self, slot: u32) -> io::Result<()> {
        self.cx.count_done();
        if self.cx.next() {
            return self.ask(slot);
        }
        self.end(slot, true)
    }

    /// Closes the connection in `slot` and begins the next one there.
    fn end(&mut self, slot: u32, well: bool) -> io::Result<()> {
        if !well {
            self.cx.count_error();
        }
        let life = self.peers[slot as usize].life;
        self.ring.close(slot, life)?;
        self.open -= 1;
        if let Job::Life(_) = self.cx.job {
            return self.begin(slot);
        }
        // A connection of the other jobs lasts as long as the run.
        if well { Ok(()) } else { self.begin(slot) }
    }
}
