//! A uTP echo over one plain UDP socket: `echo` listens, `echo ADDRESS TEXT` sends the text and
//! prints what comes back.

use flock_transport::{Instant, Train};
use flock_utp::{Config, Endpoint, Event};
use rand::TryRngCore;
use rand::rngs::OsRng;
use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

/// Every socket has one: what the endpoint gives goes out, what comes in goes to the endpoint.
struct Socket {
    udp: UdpSocket,
    endpoint: Endpoint,
    started: std::time::Instant,
    train: Train,
}

impl Socket {
    fn bind(addr: &str) -> io::Result<Self> {
        let mut seed = [0; 32];
        OsRng.try_fill_bytes(&mut seed).map_err(io::Error::other)?;
        Ok(Self {
            udp: UdpSocket::bind(addr)?,
            endpoint: Endpoint::new(Config::default(), 0, 1, seed),
            started: std::time::Instant::now(),
            train: Train::default(),
        })
    }

    fn now(&self) -> Instant {
        Instant::ZERO + self.started.elapsed()
    }

    /// Sends what is due, waits for a datagram or the next deadline, and passes on what happened.
    fn turn(&mut self, mut on: impl FnMut(&mut Endpoint, Event, &[u8])) -> io::Result<()> {
        let now = self.now();
        while self.endpoint.poll_transmit(now, &mut self.train) {
            let bytes: Vec<u8> = self.train.parts().flatten().copied().collect();
            for datagram in bytes.chunks(self.train.segment()) {
                self.udp.send_to(datagram, self.train.to())?;
            }
            self.endpoint.sent(self.train.tag, now);
        }
        let deadline = self.endpoint.next_deadline();
        let wait = deadline.map_or(Duration::from_secs(1), |at| at.since(now));
        self.udp
            .set_read_timeout(Some(wait.max(Duration::from_millis(1))))?;
        let mut buffer = [0; 2048];
        let received = match self.udp.recv_from(&mut buffer) {
            Ok((len, from)) => Some((len, from)),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
            Err(e) => return Err(e),
        };
        let now = self.now();
        let datagram = &buffer[..received.map_or(0, |(len, _)| len)];
        if let Some((len, from)) = received {
            self.endpoint.handle(now, from, now, len, datagram);
        }
        while let Some(event) = self.endpoint.poll_event() {
            on(&mut self.endpoint, event, datagram);
        }
        self.endpoint.end_batch(now);
        if self.endpoint.next_deadline().is_some_and(|at| at <= now) {
            self.endpoint.on_deadline(now);
        }
        while let Some(event) = self.endpoint.poll_event() {
            on(&mut self.endpoint, event, &[]);
        }
        Ok(())
    }
}

fn listen() -> io::Result<()> {
    let mut socket = Socket::bind("127.0.0.1:0")?;
    println!("{}", socket.udp.local_addr()?);
    loop {
        socket.turn(|endpoint, event, datagram| match event {
            Event::Data { key, range } => {
                let bytes = datagram[range].to_vec();
                if endpoint.send(key, bytes.into()).is_err() {
                    endpoint.end(key);
                }
            }
            Event::Buffered { key, bytes } if endpoint.send(key, bytes.clone()).is_err() => {
                endpoint.end(key);
            }
            Event::Eof { key } => endpoint.end(key),
            other => eprintln!("{other:?}"),
        })?;
    }
}

fn dial(to: SocketAddr, text: String) -> io::Result<()> {
    let mut socket = Socket::bind("127.0.0.1:0")?;
    let now = socket.now();
    let key = socket.endpoint.connect(now, to).map_err(io::Error::other)?;
    socket
        .endpoint
        .send(key, text.into())
        .map_err(io::Error::other)?;
    socket.endpoint.end(key);
    while !socket.endpoint.is_empty() {
        socket.turn(|_, event, datagram| {
            let bytes = match &event {
                Event::Data { range, .. } => &datagram[range.clone()],
                Event::Buffered { bytes, .. } => bytes,
                _ => &[],
            };
            let _ = io::stdout().write_all(bytes);
        })?;
    }
    Ok(())
}

fn main() -> io::Result<()> {
    let mut args = std::env::args().skip(1);
    match (args.next(), args.next()) {
        (Some(to), Some(text)) => dial(to.parse().map_err(io::Error::other)?, text),
        _ => listen(),
    }
}
