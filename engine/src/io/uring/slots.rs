use crate::io::{SocketId, Token};
use std::os::fd::RawFd;

/// A set of operations of one socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ops(u8);

impl Ops {
    pub(super) const NONE: Self = Self(0);
    pub(super) const ACCEPT: Self = Self(1);
    pub(super) const CONNECT: Self = Self(2);
    pub(super) const RECV: Self = Self(4);
    pub(super) const SEND: Self = Self(8);
    pub(super) const RECVMSG: Self = Self(16);
    /// Any number of trains; which they are is with the cargo.
    pub(super) const TRAIN: Self = Self(32);
    /// Not an operation: what is received is received once.
    pub(super) const ONCE: Self = Self(64);
    /// Those of which a socket has one at a time.
    pub(super) const EACH: [Self; 5] = [
        Self::ACCEPT,
        Self::CONNECT,
        Self::RECV,
        Self::SEND,
        Self::RECVMSG,
    ];

    pub(super) fn has(self, op: Self) -> bool {
        self.0 & op.0 != 0
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn add(&mut self, op: Self) {
        self.0 |= op.0;
    }

    pub(super) fn remove(&mut self, op: Self) {
        self.0 &= !op.0;
    }
}

/// Where a socket is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The slot waits for a socket.
    Free,
    /// A listener.
    Listening,
    /// A dial on its way.
    Connecting,
    /// A dial that failed before the kernel saw it; `ConnectFailed` is on its way.
    Failed,
    /// An established stream.
    Open,
    /// A datagram socket.
    Datagrams,
    /// Closed by the caller; the kernel still works on something.
    Closing,
    /// The kernel is done; `Closed` is on its way.
    Closed,
}

/// What the driver keeps for a socket. With a million of them every byte counts.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) token: Token,
    generation: u32,
    pub(super) fd: RawFd,
    /// The memory of the send or connect in progress, or [`NO_CARGO`]; for a free slot the
    /// next free one.
    pub(super) cargo: u32,
    pub(super) state: State,
    /// Operations the caller waits for.
    pub(super) wanted: Ops,
    /// Operations the kernel has, or will get from the submission queue.
    pub(super) held: Ops,
    /// Operations that have been cancelled but not ended.
    pub(super) cancelled: Ops,
}

pub(super) const NO_CARGO: u32 = u32::MAX;
pub(super) const NO_FD: RawFd = -1;

/// The sockets of a driver. Slots are reused, and a reused one has a new generation.
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: u32,
    live: u32,
    limit: u32,
}

impl Slots {
    pub(super) fn new(limit: u32) -> Self {
        Self {
            slots: Vec::new(),
            free: NO_CARGO,
            live: 0,
            // The last index marks the end of the free list.
            limit: limit.min(NO_CARGO - 1),
        }
    }

    /// A slot in `state`, or `None` when the limit is reached.
    pub(super) fn insert(&mut self, fd: RawFd, token: Token, state: State) -> Option<SocketId> {
        if self.live >= self.limit {
            return None;
        }
        let index = if self.free == NO_CARGO {
            let index = u32::try_from(self.slots.len()).expect("limited to less");
            self.slots.push(Slot {
                token,
                generation: 0,
                fd,
                cargo: NO_CARGO,
                state,
                wanted: Ops::NONE,
                held: Ops::NONE,
                cancelled: Ops::NONE,
            });
            index
        } else {
            let index = self.free;
            let slot = &mut self.slots[index as usize];
            self.free = slot.cargo;
            slot.token = token;
            slot.fd = fd;
            slot.cargo = NO_CARGO;
            slot.state = state;
            index
        };
        self.live += 1;
        Some(self.id(index))
    }

    /// The present name of the slot.
    pub(super) fn id(&self, index: u32) -> SocketId {
        SocketId {
            slot: index,
            generation: self.slots[index as usize].generation,
        }
    }

    /// The slot behind a name, in whatever state of the socket's life.
    pub(super) fn find(&mut self, id: SocketId) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(id.slot as usize)?;
        (slot.generation == id.generation && slot.state != State::Free).then_some(slot)
    }

    /// The slot behind a name the caller may still use.
    pub(super) fn live(&mut self, id: SocketId) -> Option<&mut Slot> {
        self.find(id)
            .filter(|slot| !matches!(slot.state, State::Closing | State::Closed))
    }

    /// The slot at `index`, if its generation still ends in these bits.
    pub(super) fn at(&mut self, index: u32, generation: u32, mask: u32) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(index as usize)?;
        (slot.generation & mask == generation && slot.state != State::Free).then_some(slot)
    }

    /// Gives the slot back; its name is stale from here on.
    pub(super) fn remove(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        assert!(slot.state != State::Free, "freed twice");
        assert!(slot.held.is_empty(), "the kernel still works on the slot");
        assert!(slot.fd == NO_FD, "the descriptor has been given away");
        slot.state = State::Free;
        slot.generation = slot.generation.wrapping_add(1);
        slot.wanted = Ops::NONE;
        slot.cancelled = Ops::NONE;
        slot.cargo = self.free;
        self.free = index;
        self.live -= 1;
    }

    /// How many slots are in use.
    #[cfg(test)]
    pub(super) fn live_count(&self) -> u32 {
        self.live
    }

    /// Every slot in use.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.slots
            .iter_mut()
            .filter(|slot| slot.state != State::Free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_socket_is_small() {
        assert!(size_of::<Slot>() <= 32, "{}", size_of::<Slot>());
    }

    #[test]
    fn names_go_stale_and_the_limit_holds() {
        let mut slots = Slots::new(2);
        let one = slots.insert(NO_FD, Token(1), State::Open).unwrap();
        let two = slots.insert(NO_FD, Token(2), State::Open).unwrap();
        assert!(slots.insert(NO_FD, Token(3), State::Open).is_none());
        slots.remove(one.slot);
        assert!(slots.find(one).is_none());
        let three = slots.insert(NO_FD, Token(3), State::Open).unwrap();
        assert_eq!(three.slot, one.slot);
        assert_ne!(three, one);
        assert_eq!(slots.live(two).unwrap().token, Token(2));
        slots.live(two).unwrap().state = State::Closing;
        assert!(slots.live(two).is_none());
        assert!(slots.find(two).is_some());
    }
}
