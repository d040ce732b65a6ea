//! The raw UDP loops: what uTP could cost at best.

mod bulk;

use crate::engine::Engine;
use flock_transport::Transport;

/// Trains by `UDP_SEGMENT` and `UDP_GRO` (udp(7)).
pub const GSO: Engine = Engine {
    name: "udp-gso",
    about: "limit: raw UDP, trains gathered as uTP gathers them (UDP_SEGMENT), received whole (UDP_GRO)",
    transport: Transport::Utp,
    sharded: false,
    serve: bulk::serve,
    drive: bulk::drive,
};

/// Bytes of a uTP header, which each datagram begins with.
const HEADER: usize = 20;
/// Bytes of a full datagram: what an Ethernet carries in UDP over IPv4.
const DATAGRAM: usize = 1472;
/// Bytes of payload in it.
const SEGMENT: usize = DATAGRAM - HEADER;
/// Socket buffers as Flock has them.
const RECV_BUFFER: usize = 4 << 20;
const SEND_BUFFER: usize = 1 << 20;
