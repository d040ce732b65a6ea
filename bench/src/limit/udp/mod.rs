//! The raw UDP loops: what uTP could cost at best.

mod bulk;

use crate::engine::Engine;
use crate::job::Job;
use flock_transport::Transport;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;

/// Trains by `UDP_SEGMENT` and `UDP_GRO` (udp(7)).
pub const GSO: Engine = Engine {
    name: "udp-gso",
    about: "limit: raw UDP, trains gathered as uTP gathers them (UDP_SEGMENT), received whole (UDP_GRO)",
    transport: Transport::Utp,
    plays: |job| job == Job::Bulk,
    lives_max: None,
    sharded: false,
    serve: bulk::serve,
    drive: bulk::drive,
};

/// Bytes of a uTP header, which each datagram begins with.
pub(super) const HEADER: usize = 20;
/// Bytes of a full datagram: what an Ethernet carries in UDP over IPv4.
const DATAGRAM: usize = 1472;
/// Bytes of payload in it.
const SEGMENT: usize = DATAGRAM - HEADER;
/// Socket buffers as Flock has them.
const RECV_BUFFER: usize = 4 << 20;
const SEND_BUFFER: usize = 1 << 20;

/// A blocking socket with them.
pub(super) fn socket(bind: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(bind), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_recv_buffer_size(RECV_BUFFER)?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(&bind.into())?;
    Ok(socket)
}
