//! `revelation nc`: stdin and stdout, or an echo, over a bare transport.

mod session;
mod stdio;
mod tcp;
mod utp;

use crate::args::NcArgs;
use flock_engine::io::{
    self as driver, Backend, Clock, Driver, DriverConfig, PollDriver, Unavailable, UringDriver,
};
use flock_engine::{CloseReason, Errno};
use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

/// Why it did not end well.
#[derive(Debug)]
pub(crate) enum NcError {
    /// The name has no address.
    Resolve(String, io::Error),
    /// There is no driver.
    Backend(Unavailable),
    /// The driver could not be set up, or cannot go on.
    Driver(io::Error),
    /// The address cannot be listened at.
    Listen(SocketAddr, io::Error),
    /// None of the addresses could be connected to; this is the last one.
    Connect(SocketAddr, Errno),
    /// The connection broke.
    Broken(CloseReason),
    /// Stdin or stdout failed.
    Stdio(io::Error),
}

impl fmt::Display for NcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolve(host, error) => write!(f, "{host}: {error}"),
            Self::Backend(reason) => reason.fmt(f),
            Self::Driver(error) => write!(f, "driver: {error}"),
            Self::Listen(addr, error) => write!(f, "cannot listen at {addr}: {error}"),
            Self::Connect(addr, errno) => write!(f, "cannot connect to {addr}: {errno}"),
            Self::Broken(reason) => write!(f, "the connection broke: {reason}"),
            Self::Stdio(error) => write!(f, "stdin or stdout: {error}"),
        }
    }
}

impl std::error::Error for NcError {}

/// Sockets open at a time: the listener, and the connections of `--keep-open`.
const SOCKETS: u32 = 4096;

/// Runs until the connection, with `--keep-open` the process, ends.
pub(crate) fn run(args: &NcArgs) -> Result<(), NcError> {
    let resolve = |error| NcError::Resolve(args.host.clone(), error);
    let addrs: Vec<SocketAddr> = (args.host.as_str(), args.port)
        .to_socket_addrs()
        .map_err(resolve)?
        .collect();
    let selected = driver::select(args.backend.into()).map_err(NcError::Backend)?;
    let config = DriverConfig {
        sockets: SOCKETS,
        ..DriverConfig::default()
    };
    let clock = Clock::start();
    match selected.backend {
        Backend::Poll => {
            let driver = PollDriver::new(&config, clock).map_err(NcError::Driver)?;
            over(driver, args, &addrs)
        }
        _ => {
            let driver = UringDriver::new(&config, clock).map_err(NcError::Driver)?;
            over(driver, args, &addrs)
        }
    }
}

/// Runs over the transport asked for.
fn over<D: Driver>(driver: D, args: &NcArgs, addrs: &[SocketAddr]) -> Result<(), NcError> {
    if args.utp {
        let wire = utp::Utp::new(driver).map_err(NcError::Driver)?;
        return session::run(wire, args, addrs);
    }
    session::run(tcp::Tcp::new(driver), args, addrs)
}
