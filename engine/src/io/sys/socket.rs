use crate::io::ConnectOptions;
use flock_tcp::{ListenOptions, StreamOptions};
use flock_transport::canonical;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use std::io;
use std::mem::size_of;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Whether a socket is made for a driver that waits for readiness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blocking {
    /// The kernel completes operations; `O_NONBLOCK` would make io_uring report `EAGAIN`.
    Yes,
    /// The driver polls.
    No,
}

/// A socket that listens at `addr`, and the address it got.
///
/// With `exclusive`, a listener of anybody else on the port is `AddrInUse`, also one that would
/// let us share the port. The later members of our own group therefore come without it.
pub(crate) fn listen_socket(
    addr: SocketAddr,
    options: &ListenOptions,
    blocking: Blocking,
) -> io::Result<(OwnedFd, SocketAddr)> {
    let probe = if options.exclusive && options.shared && addr.port() != 0 {
        Some(exclusive_probe(addr, options)?)
    } else {
        None
    };
    let socket = stream_socket(addr, blocking)?;
    socket.set_reuse_address(true)?;
    if options.shared {
        socket.set_reuse_port(true)?;
    }
    set_v6_only(&socket, addr, options)?;
    set_listener_options(&socket, options)?;
    socket.bind(&addr.into())?;
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    drop(probe);
    let bound = ip_address(&socket.local_addr()?)?;
    Ok((socket.into(), bound))
}

/// A socket bound to `addr` without `SO_REUSEPORT`. The bind fails beside any listener, and while
/// the probe is held no stranger can slip in between the check and our own bind, which gets by
/// because both have `SO_REUSEADDR` and the probe does not listen (socket(7)).
fn exclusive_probe(addr: SocketAddr, options: &ListenOptions) -> io::Result<Socket> {
    let probe = stream_socket(addr, Blocking::Yes)?;
    probe.set_reuse_address(true)?;
    set_v6_only(&probe, addr, options)?;
    probe.bind(&addr.into())?;
    Ok(probe)
}

/// An unconnected socket for a dial to `to`. Options that only save a packet or a port are
/// attempted; each refusal adds one to `soft_errors`.
pub(crate) fn dial_socket(
    to: SocketAddr,
    options: &ConnectOptions,
    blocking: Blocking,
    soft_errors: &mut u64,
) -> io::Result<OwnedFd> {
    let socket = stream_socket(to, blocking)?;
    set_stream_options(&socket, &options.stream)?;
    if options.stream.lazy_handshake_ack && socket.set_tcp_quickack(false).is_err() {
        *soft_errors += 1;
    }
    if let Some(source) = options.source {
        let level = libc::IPPROTO_IP;
        if set_int_option(&socket, level, libc::IP_BIND_ADDRESS_NO_PORT, 1).is_err() {
            *soft_errors += 1;
        }
        let source = match (source, to) {
            // A v6 destination needs a v6 source, and the kernel takes a mapped one.
            (IpAddr::V4(v4), SocketAddr::V6(_)) => IpAddr::V6(v4.to_ipv6_mapped()),
            (other, _) => other,
        };
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    Ok(socket.into())
}

/// The remote address of a connected socket, in canonical form. `ENOTCONN` when the connection
/// was reset before it was accepted.
pub(crate) fn peer_address(socket: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    let address = SockRef::from(&socket).peer_addr()?;
    ip_address(&address).map(canonical)
}

/// Makes a later `close` drop what the kernel holds and send RST (`SO_LINGER {1, 0}`).
pub(crate) fn reset_on_close(socket: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&socket).set_linger(Some(Duration::ZERO))
}

/// Ends the sending direction.
pub(crate) fn shutdown_write(socket: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&socket).shutdown(Shutdown::Write)
}

fn stream_socket(addr: SocketAddr, blocking: Blocking) -> io::Result<Socket> {
    let kind = match blocking {
        Blocking::Yes => Type::STREAM.cloexec(),
        Blocking::No => Type::STREAM.cloexec().nonblocking(),
    };
    Socket::new_raw(Domain::for_address(addr), kind, Some(Protocol::TCP))
}

fn set_v6_only(socket: &Socket, addr: SocketAddr, options: &ListenOptions) -> io::Result<()> {
    match addr {
        SocketAddr::V4(_) => Ok(()),
        SocketAddr::V6(v6) => socket.set_only_v6(!(options.dual_stack && v6.ip().is_unspecified())),
    }
}

/// What accepted connections inherit, and when they are accepted.
pub(super) fn set_listener_options(socket: &Socket, options: &ListenOptions) -> io::Result<()> {
    set_stream_options(socket, &options.stream)?;
    if let Some(after) = options.defer_accept {
        let seconds = i32::try_from(after.as_secs().max(1)).unwrap_or(i32::MAX);
        set_int_option(socket, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, seconds)?;
    }
    Ok(())
}

fn set_stream_options(socket: &Socket, options: &StreamOptions) -> io::Result<()> {
    if options.nodelay {
        socket.set_tcp_nodelay(true)?;
    }
    if let Some(keepalive) = options.keepalive {
        let second = Duration::from_secs(1);
        let probes = TcpKeepalive::new()
            .with_time(keepalive.idle.max(second))
            .with_interval(keepalive.interval.max(second))
            .with_retries(u32::from(keepalive.probes));
        socket.set_tcp_keepalive(&probes)?;
    }
    if let Some(bytes) = options.notsent_lowat {
        socket.set_tcp_notsent_lowat(bytes)?;
    }
    if let Some(congestion) = options.congestion {
        socket.set_tcp_congestion(congestion.as_bytes())?;
    }
    if let Some(bytes) = options.send_buffer {
        socket.set_send_buffer_size(bytes.try_into().unwrap_or(usize::MAX))?;
    }
    if let Some(bytes) = options.recv_buffer {
        socket.set_recv_buffer_size(bytes.try_into().unwrap_or(usize::MAX))?;
    }
    Ok(())
}

pub(super) fn set_int_option(
    socket: &impl AsRawFd,
    level: i32,
    name: i32,
    value: i32,
) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<i32>()).expect("four fits");
    // SAFETY: the kernel reads four bytes at `value`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

pub(super) fn ip_address(address: &SockAddr) -> io::Result<SocketAddr> {
    address
        .as_socket()
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))
}
