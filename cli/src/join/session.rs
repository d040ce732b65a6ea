//! A running peer: events, connections and commands, in the order a reader can rely on.

use super::JoinError;
use super::carry::{self, Sent, Trouble};
use super::control::{Command, Handle, PeerAt};
use super::line::Line;
use super::output::Output;
use flock_engine::event::Event;
use flock_engine::{BanTarget, ChannelKey, ConnId, Connection, Flock, FlockError, JoinOptions};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use tokio::sync::mpsc;

/// Commands that run at a time.
const CHILDREN_MAX: usize = 256;

/// What to do with every connection.
#[derive(Clone, Debug)]
pub(super) enum Mode {
    Echo,
    Sink,
    Send(Rc<Sent>),
    Pipe,
    Exec(String),
    Control,
}

/// A connection somebody was told of.
#[derive(Default)]
struct Known {
    number: u64,
    /// Its `connection`, not written before it is accepted: commands may follow at once.
    announcement: Option<Line>,
    /// Accepted before its event came.
    early: Option<Connection>,
    /// It was connected, and its end waits for its task.
    connected: bool,
    /// Its task has ended.
    done: bool,
    /// Its end, written after everything it sent.
    closed: Option<Line>,
    handle: Option<Handle>,
}

/// The connections of this peer, and what is done with them.
pub(super) struct Session {
    pub(super) flock: Flock,
    pub(super) output: Output,
    mode: Mode,
    known: HashMap<ConnId, Known>,
    names: HashMap<u64, ConnId>,
    last_number: u64,
    /// Tasks of connections.
    pub(super) running: usize,
    done: mpsc::UnboundedSender<Done>,
    /// The pipe is taken.
    piped: bool,
}

/// A connection's task has ended.
pub(super) struct Done {
    conn: ConnId,
    result: Result<(), Trouble>,
}

impl Session {
    /// Of the receiver each [`Done`] goes to [`on_done`](Self::on_done). There are no more of them
    /// than connections.
    pub(super) fn new(
        flock: Flock,
        output: Output,
        mode: Mode,
    ) -> (Self, mpsc::UnboundedReceiver<Done>) {
        let (done, ended) = mpsc::unbounded_channel();
        let session = Self {
            flock,
            output,
            mode,
            known: HashMap::new(),
            names: HashMap::new(),
            last_number: 0,
            running: 0,
            done,
            piped: false,
        };
        (session, ended)
    }

    pub(super) fn join(&self, channel: ChannelKey, announce: bool) -> Result<(), FlockError> {
        let joined = self.flock.join(channel, JoinOptions { announce })?;
        let output = self.output.clone();
        tokio::task::spawn_local(async move {
            joined.first_round().await;
            let channel = joined.key().to_string();
            output.put(Line::Joined { channel, ok: true }).await;
        });
        Ok(())
    }

    pub(super) async fn on_event(&mut self, event: Event) {
        let Some(line) = Line::of(&event, |conn| self.number(conn)) else {
            return;
        };
        match event {
            Event::Connection(info) => {
                let known = self.known.entry(info.conn).or_default();
                known.connected = true;
                known.announcement = Some(line);
                if let Some(connection) = known.early.take() {
                    self.start(connection).await;
                }
            }
            Event::ConnectionClosed { info, .. } => {
                let known = self.known.entry(info.conn).or_default();
                if known.connected && !known.done {
                    known.handle = None;
                    known.closed = Some(line);
                } else {
                    self.forget(info.conn);
                    self.output.put(line).await;
                }
            }
            _ => self.output.put(line).await,
        }
    }

    pub(super) async fn on_accepted(&mut self, connection: Connection) {
        let known = self.known.entry(connection.id()).or_default();
        if known.connected {
            self.start(connection).await;
        } else {
            known.early = Some(connection);
        }
    }

    /// Whether that was the connection everything was about, and how it ended.
    pub(super) async fn on_done(&mut self, done: Done) -> Option<Result<(), JoinError>> {
        self.running -= 1;
        if let Some(known) = self.known.get_mut(&done.conn) {
            known.done = true;
            known.handle = None;
        }
        self.tell_end(done.conn).await;
        match &self.mode {
            Mode::Pipe => Some(done.result.map_err(JoinError::Broken)),
            // A file or a command that fails is worth a word, a connection that breaks is an
            // event.
            Mode::Send(_) | Mode::Exec(_) => {
                if let Err(trouble) = done.result {
                    eprintln!("revelation: {trouble}");
                }
                None
            }
            Mode::Echo | Mode::Sink | Mode::Control => None,
        }
    }

    /// The number a connection goes by: the first is 1.
    fn number(&mut self, conn: ConnId) -> u64 {
        let known = self.known.entry(conn).or_default();
        if known.number == 0 {
            self.last_number += 1;
            known.number = self.last_number;
            self.names.insert(known.number, conn);
        }
        known.number
    }

    /// Tells of a connection's end, if it came before that of its task.
    async fn tell_end(&mut self, conn: ConnId) {
        let known = self.known.get_mut(&conn);
        if let Some(line) = known.and_then(|known| known.closed.take()) {
            self.forget(conn);
            self.output.put(line).await;
        }
    }

    fn forget(&mut self, conn: ConnId) {
        if let Some(known) = self.known.remove(&conn) {
            self.names.remove(&known.number);
        }
    }

    /// Lets go of all commands' connections: they are about to be closed.
    pub(super) fn release(&mut self) {
        for known in self.known.values_mut() {
            known.handle = None;
        }
    }

    async fn start(&mut self, connection: Connection) {
        let conn = connection.id();
        let number = self.number(conn);
        let refusal = self.refusal();
        let connection = Rc::new(connection);
        let known = self.known.entry(conn).or_default();
        let announcement = known.announcement.take();
        let mut orders = None;
        if matches!(self.mode, Mode::Control) {
            let (handle, obeying) = Handle::new(connection.clone());
            // Nobody commands a connection that is over already.
            known.handle = known.closed.is_none().then_some(handle);
            orders = Some(obeying);
        }
        known.done = refusal.is_some();
        for line in announcement
            .into_iter()
            .chain(refusal.iter().flatten().map(Line::error))
        {
            self.output.put(line).await;
        }
        if refusal.is_some() {
            // Dropped, it is closed.
            return self.tell_end(conn).await;
        }
        let (mode, output, done) = (self.mode.clone(), self.output.clone(), self.done.clone());
        self.running += 1;
        tokio::task::spawn_local(async move {
            let result = match (mode, orders) {
                (Mode::Control, Some(orders)) => {
                    carry::control(connection, number, &output, orders).await
                }
                (Mode::Echo, _) => carry::echo(&connection).await,
                (Mode::Send(sent), _) => carry::send_file(&connection, &sent).await,
                (Mode::Pipe, _) => carry::pipe(&connection).await,
                (Mode::Exec(command), _) => carry::exec(&connection, &command).await,
                (Mode::Sink | Mode::Control, _) => carry::sink(&connection).await,
            };
            let _session_is_over = done.send(Done { conn, result });
        });
    }

    /// Why a connection is not served, if it is not, and whether that is worth a word.
    fn refusal(&mut self) -> Option<Option<String>> {
        match self.mode {
            Mode::Pipe => std::mem::replace(&mut self.piped, true).then_some(None),
            Mode::Exec(_) if self.running >= CHILDREN_MAX => Some(Some(format!(
                "{CHILDREN_MAX} commands run already; a connection is closed"
            ))),
            _ => None,
        }
    }

    /// Does what a line says; whether it says to shut down.
    pub(super) async fn obey(&mut self, line: &str) -> bool {
        let command = match serde_json::from_str(line) {
            Ok(Command::Shutdown {}) => return true,
            Ok(command) => command,
            Err(error) => {
                self.output.put(Line::error(error.to_string())).await;
                return false;
            }
        };
        if let Err(message) = self.carry_out(command).await {
            self.output.put(Line::error(message)).await;
        }
        false
    }

    async fn carry_out(&mut self, command: Command) -> Result<(), String> {
        let said = |error: FlockError| error.to_string();
        let handle = |conn| {
            self.names
                .get(&conn)
                .and_then(|conn| self.known.get(conn)?.handle.as_ref())
        };
        match command {
            Command::Join { channel, announce } => self.join(channel, announce).map_err(said),
            Command::Leave { channel } => self.flock.leave(channel).map_err(said),
            Command::AddPeer(peer) => {
                let addr = resolve(&peer).await?;
                self.flock.add_peer(peer.channel, addr).map_err(said)
            }
            Command::RemovePeer(peer) => {
                let addr = resolve(&peer).await?;
                self.flock.remove_peer(peer.channel, addr).map_err(said)
            }
            Command::Unban(peer) => {
                let addr = resolve(&peer).await?;
                self.flock.unban(BanTarget::Addr(addr)).map_err(said)
            }
            Command::Send { conn, hex } => handle(conn).map_or(Ok(()), |handle| handle.send(hex)),
            Command::End { conn } => handle(conn).map_or(Ok(()), Handle::end),
            Command::Close { conn } => handle(conn).map_or(Ok(()), Handle::close),
            Command::Pause { conn } => handle(conn).map_or(Ok(()), |handle| handle.pause(true)),
            Command::Resume { conn } => handle(conn).map_or(Ok(()), |handle| handle.pause(false)),
            Command::Stats {} => {
                self.output.put(Line::stats(self.flock.stats())).await;
                Ok(())
            }
            Command::Shutdown {} => Ok(()),
        }
    }
}

async fn resolve(peer: &PeerAt) -> Result<SocketAddr, String> {
    first_address(&peer.host, peer.port).await
}

/// The first address of a name, or the address itself.
pub(super) async fn first_address(host: &str, port: u16) -> Result<SocketAddr, String> {
    let found = tokio::net::lookup_host((host, port)).await;
    let mut found = found.map_err(|error| format!("{host}: {error}"))?;
    found.next().ok_or_else(|| format!("{host}: no address"))
}
