//! The client's side.

use super::{EVENTS, Style, events};
use crate::engine::{Drive, unexpected};
use crate::job::{self, FRAME_LEN, Frame, Job};
use crate::limit::sys::{self, Epoll};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::Arc;

struct Peer {
    stream: TcpStream,
    hello: Frame,
    phase: Phase,
}

#[derive(Clone, Copy)]
enum Phase {
    Connecting,
    /// So many bytes of the server's frame have arrived.
    Greeting(usize, Frame),
    /// So many bytes of the request are sent, and so many of the response have arrived.
    Working(usize, usize),
}

pub(super) fn drive(cx: &Arc<Drive>, style: Style) -> io::Result<()> {
    let epoll = Epoll::new()?;
    let mut peers: Vec<Option<Peer>> = (0..cx.in_flight).map(|_| None).collect();
    let mut open = 0;
    for (index, peer) in peers.iter_mut().enumerate() {
        *peer = dial(cx, &epoll, index, style)?;
        open += usize::from(peer.is_some());
    }
    let mut buffer = vec![0; cx.job.client_buffer()];
    let mut ready = Vec::with_capacity(EVENTS);
    while open > 0 {
        epoll.wait(&mut ready)?;
        for event in &ready {
            let index = usize::try_from(event.u64).unwrap_or(usize::MAX);
            let Some(peer) = peers[index].as_mut() else {
                continue;
            };
            match peer.ready(cx, &mut buffer, events(event)) {
                Ok(true) => continue,
                Ok(false) => {}
                Err(_) => cx.count_error(),
            }
            peers[index] = None;
            peers[index] = dial(cx, &epoll, index, style)?;
            open -= usize::from(peers[index].is_none());
        }
    }
    Ok(())
}

/// Begins the next connection, or returns `None` when the run is over.
fn dial(cx: &Drive, epoll: &Epoll, index: usize, style: Style) -> io::Result<Option<Peer>> {
    if !cx.next() {
        return Ok(None);
    }
    let (addr, hello) = cx.connection();
    let socket = Socket::new(
        Domain::IPV4,
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    sys::client_options(socket.as_raw_fd(), cx.job)?;
    match style {
        Style::Plain => {}
        Style::LazyAck => socket.set_tcp_quickack(false)?,
        Style::Cubic => socket.set_tcp_congestion(b"cubic")?,
    }
    match socket.connect(&addr.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    let interest = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
    epoll.add(&socket, interest, index as u64)?;
    Ok(Some(Peer {
        stream: socket.into(),
        hello,
        phase: Phase::Connecting,
    }))
}

impl Peer {
    /// Goes on as far as it can; `false` when the connection has done its work.
    fn ready(&mut self, cx: &Drive, buffer: &mut [u8], events: i32) -> io::Result<bool> {
        if events & libc::EPOLLERR != 0 {
            return Err(unexpected("the connection broke"));
        }
        loop {
            let went_on = match self.phase {
                Phase::Connecting => {
                    self.stream.write_all(&self.hello)?;
                    self.phase = Phase::Greeting(0, [0; FRAME_LEN]);
                    // An answer that is not here yet comes with its own event.
                    events & libc::EPOLLIN != 0
                }
                Phase::Greeting(have, frame) => self.greeting(have, frame)?,
                Phase::Working(sent, have) => self.working(cx, buffer, sent, have)?,
            };
            if !went_on {
                return Ok(true);
            }
            if let (Phase::Working(0, 0), Job::Life(_)) = (self.phase, cx.job) {
                cx.count_done();
                return Ok(false);
            }
            if let Phase::Working(sent, have) = self.phase
                && sent == cx.job.request()
                && have == cx.job.response()
            {
                cx.count_done();
                self.phase = Phase::Working(0, 0);
                if !cx.next() {
                    return Ok(false);
                }
            }
        }
    }

    /// Reads more of the server's frame; `false` when it must wait.
    fn greeting(&mut self, have: usize, mut frame: Frame) -> io::Result<bool> {
        match self.stream.read(&mut frame[have..]) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(len) if have + len < FRAME_LEN => {
                self.phase = Phase::Greeting(have + len, frame);
                Ok(true)
            }
            Ok(_) if job::is_server_frame(&frame) => {
                self.phase = Phase::Working(0, 0);
                Ok(true)
            }
            Ok(_) => Err(unexpected("not the server's frame")),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends more of the request, or reads more of the response; `false` when it must wait.
    fn working(
        &mut self,
        cx: &Drive,
        buffer: &mut [u8],
        sent: usize,
        have: usize,
    ) -> io::Result<bool> {
        let moved = if sent < cx.request.len() {
            self.stream.write(&cx.request[sent..]).map(|len| (len, 0))
        } else {
            self.stream.read(buffer).map(|len| (0, len))
        };
        match moved {
            Ok((0, 0)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok((wrote, read)) => {
                self.phase = Phase::Working(sent + wrote, have + read);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}
