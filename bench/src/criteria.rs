//! What the criterion benches share: a server that stays up while a client does exactly as many
//! units as criterion asks for.

use crate::engine::{Drive, Engine};
use crate::job::{Job, Targets};
use crate::measure::{Client, Server};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Both sides of one engine on core 0.
#[derive(Debug)]
pub struct Pair {
    engine: Engine,
    job: Job,
    in_flight: usize,
    server: Server,
}

impl Pair {
    /// Starts the server.
    ///
    /// # Errors
    /// Those of the server.
    pub fn start(engine: Engine, job: Job, in_flight: usize) -> io::Result<Self> {
        let bind = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let server = Server::start(engine, job, bind, Some(0))?;
        Ok(Self {
            engine,
            job,
            in_flight,
            server,
        })
    }

    /// The time that `units` units take, from the start of the client to its end.
    ///
    /// # Errors
    /// Those of the client; any failed connection.
    pub fn time(&self, units: u64) -> io::Result<Duration> {
        let targets = Targets::here(self.engine.transport, self.server.addr.port());
        let drive = Drive::new(self.job, targets, self.in_flight, Some(units));
        let begun = Instant::now();
        let client = Client::start(self.engine, drive, Some(0))?;
        let cx = Arc::clone(&client.cx);
        client.join()?;
        let took = begun.elapsed();
        if cx.errors.load(Ordering::Relaxed) > 0 {
            return Err(io::Error::other("a connection failed"));
        }
        Ok(took)
    }

    /// Ends the server.
    ///
    /// # Errors
    /// Those of the server.
    pub fn stop(self) -> io::Result<()> {
        self.server.stop()
    }
}
