//! The sockets of one driver, as its kernel side keeps them.

use crate::io::{ConnectOptions, DriverConfig, DriverCounters, OpKey, SocketId, Token};
use flock_transport::{Chunks, CloseHow, Errno, Instant};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// State of an operation that the socket has at most one of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Arm {
    #[default]
    Idle,
    Armed,
    /// Armed for one result.
    Once,
    /// It had that result, and ends.
    Spent,
    /// Armed, and asked to end.
    Cancelling,
}

/// A send that is being taken over by the kernel.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) chunks: Chunks,
    /// Bytes that remain of all chunks; taken ones are cut off.
    pub(super) left: usize,
    pub(super) total: u64,
    pub(super) rounds: u32,
    pub(super) cancelling: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A dial that begins with the next turn.
    Pending,
    Listener(u64),
    Stream(u64, usize),
    Datagrams(u64),
    /// A dial that failed before there was a stream.
    Failed(Errno),
}

#[derive(Debug)]
pub(super) struct Socket {
    pub(super) token: Token,
    pub(super) kind: Kind,
    pub(super) accept: Arm,
    pub(super) connect: Arm,
    pub(super) recv: Arm,
    pub(super) send: Option<Sending>,
    /// `Close` was submitted: its completion is due then.
    pub(super) closed_at: Option<Instant>,
    /// Accepting pauses until then for want of descriptors.
    pub(super) paused_until: Instant,
    listed: bool,
}

impl Socket {
    pub(super) fn new(token: Token, kind: Kind) -> Self {
        Self {
            token,
            kind,
            accept: Arm::Idle,
            connect: Arm::Idle,
            recv: Arm::Idle,
            send: None,
            closed_at: None,
            paused_until: Instant::ZERO,
            listed: false,
        }
    }

    pub(super) fn outstanding(&self) -> u64 {
        let arms = [self.accept, self.connect, self.recv];
        let armed = arms.iter().filter(|arm| **arm != Arm::Idle).count();
        (armed + usize::from(self.send.is_some()) + usize::from(self.closed_at.is_some())) as u64
    }
}

/// What the driver was asked for and carries out in its next turn.
#[derive(Debug)]
pub(super) enum Request {
    /// `Accept` or `Recv`: look at the socket.
    Look(SocketId),
    Connect(SocketId, SocketAddr, ConnectOptions),
    Send(SocketId),
    ShutdownWrite(SocketId),
    Close(SocketId, CloseHow),
    Cancel(OpKey),
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    socket: Option<Socket>,
}

/// The kernel side of one driver.
#[derive(Debug)]
pub(super) struct Station {
    pub(super) node: usize,
    pub(super) config: DriverConfig,
    pub(super) counters: DriverCounters,
    pub(super) woken: Arc<AtomicBool>,
    pub(super) deadline: Option<Instant>,
    pub(super) requests: Vec<Request>,
    /// Sockets that may have a completion.
    pub(super) ready: Vec<SocketId>,
    pub(super) alive: bool,
    /// The latest turn found nothing: a real one would sleep. Otherwise the caller has something
    /// to do, and then takes its next turn at once.
    pub(super) waiting: bool,
    slots: Vec<Slot>,
    free: Vec<u32>,
    open: usize,
}

impl Station {
    pub(super) fn new(node: usize, config: DriverConfig) -> Self {
        Self {
            node,
            config,
            counters: DriverCounters::default(),
            woken: Arc::default(),
            deadline: None,
            requests: Vec::new(),
            ready: Vec::new(),
            alive: true,
            waiting: false,
            slots: Vec::new(),
            free: Vec::new(),
            open: 0,
        }
    }

    pub(super) fn runnable(&self, now: Instant) -> bool {
        self.alive
            && (!self.waiting
                || !self.requests.is_empty()
                || !self.ready.is_empty()
                || self.deadline.is_some_and(|at| at <= now)
                || self.woken.load(Ordering::Acquire))
    }

    pub(super) fn wakes_at(&self) -> Option<Instant> {
        self.deadline.filter(|_| self.alive)
    }

    pub(super) fn open(&self) -> usize {
        self.open
    }

    pub(super) fn full(&self) -> bool {
        self.open >= self.config.sockets as usize
    }

    pub(super) fn insert(&mut self, socket: Socket) -> SocketId {
        self.open += 1;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).expect("the table's limit is a u32")
        });
        let entry = &mut self.slots[slot as usize];
        entry.socket = Some(socket);
        SocketId {
            slot,
            generation: entry.generation,
        }
    }

    pub(super) fn remove(&mut self, id: SocketId) -> Option<Socket> {
        let entry = self.slots.get_mut(id.slot as usize)?;
        if entry.generation != id.generation {
            return None;
        }
        let socket = entry.socket.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(id.slot);
        self.open -= 1;
        Some(socket)
    }

    pub(super) fn get(&mut self, id: SocketId) -> Option<&mut Socket> {
        let entry = self.slots.get_mut(id.slot as usize)?;
        entry
            .socket
            .as_mut()
            .filter(|_| entry.generation == id.generation)
    }

    /// The socket, unless the caller has closed it.
    pub(super) fn live(&mut self, id: SocketId) -> Option<&mut Socket> {
        self.get(id).filter(|socket| socket.closed_at.is_none())
    }

    /// Puts the socket on the list of those to look at.
    pub(super) fn list(&mut self, id: SocketId) {
        if let Some(socket) = self.get(id)
            && !socket.listed
        {
            socket.listed = true;
            self.ready.push(id);
        }
    }

    pub(super) fn unlist(&mut self, index: usize) {
        let id = self.ready.swap_remove(index);
        if let Some(socket) = self.get(id) {
            socket.listed = false;
        }
    }

    /// The node crashed.
    pub(super) fn kill(&mut self) {
        self.alive = false;
        self.requests.clear();
        self.ready.clear();
        self.free.clear();
        self.slots.clear();
        self.open = 0;
    }

    pub(super) fn names(&self) -> Vec<SocketId> {
        let occupied = self.slots.iter().zip(0..);
        occupied
            .filter(|(slot, _)| slot.socket.is_some())
            .map(|(slot, index)| SocketId {
                slot: index,
                generation: slot.generation,
            })
            .collect()
    }
}
