//! What goes to the network.

use super::{Endpoint, Event, Key};
use crate::connection::Filled;
use crate::wire::Header;
use flock_transport::{Instant, Train};
use std::collections::VecDeque;
use std::net::SocketAddr;

/// Replies that may wait; they are owed to nobody.
const REPLIES_MAX: usize = 8192;

/// Trains that may be with the driver.
const TRAINS_MAX: usize = 4096;

/// Packets that belong to no connection: answers to SYNs, RESETs, last acknowledgements. Each is
/// a bare header.
#[derive(Default)]
pub(crate) struct Replies {
    waiting: VecDeque<(SocketAddr, Header)>,
    pub(crate) dropped: u64,
}

impl Replies {
    pub(crate) fn push(&mut self, to: SocketAddr, header: Header) {
        if self.waiting.len() < REPLIES_MAX {
            self.waiting.push_back((to, header));
        } else {
            self.dropped += 1;
        }
    }

    fn fill(&mut self, train: &mut Train) -> bool {
        let Some((to, header)) = self.waiting.pop_front() else {
            return false;
        };
        train.reset(to);
        let bytes = header.encode(0);
        train.push_datagram(bytes.len(), &bytes);
        true
    }
}

/// The trains that are with the driver, numbered in the order in which they were given out.
#[derive(Default)]
pub(crate) struct Trains {
    first: u64,
    out: VecDeque<Option<(Key, Filled)>>,
}

impl Trains {
    fn is_full(&self) -> bool {
        self.out.len() >= TRAINS_MAX
    }

    fn give_out(&mut self, train: Option<(Key, Filled)>) -> u64 {
        self.out.push_back(train);
        self.first + self.out.len() as u64 - 1
    }

    fn take_back(&mut self, tag: u64) -> Option<(Key, Filled)> {
        let place = usize::try_from(tag.checked_sub(self.first)?).ok()?;
        let train = self.out.get_mut(place)?.take();
        while self.out.front().is_some_and(Option::is_none) {
            self.out.pop_front();
            self.first += 1;
        }
        train
    }
}

/// The tag of a train of replies, of which nobody wants to know what became.
const REPLY: u64 = u64::MAX;

impl Endpoint {
    /// Fills `train` with what is to go out next; false: there is nothing. The train's tag names
    /// it for [`sent`](Self::sent) and [`refused`](Self::refused).
    pub fn poll_transmit(&mut self, now: Instant, train: &mut Train) -> bool {
        let filled = self.fill_reply(train) || self.fill_next(now, train);
        if filled {
            self.counters.datagrams_out += train.datagrams() as u64;
            self.counters.bytes_out += train.len() as u64;
        }
        filled
    }

    fn fill_reply(&mut self, train: &mut Train) -> bool {
        let filled = self.replies.fill(train);
        if filled {
            train.tag = REPLY;
        }
        filled
    }

    fn fill_next(&mut self, now: Instant, train: &mut Train) -> bool {
        if self.trains.is_full() {
            return false;
        }
        let room = self.room();
        while let Some(slot) = self.ready.pop_front() {
            let Some(connection) = self.connections.at_mut(slot) else {
                continue;
            };
            connection.listed = false;
            if connection.wants_new_id(now) {
                self.redial(slot);
            }
            let Some(connection) = self.connections.at_mut(slot) else {
                continue;
            };
            train.reset(connection.peer());
            let filled = connection.fill(now, &self.config, room, train);
            let writable = connection.take_writable();
            let more = connection.wants_to_send(now);
            let ended = connection.finished().is_some();
            debug_assert!(!ended, "what finishes is removed when it does");
            self.arm(slot);
            if writable {
                let key = self.connections.key(slot);
                self.events.push_back(Event::Writable { key });
            }
            if !matches!(filled, Filled::Nothing) {
                if more {
                    // Behind the others, each of which has one train.
                    self.list(slot);
                }
                let key = self.connections.key(slot);
                train.tag = self.trains.give_out(Some((key, filled)));
                return true;
            }
        }
        false
    }

    /// The train with this tag was taken.
    pub fn sent(&mut self, tag: u64, _now: Instant) {
        self.trains.take_back(tag);
    }

    /// The train with this tag was not taken, and nothing of it was sent: it counts as never
    /// given out.
    pub fn refused(&mut self, tag: u64, now: Instant) {
        self.counters.trains_refused += 1;
        let Some((key, filled)) = self.trains.take_back(tag) else {
            return;
        };
        if let Some(connection) = self.connections.get_mut(key) {
            connection.refused(now, filled);
            self.list(key.slot);
            self.arm(key.slot);
        }
    }

    /// Begins the second attempt of a dial, with another id. Without a free one the first goes on.
    fn redial(&mut self, slot: u32) {
        let Some(peer) = self.connections.at_mut(slot).map(|c| c.peer()) else {
            return;
        };
        let Some(id) = self.free_id(&peer) else {
            return;
        };
        if let Some(connection) = self.connections.at_mut(slot) {
            connection.use_new_id(id);
            self.connections.add_flow(&peer, id, slot);
        }
    }
}
