//! The engines compared: each plays both sides of every job as an ordinary user of the library
//! would write it (`plain`), and where the library offers ring flags, with them (`tuned`).

pub mod compio;
pub mod flock;
pub mod librqbit;
pub mod monoio;
pub mod tokio;
pub mod tokio_uring;
pub mod utp_native;

use crate::engine::Engine;
use crate::limit;
use flock_transport::Transport;

/// Every engine there is, in the order of the tables.
pub const ALL: &[Engine] = &[
    limit::uring::ENGINE,
    limit::uring::ENGINE_QA0,
    limit::epoll::ENGINE,
    limit::epoll::ENGINE_QA0,
    limit::epoll::ENGINE_CUBIC,
    flock::URING,
    flock::URING_ACK,
    flock::URING_SINGLE,
    flock::GUARDED,
    flock::POLL,
    flock::POLL_ACK,
    flock::ASYNC,
    tokio::ENGINE,
    monoio::PLAIN,
    monoio::TUNED,
    tokio_uring::PLAIN,
    tokio_uring::TUNED,
    compio::PLAIN,
    compio::TUNED,
    limit::udp::GSO,
    limit::uring::EXCHANGE,
    flock::UTP_URING,
    flock::UTP_POLL,
    flock::UTP_ONE,
    librqbit::ENGINE,
    utp_native::ENGINE,
];

/// The engines whose connections `transport` carries.
pub fn of(transport: Transport) -> impl Iterator<Item = Engine> {
    let all = ALL.iter().copied();
    all.filter(move |engine| engine.transport == transport)
}

/// The engine called `name`.
#[must_use]
pub fn find(name: &str) -> Option<Engine> {
    ALL.iter().copied().find(|engine| engine.name == name)
}
