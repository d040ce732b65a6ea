//! The same over the kernel's TCP, whose own pacing holds each stream to the rate.

use super::{Course, Flowed, RATE, Reading};
use crate::engine::unexpected;
use crate::job::{self, BULK_WRITE, FRAME_LEN, Targets};
use crate::limit::sys::{self, Epoll};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// Bytes that a socket keeps unsent before it asks for more.
const UNSENT: i32 = 32 << 10;
/// Bytes of a segment as an Ethernet carries them; loopback would take 64 KiB.
const SEGMENT: i32 = 1460;
/// Events taken at once.
const EVENTS: usize = 512;

pub(super) fn send(targets: Targets, course: Course) -> io::Result<Flowed> {
    let epoll = Epoll::new()?;
    let mut flows = Vec::with_capacity(course.flows);
    for number in 0..course.flows as u64 {
        let flow = open(targets, number)?;
        epoll.add(&flow, libc::EPOLLOUT | libc::EPOLLET, number)?;
        flows.push(flow);
    }
    let chunk = job::payload(BULK_WRITE);
    let mut ready = Vec::with_capacity(EVENTS);
    let mut run_for = |flows: &mut [TcpStream], span: Duration| -> io::Result<()> {
        let end = Instant::now() + span;
        while Instant::now() < end {
            epoll.wait(&mut ready)?;
            for event in &ready {
                let index = usize::try_from(event.u64).unwrap_or(usize::MAX);
                if let Some(flow) = flows.get_mut(index) {
                    fill(flow, &chunk)?;
                }
            }
        }
        Ok(())
    };
    run_for(&mut flows, course.plan.warm_up)?;
    let before = reading(&flows)?;
    run_for(&mut flows, course.plan.window)?;
    let flowed = before.until(&reading(&flows)?);
    for flow in &flows {
        socket2::SockRef::from(flow).set_linger(Some(Duration::ZERO))?;
    }
    Ok(flowed)
}

/// A connection after its handshake, at the rate.
fn open(targets: Targets, number: u64) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    sys::set_option(
        socket.as_raw_fd(),
        libc::IPPROTO_TCP,
        libc::TCP_MAXSEG,
        SEGMENT,
    )?;
    socket.connect(&targets.nth(number).into())?;
    let mut stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.write_all(&job::client_frame(number))?;
    let mut frame = [0; FRAME_LEN];
    stream.read_exact(&mut frame)?;
    if !job::is_server_frame(&frame) {
        return Err(unexpected("not the server's frame"));
    }
    let fd = stream.as_raw_fd();
    let rate = i32::try_from(RATE).map_err(io::Error::other)?;
    sys::set_option(fd, libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE, rate)?;
    sys::set_option(fd, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, UNSENT)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

fn fill(mut flow: &TcpStream, chunk: &[u8]) -> io::Result<()> {
    loop {
        match flow.write(chunk) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn reading(flows: &[TcpStream]) -> io::Result<Reading> {
    let mut bytes = Vec::with_capacity(flows.len());
    let mut packets = 0;
    for flow in flows {
        let sent = sys::tcp_sent(flow)?;
        bytes.push(sent.acked);
        packets += u64::from(sent.segments);
    }
    Reading::now(bytes, packets, None)
}
