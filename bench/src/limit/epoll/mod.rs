//! The raw epoll loop: each socket registered once, edge-triggered; read and write when told to.

mod client;
mod server;

use crate::engine::Engine;
use crate::job::Job;
use flock_transport::Transport;

/// The plain loop.
pub const ENGINE: Engine = Engine {
    name: "epoll",
    about: "limit: raw epoll loop",
    transport: Transport::Tcp,
    plays: |_| true,
    lives_max: None,
    sharded: false,
    serve: server::serve,
    drive: |cx| client::drive(cx, Style::Plain),
};

/// The same, each stream under CUBIC whatever the system says.
pub const ENGINE_CUBIC: Engine = Engine {
    name: "epoll-cubic",
    about: "limit: raw epoll loop, TCP_CONGESTION cubic; the flow beside others behind a bottleneck",
    plays: |job| job == Job::Bulk,
    drive: |cx| client::drive(cx, Style::Cubic),
    ..ENGINE
};

/// What a client does to its sockets before they connect.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Plain,
    LazyAck,
    Cubic,
}

/// The same, the client's handshake ACK riding on its first data.
pub const ENGINE_QA0: Engine = Engine {
    name: "epoll-qa0",
    about: "limit: raw epoll loop, TCP_QUICKACK 0 before connect",
    transport: Transport::Tcp,
    plays: |_| true,
    lives_max: None,
    sharded: false,
    serve: server::serve,
    drive: |cx| client::drive(cx, Style::LazyAck),
};

/// Events fetched at a time.
const EVENTS: usize = 512;
/// What says that the other side has ended its direction, or the connection.
const ENDED: i32 = libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR;

/// The events of `event` as the constants are typed.
fn events(event: &libc::epoll_event) -> i32 {
    event.events.cast_signed()
}
