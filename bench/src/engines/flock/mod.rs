//! Flock: the server is the whole engine with its swarm logic, the client drives the engine's
//! own driver, as a load generator would.

mod client;
mod server;

use crate::engine::Engine;
use flock_engine::io::Backend;

/// On io_uring, as it comes.
pub const URING: Engine = Engine {
    name: "flock-uring",
    about: "Flock on io_uring, as it comes (TCP_QUICKACK 0 before connect)",
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

/// On epoll, as it comes.
pub const POLL: Engine = Engine {
    name: "flock-poll",
    about: "Flock on epoll, as it comes (TCP_QUICKACK 0 before connect)",
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
