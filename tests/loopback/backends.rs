//! The real drivers as fixtures.

use flock_engine::io::{Clock, DriverConfig, PollDriver, UringDriver};
use flock_tests::conformance::Fixture;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// A driver of the operating system.
pub(crate) trait Backend: Fixture {
    /// The module its tests are in.
    const NAME: &'static str;
}

pub(crate) fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

/// A port nobody listens on: it was free a moment ago, and the kernel gives out others first.
pub(crate) fn nobody() -> SocketAddr {
    let listener = TcpListener::bind(loopback()).expect("a loopback port");
    listener.local_addr().expect("bound")
}

/// epoll.
pub(crate) struct Poll;

impl Fixture for Poll {
    type Driver = PollDriver;

    fn driver(config: &DriverConfig) -> PollDriver {
        PollDriver::new(config, Clock::start()).expect("epoll")
    }

    fn local() -> SocketAddr {
        loopback()
    }

    fn nobody() -> SocketAddr {
        nobody()
    }
}

impl Backend for Poll {
    const NAME: &'static str = "poll";
}

/// io_uring.
pub(crate) struct Uring;

impl Fixture for Uring {
    type Driver = UringDriver;

    fn driver(config: &DriverConfig) -> UringDriver {
        UringDriver::new(config, Clock::start()).expect("io_uring")
    }

    fn local() -> SocketAddr {
        loopback()
    }

    fn nobody() -> SocketAddr {
        nobody()
    }
}

impl Backend for Uring {
    const NAME: &'static str = "uring";
}
