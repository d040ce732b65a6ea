//! What becomes of a connection's bytes.

use super::control::Orders;
use super::line::Line;
use super::output::Output;
use flock_engine::{CloseReason, Connection, RecvError};
use std::fmt::Display;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::rc::Rc;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::process::Command;

/// Read from a file, a command or stdin at a time, in bytes.
const PIECE: usize = 64 * 1024;

/// Why a connection's task ended badly, for people.
pub(super) type Trouble = String;

/// Sends back what comes, and ends when the peer does.
pub(super) async fn echo(connection: &Connection) -> Result<(), Trouble> {
    while let Some(data) = receive(connection).await? {
        send(connection, data).await?;
    }
    connection.end();
    Ok(())
}

/// Drops what comes; the end of the peer is ours.
pub(super) async fn sink(connection: &Connection) -> Result<(), Trouble> {
    while receive(connection).await?.is_some() {}
    connection.end();
    Ok(())
}

/// A file that every peer gets, opened once.
#[derive(Debug)]
pub(super) struct Sent {
    path: PathBuf,
    file: Arc<File>,
}

impl Sent {
    pub(super) fn open(path: &Path) -> Result<Self, Trouble> {
        let open = || {
            // To open a pipe would wait for its writer.
            if !std::fs::metadata(path)?.is_file() {
                return Err(io::Error::other("not a regular file"));
            }
            Ok(Arc::new(File::open(path)?))
        };
        let path = path.to_owned();
        match open() {
            Ok(file) => Ok(Self { path, file }),
            Err(error) => Err(format!("{}: {error}", path.display())),
        }
    }
}

/// Sends a file, and drops what comes meanwhile and afterwards.
pub(super) async fn send_file(connection: &Connection, sent: &Sent) -> Result<(), Trouble> {
    let sending = async {
        let failed = |error: &dyn Display| format!("{}: {error}", sent.path.display());
        // It may have grown since it was opened.
        let length = sent.file.metadata().map_err(|error| failed(&error))?.len();
        let sending = connection.send_file(sent.file.clone(), 0..length).await;
        sending.map_err(|error| failed(&error))?;
        connection.end();
        Ok(())
    };
    let dropping = async {
        while receive(connection).await?.is_some() {}
        Ok(())
    };
    tokio::try_join!(sending, dropping).map(|_| ())
}

/// Joins the connection to stdin and stdout.
pub(super) async fn pipe(connection: &Connection) -> Result<(), Trouble> {
    let mut stdin = tokio::io::stdin();
    let sending = copy_to(connection, &mut stdin);
    let receiving = copy_from(connection, tokio::io::stdout());
    tokio::try_join!(sending, receiving).map(|_| ())
}

/// Runs a shell command on the connection's bytes.
pub(super) async fn exec(connection: &Connection, command: &str) -> Result<(), Trouble> {
    let info = connection.info();
    let id = info.peer_id.as_ref().map(ToString::to_string);
    let failed = |error| format!("{command}: {error}");
    let mut child = Command::new("sh")
        .args(["-c", command])
        .env("REVELATION_HOST", info.addr.ip().to_canonical().to_string())
        .env("REVELATION_PORT", info.addr.port().to_string())
        .env("REVELATION_ID", id.unwrap_or_default())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let (Some(stdin), Some(mut stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(format!("{command}: no pipes"));
    };
    let sending = copy_to(connection, &mut stdout);
    let receiving = copy_from(connection, stdin);
    tokio::try_join!(sending, receiving)?;
    child.wait().await.map_err(failed)?;
    Ok(())
}

/// Tells of what comes, as far as the controller wants it, and does what it says.
pub(super) async fn control(
    connection: Rc<Connection>,
    number: u64,
    output: &Output,
    orders: Orders,
) -> Result<(), Trouble> {
    let mut paused = orders.paused.clone();
    let telling = async {
        loop {
            // Nobody can resume a connection any more that is over: the rest is told.
            let _nobody_can_pause = paused.wait_for(|paused| !paused).await.is_err();
            let received = tokio::select! {
                biased;
                Ok(()) = paused.changed() => continue,
                received = receive(&connection) => received?,
            };
            let Some(data) = received else { break };
            let hex = hex::encode(&data);
            output.put(Line::Data { conn: number, hex }).await;
        }
        if matches!(connection.closed(), None | Some(CloseReason::PeerClosed)) {
            output.put(Line::End { conn: number }).await;
        }
        Ok(())
    };
    // The peer's end is not ours: that is the controller's to say.
    let (told, ()) = tokio::join!(telling, orders.carry_out(&connection, number, output));
    told
}

async fn receive(connection: &Connection) -> Result<Option<bytes::Bytes>, Trouble> {
    let broken = |error: RecvError| error.to_string();
    connection.recv().await.map_err(broken)
}

async fn send(connection: &Connection, data: bytes::Bytes) -> Result<(), Trouble> {
    connection
        .send(data)
        .await
        .map_err(|error| error.to_string())
}

/// Everything `from` gives to the peer, and then the end.
async fn copy_to(
    connection: &Connection,
    from: &mut (impl AsyncRead + Unpin),
) -> Result<(), Trouble> {
    let mut piece = bytes::BytesMut::new();
    loop {
        piece.reserve(PIECE);
        let read = from.read_buf(&mut piece).await;
        if read.map_err(|error| error.to_string())? == 0 {
            connection.end();
            return Ok(());
        }
        send(connection, piece.split().freeze()).await?;
    }
}

/// Everything the peer sends to `to`, which is then closed. When it takes no more, the rest is
/// dropped: a command need not read everything.
async fn copy_from(
    connection: &Connection,
    mut to: impl AsyncWrite + Unpin,
) -> Result<(), Trouble> {
    let mut open = true;
    while let Some(data) = receive(connection).await? {
        if open {
            open = to.write_all(&data).await.is_ok() && to.flush().await.is_ok();
        }
    }
    Ok(())
}
