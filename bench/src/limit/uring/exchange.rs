//! The packets of a uTP connection's life, exchanged as bare datagrams: as many as Flock sends, of the
//! same sizes, in the same order, and nothing behind them.
//!
//! SYN, STATE, the client's frame, the server's frame, FIN, FIN, STATE; or RESET instead of the last
//! three. The first byte of a datagram says which of them it is, and that alone is what either side
//! acts on. Nothing is lost between 64 sockets of one host that have a few packets under way, and a
//! packet that were lost would be a unit missing.

use super::buffers::{Buffers, GROUP};
use super::{Key, Ring, Verb};
use crate::engine::{Drive, Serve, unexpected};
use crate::job::{self, FRAME_LEN, SERVER_FRAME};
use crate::limit::udp::{HEADER, socket};
use io_uring::types::RecvMsgOut;
use io_uring::{cqueue, opcode, types};
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;

const SYN: u8 = 0x41;
const STATE: u8 = 0x21;
const DATA: u8 = 0x01;
const FIN: u8 = 0x11;
const RESET: u8 = 0x31;

/// Bytes of a datagram with a frame.
const FULL: usize = HEADER + FRAME_LEN;
/// Receive buffers, and bytes of each: a message's own header, a source address and the datagram.
const BUFFERS: u16 = 2048;
const BUFFER: usize = 128;

const fn bare(kind: u8) -> [u8; HEADER] {
    let mut packet = [0; HEADER];
    packet[0] = kind;
    packet
}

static SYN_PACKET: [u8; HEADER] = bare(SYN);
static STATE_PACKET: [u8; HEADER] = bare(STATE);
static FIN_PACKET: [u8; HEADER] = bare(FIN);
static RESET_PACKET: [u8; HEADER] = bare(RESET);

fn full(frame: &[u8; FRAME_LEN]) -> [u8; FULL] {
    let mut packet = [0; FULL];
    packet[0] = DATA;
    packet[HEADER..].copy_from_slice(frame);
    packet
}

/// The server's three packets to one client, as the kernel wants to see them. The pointers are to
/// statics and to memory of the box they are in.
struct Answers {
    name: libc::sockaddr_in,
    pieces: [libc::iovec; 3],
    messages: [libc::msghdr; 3],
}

impl Answers {
    fn new(name: libc::sockaddr_in, packets: [&[u8]; 3]) -> Box<Self> {
        // SAFETY: plain data, for which zeroes are valid: null pointers of length zero.
        let nothing: libc::msghdr = unsafe { std::mem::zeroed() };
        let pieces = packets.map(|packet| libc::iovec {
            iov_base: packet.as_ptr().cast_mut().cast(),
            iov_len: packet.len(),
        });
        let mut answers = Box::new(Self {
            name,
            pieces,
            messages: [nothing; 3],
        });
        let it = &mut *answers;
        for (message, piece) in it.messages.iter_mut().zip(&mut it.pieces) {
            message.msg_name = (&raw mut it.name).cast();
            message.msg_namelen = NAME;
            message.msg_iov = piece;
            message.msg_iovlen = 1;
        }
        answers
    }
}

const NAME: u32 = 16;
const _: () = assert!(size_of::<libc::sockaddr_in>() == NAME as usize);

pub(super) fn serve(cx: &Arc<Serve>) -> io::Result<()> {
    let mut ring = Ring::new(1)?;
    let mut buffers = Buffers::register(&ring.ring, BUFFERS, BUFFER)?;
    let socket = socket(cx.bind())?;
    ring.ring
        .submitter()
        .register_files_update(0, &[socket.as_raw_fd()])?;
    cx.report(job::address(&socket)?);
    let greeting = full(&SERVER_FRAME);
    // SAFETY: as above.
    let mut template: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
    template.msg_namelen = NAME;
    let mut clients: HashMap<u64, Box<Answers>> = HashMap::new();
    let result = answer(
        cx,
        &mut ring,
        &mut buffers,
        &template,
        &mut clients,
        &greeting,
    );
    ring.quiesce()?;
    result
}

fn answer(
    cx: &Serve,
    ring: &mut Ring,
    buffers: &mut Buffers,
    template: &libc::msghdr,
    clients: &mut HashMap<u64, Box<Answers>>,
    greeting: &[u8; FULL],
) -> io::Result<()> {
    let mut out = Vec::new();
    let receive = |ring: &mut Ring| {
        let entry = opcode::RecvMsgMulti::new(types::Fixed(0), template, GROUP).build();
        ring.push(entry, key(Verb::Recv, 0))
    };
    receive(ring)?;
    while !cx.stopped() {
        ring.turn(&mut out)?;
        for entry in &out {
            let Verb::Recv = Key::unpack(entry.user_data()).verb else {
                return Err(io::Error::from_raw_os_error(-entry.result()));
            };
            if let (Ok(len), Some(id)) = (usize::try_from(entry.result()), buffer(entry)) {
                let bytes = buffers.bytes(id, len);
                let message = RecvMsgOut::parse(bytes, template);
                let message = message.map_err(|()| unexpected("no message"))?;
                let (name, packet) = (message.name_data(), message.payload_data());
                let address = name.first_chunk().map_or(0, |b| u64::from_ne_bytes(*b));
                let kind = packet.first().copied().unwrap_or(0);
                let which = match kind {
                    SYN => Some(0),
                    DATA => {
                        cx.count_frame(packet.get(HEADER..).unwrap_or(&[]));
                        Some(1)
                    }
                    FIN | RESET => {
                        cx.count_end();
                        (kind == FIN).then_some(2)
                    }
                    _ => None,
                };
                if let Some(which) = which {
                    let answers = clients.entry(address).or_insert_with(|| {
                        Answers::new(name_of(name), [&STATE_PACKET, greeting, &FIN_PACKET])
                    });
                    let message = &raw const answers.messages[which];
                    let entry = opcode::SendMsg::new(types::Fixed(0), message).build();
                    ring.push_quiet(entry, key(Verb::Send, 0))?;
                }
                buffers.give_back(id);
            }
            if !cqueue::more(entry.flags()) {
                receive(ring)?;
            }
        }
    }
    Ok(())
}

/// An IPv4 address as the kernel wrote it.
fn name_of(bytes: &[u8]) -> libc::sockaddr_in {
    let family = bytes.first_chunk();
    let port = bytes.get(2..4).and_then(|b| b.first_chunk());
    let ip = bytes.get(4..8).and_then(|b| b.first_chunk());
    libc::sockaddr_in {
        sin_family: family.map_or(0, |b| u16::from_ne_bytes(*b)),
        sin_port: port.map_or(0, |b| u16::from_ne_bytes(*b)),
        sin_addr: libc::in_addr {
            s_addr: ip.map_or(0, |b| u32::from_ne_bytes(*b)),
        },
        sin_zero: [0; 8],
    }
}

fn key(verb: Verb, slot: u32) -> Key {
    Key {
        verb,
        slot,
        life: 0,
    }
}

fn buffer(entry: &cqueue::Entry) -> Option<u16> {
    cqueue::buffer_select(entry.flags())
}

pub(super) fn drive(cx: &Arc<Drive>) -> io::Result<()> {
    let files = u32::try_from(cx.in_flight).map_err(io::Error::other)?;
    let ring = Ring::new(files)?;
    let buffers = Buffers::register(&ring.ring, BUFFERS, BUFFER)?;
    let mut sockets = Vec::with_capacity(cx.in_flight);
    for slot in 0..files {
        let socket = socket(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))?;
        socket.connect(&cx.connection().0.into())?;
        ring.ring
            .submitter()
            .register_files_update(slot, &[socket.as_raw_fd()])?;
        sockets.push(socket);
    }
    let mut client = Client {
        cx,
        ring,
        buffers,
        hellos: vec![[0; FULL]; cx.in_flight],
        open: 0,
    };
    let result = client.run(files);
    client.ring.quiesce()?;
    result
}

struct Client<'a> {
    cx: &'a Drive,
    ring: Ring,
    buffers: Buffers,
    /// Each socket's packet with its frame. It is written anew only when its answer is here.
    hellos: Vec<[u8; FULL]>,
    /// Connections whose last packet has not come or gone.
    open: usize,
}

impl Client<'_> {
    fn run(&mut self, sockets: u32) -> io::Result<()> {
        for slot in 0..sockets {
            self.receive(slot)?;
            self.dial(slot)?;
        }
        let mut out = Vec::new();
        while self.open > 0 {
            self.ring.turn(&mut out)?;
            for entry in &out {
                let Key { verb, slot, .. } = Key::unpack(entry.user_data());
                let (Verb::Recv, Ok(len)) = (verb, usize::try_from(entry.result())) else {
                    return Err(io::Error::from_raw_os_error(-entry.result()));
                };
                if let Some(id) = buffer(entry) {
                    self.on_packet(slot, id, len)?;
                    self.buffers.give_back(id);
                }
                if !cqueue::more(entry.flags()) {
                    self.receive(slot)?;
                }
            }
        }
        Ok(())
    }

    fn receive(&mut self, slot: u32) -> io::Result<()> {
        let entry = opcode::RecvMulti::new(types::Fixed(slot), GROUP).build();
        self.ring.push(entry, key(Verb::Recv, slot))
    }

    fn send(&mut self, slot: u32, packet: &'static [u8]) -> io::Result<()> {
        let len = u32::try_from(packet.len()).map_err(io::Error::other)?;
        let entry = opcode::Send::new(types::Fixed(slot), packet.as_ptr(), len).build();
        self.ring.push_quiet(entry, key(Verb::Send, slot))
    }

    /// Begins the next life, if there is one more to do.
    fn dial(&mut self, slot: u32) -> io::Result<()> {
        if !self.cx.next() {
            return Ok(());
        }
        self.hellos[slot as usize] = full(&self.cx.connection().1);
        self.open += 1;
        self.send(slot, &SYN_PACKET)
    }

    fn on_packet(&mut self, slot: u32, id: u16, len: usize) -> io::Result<()> {
        let packet = self.buffers.bytes(id, len);
        match packet.first() {
            Some(&STATE) => {
                let hello = &self.hellos[slot as usize];
                let len = u32::try_from(FULL).map_err(io::Error::other)?;
                let entry = opcode::Send::new(types::Fixed(slot), hello.as_ptr(), len).build();
                self.ring.push_quiet(entry, key(Verb::Send, slot))
            }
            Some(&DATA) => {
                if !job::is_server_frame(packet.get(HEADER..).unwrap_or(&[])) {
                    self.cx.count_error();
                }
                self.cx.count_done();
                let resets = self.cx.job.resets();
                self.open -= usize::from(resets);
                let last = if resets { &RESET_PACKET } else { &FIN_PACKET };
                self.send(slot, last)?;
                self.dial(slot)
            }
            Some(&FIN) => {
                self.open -= 1;
                self.send(slot, &STATE_PACKET)
            }
            _ => Err(unexpected("not a packet of the server's")),
        }
    }
}
