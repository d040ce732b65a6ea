//! Proof that drivers, and shards on them, allocate nothing for an operation once their tables have
//! grown.

#[cfg(test)]
mod candidates;
mod counter;
#[cfg(test)]
mod engine;
#[cfg(test)]
mod utp;

use bytes::Bytes;
use counter::allocations;
use flock_engine::io::{
    Clock, Completions, ConnectOptions, Driver, DriverConfig, Op, Outcome, PollDriver, SocketId,
    Token, UringDriver,
};
use flock_tcp::ListenOptions;
use flock_transport::{Chunks, CloseHow};
use std::net::{Ipv4Addr, SocketAddr};

const AT_ONCE: usize = 32;
const WARM_UP: usize = 1_000;
const COUNTED: usize = 1_000;
const FRAME: &[u8] = &[7; 33];

const DIALLED: Token = Token(1);
const ACCEPTED: Token = Token(2);

/// A driver that talks to itself: dial, a frame each way, close, and the next dial.
struct Lives<D> {
    driver: D,
    addr: SocketAddr,
    out: Completions,
    ended: usize,
}

impl<D: Driver> Lives<D> {
    fn new(mut driver: D) -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (listener, addr) = driver
            .listen(any, &ListenOptions::default(), ACCEPTED)
            .expect("a free port");
        driver.submit(Op::Accept { listener }).expect("room");
        let mut lives = Self {
            driver,
            addr,
            out: Completions::new(),
            ended: 0,
        };
        (0..AT_ONCE).for_each(|_| lives.dial());
        lives
    }

    fn dial(&mut self) {
        self.submit(Op::Connect {
            to: self.addr,
            options: ConnectOptions::default(),
            token: DIALLED,
        });
    }

    fn submit(&mut self, op: Op) {
        self.driver.submit(op).expect("the table has room");
    }

    fn send(&mut self, socket: SocketId) {
        let chunks = Chunks::from_iter([Bytes::from_static(FRAME)]);
        self.submit(Op::Send { socket, chunks });
    }

    fn close(&mut self, socket: SocketId, how: CloseHow) {
        self.submit(Op::Close { socket, how });
    }

    /// Lives until `ended` dialled connections have ended.
    fn until(&mut self, ended: usize) {
        while self.ended < ended {
            let mut out = std::mem::take(&mut self.out);
            self.driver.turn(None, &mut out).expect("a turn succeeds");
            for completion in &out {
                self.go_on(completion.socket, completion.token, completion.outcome);
            }
            self.out = out;
        }
    }

    fn go_on(&mut self, socket: SocketId, token: Token, outcome: Outcome) {
        match outcome {
            Outcome::Accepted { socket, .. } => self.submit(Op::Recv { socket }),
            Outcome::Connected => {
                self.submit(Op::Recv { socket });
                self.send(socket);
            }
            Outcome::Data(loan) => {
                assert_eq!(self.driver.bytes(loan), FRAME);
                if token == ACCEPTED {
                    self.send(socket);
                } else {
                    self.close(socket, CloseHow::Rst);
                    self.ended += 1;
                    self.dial();
                }
            }
            Outcome::Eof | Outcome::RecvEnded(_) => self.close(socket, CloseHow::Fin),
            Outcome::Sent { .. } | Outcome::Closed => {}
            other => panic!("{other:?}"),
        }
    }
}

fn count<D: Driver>(driver: D) -> u64 {
    let mut lives = Lives::new(driver);
    lives.until(WARM_UP);
    let before = allocations();
    lives.until(WARM_UP + COUNTED);
    allocations() - before
}

fn config() -> DriverConfig {
    DriverConfig {
        sockets: 256,
        buffers: 64,
        ..DriverConfig::default()
    }
}

#[test]
fn the_counter_counts() {
    let before = allocations();
    drop(std::hint::black_box(Vec::<u8>::with_capacity(100)));
    assert_eq!(allocations() - before, 1);
}

#[test]
fn connections_cost_no_allocation_on_epoll() {
    let driver = PollDriver::new(&config(), Clock::start()).expect("epoll");
    assert_eq!(count(driver), 0, "in {COUNTED} connections");
}

#[test]
fn connections_cost_no_allocation_on_io_uring() {
    let driver = UringDriver::new(&config(), Clock::start()).expect("io_uring");
    assert_eq!(count(driver), 0, "in {COUNTED} connections");
}
