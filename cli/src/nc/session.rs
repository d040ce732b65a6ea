//! What is done with the bytes, whatever carries them.

use super::NcError;
use super::stdio::{Input, Stdin, Stdout};
use crate::args::NcArgs;
use bytes::Bytes;
use flock_engine::io::Waker;
use flock_engine::{CloseReason, Errno};
use std::io::ErrorKind;
use std::net::SocketAddr;

/// Bytes queued to the peer above which nothing more is read for it.
const QUEUE_HIGH: usize = 1024 * 1024;

/// A connection of a [`Wire`], by its number.
pub(super) type ConnIndex = usize;

/// What happened on a wire.
pub(super) enum Event<'a> {
    /// A connection is there.
    Open(ConnIndex, SocketAddr),
    /// The dial failed.
    Failed(Errno),
    /// Bytes came.
    Data(ConnIndex, &'a [u8]),
    /// Less is queued than before.
    Room(ConnIndex),
    /// The peer ended its direction.
    PeerEnded(ConnIndex),
    /// The connection is over: both directions ended, or it broke.
    Closed(ConnIndex, Option<CloseReason>),
}

/// Connections of one transport.
pub(super) trait Wire {
    fn listen(&mut self, addr: SocketAddr) -> std::io::Result<SocketAddr>;
    fn stop_listening(&mut self);
    fn dial(&mut self, addr: SocketAddr);
    fn send(&mut self, conn: ConnIndex, data: Bytes);
    /// Bytes not yet taken by the network.
    fn queued(&self, conn: ConnIndex) -> usize;
    /// Ends our direction after what is queued.
    fn end(&mut self, conn: ConnIndex);
    fn abort(&mut self, conn: ConnIndex);
    fn pause(&mut self, conn: ConnIndex, paused: bool);
    fn waker(&self) -> Waker;
    /// Waits for events and hands them to `on`, which must not wait.
    fn turn(&mut self, on: &mut dyn FnMut(Event<'_>)) -> std::io::Result<()>;
    /// Nothing more will be asked: lets what the peer must still hear go out.
    fn finish(&mut self) {}
}

/// An event that owns what it carries, because answering needs the wire.
enum Happened {
    Open(ConnIndex, SocketAddr),
    Failed(Errno),
    Data(ConnIndex, Bytes),
    Room(ConnIndex),
    PeerEnded(ConnIndex),
    Closed(ConnIndex, Option<CloseReason>),
}

impl From<Event<'_>> for Happened {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Open(conn, peer) => Self::Open(conn, peer),
            Event::Failed(errno) => Self::Failed(errno),
            Event::Data(conn, data) => Self::Data(conn, Bytes::copy_from_slice(data)),
            Event::Room(conn) => Self::Room(conn),
            Event::PeerEnded(conn) => Self::PeerEnded(conn),
            Event::Closed(conn, reason) => Self::Closed(conn, reason),
        }
    }
}

struct Session<'a, W: Wire> {
    wire: W,
    args: &'a NcArgs,
    untried: std::slice::Iter<'a, SocketAddr>,
    dialled: Option<SocketAddr>,
    stdin: Stdin,
    /// The connection that stdin and stdout belong to.
    conn: Option<ConnIndex>,
    stdout: Option<Stdout>,
    /// Whether receiving is held back for stdout.
    held_back: bool,
    done: bool,
}

/// Listens or dials, and serves until the end.
pub(super) fn run<W: Wire>(wire: W, args: &NcArgs, addrs: &[SocketAddr]) -> Result<(), NcError> {
    let mut session = Session {
        wire,
        args,
        untried: addrs.iter(),
        dialled: None,
        stdin: Stdin::none(),
        conn: None,
        stdout: None,
        held_back: false,
        done: false,
    };
    session.start()?;
    while !session.done {
        let mut happened = Vec::new();
        session
            .wire
            .turn(&mut |event| happened.push(event.into()))
            .map_err(NcError::Driver)?;
        for event in happened {
            session.handle(event)?;
        }
        session.push_stdout();
        session.read_stdin()?;
    }
    session.wire.finish();
    session.end_stdout()
}

impl<W: Wire> Session<'_, W> {
    fn start(&mut self) -> Result<(), NcError> {
        if !self.args.listen {
            return self.dial(Errno::from_io(&ErrorKind::NotFound.into()));
        }
        let mut result = Err(NcError::Resolve(
            self.args.host.clone(),
            ErrorKind::NotFound.into(),
        ));
        for addr in self.untried.by_ref() {
            match self.wire.listen(*addr) {
                Ok(bound) => {
                    eprintln!("listening on {bound}");
                    return Ok(());
                }
                Err(error) => result = Err(NcError::Listen(*addr, error)),
            }
        }
        result
    }

    /// Dials the next address; `errno` is why the one before failed.
    fn dial(&mut self, errno: Errno) -> Result<(), NcError> {
        match (self.untried.next(), self.dialled) {
            (Some(addr), _) => {
                self.dialled = Some(*addr);
                self.wire.dial(*addr);
                Ok(())
            }
            (None, Some(last)) => Err(NcError::Connect(last, errno)),
            (None, None) => Err(NcError::Resolve(
                self.args.host.clone(),
                ErrorKind::NotFound.into(),
            )),
        }
    }

    fn handle(&mut self, event: Happened) -> Result<(), NcError> {
        match event {
            Happened::Open(conn, peer) => self.opened(conn, peer)?,
            Happened::Failed(errno) => self.dial(errno)?,
            Happened::Data(conn, data) if self.args.echo => {
                self.wire.send(conn, data);
                if self.wire.queued(conn) > QUEUE_HIGH {
                    self.wire.pause(conn, true);
                }
            }
            Happened::Data(conn, data) => {
                if let (Some(stdout), true) = (&mut self.stdout, self.conn == Some(conn)) {
                    stdout.write(data);
                }
            }
            Happened::Room(conn) if self.args.echo => {
                if self.wire.queued(conn) <= QUEUE_HIGH {
                    self.wire.pause(conn, false);
                }
            }
            Happened::Room(_) => {}
            Happened::PeerEnded(conn) if self.args.echo => self.wire.end(conn),
            Happened::PeerEnded(_) => {
                if let Some(stdout) = &mut self.stdout {
                    stdout.finish();
                }
            }
            Happened::Closed(conn, reason) => self.closed(conn, reason)?,
        }
        Ok(())
    }

    fn opened(&mut self, conn: ConnIndex, peer: SocketAddr) -> Result<(), NcError> {
        if self.args.listen && !self.args.keep_open {
            self.wire.stop_listening();
        }
        if self.args.echo {
            eprintln!("connected to {peer}");
            return Ok(());
        }
        if self.conn.is_some() {
            // It was accepted before the listener stopped.
            self.wire.abort(conn);
            return Ok(());
        }
        eprintln!("connected to {peer}");
        self.conn = Some(conn);
        self.stdin = Stdin::open(self.wire.waker()).map_err(NcError::Stdio)?;
        self.stdout = Some(Stdout::open(self.wire.waker()).map_err(NcError::Stdio)?);
        Ok(())
    }

    /// Writes what came, and holds the peer back while stdout does not keep up.
    fn push_stdout(&mut self) {
        let (Some(conn), Some(stdout)) = (self.conn, &mut self.stdout) else {
            return;
        };
        if !stdout.push() {
            self.wire.abort(conn);
            self.done = true;
        } else if stdout.full() != self.held_back {
            self.held_back = stdout.full();
            self.wire.pause(conn, self.held_back);
        }
    }

    fn end_stdout(&mut self) -> Result<(), NcError> {
        match self.stdout.take().map_or(Ok(()), Stdout::end) {
            // Whoever read stdout has enough, as in `| head`.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            result => result.map_err(NcError::Stdio),
        }
    }

    fn closed(&mut self, conn: ConnIndex, reason: Option<CloseReason>) -> Result<(), NcError> {
        if self.args.keep_open {
            if let Some(reason) = reason {
                eprintln!("a connection broke: {reason}");
            }
            return Ok(());
        }
        if !self.args.echo && self.conn != Some(conn) {
            return Ok(());
        }
        self.done = true;
        match reason {
            Some(reason) => {
                self.end_stdout()?;
                Err(NcError::Broken(reason))
            }
            None => Ok(()),
        }
    }

    /// Hands stdin to the peer as far as it keeps up.
    fn read_stdin(&mut self) -> Result<(), NcError> {
        let Some(conn) = self.conn else {
            return Ok(());
        };
        while !self.done && self.wire.queued(conn) <= QUEUE_HIGH {
            match self.stdin.next().map_err(NcError::Stdio)? {
                Input::Block(block) => self.wire.send(conn, block),
                Input::Later => break,
                Input::End => self.wire.end(conn),
            }
        }
        Ok(())
    }
}
