//! The conformance suite on the backends of the operating system.

use flock_engine::io::{Clock, DriverConfig, PollDriver};
use flock_tests::conformance::Fixture;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

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

mod poll {
    use super::*;
    flock_tests::conformance!(Poll);
}
