use crate::io::{SocketId, Token};
use mio::net::{TcpListener, TcpStream, UdpSocket};

/// What a slot holds open.
#[derive(Debug)]
pub(super) enum Source {
    /// Nothing: the slot is free, or its dial failed and that is still to be told.
    Gone,
    Listener(TcpListener),
    Stream(TcpStream),
    Datagrams(UdpSocket),
}

/// One socket. The first group of flags is what the kernel last told and no call has disproved
/// since, the second what the caller waits for, the third where the slot is queued; the third
/// belongs to the queues and survives the slot's reuse.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) token: Token,
    pub(super) generation: u32,
    /// Index of the send in progress.
    pub(super) send: Option<u32>,
    pub(super) source: Source,

    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The peer ended its direction, or the stream broke: a short read is not the last.
    pub(super) hung_up: bool,
    /// The kernel holds an error for the socket.
    pub(super) failed: bool,
    /// Whether writable edges are asked for.
    pub(super) watches_writable: bool,

    pub(super) connecting: bool,
    /// An `Accept` or `Recv` is outstanding.
    pub(super) receiving: bool,
    /// The `Recv` ends with its first bytes.
    pub(super) once: bool,
    /// A close is submitted; only `Closed` may follow.
    pub(super) closing: bool,

    /// In the ready queue.
    pub(super) ready: bool,
    /// In the queue of receives without a buffer, or of paused listeners.
    pub(super) parked: bool,
}

impl Slot {
    /// Whether something the caller waits for can be tried now.
    pub(super) fn runnable(&self) -> bool {
        let out = self.connecting || self.send.is_some();
        let inward = self.receiving && !self.connecting;
        (inward && self.readable) || (out && self.writable)
    }

    /// Operations without their final completion.
    pub(super) fn outstanding(&self) -> u64 {
        u64::from(self.connecting)
            + u64::from(self.receiving)
            + u64::from(self.send.is_some())
            + u64::from(self.closing)
    }
}

/// All sockets of a driver. Slots of closed ones are used again under a new generation.
#[derive(Debug)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
    limit: usize,
}

impl Slots {
    pub(super) fn new(limit: u32) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            limit: limit as usize,
        }
    }

    /// Whether no socket can be added.
    pub(super) fn full(&self) -> bool {
        self.free.is_empty() && self.slots.len() >= self.limit
    }

    /// Adds a socket, unless the table is full.
    pub(super) fn insert(&mut self, source: Source, token: Token) -> Option<SocketId> {
        if self.full() {
            return None;
        }
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.slots.push(Slot::vacant());
                u32::try_from(self.slots.len() - 1).expect("the limit is a u32")
            }
        };
        let slot = self.at_mut(index);
        slot.token = token;
        slot.source = source;
        let generation = slot.generation;
        Some(SocketId {
            slot: index,
            generation,
        })
    }

    /// Frees a slot: its socket is closed, its name stale.
    pub(super) fn remove(&mut self, index: u32) {
        let slot = self.at_mut(index);
        debug_assert!(slot.send.is_none(), "a send outlives its socket");
        *slot = Slot {
            generation: slot.generation.wrapping_add(1),
            ready: slot.ready,
            parked: slot.parked,
            ..Slot::vacant()
        };
        self.free.push(index);
    }

    /// The slot of a socket that is neither stale nor being closed.
    pub(super) fn get_mut(&mut self, socket: SocketId) -> Option<&mut Slot> {
        self.slots
            .get_mut(socket.slot as usize)
            .filter(|slot| slot.generation == socket.generation && !slot.closing)
    }

    pub(super) fn at(&self, index: u32) -> &Slot {
        &self.slots[index as usize]
    }

    pub(super) fn at_mut(&mut self, index: u32) -> &mut Slot {
        &mut self.slots[index as usize]
    }

    /// The name of the socket in a slot.
    pub(super) fn name(&self, index: u32) -> SocketId {
        SocketId {
            slot: index,
            generation: self.at(index).generation,
        }
    }

    /// Closes every socket; all names become stale. Returns how many operations that ended.
    pub(super) fn clear(&mut self) -> u64 {
        let mut ended = 0;
        self.free.clear();
        for (index, slot) in (0..).zip(&mut self.slots) {
            ended += slot.outstanding();
            *slot = Slot {
                generation: slot.generation.wrapping_add(1),
                ..Slot::vacant()
            };
            self.free.push(index);
        }
        ended
    }
}

impl Slot {
    fn vacant() -> Self {
        Self {
            token: Token::default(),
            generation: 0,
            send: None,
            source: Source::Gone,
            readable: false,
            writable: false,
            hung_up: false,
            failed: false,
            watches_writable: false,
            connecting: false,
            receiving: false,
            once: false,
            closing: false,
            ready: false,
            parked: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_reused_under_a_new_name() {
        let mut slots = Slots::new(1);
        let first = slots.insert(Source::Gone, Token(1)).unwrap();
        assert!(slots.insert(Source::Gone, Token(2)).is_none());
        slots.remove(first.slot);
        let second = slots.insert(Source::Gone, Token(3)).unwrap();
        assert_eq!(first.slot, second.slot);
        assert!(slots.get_mut(first).is_none());
        assert_eq!(slots.get_mut(second).unwrap().token, Token(3));
    }

    #[test]
    fn an_idle_socket_costs_little() {
        assert!(size_of::<Slot>() <= 64, "{}", size_of::<Slot>());
    }
}
