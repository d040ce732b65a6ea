//! Chats with everybody in a channel, on tokio: what is typed goes to all peers, and what they send is
//! printed.
//!
//!     cargo run -p flock-engine --features tokio --example chat -- NAME CHANNEL [HOST:PORT..]
//!
//! Channels have no discovery yet: peers to begin with are named on the command line. It ends at the end
//! of its input.

use flock_engine::{Connection, Flock, JoinOptions, Writer};
use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, stdin};
use tokio::sync::mpsc;

/// The longest line taken from a peer, in bytes.
const LINE_MAX: usize = 4096;
/// Lines, or ends, that wait to be dealt with; peers that send more are held back.
const WAITING_MAX: usize = 64;
/// How long a peer may take to make room for a line before it is left out.
const SLOW: Duration = Duration::from_secs(1);

/// What a peer's task tells.
enum News {
    Line(String),
    Gone,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(name), Some(channel)) = (args.next(), args.next()) else {
        return Err("usage: chat NAME CHANNEL [HOST:PORT..]".into());
    };
    let flock = Flock::builder().shards(1).max_connections(100).start()?;
    flock.join(channel.as_str(), JoinOptions::default())?;
    println!("listening on {}", flock.listening()[0]);
    for peer in args {
        flock.add_peer(channel.as_str(), peer.parse()?)?;
    }
    chat(&flock, &name).await?;
    flock.begin_shutdown(Duration::from_secs(1));
    Ok(())
}

async fn chat(flock: &Flock, name: &str) -> std::io::Result<()> {
    let (tell, mut news) = mpsc::channel(WAITING_MAX);
    let mut typed = BufReader::new(stdin()).lines();
    let mut peers = HashMap::new();
    // All three are cancellation-safe: whichever comes first, nothing of the others is lost.
    loop {
        tokio::select! {
            connection = flock.accept() => {
                let Some(connection) = connection else { return Ok(()) };
                let id = connection.id();
                println!("* {} is here", connection.info().addr);
                peers.insert(id, listen(connection, tell.clone()));
            }
            Some((id, what)) = news.recv() => match what {
                News::Line(line) => println!("{line}"),
                News::Gone => {
                    peers.remove(&id);
                    println!("* a peer left");
                }
            },
            line = typed.next_line() => {
                let Some(line) = line? else { return Ok(()) };
                let line = format!("{name}: {line}\n");
                for writer in peers.values_mut() {
                    let sent = writer.write_all(line.as_bytes());
                    if !matches!(tokio::time::timeout(SLOW, sent).await, Ok(Ok(()))) {
                        writer.abort();
                    }
                }
            }
        }
    }
}

/// Passes on what a peer sends, in a task of its own. The half that sends comes back.
fn listen(connection: Connection, tell: mpsc::Sender<(flock_engine::ConnId, News)>) -> Writer {
    let id = connection.id();
    let (reader, writer) = connection.split();
    tokio::spawn(async move {
        use tokio::io::AsyncReadExt;
        let mut lines = BufReader::new(reader);
        loop {
            let mut line = Vec::new();
            let limited = &mut (&mut lines).take(LINE_MAX as u64);
            match limited.read_until(b'\n', &mut line).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => break,
            }
            let text = String::from_utf8_lossy(&line);
            // A peer decides what it sends, but not what the terminal does.
            let text = text.chars().filter(|c| !c.is_control()).collect();
            if tell.send((id, News::Line(text))).await.is_err() {
                break;
            }
        }
        // Nobody listens any more when the chat is over.
        let _ = tell.send((id, News::Gone)).await;
    });
    writer
}
