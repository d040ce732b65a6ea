//! `revelation join`: a peer of channels, until it is interrupted.

mod carry;
mod control;
mod inherited;
mod line;
mod metrics;
mod output;
mod session;

use crate::args::{JoinArgs, What};
use carry::{Sent, Trouble};
use flock_engine::{Builder, Events, Flock, FlockError};
use line::Line;
use output::Output;
use session::{Done, Mode, Session};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::Stdin;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio_stream::StreamExt;
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};

/// How long connections get to end in order.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections that wait to be taken note of: as many as a shard has at the most.
const BACKLOG: usize = 1 << 20;

/// Why it did not end well.
#[derive(Debug)]
pub(crate) enum JoinError {
    /// The engine refused an option, or could not start or listen.
    Engine(FlockError),
    /// Where to listen was said twice.
    Twice,
    /// A peer's name has no address.
    Peer(String),
    /// The file to send cannot be had.
    File(Trouble),
    /// The address for metrics cannot be listened at.
    Metrics(SocketAddr, io::Error),
    /// The piped connection broke.
    Broken(String),
    /// Signals, threads or stdin are not to be had.
    System(io::Error),
    /// Interrupted twice.
    Interrupted,
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Engine(error) => error.fmt(f),
            Self::Twice => f.write_str(
                "the sockets were inherited (LISTEN_FDS), so that --host and --port cannot be obeyed",
            ),
            Self::Peer(what) | Self::File(what) => f.write_str(what),
            Self::Metrics(addr, error) => write!(f, "metrics at {addr}: {error}"),
            Self::Broken(why) => f.write_str(why),
            Self::System(error) => error.fmt(f),
            Self::Interrupted => f.write_str("interrupted before connections had ended"),
        }
    }
}

impl std::error::Error for JoinError {}

impl From<FlockError> for JoinError {
    fn from(error: FlockError) -> Self {
        Self::Engine(error)
    }
}

impl From<io::Error> for JoinError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// Runs until interrupted or told to end.
pub(crate) fn run(args: &JoinArgs) -> Result<(), JoinError> {
    let inherited = inherited::sockets()?;
    let mode = mode(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = LocalSet::new().block_on(&runtime, join(args, mode, inherited));
    // A read of stdin cannot be taken back.
    runtime.shutdown_background();
    result
}

async fn join(args: &JoinArgs, mode: Mode, inherited: Vec<OwnedFd>) -> Result<(), JoinError> {
    // A connection is a descriptor; what the system refuses, `doctor` shows.
    let _as_many_as_there_are = flock_engine::io::raise_open_files();
    let flock = options(args).start()?;
    let events = flock.events()?;
    for net in &args.deny {
        flock.ban(*net, None)?;
    }
    if let Some(addr) = args.metrics {
        let serving = metrics::serve(addr, &flock).await;
        let at = serving.map_err(|error| JoinError::Metrics(addr, error))?;
        eprintln!("metrics at http://{at}/metrics");
    }
    let (output, writer) = Output::start(args.json)?;
    for at in listen(args, &flock, inherited)? {
        output.put(Line::Listening(at.into())).await;
    }
    let (session, done) = Session::new(flock.clone(), output, mode);
    for channel in &args.channels {
        session.join(channel.clone(), !args.no_announce)?;
    }
    add_peers(args, &flock).await?;
    let mut running = Running {
        session,
        events,
        done,
        commands: args.control.then(commands),
        interrupt: signal(SignalKind::interrupt())?,
        terminate: signal(SignalKind::terminate())?,
        stopping: false,
        result: Ok(()),
    };
    while running.turn().await? {}
    running.session.output.put(Line::Closed {}).await;
    let Running {
        session, result, ..
    } = running;
    drop(session);
    writer.finish().await;
    // All connections have ended: this only joins threads.
    flock.shutdown(Duration::ZERO);
    result
}

fn listen(
    args: &JoinArgs,
    flock: &Flock,
    inherited: Vec<OwnedFd>,
) -> Result<Vec<SocketAddr>, JoinError> {
    match args.host {
        _ if inherited.is_empty() => {}
        None if args.port == 0 => return Ok(flock.listen_on(inherited)?),
        _ => return Err(JoinError::Twice),
    }
    let at = match args.host {
        Some(host) => flock.listen_at(SocketAddr::new(host, args.port))?,
        None => flock.listen(args.port)?,
    };
    Ok(vec![at])
}

fn options(args: &JoinArgs) -> Builder {
    let options = Flock::builder()
        .id(args.id.clone())
        .tcp(!args.no_tcp)
        .utp(!args.no_utp)
        .max_connections(args.max_connections)
        .whitelist(args.allow.clone())
        .cpus(args.cpus.iter().copied())
        .backend(args.backend.into())
        .keep_existing(args.keep_existing)
        .accept_backlog(BACKLOG);
    match args.shards {
        Some(shards) => options.shards(shards),
        None => options,
    }
}

fn mode(args: &JoinArgs) -> Result<Mode, JoinError> {
    let What {
        echo,
        sink: _,
        send,
        pipe,
        exec,
    } = &args.what;
    Ok(match (send, exec) {
        _ if args.control => Mode::Control,
        (Some(path), _) => Mode::Send(Rc::new(Sent::open(path).map_err(JoinError::File)?)),
        (_, Some(command)) => Mode::Exec(command.clone()),
        _ if *echo => Mode::Echo,
        _ if *pipe => Mode::Pipe,
        _ => Mode::Sink,
    })
}

async fn add_peers(args: &JoinArgs, flock: &Flock) -> Result<(), JoinError> {
    for peer in &args.peers {
        let addr = session::first_address(&peer.host, peer.port).await;
        let addr = addr.map_err(JoinError::Peer)?;
        for channel in &args.channels {
            flock.add_peer(channel.clone(), addr)?;
        }
    }
    Ok(())
}

/// Lines of stdin.
struct Commands {
    reader: FramedRead<Stdin, LinesCodec>,
    /// The latest line was an error.
    failed: bool,
}

fn commands() -> Commands {
    let codec = LinesCodec::new_with_max_length(control::LINE_MAX);
    Commands {
        reader: FramedRead::new(tokio::io::stdin(), codec),
        failed: false,
    }
}

/// Everything a running peer listens to.
struct Running {
    session: Session,
    events: Events,
    done: mpsc::UnboundedReceiver<Done>,
    commands: Option<Commands>,
    interrupt: Signal,
    terminate: Signal,
    stopping: bool,
    result: Result<(), JoinError>,
}

impl Running {
    /// Waits for something and does what it asks; false when everything is over.
    async fn turn(&mut self) -> Result<bool, JoinError> {
        let flock = self.session.flock.clone();
        let output = self.session.output.clone();
        tokio::select! {
            event = self.events.next() => match event {
                Some(event) => self.session.on_event(event).await,
                None => return self.last_tasks().await,
            },
            Some(connection) = flock.accept() => self.session.on_accepted(connection).await,
            Some(done) = self.done.recv() => self.on_done(done).await,
            line = next_line(&mut self.commands) => self.on_line(line).await,
            _ = self.interrupt.recv() => self.interrupted()?,
            _ = self.terminate.recv() => self.interrupted()?,
            () = output.reader_gone(), if !self.stopping => self.stop(),
        }
        Ok(true)
    }

    /// The engine has ended, and with it every connection: their tasks follow.
    async fn last_tasks(&mut self) -> Result<bool, JoinError> {
        self.stop();
        if self.session.running == 0 {
            return Ok(false);
        }
        match tokio::time::timeout(PATIENCE, self.done.recv()).await {
            Ok(Some(done)) => {
                self.on_done(done).await;
                Ok(true)
            }
            Ok(None) | Err(_) => Ok(false),
        }
    }

    async fn on_done(&mut self, done: Done) {
        if let Some(result) = self.session.on_done(done).await {
            if !self.stopping {
                self.result = result;
            }
            self.stop();
        }
    }

    async fn on_line(&mut self, line: Option<Result<String, LinesCodecError>>) {
        let stop = match line {
            Some(Ok(line)) => self.session.obey(&line).await,
            Some(Err(LinesCodecError::MaxLineLengthExceeded)) => {
                let text = format!("a line of more than {} bytes", control::LINE_MAX);
                self.session.output.put(Line::error(text)).await;
                false
            }
            Some(Err(LinesCodecError::Io(error))) => {
                let text = format!("stdin: {error}");
                self.session.output.put(Line::error(text)).await;
                true
            }
            None => true,
        };
        if stop {
            self.commands = None;
            self.stop();
        }
    }

    fn interrupted(&mut self) -> Result<(), JoinError> {
        if self.stopping {
            return Err(JoinError::Interrupted);
        }
        self.stop();
        Ok(())
    }

    /// Ends connections in order. Repeating it does nothing.
    fn stop(&mut self) {
        if !self.stopping {
            self.stopping = true;
            self.session.release();
            self.session.flock.begin_shutdown(PATIENCE);
        }
    }
}

/// The next command; never, where nobody commands.
async fn next_line(commands: &mut Option<Commands>) -> Option<Result<String, LinesCodecError>> {
    let Some(commands) = commands else {
        return std::future::pending().await;
    };
    loop {
        let line = commands.reader.next().await;
        // After an error the reader reports an end, and goes on.
        let end_of_error = std::mem::replace(&mut commands.failed, matches!(line, Some(Err(_))));
        if line.is_some() || !end_of_error {
            return line;
        }
    }
}
