//! A uTP endpoint of ours on a plain UDP socket, which is all that `flock-utp` needs.

use bytes::Bytes;
use flock_transport::{CloseReason, Instant, Train};
use flock_utp::{Config, Endpoint, Event, Key, SendLimits};
use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

/// How long anything may take; reached only when it is broken.
const PATIENCE: Duration = Duration::from_secs(90);

/// What has become of a connection.
#[derive(Debug, Default)]
pub(crate) struct Conn {
    pub(crate) received: Vec<u8>,
    pub(crate) connected: bool,
    pub(crate) ended: bool,
    pub(crate) closed: Option<CloseReason>,
}

pub(crate) struct Host {
    socket: UdpSocket,
    endpoint: Endpoint,
    began: std::time::Instant,
    pub(crate) conns: HashMap<Key, Conn>,
    accepted: Vec<Key>,
    /// Send back what comes, and the end.
    pub(crate) echo: bool,
}

impl Host {
    pub(crate) fn new(seed: u8) -> Self {
        let config = Config {
            send: SendLimits {
                max: 1 << 30,
                ..SendLimits::default()
            },
            ..Config::default()
        };
        Self {
            socket: UdpSocket::bind("127.0.0.1:0").unwrap(),
            endpoint: Endpoint::new(config, 0, 1, [seed; 32]),
            began: std::time::Instant::now(),
            conns: HashMap::new(),
            accepted: Vec::new(),
            echo: false,
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.socket.local_addr().unwrap().port()
    }

    fn now(&self) -> Instant {
        Instant::from_nanos(1 << 30) + self.began.elapsed()
    }

    pub(crate) fn dial(&mut self, port: u16) -> Key {
        let to = SocketAddr::from(([127, 0, 0, 1], port));
        let key = self.endpoint.connect(self.now(), to).unwrap();
        self.conns.insert(key, Conn::default());
        key
    }

    /// A connection that a peer made, which is waited for.
    pub(crate) fn accept(&mut self) -> Key {
        self.run_until("a connection", |host| !host.accepted.is_empty());
        self.accepted.remove(0)
    }

    pub(crate) fn send(&mut self, key: Key, data: impl Into<Bytes>) {
        self.endpoint.send(key, data.into()).unwrap();
    }

    pub(crate) fn end(&mut self, key: Key) {
        self.endpoint.end(key);
    }

    pub(crate) fn conn(&self, key: Key) -> &Conn {
        &self.conns[&key]
    }

    /// Runs until `done`, which must come.
    pub(crate) fn run_until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let deadline = std::time::Instant::now() + PATIENCE;
        while !done(self) {
            let counters = self.endpoint.counters();
            assert!(
                std::time::Instant::now() < deadline,
                "no {what}: {counters:?}"
            );
            self.step(Duration::from_millis(20));
        }
    }

    /// Sends what is to be sent and takes what comes within `most`.
    pub(crate) fn step(&mut self, most: Duration) {
        self.transmit();
        let now = self.now();
        let due = self.endpoint.next_deadline().map_or(most, |at| at - now);
        let wait = due.clamp(Duration::from_micros(50), most);
        self.socket.set_read_timeout(Some(wait)).unwrap();
        let mut buffer = [0; 2048];
        let mut budget = 64;
        while let Ok((len, from)) = self.socket.recv_from(&mut buffer) {
            let now = self.now();
            self.endpoint.handle(now, from, now, len, &buffer[..len]);
            self.take_events(&buffer);
            budget -= 1;
            if budget == 0 {
                break;
            }
            self.socket.set_nonblocking(true).unwrap();
        }
        self.socket.set_nonblocking(false).unwrap();
        let now = self.now();
        self.endpoint.end_batch(now);
        if self.endpoint.next_deadline().is_some_and(|at| at <= now) {
            self.endpoint.on_deadline(now);
        }
        self.take_events(&[]);
        self.transmit();
    }

    fn transmit(&mut self) {
        let mut train = Train::default();
        loop {
            let now = self.now();
            if !self.endpoint.poll_transmit(now, &mut train) {
                break;
            }
            let bytes: Vec<u8> = train.parts().flatten().copied().collect();
            let mut taken = true;
            for datagram in bytes.chunks(train.segment().max(1)) {
                taken &= self.socket.send_to(datagram, train.to()).is_ok();
            }
            if taken {
                self.endpoint.sent(train.tag, now);
            } else {
                self.endpoint.refused(train.tag, now);
                break;
            }
        }
        self.take_events(&[]);
    }

    fn take_events(&mut self, datagram: &[u8]) {
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::Accepted { key, .. } => {
                    let conn = Conn {
                        connected: true,
                        ..Conn::default()
                    };
                    self.conns.insert(key, conn);
                    self.accepted.push(key);
                }
                Event::Connected { key } => self.change(key, |conn| conn.connected = true),
                Event::Data { key, range } => {
                    self.take_data(key, Bytes::copy_from_slice(&datagram[range]));
                }
                Event::Buffered { key, bytes } => self.take_data(key, bytes),
                Event::Eof { key } => {
                    self.change(key, |conn| conn.ended = true);
                    if self.echo {
                        self.end(key);
                    }
                }
                Event::Closed { key, reason, .. } => {
                    self.change(key, |conn| conn.closed = Some(reason));
                }
                _ => {}
            }
        }
    }

    fn take_data(&mut self, key: Key, data: Bytes) {
        self.change(key, |conn| conn.received.extend_from_slice(&data));
        if self.echo {
            self.send(key, data);
        }
    }

    fn change(&mut self, key: Key, change: impl FnOnce(&mut Conn)) {
        change(self.conns.get_mut(&key).expect("events name connections"));
    }
}
