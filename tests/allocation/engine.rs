//! The same for a whole shard: accept, handshake, claim, handler, close.

use super::config;
use super::counter::allocations;
use bytes::Bytes;
use flock_engine::io::{Clock, Driver, ListenOptions, PollDriver, UringDriver};
use flock_engine::session::{Connector, ConnectorError, ToLocal, ToPeer};
use flock_engine::{Builder, Flock, Ignore};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

/// Peers at a time.
const LANES: u8 = 8;
const COUNTED: u64 = 1_000;
/// Tables grow when more peers than ever overlap, which happens late now and then: of so many
/// times `COUNTED` peers, some cost nothing.
const WINDOWS: u64 = 20;

/// The life of one peer: its id, ours, the end.
fn live(to: SocketAddr, number: u64) -> io::Result<()> {
    let mut stream = TcpStream::connect(to)?;
    let mut frame = [0; 33];
    frame[0] = 32;
    frame[1..9].copy_from_slice(&number.to_le_bytes());
    // Smaller than the engine's id or not: it is never the same.
    frame[32] = 1;
    stream.write_all(&frame)?;
    stream.read_exact(&mut frame)
}

/// Hands everything on.
struct Passing;

impl Connector for Passing {
    fn outgoing(&mut self, bytes: Bytes, peer: &mut ToPeer<'_>) -> Result<(), ConnectorError> {
        peer.put(bytes)
    }

    fn incoming(
        &mut self,
        _: &[u8],
        local: &mut ToLocal<'_>,
        _: &mut ToPeer<'_>,
    ) -> Result<(), ConnectorError> {
        local.pass()
    }
}

fn count<D: Driver>(driver: D, options: Builder) -> u64 {
    let (flock, mut shards) = options
        .seed(1)
        .assemble(vec![driver], |_| Ignore)
        .expect("the options make sense");
    let shard = &mut shards[0];
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let to = shard
        .listen(any, &ListenOptions::default())
        .expect("a free port");
    for lane in 0..LANES {
        let mut numbers = (u64::from(lane)..).step_by(LANES.into());
        // Until there is no engine any more.
        std::thread::spawn(move || numbers.all(|number| live(to, number).is_ok()));
    }
    let mut until = |ends: u64| {
        while flock.counters().counters.peer_ends < ends {
            shard.step();
        }
    };
    let mut window = |number: u64| {
        let before = allocations();
        until(number * COUNTED);
        allocations() - before
    };
    let least = (1..=WINDOWS).map(&mut window).min();
    let counters = flock.counters().counters;
    assert!(counters.admitted >= WINDOWS * COUNTED, "{counters:?}");
    least.expect("there are windows")
}

#[test]
fn a_served_peer_costs_no_allocation_on_epoll() {
    let driver = PollDriver::new(&config(), Clock::start()).expect("epoll");
    assert_eq!(count(driver, Flock::builder()), 0, "in {COUNTED} peers");
}

#[test]
fn a_served_peer_costs_no_allocation_on_io_uring() {
    let driver = UringDriver::new(&config(), Clock::start()).expect("io_uring");
    assert_eq!(count(driver, Flock::builder()), 0, "in {COUNTED} peers");
}

#[test]
fn a_connector_in_between_costs_no_allocation_on_epoll() {
    let driver = PollDriver::new(&config(), Clock::start()).expect("epoll");
    let options = Flock::builder().connector(|_| Passing);
    assert_eq!(count(driver, options), 0, "in {COUNTED} peers");
}

#[test]
fn a_connector_in_between_costs_no_allocation_on_io_uring() {
    let driver = UringDriver::new(&config(), Clock::start()).expect("io_uring");
    let options = Flock::builder().connector(|_| Passing);
    assert_eq!(count(driver, options), 0, "in {COUNTED} peers");
}
