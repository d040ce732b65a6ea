//! Flock: the server is the whole engine with its swarm logic, the client drives the engine's
//! own driver, as a load generator would.

mod client;
mod connections;
mod server;
mod utp;

use crate::engine::Engine;
use crate::job::Job;
use flock_engine::io::Backend;
use flock_transport::Transport;
use std::time::Duration;

/// How long closing may take at the end.
const GRACE: Duration = Duration::from_secs(1);

/// How often to look whether the run is over, where nothing else tells.
const LOOK: Duration = Duration::from_millis(50);

/// On io_uring, as it comes.
pub const URING: Engine = Engine {
    name: "flock-uring",
    about: "Flock on io_uring, as it comes (TCP_QUICKACK 0 before connect)",
    transport: Transport::Tcp,
    plays: |_| true,
    lives_max: None,
    sharded: true,
    serve: |cx| server::serve(cx, Backend::Uring),
    drive: |cx| client::drive(cx, Backend::Uring, true),
};

/// On io_uring, with the handshake's own ACK.
pub const URING_ACK: Engine = Engine {
    name: "flock-uring-ack",
    about: "Flock on io_uring, quick-ack left alone",
    drive: |cx| client::drive(cx, Backend::Uring, false),
    ..URING
};

/// On io_uring, one process for every core instead of shards.
pub const URING_SINGLE: Engine = Engine {
    name: "flock-uring-single",
    about: "Flock on io_uring, never more than one shard",
    sharded: false,
    ..URING
};

/// On io_uring, with limits, lists, a firewall and an idle timeout.
pub const GUARDED: Engine = Engine {
    name: "flock-uring-guarded",
    about: "Flock on io_uring, every kind of admission at work: limits, lists, firewall, rate, watermark, idle timeout",
    sharded: false,
    serve: |cx| server::serve_guarded(cx, Backend::Uring),
    ..URING
};

/// On epoll, as it comes.
pub const POLL: Engine = Engine {
    name: "flock-poll",
    about: "Flock on epoll, as it comes (TCP_QUICKACK 0 before connect)",
    transport: Transport::Tcp,
    plays: |_| true,
    lives_max: None,
    sharded: true,
    serve: |cx| server::serve(cx, Backend::Poll),
    drive: |cx| client::drive(cx, Backend::Poll, true),
};

/// On epoll, with the handshake's own ACK.
pub const POLL_ACK: Engine = Engine {
    name: "flock-poll-ack",
    about: "Flock on epoll, quick-ack left alone",
    drive: |cx| client::drive(cx, Backend::Poll, false),
    ..POLL
};

/// On io_uring, its server on the level of connections and futures.
pub const ASYNC: Engine = Engine {
    name: "flock-uring-async",
    about: "Flock on io_uring, a task per Connection on tokio's current_thread runtime",
    sharded: false,
    serve: |cx| connections::serve(cx, Backend::Uring),
    ..URING
};

/// uTP on io_uring.
pub const UTP_URING: Engine = Engine {
    name: "flock-utp-uring",
    about: "Flock over uTP on io_uring, as it comes",
    transport: Transport::Utp,
    plays: |job| matches!(job, Job::Life(_) | Job::Bulk),
    lives_max: None,
    sharded: true,
    serve: |cx| server::serve_utp(cx, Backend::Uring),
    drive: |cx| utp::drive(cx, Backend::Uring, cx.in_flight),
};

/// uTP on epoll.
pub const UTP_POLL: Engine = Engine {
    name: "flock-utp-poll",
    about: "Flock over uTP on epoll with sendmmsg and recvmmsg, as it comes",
    serve: |cx| server::serve_utp(cx, Backend::Poll),
    drive: |cx| utp::drive(cx, Backend::Poll, cx.in_flight),
    ..UTP_URING
};

/// uTP on io_uring, always one connection at a time.
pub const UTP_ONE: Engine = Engine {
    name: "flock-utp-uring-one",
    about: "Flock over uTP on io_uring, one connection whatever the scenario says",
    plays: |job| job == Job::Bulk,
    drive: |cx| utp::drive(cx, Backend::Uring, 1),
    ..UTP_URING
};
