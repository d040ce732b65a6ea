//! Bulk: trains of full datagrams one way, a word of credit back for every sixteen of them.
//!
//! The credit keeps the sender from running over the receiver's buffer, so that nothing is lost
//! and both sides count the same; it is the only thing here that the job of raw datagrams would not
//! need.

use super::{DATAGRAM, HEADER, SEGMENT, socket};
use crate::engine::{Drive, Serve, add, unexpected};
use crate::job::{self, BULK_WRITE, FRAME_LEN};
use crate::limit::sys::{self, Epoll};
use socket2::Socket;
use std::collections::HashMap;
use std::io::{self, ErrorKind, IoSlice};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

/// Datagrams of a train: as many as a UDP packet before its cutting holds.
const TRAIN: usize = 44;
const TRAIN_PAYLOAD: usize = TRAIN * SEGMENT;
/// Trains that one word of credit is for, with one sender.
const CREDIT_EVERY: u64 = 16;
/// Trains of all senders that may wait for the receiver: half of what its buffer holds.
const WINDOW: u64 = 2 * CREDIT_EVERY;
/// How often a server looks whether it is to end.
const LOOK: Duration = Duration::from_millis(20);

/// What a datagram is, in the first byte of its header.
const GREETING: u8 = 0x41;
const DATA: u8 = 0x01;
const CREDIT: u8 = 0x21;
const END: u8 = 0x11;

/// A word of the server's: a header, whose number is all bytes received from this client.
fn credit(bytes: u64) -> [u8; HEADER] {
    let mut word = [0; HEADER];
    word[0] = CREDIT;
    word[HEADER - 8..].copy_from_slice(&bytes.to_le_bytes());
    word
}

/// One client, as the server knows it.
#[derive(Default)]
struct Sender {
    bytes: u64,
    trains: u64,
}

pub(super) fn serve(cx: &Arc<Serve>) -> io::Result<()> {
    let socket = socket(cx.bind())?;
    sys::set_option(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_GRO, 1)?;
    socket.set_read_timeout(Some(LOOK))?;
    let socket = UdpSocket::from(socket);
    cx.report(socket.local_addr()?);
    let mut senders: HashMap<SocketAddr, Sender> = HashMap::new();
    let mut every = CREDIT_EVERY;
    let mut buffer = vec![0; 1 << 16];
    while !cx.stopped() {
        let (len, from) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        let Some(&kind) = buffer[..len].first() else {
            continue;
        };
        match kind {
            GREETING => {
                cx.count_frame(&buffer[HEADER..len]);
                let mut answer = [0; HEADER + FRAME_LEN];
                answer[0] = GREETING;
                answer[HEADER..].copy_from_slice(&job::SERVER_FRAME);
                socket.send_to(&answer, from)?;
                senders.insert(from, Sender::default());
                every = (CREDIT_EVERY / senders.len() as u64).max(1);
            }
            DATA => {
                let payload = len - len.div_ceil(DATAGRAM) * HEADER;
                add(&cx.served.bytes, payload as u64);
                let Some(sender) = senders.get_mut(&from) else {
                    add(&cx.served.errors, 1);
                    continue;
                };
                sender.bytes += payload as u64;
                sender.trains += 1;
                if sender.trains % every == 0 {
                    socket.send_to(&credit(sender.bytes), from)?;
                }
            }
            END => {
                senders.remove(&from);
                cx.count_end();
            }
            _ => add(&cx.served.errors, 1),
        }
    }
    Ok(())
}

/// One client's socket.
struct Flow {
    socket: Socket,
    sent: u64,
    credited: u64,
}

impl Flow {
    /// Greets the server and waits for its answer.
    fn open(cx: &Drive) -> io::Result<Self> {
        let (to, frame) = cx.connection();
        let socket = socket(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))?;
        socket.connect(&to.into())?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut greeting = [0; HEADER + FRAME_LEN];
        greeting[0] = GREETING;
        greeting[HEADER..].copy_from_slice(&frame);
        socket.send(&greeting)?;
        let socket = UdpSocket::from(socket);
        let len = socket.recv(&mut greeting)?;
        if len != greeting.len() || !job::is_server_frame(&greeting[HEADER..]) {
            return Err(unexpected("not the server's frame"));
        }
        socket.set_nonblocking(true)?;
        let socket = Socket::from(socket);
        let segment = i32::try_from(DATAGRAM).map_err(io::Error::other)?;
        sys::set_option(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            segment,
        )?;
        Ok(Self {
            socket,
            sent: 0,
            credited: 0,
        })
    }

    /// Reads what credit there is.
    fn hear(&mut self) -> io::Result<()> {
        let mut word = [0; HEADER];
        loop {
            match io::Read::read(&mut &self.socket, &mut word) {
                Ok(HEADER) if word[0] == CREDIT => {
                    let bytes = word.last_chunk().map_or(0, |b| u64::from_le_bytes(*b));
                    self.credited = self.credited.max(bytes);
                }
                Ok(_) => return Err(unexpected("not a word of credit")),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends so many bytes of payload; false: the kernel has no room.
    fn send(&mut self, headers: &[[u8; HEADER]; TRAIN], payload: &[u8]) -> io::Result<bool> {
        let mut pieces = arrayvec::ArrayVec::<IoSlice<'_>, { 2 * TRAIN }>::new();
        for (header, segment) in headers.iter().zip(payload.chunks(SEGMENT)) {
            pieces.push(IoSlice::new(header));
            pieces.push(IoSlice::new(segment));
        }
        match self.socket.send_vectored(&pieces) {
            Ok(_) => {
                self.sent += payload.len() as u64;
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}

pub(super) fn drive(cx: &Arc<Drive>) -> io::Result<()> {
    let epoll = Epoll::new()?;
    let mut events = Vec::with_capacity(cx.in_flight);
    let mut flows = Vec::with_capacity(cx.in_flight);
    for index in 0..cx.in_flight {
        let flow = Flow::open(cx)?;
        let watched = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLET;
        epoll.add(&flow.socket, watched, index as u64)?;
        flows.push(flow);
    }
    let window = (WINDOW / cx.in_flight.max(1) as u64).max(1) * TRAIN_PAYLOAD as u64;
    let mut header = [0; HEADER];
    header[0] = DATA;
    let headers = [header; TRAIN];
    // Bytes of the units begun, which no train has taken yet.
    let mut owed = 0;
    loop {
        let mut idle = true;
        for flow in &mut flows {
            while owed < TRAIN_PAYLOAD && cx.next() {
                owed += BULK_WRITE;
                cx.count_done();
            }
            let payload = owed.min(TRAIN_PAYLOAD);
            if payload == 0 {
                return end(&flows);
            }
            if flow.sent + payload as u64 > flow.credited + window {
                flow.hear()?;
                continue;
            }
            if flow.send(&headers, &cx.request[..payload])? {
                owed -= payload;
                idle = false;
            }
        }
        if idle {
            epoll.wait(&mut events)?;
            for flow in &mut flows {
                flow.hear()?;
            }
        }
    }
}

fn end(flows: &[Flow]) -> io::Result<()> {
    let mut word = [0; HEADER];
    word[0] = END;
    for flow in flows {
        flow.socket.send(&word)?;
    }
    Ok(())
}
