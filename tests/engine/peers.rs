//! What the cases share: engines with short options, raw peers, waiting with a deadline.

use flock_engine::io::Backend;
use flock_engine::{Builder, Event, Events, Flock, PeerId, Transport};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Long enough for a loaded machine; only a failing test waits this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What engines of a case run on.
#[derive(Clone, Copy)]
pub(crate) struct Ground {
    pub(crate) backend: Backend,
    /// The only one they speak.
    pub(crate) transport: Transport,
}

impl From<Backend> for Ground {
    fn from(backend: Backend) -> Self {
        Self {
            backend,
            transport: Transport::Tcp,
        }
    }
}

pub(crate) fn engine(ground: impl Into<Ground>) -> Builder {
    let Ground { backend, transport } = ground.into();
    Flock::builder()
        .backend(backend)
        .tcp(transport == Transport::Tcp)
        .utp(transport == Transport::Utp)
        .shards(2)
        .linger(Duration::from_millis(300))
}

pub(crate) fn id(byte: u8) -> PeerId {
    PeerId::new(&[byte; 32]).unwrap()
}

/// The loopback address of a wildcard listener.
pub(crate) fn local(bound: SocketAddr) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), bound.port())
}

/// Waits until `condition` holds.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "timed out waiting for {what}");
        std::thread::yield_now();
    }
}

/// Waits for an event that `pick` accepts; others are passed over.
pub(crate) fn next_event<T>(
    events: &mut Events,
    what: &str,
    mut pick: impl FnMut(&Event) -> Option<T>,
) -> T {
    let deadline = Instant::now() + PATIENCE;
    let mut seen = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let Some(event) = events.next_timeout(left) else {
            panic!("timed out waiting for {what}; saw {seen:?}");
        };
        if let Some(found) = pick(&event) {
            return found;
        }
        seen.push(event.name());
    }
}

/// A peer that is nothing but a socket.
pub(crate) struct RawPeer {
    pub(crate) stream: TcpStream,
}

impl RawPeer {
    pub(crate) fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream }
    }

    /// Connects and exchanges ids.
    pub(crate) fn handshake(to: SocketAddr, id: &PeerId) -> Self {
        Self::try_handshake(to, id).unwrap()
    }

    /// The same with an engine that may have no room.
    pub(crate) fn try_handshake(to: SocketAddr, id: &PeerId) -> io::Result<Self> {
        let mut peer = Self::connect(to);
        peer.send_id(id)?;
        peer.try_read_id()?;
        Ok(peer)
    }

    fn send_id(&mut self, id: &PeerId) -> io::Result<()> {
        let mut frame = vec![u8::try_from(id.as_bytes().len()).unwrap()];
        frame.extend_from_slice(id.as_bytes());
        self.stream.write_all(&frame)
    }

    pub(crate) fn read_id(&mut self) -> PeerId {
        self.try_read_id().unwrap()
    }

    fn try_read_id(&mut self) -> io::Result<PeerId> {
        let mut len = [0];
        self.stream.read_exact(&mut len)?;
        let mut id = vec![0; usize::from(len[0])];
        self.stream.read_exact(&mut id)?;
        Ok(PeerId::new(&id).unwrap())
    }

    /// Waits until the other side ended or reset the stream; what came before is returned.
    pub(crate) fn read_to_end(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        match self.stream.read_to_end(&mut all) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!("waiting for the end: {error}"),
        }
        all
    }
}
