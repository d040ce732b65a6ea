//! Two engines in a program without any async runtime: one answers, the other asks. Everything blocks
//! a plain thread, for at most as long as it says.
//!
//!     cargo run -p flock-engine --example embed -- QUESTION..

use flock_engine::{Connection, Event, Flock, JoinOptions};
use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> Result<(), Box<dyn Error>> {
    let questions: Vec<String> = std::env::args().skip(1).collect();
    let (oracle, asker) = (engine()?, engine()?);
    let port = oracle.listen(0)?.port();

    let answering = oracle.clone();
    let server = thread::spawn(move || {
        // A thread per connection does for a few; `handler.rs` shows what does for very many.
        while let Some(connection) = answering.accept_timeout(PATIENCE) {
            thread::spawn(move || answer(&connection));
        }
    });

    // Events are for whoever wants them; they come one after the other until the engine ends.
    let mut events = asker.events()?;
    let log = thread::spawn(move || {
        for event in events.blocking() {
            println!("asker: {}", describe(&event));
        }
    });

    asker.join("oracle", JoinOptions { announce: false })?;
    asker.add_peer("oracle", SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    let connection = asker.accept_timeout(PATIENCE).ok_or("nobody answers")?;
    for question in questions {
        println!("{question}? {}", ask(&connection, &question)?);
    }
    drop(connection);

    asker.shutdown(PATIENCE);
    oracle.shutdown(PATIENCE);
    log.join().map_err(|_| "the log panicked")?;
    server.join().map_err(|_| "the server panicked")?;
    Ok(())
}

fn engine() -> Result<Flock, Box<dyn Error>> {
    Ok(Flock::builder().shards(1).start()?)
}

fn describe(event: &Event) -> String {
    match event {
        Event::Connection(info) => format!("connected to {} over {:?}", info.addr, info.transport),
        Event::ConnectionClosed { reason, .. } => format!("connection closed: {reason}"),
        other => other.name().to_owned(),
    }
}

/// Sends back what comes, line by line, in capitals.
fn answer(connection: &Connection) -> Result<(), Box<dyn Error + Send + Sync>> {
    while let Some(data) = connection.recv_timeout(PATIENCE)? {
        connection.send_timeout(data.to_ascii_uppercase(), PATIENCE)?;
    }
    Ok(())
}

fn ask(connection: &Connection, question: &str) -> Result<String, Box<dyn Error>> {
    connection.send_timeout(format!("{question}\n"), PATIENCE)?;
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let data = connection.recv_timeout(PATIENCE)?.ok_or("it hung up")?;
        line.extend_from_slice(&data);
    }
    Ok(String::from_utf8(line)?.trim_end().to_owned())
}
