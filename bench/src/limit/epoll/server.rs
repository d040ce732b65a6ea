//! The server's side.

use super::{ENDED, EVENTS, events};
use crate::engine::{Serve, add};
use crate::job::{self, FRAME_LEN, Frame, Job};
use crate::limit::sys::{self, Epoll};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;

const LISTENER: u64 = u64::MAX;

/// One accepted connection.
struct Session {
    stream: TcpStream,
    frame: Frame,
    have: usize,
    /// What to send before more is read: bytes of the echo, or of the blob and how many more.
    out: Vec<u8>,
    sent: usize,
    blobs: usize,
}

pub(super) fn serve(cx: &Arc<Serve>) -> io::Result<()> {
    let epoll = Epoll::new()?;
    let listener = cx.listen()?;
    epoll.add(&listener, libc::EPOLLIN, LISTENER)?;
    let mut sessions: Vec<Option<Session>> = Vec::new();
    let mut buffer = vec![0; cx.job.server_buffer()];
    let mut ready = Vec::with_capacity(EVENTS);
    loop {
        epoll.wait(&mut ready)?;
        for event in &ready {
            if event.u64 == LISTENER {
                accept_all(cx, &epoll, &listener, &mut sessions)?;
                if cx.stopped() {
                    return Ok(());
                }
                continue;
            }
            let index = usize::try_from(event.u64).unwrap_or(usize::MAX);
            let Some(slot) = sessions.get_mut(index) else {
                continue;
            };
            let Some(session) = slot.as_mut() else {
                continue;
            };
            let ended = events(event) & ENDED != 0;
            if !matches!(session.ready(cx, &mut buffer, ended), Ok(true)) {
                *slot = None;
                cx.count_end();
            }
        }
    }
}

fn accept_all(
    cx: &Serve,
    epoll: &Epoll,
    listener: &TcpListener,
    sessions: &mut Vec<Option<Session>>,
) -> io::Result<()> {
    let mut interest = libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLET;
    if matches!(cx.job, Job::Echo(_) | Job::Blob(_)) {
        interest |= libc::EPOLLOUT;
    }
    while let Some(fd) = sys::accept(listener)? {
        let index = usize::try_from(fd.as_raw_fd()).unwrap_or(0);
        let mut stream = TcpStream::from(fd);
        // An empty send buffer takes a frame whole; a reset before that shows in the first read.
        let _ = stream.write(&job::SERVER_FRAME);
        epoll.add(&stream, interest, index as u64)?;
        if sessions.len() <= index {
            sessions.resize_with(index + 1, || None);
        }
        sessions[index] = Some(Session {
            stream,
            frame: [0; FRAME_LEN],
            have: 0,
            out: Vec::new(),
            sent: 0,
            blobs: 0,
        });
    }
    Ok(())
}

impl Session {
    /// Goes on as far as it can; `false` when the connection is over.
    fn ready(&mut self, cx: &Serve, buffer: &mut [u8], ended: bool) -> io::Result<bool> {
        loop {
            if !self.flush(cx)? {
                return Ok(true);
            }
            let len = match self.stream.read(buffer) {
                Ok(0) => return Ok(false),
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            };
            self.received(cx, &buffer[..len]);
            let drained = len < buffer.len() && !ended;
            if drained && self.out.is_empty() && self.blobs == 0 {
                return Ok(true);
            }
        }
    }

    fn received(&mut self, cx: &Serve, mut data: &[u8]) {
        if self.have < FRAME_LEN {
            let take = data.len().min(FRAME_LEN - self.have);
            self.frame[self.have..self.have + take].copy_from_slice(&data[..take]);
            self.have += take;
            data = &data[take..];
            if self.have == FRAME_LEN {
                cx.count_frame(&self.frame);
            }
        }
        add(&cx.served.bytes, data.len() as u64);
        match cx.job {
            Job::Echo(_) => self.out.extend_from_slice(data),
            Job::Blob(_) => self.blobs += data.len(),
            Job::Life(_) | Job::Bulk => {}
        }
    }

    /// Sends what is due; `false` when the socket takes no more now.
    fn flush(&mut self, cx: &Serve) -> io::Result<bool> {
        loop {
            let source: &[u8] = match cx.job {
                Job::Blob(_) if self.blobs > 0 => &cx.blob,
                Job::Echo(_) if !self.out.is_empty() => &self.out,
                _ => return Ok(true),
            };
            match self.stream.write(&source[self.sent..]) {
                Ok(len) => self.sent += len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
            if self.sent == source.len() {
                self.sent = 0;
                self.blobs = self.blobs.saturating_sub(1);
                self.out.clear();
            }
        }
    }
}
