//! TCP connections on a driver.

use super::session::{ConnIndex, Event, Wire};
use bytes::Bytes;
use flock_engine::io::{
    Completion, Completions, ConnectOptions, Driver, ListenOptions, Op, OpKey, Outcome, SocketId,
    Token, Verb, Waker,
};
use flock_engine::tcp::{self, Connection};
use flock_engine::{CloseReason, Errno, SendLimits};
use std::io;
use std::net::SocketAddr;

/// The token of the listener; those of connections are their numbers.
const LISTENER: Token = Token(u64::MAX);

struct Conn {
    socket: SocketId,
    tcp: Connection,
    peer: SocketAddr,
    connected: bool,
    ended: bool,
    reason: Option<CloseReason>,
}

pub(super) struct Tcp<D> {
    driver: D,
    listener: Option<SocketId>,
    conns: Vec<Option<Conn>>,
    completions: Completions,
    /// Dials the driver would not begin.
    refused: u32,
}

impl<D: Driver> Tcp<D> {
    pub(super) fn new(driver: D) -> Self {
        Self {
            driver,
            listener: None,
            conns: Vec::new(),
            completions: Completions::new(),
            refused: 0,
        }
    }

    fn insert(&mut self, socket: SocketId, peer: SocketAddr, connected: bool) -> ConnIndex {
        let conn = Conn {
            socket,
            tcp: Connection::new(SendLimits {
                max: u32::MAX,
                ..SendLimits::default()
            }),
            peer,
            connected,
            ended: false,
            reason: None,
        };
        let index = match self.conns.iter().position(Option::is_none) {
            Some(free) => free,
            None => {
                self.conns.push(None);
                self.conns.len() - 1
            }
        };
        self.conns[index] = Some(conn);
        self.driver.assign(socket, Token(index as u64));
        index
    }

    fn conn(&mut self, index: ConnIndex) -> Option<&mut Conn> {
        self.conns.get_mut(index)?.as_mut()
    }

    fn complete(&mut self, completion: Completion, on: &mut dyn FnMut(Event<'_>)) {
        if let Outcome::Accepted { socket, peer } = completion.outcome {
            let index = self.insert(socket, peer, true);
            on(Event::Open(index, peer));
            return self.pump(index);
        }
        let Ok(index) = usize::try_from(completion.token.0) else {
            return;
        };
        let Some(conn) = self.conns.get_mut(index).and_then(Option::as_mut) else {
            return;
        };
        if conn.socket != completion.socket {
            return;
        }
        let event = match completion.outcome {
            Outcome::Connected => {
                conn.connected = true;
                on(Event::Open(index, conn.peer));
                None
            }
            Outcome::ConnectFailed(errno) => {
                self.conns[index] = None;
                return on(Event::Failed(errno));
            }
            Outcome::Data(loan) => {
                let data = self.driver.bytes(loan);
                if conn.tcp.on_data(data.len()) {
                    on(Event::Data(index, data));
                }
                None
            }
            Outcome::Eof => conn.tcp.on_eof(),
            Outcome::RecvEnded(errno) => conn.tcp.on_recv_ended(errno),
            Outcome::Sent { bytes } => {
                let event = conn.tcp.on_sent(bytes);
                on(Event::Room(index));
                event
            }
            Outcome::SendFailed(errno) => conn.tcp.on_send_failed(errno),
            Outcome::Closed => {
                let reason = conn.reason;
                self.conns[index] = None;
                return on(Event::Closed(index, reason));
            }
            Outcome::Accepted { .. }
            | Outcome::AcceptEnded(_)
            | Outcome::Datagrams { .. }
            | Outcome::TrainSent { .. }
            | Outcome::TrainRefused { .. } => None,
        };
        match event {
            Some(tcp::Event::PeerEnded) => on(Event::PeerEnded(index)),
            Some(tcp::Event::Broken(reason)) => {
                conn.reason = Some(reason);
                conn.tcp.abort();
            }
            Some(tcp::Event::Writable) | None => {}
        }
        self.pump(index);
    }

    /// Hands the connection's operations to the driver. Once both directions have ended, it is
    /// closed.
    fn pump(&mut self, index: ConnIndex) {
        let Some(conn) = self.conns.get_mut(index).and_then(Option::as_mut) else {
            return;
        };
        if !conn.connected {
            return;
        }
        if conn.ended && conn.tcp.peer_ended() && conn.tcp.queued() == 0 {
            conn.tcp.close();
        }
        let socket = conn.socket;
        while let Some(verb) = conn.tcp.next_verb() {
            let op = match verb {
                tcp::Verb::Recv => Op::Recv { socket },
                tcp::Verb::RecvOnce => Op::RecvOnce { socket },
                tcp::Verb::Send(chunks) => Op::Send { socket, chunks },
                tcp::Verb::ShutdownWrite => Op::ShutdownWrite { socket },
                tcp::Verb::Close(how) => Op::Close { socket, how },
                tcp::Verb::CancelRecv => {
                    let verb = Verb::Recv;
                    self.driver.cancel(OpKey { socket, verb });
                    continue;
                }
            };
            submit(&mut self.driver, op);
        }
    }
}

impl<D: Driver> Wire for Tcp<D> {
    fn listen(&mut self, addr: SocketAddr) -> io::Result<SocketAddr> {
        let options = ListenOptions::default();
        let (listener, bound) = self.driver.listen(addr, &options, LISTENER)?;
        submit(&mut self.driver, Op::Accept { listener });
        self.listener = Some(listener);
        Ok(bound)
    }

    fn stop_listening(&mut self) {
        if let Some(socket) = self.listener.take() {
            let how = flock_engine::io::CloseHow::Fin;
            submit(&mut self.driver, Op::Close { socket, how });
        }
    }

    fn dial(&mut self, to: SocketAddr) {
        let connect = Op::Connect {
            to,
            options: ConnectOptions::default(),
            token: LISTENER,
        };
        match self.driver.submit(connect) {
            Ok(key) => {
                self.insert(key.socket, to, false);
            }
            Err(_) => self.refused += 1,
        }
    }

    fn send(&mut self, conn: ConnIndex, data: Bytes) {
        if let Some(live) = self.conn(conn) {
            // Refused only while closing, and then the bytes are nobody's.
            let _closing = live.tcp.send(data);
            self.pump(conn);
        }
    }

    fn queued(&self, conn: ConnIndex) -> usize {
        let conn = self.conns.get(conn).and_then(Option::as_ref);
        conn.map_or(0, |conn| conn.tcp.queued())
    }

    fn end(&mut self, conn: ConnIndex) {
        if let Some(live) = self.conn(conn) {
            live.ended = true;
            live.tcp.end();
            self.pump(conn);
        }
    }

    fn abort(&mut self, conn: ConnIndex) {
        if let Some(live) = self.conn(conn) {
            live.tcp.abort();
            self.pump(conn);
        }
    }

    fn pause(&mut self, conn: ConnIndex, paused: bool) {
        if let Some(live) = self.conn(conn) {
            if paused {
                live.tcp.pause_recv();
            } else {
                live.tcp.resume_recv();
            }
            self.pump(conn);
        }
    }

    fn waker(&self) -> Waker {
        self.driver.waker()
    }

    fn turn(&mut self, on: &mut dyn FnMut(Event<'_>)) -> io::Result<()> {
        for _ in 0..std::mem::take(&mut self.refused) {
            on(Event::Failed(Errno::from_io(
                &io::ErrorKind::OutOfMemory.into(),
            )));
        }
        let mut completions = std::mem::take(&mut self.completions);
        self.driver.turn(None, &mut completions)?;
        for completion in completions.drain(..) {
            self.complete(completion, on);
        }
        self.completions = completions;
        Ok(())
    }
}

/// Hands over an operation that only a full socket table could refuse, and that opens no socket.
fn submit<D: Driver>(driver: &mut D, op: Op) {
    let accepted = driver.submit(op);
    debug_assert!(accepted.is_ok(), "only connects are refused");
}
