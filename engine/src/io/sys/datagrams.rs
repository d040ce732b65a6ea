//! Datagram sockets: their options, and what comes with their datagrams.

use super::socket::{Blocking, ip_address, set_int_option};
use crate::io::{Clock, DatagramOptions};
use arrayvec::ArrayVec;
use flock_transport::{Instant, TRAIN_PARTS_MAX, Train, canonical};
use rustix::time::{ClockId, clock_gettime};
use socket2::{Domain, MsgHdr, Protocol, SockAddr, SockRef, Socket, Type};
use std::io::{self, IoSlice};
use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Bytes that the source address of a datagram may take (`struct sockaddr_in6`).
pub(crate) const NAME_BYTES: usize = size_of::<libc::sockaddr_in6>();
/// Bytes for what the kernel says beside a datagram: the time (`struct timespec`) and the length
/// of a segment (`int`), each behind a header and padded.
pub(crate) const CONTROL_BYTES: usize = 64;
/// The longest payload of a datagram, or of a train of them that the kernel put together.
pub(crate) const PAYLOAD_BYTES: usize = 65_535;

const CMSG_HEADER: usize = size_of::<libc::cmsghdr>();
const WORD: usize = size_of::<usize>();
/// Bytes of the control message of a train.
pub(crate) const SEGMENT_CONTROL_BYTES: usize = CMSG_HEADER + WORD;

/// A bound datagram socket, its address, and the sizes of its buffers, receiving and sending.
pub(crate) struct DatagramSocket {
    pub(crate) fd: OwnedFd,
    pub(crate) addr: SocketAddr,
    pub(crate) reaches_v4: bool,
    pub(crate) recv_buffer: u32,
    pub(crate) send_buffer: u32,
}

/// A datagram socket at `addr` that joins datagrams of one source, and says when they came.
pub(crate) fn datagram_socket(
    addr: SocketAddr,
    options: &DatagramOptions,
    blocking: Blocking,
) -> io::Result<DatagramSocket> {
    let mut addr = addr;
    if options.exclusive && options.shared {
        // Without SO_REUSEPORT the bind fails beside any other socket, and a port that the kernel
        // chooses is nobody else's. It is given up before our own bind, which it would keep out.
        let probe = bare_socket(addr, options, blocking)?;
        probe.bind(&addr.into())?;
        addr = ip_address(&probe.local_addr()?)?;
    }
    let socket = bare_socket(addr, options, blocking)?;
    if options.shared {
        socket.set_reuse_port(true)?;
    }
    set_datagram_options(&socket, addr, options)?;
    socket.bind(&addr.into())?;
    DatagramSocket::of(socket)
}

impl DatagramSocket {
    /// A bound socket with its options.
    pub(super) fn of(socket: Socket) -> io::Result<Self> {
        let addr = ip_address(&socket.local_addr()?)?;
        Ok(Self {
            addr,
            reaches_v4: match addr {
                SocketAddr::V4(_) => true,
                SocketAddr::V6(v6) => v6.ip().is_unspecified() && !socket.only_v6()?,
            },
            recv_buffer: usable(socket.recv_buffer_size()?),
            send_buffer: usable(socket.send_buffer_size()?),
            fd: socket.into(),
        })
    }
}

/// The kernel keeps and reports twice what was asked for, to cover its own bookkeeping.
fn usable(bytes: usize) -> u32 {
    u32::try_from(bytes / 2).unwrap_or(u32::MAX)
}

/// Options of a socket that is or will be bound at `local`. Buffers that are larger already stay.
pub(super) fn set_datagram_options(
    socket: &Socket,
    local: SocketAddr,
    options: &DatagramOptions,
) -> io::Result<()> {
    // Trains are received whole where the kernel and the driver of the card can (udp(7)); without
    // it each datagram comes alone.
    let _ = set_int_option(socket, libc::SOL_UDP, libc::UDP_GRO, 1);
    set_int_option(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
    set_fragmentation(socket, local, Fragmentation::Allowed)?;
    // Capped silently; the caller reads what came of it.
    if usable(socket.recv_buffer_size()?) < options.recv_buffer {
        socket.set_recv_buffer_size(options.recv_buffer as usize)?;
    }
    if usable(socket.send_buffer_size()?) < options.send_buffer {
        socket.set_send_buffer_size(options.send_buffer as usize)?;
    }
    Ok(())
}

fn bare_socket(
    addr: SocketAddr,
    options: &DatagramOptions,
    blocking: Blocking,
) -> io::Result<Socket> {
    let kind = match blocking {
        Blocking::Yes => Type::DGRAM.cloexec(),
        Blocking::No => Type::DGRAM.cloexec().nonblocking(),
    };
    let socket = Socket::new_raw(Domain::for_address(addr), kind, Some(Protocol::UDP))?;
    if let SocketAddr::V6(v6) = addr {
        socket.set_only_v6(!(options.dual_stack && v6.ip().is_unspecified()))?;
    }
    Ok(socket)
}

#[derive(Clone, Copy)]
enum Fragmentation {
    Allowed,
    /// Not even where the kernel believes the path to be narrower: the datagram is a question
    /// about that (ip(7), `IP_PMTUDISC_PROBE`).
    Forbidden,
}

fn set_fragmentation(
    socket: &impl AsRawFd,
    local: SocketAddr,
    fragmentation: Fragmentation,
) -> io::Result<()> {
    let v4 = match fragmentation {
        Fragmentation::Allowed => libc::IP_PMTUDISC_DONT,
        Fragmentation::Forbidden => libc::IP_PMTUDISC_PROBE,
    };
    if local.is_ipv4() {
        return set_int_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, v4);
    }
    let v6 = match fragmentation {
        Fragmentation::Allowed => libc::IPV6_PMTUDISC_DONT,
        Fragmentation::Forbidden => libc::IPV6_PMTUDISC_PROBE,
    };
    set_int_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, v6)?;
    // A dual-stack socket sends to IPv4 too; one that does not has nothing to set.
    let _ = set_int_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, v4);
    Ok(())
}

/// The address to hand to a socket bound at `local`, which for IPv6 takes IPv4 in mapped form.
pub(crate) fn destination(local: SocketAddr, to: SocketAddr) -> SockAddr {
    match (local, to) {
        (SocketAddr::V6(_), SocketAddr::V4(v4)) => {
            let mapped = v4.ip().to_ipv6_mapped();
            SocketAddr::V6(SocketAddrV6::new(mapped, v4.port(), 0, 0)).into()
        }
        (_, to) => to.into(),
    }
}

/// What tells the kernel where to cut a train (`UDP_SEGMENT`, udp(7)): a `struct cmsghdr`, a
/// `__u16` and padding.
pub(crate) fn segment_control(segment: usize) -> [u8; SEGMENT_CONTROL_BYTES] {
    let mut control = [0; SEGMENT_CONTROL_BYTES];
    let segment = u16::try_from(segment).expect("a datagram is shorter");
    let length = CMSG_HEADER + size_of::<u16>();
    control[..WORD].copy_from_slice(&length.to_ne_bytes());
    control[WORD..WORD + 4].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
    control[WORD + 4..WORD + 8].copy_from_slice(&libc::UDP_SEGMENT.to_ne_bytes());
    control[CMSG_HEADER..CMSG_HEADER + 2].copy_from_slice(&segment.to_ne_bytes());
    control
}

/// Whether a train that the kernel refused may go datagram by datagram: its device cannot cut
/// trains (`EIO`), or the way there is narrower than a segment.
pub(crate) fn may_split(train: &Train, error: &io::Error) -> bool {
    let refused_whole = [libc::EIO, libc::EINVAL, libc::EMSGSIZE, libc::EOPNOTSUPP];
    train.datagrams() > 1
        && error
            .raw_os_error()
            .is_some_and(|e| refused_whole.contains(&e))
}

/// Sends a train datagram by datagram. An error is that of the first; if a later one is refused
/// the rest is lost, as on the way.
pub(crate) fn send_split(fd: BorrowedFd<'_>, local: SocketAddr, train: &Train) -> io::Result<()> {
    let to = destination(local, train.to());
    let mut pieces = ArrayVec::<IoSlice<'_>, TRAIN_PARTS_MAX>::new();
    let (mut held, mut sent) = (0, false);
    for part in train.parts() {
        let mut rest = part;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(train.segment() - held));
            pieces.push(IoSlice::new(now));
            held += now.len();
            rest = later;
            if held == train.segment() {
                match send_one(fd, &to, &pieces) {
                    Err(error) if !sent => return Err(error),
                    _ => sent = true,
                }
                pieces.clear();
                held = 0;
            }
        }
    }
    if pieces.is_empty() {
        return Ok(());
    }
    match send_one(fd, &to, &pieces) {
        Err(error) if !sent => Err(error),
        _ => Ok(()),
    }
}

/// Sends a train of one datagram that must not be fragmented.
pub(crate) fn send_unfragmented(
    fd: BorrowedFd<'_>,
    local: SocketAddr,
    train: &Train,
) -> io::Result<()> {
    set_fragmentation(&fd, local, Fragmentation::Forbidden)?;
    let sent = send_split(fd, local, train);
    set_fragmentation(&fd, local, Fragmentation::Allowed)?;
    sent
}

fn send_one(fd: BorrowedFd<'_>, to: &SockAddr, pieces: &[IoSlice<'_>]) -> io::Result<()> {
    let message = MsgHdr::new().with_addr(to).with_buffers(pieces);
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    SockRef::from(&fd.as_fd())
        .sendmsg(&message, flags)
        .map(drop)
}

/// The address in the name of a message, v4-mapped ones as IPv4.
pub(crate) fn source(name: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(*name.first_chunk()?);
    let port = u16::from_be_bytes([*name.get(2)?, *name.get(3)?]);
    let addr = match i32::from(family) {
        libc::AF_INET => {
            let ip: [u8; 4] = name.get(4..8)?.try_into().ok()?;
            SocketAddr::new(IpAddr::V4(Ipv4Addr::from(ip)), port)
        }
        libc::AF_INET6 => {
            let ip: [u8; 16] = name.get(8..24)?.try_into().ok()?;
            let scope = u32::from_ne_bytes(name.get(24..28)?.try_into().ok()?);
            SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::from(ip), port, 0, scope))
        }
        _ => return None,
    };
    Some(canonical(addr))
}

/// What the kernel says beside a datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Beside {
    /// Bytes of each datagram of a train; `None`: it is one datagram.
    pub(crate) segment: Option<u16>,
    /// When it came, in nanoseconds since the epoch.
    pub(crate) stamp: Option<u64>,
}

/// Reads control messages (cmsg(3)).
pub(crate) fn beside(mut control: &[u8]) -> Beside {
    let mut beside = Beside::default();
    let int = |bytes: &[u8], at: usize| {
        let bytes = bytes.get(at..at + 4)?;
        Some(i32::from_ne_bytes(bytes.try_into().ok()?))
    };
    let long = |bytes: &[u8], at: usize| {
        let bytes = bytes.get(at..at + 8)?;
        u64::try_from(i64::from_ne_bytes(bytes.try_into().ok()?)).ok()
    };
    while let Some(length) = control.first_chunk().map(|b| usize::from_ne_bytes(*b)) {
        if length < CMSG_HEADER || length > control.len() {
            break;
        }
        let data = &control[CMSG_HEADER..length];
        match (int(control, WORD), int(control, WORD + 4)) {
            (Some(libc::SOL_UDP), Some(libc::UDP_GRO)) => {
                beside.segment = int(data, 0).and_then(|s| u16::try_from(s).ok());
            }
            (Some(libc::SOL_SOCKET), Some(libc::SCM_TIMESTAMPNS)) => {
                let nanos = long(data, 0).zip(long(data, 8));
                beside.stamp = nanos.and_then(|(s, ns)| s.checked_mul(SECOND)?.checked_add(ns));
            }
            _ => {}
        }
        control = control.get(length.next_multiple_of(WORD)..).unwrap_or(&[]);
    }
    beside
}

const SECOND: u64 = 1_000_000_000;

/// A moment on both clocks: the kernel stamps datagrams with the wall clock's time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    now: Instant,
    wall: u64,
}

impl Moment {
    /// This moment.
    pub(crate) fn take(clock: &Clock) -> Self {
        let wall = clock_gettime(ClockId::Realtime);
        let seconds = u64::try_from(wall.tv_sec).unwrap_or(0);
        let nanos = u64::try_from(wall.tv_nsec).unwrap_or(0);
        Self {
            now: clock.now(),
            wall: seconds.saturating_mul(SECOND) + nanos,
        }
    }

    /// When something stamped `stamp` came. A wall clock that was set meanwhile moves it by a
    /// second at the most.
    pub(crate) fn of_stamp(self, stamp: Option<u64>) -> Instant {
        let age = stamp.map_or(0, |stamp| self.wall.saturating_sub(stamp));
        let age = Duration::from_nanos(age.min(SECOND));
        Instant::ZERO + (self.now - Instant::ZERO).saturating_sub(age)
    }
}
