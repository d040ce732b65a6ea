use super::SimWorld;
use super::deliver::Loans;
use super::net::Listener;
use super::table::{Arm, Kind, Request, Sending, Socket};
use crate::io::{
    BoundDatagrams, Completions, DatagramOptions, Drained, Driver, DriverCounters, LoanId, Op,
    OpKey, QueueFull, SocketId, Token, Verb, Wake, Waker,
};
use flock_tcp::ListenOptions;
use flock_transport::{Instant, Train};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A driver whose network and clock are a [`SimWorld`].
///
/// [`turn`](Driver::turn) never sleeps: it delivers what is ready at the world's time; one that
/// finds nothing stands for the beginning of a sleep until its deadline. [`SimWorld::next`] says
/// whose turn it is and moves the clock. In a
/// [self-driving](SimWorld::self_driving) world `turn` moves the clock itself, and waits as other
/// drivers do.
#[derive(Debug)]
pub struct SimDriver {
    world: SimWorld,
    station: usize,
    loans: Loans,
    now: Instant,
}

#[derive(Debug)]
struct Flag(Arc<AtomicBool>);

impl Wake for Flag {
    fn wake(&self) {
        self.0.store(true, Ordering::Release);
    }
}

impl SimDriver {
    pub(super) fn new(world: SimWorld, station: usize, now: Instant) -> Self {
        Self {
            world,
            station,
            loans: Loans::default(),
            now,
        }
    }

    /// The driver's number in its world, as [`SimWorld::next`] returns it.
    #[must_use]
    pub fn id(&self) -> usize {
        self.station
    }

    /// Sockets the driver has open, closing ones included.
    #[must_use]
    pub fn sockets(&self) -> usize {
        self.world.0.borrow().stations[self.station].open()
    }
}

fn arm_once(arm: &mut Arm, what: &str) {
    assert!(*arm == Arm::Idle, "a second {what} on one socket");
    *arm = Arm::Armed;
}

/// Marks the operation outstanding on its socket, and says what is to be done for it.
fn arm(socket: &mut Socket, id: SocketId, op: Op) -> Request {
    match op {
        Op::Accept { .. } => {
            arm_once(&mut socket.accept, "Accept");
            Request::Look(id)
        }
        Op::Recv { .. } => {
            arm_once(&mut socket.recv, "Recv");
            Request::Look(id)
        }
        Op::RecvOnce { .. } => {
            arm_once(&mut socket.recv, "Recv");
            socket.recv = Arm::Once;
            Request::Look(id)
        }
        Op::Connect { to, options, .. } => {
            arm_once(&mut socket.connect, "Connect");
            Request::Connect(id, to, options)
        }
        Op::Send { chunks, .. } => {
            assert!(socket.send.is_none(), "a second Send on one socket");
            let left: usize = chunks.iter().map(bytes::Bytes::len).sum();
            assert!(left > 0, "a Send without bytes");
            socket.send = Some(Sending {
                chunks,
                left,
                total: left as u64,
                rounds: 0,
                cancelling: false,
            });
            Request::Send(id)
        }
        Op::ShutdownWrite { .. } => Request::ShutdownWrite(id),
        Op::Close { how, .. } => {
            // The name is stale from here on; the time of the completion is drawn later.
            socket.closed_at = Some(Instant::FAR_FUTURE);
            Request::Close(id, how)
        }
    }
}

impl Driver for SimDriver {
    fn listen(
        &mut self,
        addr: SocketAddr,
        options: &ListenOptions,
        token: Token,
    ) -> io::Result<(SocketId, SocketAddr)> {
        let mut world = self.world.0.borrow_mut();
        let addr = world.bind(self.station, addr, options)?;
        let name = world.next_serial();
        let station = &mut world.stations[self.station];
        let node = station.node;
        let socket = station.insert(Socket::new(token, Kind::Listener(name)));
        let listener = Listener {
            node,
            station: self.station,
            socket,
            addr,
            options: *options,
            backlog: VecDeque::new(),
        };
        world.listeners.insert(name, listener);
        Ok((socket, addr))
    }

    fn bind_datagrams(
        &mut self,
        addr: SocketAddr,
        options: &DatagramOptions,
        token: Token,
    ) -> io::Result<BoundDatagrams> {
        let mut world = self.world.0.borrow_mut();
        Ok(world.open_datagrams(self.station, addr, options, token)?)
    }

    fn steer(&mut self, socket: SocketId, shards: u16) -> io::Result<()> {
        let mut world = self.world.0.borrow_mut();
        Ok(world.attach_steering(self.station, socket, shards)?)
    }

    fn send_train(&mut self, socket: SocketId, train: &mut Train) -> Result<(), QueueFull> {
        let mut world = self.world.0.borrow_mut();
        match world.queue_train(self.station, socket, train) {
            true => Ok(()),
            false => Err(QueueFull),
        }
    }

    fn assign(&mut self, socket: SocketId, token: Token) {
        let mut world = self.world.0.borrow_mut();
        if let Some(socket) = world.stations[self.station].live(socket) {
            socket.token = token;
        }
    }

    fn submit(&mut self, op: Op) -> Result<OpKey, QueueFull> {
        let mut world = self.world.0.borrow_mut();
        let station = &mut world.stations[self.station];
        let (verb, socket) = match op {
            Op::Connect { token, .. } => {
                if !station.alive || station.full() {
                    return Err(QueueFull);
                }
                let socket = station.insert(Socket::new(token, Kind::Pending));
                (Verb::Connect, socket)
            }
            Op::Accept { listener } => (Verb::Accept, listener),
            Op::Recv { socket } | Op::RecvOnce { socket } => (Verb::Recv, socket),
            Op::Send { socket, .. } => (Verb::Send, socket),
            Op::ShutdownWrite { socket } => (Verb::ShutdownWrite, socket),
            Op::Close { socket, .. } => (Verb::Close, socket),
        };
        if let Some(live) = station.live(socket) {
            let request = arm(live, socket, op);
            station.requests.push(request);
        }
        Ok(OpKey { socket, verb })
    }

    fn cancel(&mut self, key: OpKey) {
        let mut world = self.world.0.borrow_mut();
        let station = &mut world.stations[self.station];
        if station.live(key.socket).is_some() {
            station.requests.push(Request::Cancel(key));
        }
    }

    fn turn(&mut self, deadline: Option<Instant>, out: &mut Completions) -> io::Result<Instant> {
        let mut guard = self.world.0.borrow_mut();
        let world = &mut *guard;
        self.loans.recycle();
        out.clear();
        let mut waited = false;
        let happened = loop {
            world.run_due();
            world.carry_out(self.station);
            world.deliver(self.station, &mut self.loans, out);
            let woken = world.stations[self.station]
                .woken
                .swap(false, Ordering::AcqRel);
            let due = deadline.is_some_and(|at| at <= world.now);
            let happened = !out.is_empty() || woken || due;
            if happened || !world.self_driving {
                break happened;
            }
            world.jump(deadline);
            waited = true;
        };
        let now = world.now;
        let station = &mut world.stations[self.station];
        station.counters.turns += 1;
        station.counters.waits += u64::from(waited);
        station.deadline = deadline;
        station.waiting = !happened;
        self.now = now;
        Ok(now)
    }

    fn bytes(&self, loan: LoanId) -> &[u8] {
        self.loans.bytes(loan)
    }

    fn waker(&self) -> Waker {
        let world = self.world.0.borrow();
        let flag = Arc::clone(&world.stations[self.station].woken);
        Waker::new(Arc::new(Flag(flag)))
    }

    fn now(&self) -> Instant {
        self.now
    }

    fn counters(&self) -> DriverCounters {
        self.world.0.borrow().stations[self.station].counters
    }

    fn shutdown(&mut self, _grace: Duration) -> Drained {
        Drained {
            ended: self.world.0.borrow_mut().shut_down(self.station),
            leaked: 0,
        }
    }
}

impl Drop for SimDriver {
    fn drop(&mut self) {
        // A panic may have happened inside the world; the test is over then anyway.
        if let Ok(mut world) = self.world.0.try_borrow_mut() {
            world.shut_down(self.station);
        }
    }
}
