//! What is measured: the job, its frames, and the sockets both sides use.

use bytes::Bytes;
use flock_transport::Transport;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use socket2::{Domain, Protocol, Socket, Type};
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::Duration;

/// Bytes of a peer id.
pub const ID_LEN: usize = 32;
/// Bytes of a handshake frame: the id behind its length, a varint of one byte.
pub const FRAME_LEN: usize = 1 + ID_LEN;
/// Bytes a bulk sender hands over per write, and a bulk reader offers per read.
pub const BULK_WRITE: usize = 64 * 1024;
/// Connections a listener lets wait.
pub const BACKLOG: i32 = 4096;

/// A handshake frame.
pub type Frame = [u8; FRAME_LEN];

/// What client and server do on every connection, after both have sent their frame and read the
/// other's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// Nothing more: the client closes and connects anew. One unit is one such life.
    Life(Close),
    /// The client sends so many bytes and reads them back, again and again. One unit is one
    /// round trip.
    Echo(usize),
    /// The client asks with one byte and reads a blob of so many bytes, which all connections of
    /// the server share. One unit is one blob delivered.
    Blob(usize),
    /// The client writes [`BULK_WRITE`] bytes at a time, the server discards. One unit is one
    /// write that the kernel took.
    Bulk,
}

/// How the client ends a connection; the server closes when it sees the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// `close(2)`.
    Fin,
    /// `SO_LINGER {1, 0}`, then `close(2)`.
    Rst,
}

impl Job {
    /// Bytes of payload that one unit carries towards whoever receives it, frames not counted.
    #[must_use]
    pub fn payload(self) -> usize {
        match self {
            Self::Life(_) => 0,
            Self::Echo(bytes) | Self::Blob(bytes) => bytes,
            Self::Bulk => BULK_WRITE,
        }
    }

    /// The bytes a client sends per unit after the frames.
    #[must_use]
    pub fn request(self) -> usize {
        match self {
            Self::Life(_) => 0,
            Self::Echo(bytes) => bytes,
            Self::Blob(_) => 1,
            Self::Bulk => BULK_WRITE,
        }
    }

    /// The bytes a client reads per unit after the frames.
    #[must_use]
    pub fn response(self) -> usize {
        match self {
            Self::Life(_) | Self::Bulk => 0,
            Self::Echo(bytes) | Self::Blob(bytes) => bytes,
        }
    }

    /// A good size for the buffer a server reads into.
    #[must_use]
    pub fn server_buffer(self) -> usize {
        match self {
            Self::Life(_) | Self::Blob(_) => 64,
            Self::Echo(bytes) => bytes.clamp(64, BULK_WRITE),
            Self::Bulk => BULK_WRITE,
        }
    }

    /// A good size for the buffer a client reads into.
    #[must_use]
    pub fn client_buffer(self) -> usize {
        self.response().clamp(64, BULK_WRITE)
    }

    /// Whether the client ends connections with a reset.
    #[must_use]
    pub fn resets(self) -> bool {
        self == Self::Life(Close::Rst)
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Life(Close::Fin) => f.write_str("life-fin"),
            Self::Life(Close::Rst) => f.write_str("life-rst"),
            Self::Echo(bytes) => write!(f, "echo:{bytes}"),
            Self::Blob(bytes) => write!(f, "blob:{bytes}"),
            Self::Bulk => f.write_str("bulk"),
        }
    }
}

impl FromStr for Job {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let size = |bytes: &str| match bytes.parse() {
            Ok(bytes @ 1..=0x4000_0000) => Ok(bytes),
            _ => Err("a size is between 1 and 2^30 bytes"),
        };
        match text.split_once(':') {
            None if text == "life-fin" => Ok(Self::Life(Close::Fin)),
            None if text == "life-rst" => Ok(Self::Life(Close::Rst)),
            None if text == "bulk" => Ok(Self::Bulk),
            Some(("echo", bytes)) => Ok(Self::Echo(size(bytes)?)),
            Some(("blob", bytes)) => Ok(Self::Blob(size(bytes)?)),
            _ => Err("a job is life-fin, life-rst, echo:BYTES, blob:BYTES or bulk"),
        }
    }
}

/// The frame every server sends: its length, 32, and its id, which is the rest.
pub static SERVER_FRAME: Frame = *b"\x20the server of the comparison....";

/// Whether `bytes` are the server's frame.
#[must_use]
pub fn is_server_frame(bytes: &[u8]) -> bool {
    *bytes == SERVER_FRAME
}

/// Whether `bytes` are a frame of one of this comparison's clients.
#[must_use]
pub fn is_client_frame(bytes: &[u8]) -> bool {
    bytes.len() == FRAME_LEN && bytes[0] == 32 && is_client_id(&bytes[1..])
}

/// Whether `id` is that of one of this comparison's clients.
#[must_use]
pub fn is_client_id(id: &[u8]) -> bool {
    id.len() == ID_LEN && id[..8] == CLIENT_MARK
}

const CLIENT_MARK: [u8; 8] = *b"a client";

/// The frame of client connection `number`: an id that no other connection of any process has.
#[must_use]
pub fn client_frame(number: u64) -> Frame {
    static PROCESS: OnceLock<[u8; 16]> = OnceLock::new();
    let process = PROCESS.get_or_init(|| StdRng::from_os_rng().random());
    let mut frame = [0; FRAME_LEN];
    frame[0] = 32;
    frame[1..9].copy_from_slice(&CLIENT_MARK);
    frame[9..17].copy_from_slice(&number.to_le_bytes());
    frame[17..].copy_from_slice(process);
    frame
}

/// Bytes to send: `len` of them, shared by whoever asks for that length.
#[must_use]
pub fn payload(len: usize) -> Bytes {
    Bytes::from(vec![0x5a; len])
}

/// A non-blocking listener on `addr` whose accepted sockets inherit `TCP_NODELAY`.
///
/// # Errors
/// The system's, from any of the calls that make one.
pub fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(addr),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Where a socket is bound.
///
/// # Errors
/// The system's; `Unsupported` when that is no internet address.
pub fn address(socket: &Socket) -> io::Result<SocketAddr> {
    let addr = socket.local_addr()?.as_socket();
    addr.ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// Sets what a client's socket has in every engine that does not set it by itself:
/// `TCP_NODELAY`, and `SO_LINGER {1, 0}` where the job ends with a reset.
///
/// # Errors
/// The system's.
pub fn client_options(socket: &socket2::SockRef<'_>, job: Job) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    if job.resets() {
        socket.set_linger(Some(Duration::ZERO))?;
    }
    Ok(())
}

/// Where clients connect to: one port on addresses of a /24, so that ports do not run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Targets {
    /// The first address; the last octet is replaced.
    pub base: Ipv4Addr,
    /// How many addresses, at most 256.
    pub spread: u16,
    /// The port.
    pub port: u16,
}

impl Targets {
    /// `127.1.0.0` to `127.1.0.255`.
    #[must_use]
    pub fn loopback(port: u16) -> Self {
        Self {
            base: Ipv4Addr::new(127, 1, 0, 0),
            spread: 256,
            port,
        }
    }

    /// One address. A UDP server on all addresses answers from the one that the route names, so that
    /// only that one can be talked to.
    #[must_use]
    pub fn one(base: Ipv4Addr, port: u16) -> Self {
        Self {
            base,
            spread: 1,
            port,
        }
    }

    /// Where clients of `transport` find a server on all addresses of this host.
    #[must_use]
    pub fn here(transport: Transport, port: u16) -> Self {
        match transport {
            Transport::Tcp => Self::loopback(port),
            Transport::Utp => Self::one(Ipv4Addr::LOCALHOST, port),
        }
    }

    /// The target of connection `number`.
    #[must_use]
    pub fn nth(&self, number: u64) -> SocketAddrV4 {
        let octets = self.base.octets();
        let step = u8::try_from(number % u64::from(self.spread.max(1))).unwrap_or(0);
        let last = octets[3].wrapping_add(step);
        SocketAddrV4::new(
            Ipv4Addr::new(octets[0], octets[1], octets[2], last),
            self.port,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_name_their_sender() {
        let (a, b) = (client_frame(1), client_frame(2));
        assert!(a != b && is_client_frame(&a) && is_client_frame(&b));
        assert!(!is_server_frame(&a) && is_server_frame(&SERVER_FRAME));
        assert!(!is_client_frame(&a[..32]));
    }

    #[test]
    fn jobs_are_read_as_they_are_written() {
        let jobs = [
            Job::Life(Close::Fin),
            Job::Life(Close::Rst),
            Job::Echo(64),
            Job::Blob(9),
            Job::Bulk,
        ];
        for job in jobs {
            assert_eq!(job.to_string().parse(), Ok(job));
        }
        assert!("echo:0".parse::<Job>().is_err() && "life".parse::<Job>().is_err());
    }

    #[test]
    fn targets_wrap_within_their_spread() {
        let targets = Targets::loopback(7);
        assert_eq!(targets.nth(0).to_string(), "127.1.0.0:7");
        assert_eq!(targets.nth(255).to_string(), "127.1.0.255:7");
        assert_eq!(targets.nth(256), targets.nth(0));
    }
}
