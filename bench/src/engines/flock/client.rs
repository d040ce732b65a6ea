//! The client's side: connections on the engine's driver, many at a time.

use super::GRACE;
use crate::engine::Drive;
use crate::job::{self, FRAME_LEN, Frame, Job};
use bytes::BytesMut;
use flock_engine::io::{
    Backend, Clock, Completion, Completions, ConnectOptions, Driver, DriverConfig, Op, Outcome,
    PollDriver, SocketId, Token, UringDriver,
};
use flock_tcp::StreamOptions;
use flock_transport::{Chunks, CloseHow};
use std::io;
use std::sync::Arc;

/// One connection after the other; its index is the token of its sockets.
struct Peer {
    /// Completions of any other socket belong to a connection that is over.
    socket: Option<SocketId>,
    hello: Frame,
    frame: Frame,
    /// Bytes of the server's frame that have arrived.
    have: usize,
    /// Bytes of the response still to come.
    left: usize,
}

struct Client<'a, D: Driver> {
    cx: &'a Drive,
    driver: D,
    options: ConnectOptions,
    peers: Vec<Peer>,
    open: usize,
    /// Where frames are made, so that not each of them is an allocation.
    frames: BytesMut,
}

pub(super) fn drive(cx: &Arc<Drive>, backend: Backend, lazy_ack: bool) -> io::Result<()> {
    let sockets = u32::try_from(2 * cx.in_flight + 64).map_err(io::Error::other)?;
    let config = DriverConfig {
        sockets,
        ..DriverConfig::default()
    };
    match backend {
        Backend::Poll => run(cx, PollDriver::new(&config, Clock::start())?, lazy_ack),
        _ => run(cx, UringDriver::new(&config, Clock::start())?, lazy_ack),
    }
}

fn run<D: Driver>(cx: &Drive, driver: D, lazy_handshake_ack: bool) -> io::Result<()> {
    let peer = || Peer {
        socket: None,
        hello: [0; FRAME_LEN],
        frame: [0; FRAME_LEN],
        have: 0,
        left: 0,
    };
    // The same socket options as every other engine: none but TCP_NODELAY.
    let stream = StreamOptions {
        notsent_lowat: None,
        lazy_handshake_ack,
        ..StreamOptions::default()
    };
    let mut client = Client {
        cx,
        driver,
        options: ConnectOptions {
            stream,
            source: None,
        },
        peers: (0..cx.in_flight).map(|_| peer()).collect(),
        open: 0,
        frames: BytesMut::new(),
    };
    for index in 0..cx.in_flight {
        client.dial(index)?;
    }
    let mut completions = Completions::new();
    while client.open > 0 {
        client.driver.turn(None, &mut completions)?;
        for completion in &completions {
            client.completed(*completion)?;
        }
    }
    client.driver.shutdown(GRACE);
    Ok(())
}

impl<D: Driver> Client<'_, D> {
    /// Begins the next connection at `index`, if there is one more to do.
    fn dial(&mut self, index: usize) -> io::Result<()> {
        if !self.cx.next() {
            return Ok(());
        }
        let (to, hello) = self.cx.connection();
        let connect = Op::Connect {
            to,
            options: self.options,
            token: Token(index as u64),
        };
        let key = self.driver.submit(connect).map_err(io::Error::other)?;
        let peer = &mut self.peers[index];
        peer.socket = Some(key.socket);
        peer.hello = hello;
        peer.have = 0;
        self.open += 1;
        Ok(())
    }

    fn completed(&mut self, completion: Completion) -> io::Result<()> {
        let Ok(index) = usize::try_from(completion.token.0) else {
            return Ok(());
        };
        let Some(peer) = self.peers.get(index) else {
            return Ok(());
        };
        if peer.socket != Some(completion.socket) {
            return Ok(());
        }
        let socket = completion.socket;
        match completion.outcome {
            Outcome::Connected => {
                let hello = peer.hello;
                self.frames.extend_from_slice(&hello);
                let frame = self.frames.split().freeze();
                self.send(socket, frame)?;
                let receive = Op::Recv { socket };
                self.driver.submit(receive).map_err(io::Error::other)?;
                Ok(())
            }
            Outcome::Data(loan) => {
                let job = self.cx.job;
                let bytes = self.driver.bytes(loan);
                match self.peers[index].take(bytes, job) {
                    Taken::Part => Ok(()),
                    Taken::Greeting => self.greeted(index, socket),
                    Taken::Response => self.finished(index, socket),
                    Taken::Wrong => self.end(index, socket, false),
                }
            }
            Outcome::Sent { .. } if self.cx.job == Job::Bulk && peer.have == FRAME_LEN => {
                self.finished(index, socket)
            }
            Outcome::ConnectFailed(_) => {
                self.cx.count_error();
                self.open -= 1;
                self.peers[index].socket = None;
                self.dial(index)
            }
            Outcome::Eof | Outcome::RecvEnded(_) | Outcome::SendFailed(_) => {
                self.end(index, socket, false)
            }
            _ => Ok(()),
        }
    }

    fn send(&mut self, socket: SocketId, bytes: bytes::Bytes) -> io::Result<()> {
        let mut chunks = Chunks::new();
        chunks.push(bytes);
        let send = Op::Send { socket, chunks };
        self.driver.submit(send).map_err(io::Error::other)?;
        Ok(())
    }

    /// The server's frame is here.
    fn greeted(&mut self, index: usize, socket: SocketId) -> io::Result<()> {
        if let Job::Life(_) = self.cx.job {
            self.cx.count_done();
            return self.end(index, socket, true);
        }
        self.ask(index, socket)
    }

    fn ask(&mut self, index: usize, socket: SocketId) -> io::Result<()> {
        self.peers[index].left = self.cx.job.response();
        self.send(socket, self.cx.request.clone())
    }

    fn finished(&mut self, index: usize, socket: SocketId) -> io::Result<()> {
        self.cx.count_done();
        if self.cx.next() {
            return self.ask(index, socket);
        }
        self.end(index, socket, true)
    }

    /// Closes the connection and, where connections are the job or this one failed, begins the
    /// next.
    fn end(&mut self, index: usize, socket: SocketId, well: bool) -> io::Result<()> {
        if !well {
            self.cx.count_error();
        }
        let how = if self.cx.job.resets() {
            CloseHow::Rst
        } else {
            CloseHow::Fin
        };
        let close = Op::Close { socket, how };
        self.driver.submit(close).map_err(io::Error::other)?;
        self.peers[index].socket = None;
        self.open -= 1;
        if well && !matches!(self.cx.job, Job::Life(_)) {
            return Ok(());
        }
        self.dial(index)
    }
}

/// What arrived bytes completed.
enum Taken {
    Part,
    Greeting,
    Response,
    Wrong,
}

impl Peer {
    fn take(&mut self, bytes: &[u8], job: Job) -> Taken {
        if self.have == FRAME_LEN {
            return match self.left.checked_sub(bytes.len()) {
                None => Taken::Wrong,
                Some(0) => {
                    self.left = 0;
                    Taken::Response
                }
                Some(left) => {
                    self.left = left;
                    Taken::Part
                }
            };
        }
        // Nothing follows the frame before we asked for it.
        let end = self.have + bytes.len();
        let Some(room) = self.frame.get_mut(self.have..end) else {
            return Taken::Wrong;
        };
        room.copy_from_slice(bytes);
        self.have = end;
        match end == FRAME_LEN {
            false => Taken::Part,
            true if job::is_server_frame(&self.frame) => {
                self.left = job.response();
                Taken::Greeting
            }
            true => Taken::Wrong,
        }
    }
}
