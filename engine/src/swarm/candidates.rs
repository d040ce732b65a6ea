//! Addresses that discovery produced, and what became of them. Each belongs to the shard that
//! its hash names, so there is one dial for an address however many channels it was found for.

use super::channels::{Channels, NONE, Noted};
use crate::event::Peer;
use crate::names::{ChannelKey, ConnId, PeerId};
use crate::table::{Key, Table};
use crate::wheel::{TimerId, Wheel};
use flock_transport::Instant;
use hashbrown::HashTable;
use ipnet::IpNet;
use std::net::SocketAddr;

/// Names a candidate; never reused.
pub(crate) type CandidateId = Key;

pub(super) struct Candidate {
    pub(super) addr: SocketAddr,
    pub(super) state: State,
    /// Runs out when a dial takes too long, or a wait for the next one is over.
    timer: Option<TimerId>,
    /// The list of the channels it was found for.
    channels: u32,
    /// Neighbours in the queue, or among those linked to the same peer: slots of the table.
    next: u32,
    prev: u32,
    pub(super) retries: u8,
    /// It has a reserved place, and goes before others.
    reserved: bool,
}

/// Where a candidate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// To be dialled as soon as there is room.
    Queued,
    /// Waiting for its next dial.
    Waiting,
    Dialling,
    /// Behind this connection, from its handshake on.
    Connection(ConnId),
    /// It leads to a peer that is connected otherwise, known by the keyed hash of its id. Two
    /// peers of one hash would cost a dial too many, every few thousand years.
    Linked(u64),
}

/// All candidates of a shard.
///
/// The indexes hold slots of the table, and lists are threaded through it: with a million
/// candidates every byte is a megabyte.
pub(super) struct Candidates {
    table: Table<Candidate>,
    hasher: ahash::RandomState,
    by_addr: HashTable<u32>,
    /// The first of those linked to each peer.
    linked: HashTable<u32>,
    first_queued: u32,
    last_queued: u32,
    queued: u32,
    channels: Channels,
    wheel: Wheel<CandidateId>,
}

/// What adding a candidate came to.
pub(super) enum Added {
    New,
    /// Known, and now for one channel more.
    Channel,
    Known(CandidateId),
    Full,
}

impl Candidates {
    /// At most `limit` candidates, with twice as many channels between them.
    pub(super) fn new(limit: u32, hasher: ahash::RandomState) -> Self {
        Self {
            table: Table::new(limit),
            channels: Channels::new(limit, hasher.clone()),
            hasher,
            by_addr: HashTable::new(),
            linked: HashTable::new(),
            first_queued: NONE,
            last_queued: NONE,
            queued: 0,
            wheel: Wheel::new(Instant::ZERO, limit),
        }
    }

    pub(super) fn add(&mut self, channel: ChannelKey, addr: SocketAddr) -> Added {
        if let Some(id) = self.by_addr(addr) {
            let candidate = self.table.get_mut(id).expect("indexed candidates exist");
            return match self.channels.add(&mut candidate.channels, id.slot, channel) {
                Noted::New => Added::Channel,
                Noted::Known | Noted::Full => Added::Known(id),
            };
        }
        let candidate = Candidate {
            addr,
            state: State::Waiting,
            timer: None,
            channels: NONE,
            next: NONE,
            prev: NONE,
            retries: 0,
            reserved: false,
        };
        let Some(id) = self.table.insert(candidate) else {
            return Added::Full;
        };
        let candidate = self.table.get_mut(id).expect("just inserted");
        self.channels.add(&mut candidate.channels, id.slot, channel);
        let (table, hasher) = (&self.table, &self.hasher);
        let rehash = |slot: &u32| {
            let (_, candidate) = table.at(*slot).expect("indexed candidates exist");
            hasher.hash_one(candidate.addr)
        };
        let hash = self.hasher.hash_one(addr);
        self.by_addr.insert_unique(hash, id.slot, rehash);
        self.enqueue(id);
        Added::New
    }

    pub(super) fn get(&self, id: CandidateId) -> Option<&Candidate> {
        self.table.get(id)
    }

    pub(super) fn by_addr(&self, addr: SocketAddr) -> Option<CandidateId> {
        let same = |slot: &u32| self.table.at(*slot).is_some_and(|(_, c)| c.addr == addr);
        let slot = *self.by_addr.find(self.hasher.hash_one(addr), same)?;
        self.table.at(slot).map(|(id, _)| id)
    }

    /// Gives the candidate a reserved place, and lets it go before others.
    pub(super) fn reserve(&mut self, id: CandidateId) {
        if let Some(candidate) = self.table.get_mut(id)
            && !std::mem::replace(&mut candidate.reserved, true)
            && candidate.state == State::Queued
        {
            self.enqueue(id);
        }
    }

    pub(super) fn is_reserved(&self, id: CandidateId) -> bool {
        self.table
            .get(id)
            .is_some_and(|candidate| candidate.reserved)
    }

    /// The candidates within a network; looks at all.
    pub(super) fn within(&self, net: &IpNet) -> Vec<CandidateId> {
        let inside = self
            .table
            .iter()
            .filter(|(_, candidate)| net.contains(&candidate.addr.ip()));
        inside.map(|(id, _)| id).collect()
    }

    /// The channel a candidate was found for first, unless that was left.
    pub(super) fn channel(&self, id: CandidateId) -> Option<ChannelKey> {
        self.channels.first(self.table.get(id)?.channels).cloned()
    }

    /// The channels a candidate was found for, the first one first.
    pub(super) fn channels_of(&self, id: CandidateId) -> Vec<ChannelKey> {
        let first = self.table.get(id).map_or(NONE, |c| c.channels);
        self.channels.of(first).cloned().collect()
    }

    /// The candidates that were found for a channel.
    pub(super) fn found_for(&self, key: &ChannelKey) -> impl Iterator<Item = CandidateId> {
        let slots = self.channels.candidates_of(key);
        slots.filter_map(|slot| self.table.at(slot).map(|(id, _)| id))
    }

    /// The candidate as events show it.
    pub(super) fn peer(&self, id: CandidateId) -> Option<Peer> {
        let candidate = self.table.get(id)?;
        Some(Peer {
            channel: self.channel(id).unwrap_or_else(|| ChannelKey::from("")),
            addr: candidate.addr,
            retries: u32::from(candidate.retries),
        })
    }

    pub(super) fn queued(&self) -> u32 {
        self.queued
    }

    /// Channels of known candidates that there was no room to note.
    pub(super) fn channels_refused(&self) -> u64 {
        self.channels.refused()
    }

    /// Moves a candidate to another state; its timer ends.
    pub(super) fn set_state(&mut self, id: CandidateId, state: State) {
        let Some(candidate) = self.table.get_mut(id) else {
            return;
        };
        if let Some(timer) = candidate.timer.take() {
            self.wheel.cancel(timer);
        }
        match std::mem::replace(&mut candidate.state, state) {
            State::Queued => self.leave_queue(id.slot),
            State::Linked(peer) => self.unlink(id.slot, peer),
            _ => {}
        }
        match state {
            State::Queued => self.join_queue(id.slot),
            State::Linked(peer) => self.join_linked(id.slot, peer),
            _ => {}
        }
    }

    pub(super) fn enqueue(&mut self, id: CandidateId) {
        self.set_state(id, State::Queued);
    }

    /// The candidate whose turn it is; it stays queued.
    pub(super) fn front(&self) -> Option<CandidateId> {
        self.table.at(self.first_queued).map(|(id, _)| id)
    }

    /// The candidate is dialled, until `deadline`.
    pub(super) fn start_dial(&mut self, id: CandidateId, deadline: Instant) {
        self.set_state(id, State::Dialling);
        self.rearm(id, deadline);
    }

    /// Lets the candidate wait until `at` for its next dial.
    pub(super) fn wait(&mut self, id: CandidateId, at: Instant, retries: u8) {
        self.set_state(id, State::Waiting);
        self.rearm(id, at);
        if let Some(candidate) = self.table.get_mut(id) {
            candidate.retries = retries;
        }
    }

    /// Arms the candidate's timer in place of the one before.
    pub(super) fn rearm(&mut self, id: CandidateId, at: Instant) {
        if let Some(candidate) = self.table.get_mut(id) {
            if let Some(old) = candidate.timer.take() {
                self.wheel.cancel(old);
            }
            // One timer a candidate, and the wheel has room for one each.
            candidate.timer = self.wheel.insert(id, at);
        }
    }

    /// Forgets the candidate, and returns what events show of it.
    pub(super) fn forget(&mut self, id: CandidateId) -> Option<Peer> {
        let peer = self.peer(id)?;
        self.set_state(id, State::Waiting);
        let candidate = self.table.remove(id)?;
        self.channels.forget(candidate.channels);
        let hash = self.hasher.hash_one(candidate.addr);
        if let Ok(entry) = self.by_addr.find_entry(hash, |slot| *slot == id.slot) {
            entry.remove();
        }
        Some(peer)
    }

    /// Takes the channel away from one of the candidates found for it: which, and whether it is
    /// left without any. `None` when there are no more.
    pub(super) fn leave(&mut self, channel: &ChannelKey) -> Option<(CandidateId, bool)> {
        let slot = self.channels.candidate_of(channel)?;
        let (id, candidate) = self.table.at_mut(slot)?;
        self.channels.leave(&mut candidate.channels, channel);
        Some((id, candidate.channels == NONE))
    }

    /// Whether the candidate was found for no channel that is still joined.
    pub(super) fn is_unwanted(&self, id: CandidateId) -> bool {
        self.table.get(id).is_none_or(|c| c.channels == NONE)
    }

    /// The candidate leads to a peer that is connected otherwise; by which hash it is linked.
    pub(super) fn link(&mut self, id: CandidateId, peer: &PeerId) -> u64 {
        let hash = self.link_hash(peer);
        self.set_state(id, State::Linked(hash));
        hash
    }

    /// By which hash candidates are linked to a peer.
    pub(super) fn link_hash(&self, peer: &PeerId) -> u64 {
        self.hasher.hash_one(peer)
    }

    /// Unlinks one of the candidates linked to a peer, which has gone.
    pub(super) fn pop_linked(&mut self, peer: &PeerId) -> Option<CandidateId> {
        let hash = self.hasher.hash_one(peer);
        let slot = *self.linked.find(hash, leads_to(&self.table, hash))?;
        let (id, _) = self.table.at(slot)?;
        self.set_state(id, State::Waiting);
        Some(id)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.wheel.next_deadline()
    }

    pub(super) fn expire(&mut self, now: Instant, into: &mut Vec<CandidateId>) {
        self.wheel.expire(now, &mut |id| into.push(id));
    }

    /// Points the neighbours of a candidate in its list at each other.
    fn splice(&mut self, slot: u32) -> (u32, u32) {
        let Some((_, candidate)) = self.table.at_mut(slot) else {
            return (NONE, NONE);
        };
        let prev = std::mem::replace(&mut candidate.prev, NONE);
        let next = std::mem::replace(&mut candidate.next, NONE);
        self.set_next(prev, next);
        self.set_prev(next, prev);
        (prev, next)
    }

    fn set_next(&mut self, slot: u32, next: u32) {
        if let Some((_, candidate)) = self.table.at_mut(slot) {
            candidate.next = next;
        }
    }

    fn set_prev(&mut self, slot: u32, prev: u32) {
        if let Some((_, candidate)) = self.table.at_mut(slot) {
            candidate.prev = prev;
        }
    }

    fn join_queue(&mut self, slot: u32) {
        self.queued += 1;
        let first = self.first_queued;
        if self.table.at(slot).is_some_and(|(_, c)| c.reserved) && first != NONE {
            self.first_queued = slot;
            self.set_next(slot, first);
            self.set_prev(first, slot);
            return;
        }
        let last = std::mem::replace(&mut self.last_queued, slot);
        if last == NONE {
            self.first_queued = slot;
        }
        self.set_next(last, slot);
        self.set_prev(slot, last);
    }

    fn leave_queue(&mut self, slot: u32) {
        let (prev, next) = self.splice(slot);
        if prev == NONE {
            self.first_queued = next;
        }
        if next == NONE {
            self.last_queued = prev;
        }
        self.queued -= 1;
    }

    fn join_linked(&mut self, slot: u32, peer: u64) {
        // The newcomer counts as linked already, but is not in the index.
        let others = self.linked.find_mut(peer, leads_to(&self.table, peer));
        if let Some(first) = others {
            let next = std::mem::replace(first, slot);
            self.set_next(slot, next);
            self.set_prev(next, slot);
            return;
        }
        let table = &self.table;
        self.linked.insert_unique(peer, slot, |slot| {
            match table.at(*slot).map(|(_, c)| c.state) {
                Some(State::Linked(peer)) => peer,
                _ => unreachable!("the index names linked candidates"),
            }
        });
    }

    fn unlink(&mut self, slot: u32, peer: u64) {
        let (prev, next) = self.splice(slot);
        if prev != NONE {
            return;
        }
        if let Ok(mut entry) = self.linked.find_entry(peer, |first| *first == slot) {
            if next == NONE {
                entry.remove();
            } else {
                *entry.get_mut() = next;
            }
        }
    }

    /// Bytes of memory held for candidates, whatever state they are in.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.table.bytes()
            + self.by_addr.allocation_size()
            + self.linked.allocation_size()
            + self.channels.bytes()
            + self.wheel.bytes()
    }
}

/// Whether a slot's candidate is linked to the peer of this hash.
fn leads_to(table: &Table<Candidate>, peer: u64) -> impl Fn(&u32) -> bool {
    move |slot| {
        let candidate = table.at(*slot);
        candidate.is_some_and(|(_, c)| c.state == State::Linked(peer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, VecDeque};
    use std::time::Duration;

    fn candidates(limit: u32) -> Candidates {
        Candidates::new(limit, ahash::RandomState::with_seeds(1, 2, 3, 4))
    }

    fn peer(n: u32) -> PeerId {
        PeerId::new(&n.to_be_bytes()).unwrap()
    }

    /// Everything at its worst: the table full, all candidates once waiting and once linked,
    /// and every channel there is room for.
    #[test]
    fn a_candidate_costs_two_hundred_bytes_at_the_most() {
        for limit in [1 << 16, 60_000] {
            let mut candidates = candidates(limit);
            let addr = |n: u32| SocketAddr::from((n.to_be_bytes(), 1));
            for n in 0..limit {
                assert!(matches!(candidates.add("a".into(), addr(n)), Added::New));
                assert!(matches!(
                    candidates.add("b".into(), addr(n)),
                    Added::Channel
                ));
            }
            assert!(matches!(
                candidates.add("a".into(), addr(limit)),
                Added::Full
            ));
            assert!(matches!(
                candidates.add("c".into(), addr(1)),
                Added::Known(_)
            ));
            assert_eq!(candidates.channels_refused(), 1);
            for n in 0..limit {
                let id = candidates.by_addr(addr(n)).unwrap();
                candidates.wait(id, Instant::ZERO + Duration::from_millis(n.into()), 1);
            }
            for n in 0..limit {
                let id = candidates.by_addr(addr(n)).unwrap();
                candidates.link(id, &peer(n));
            }
            let each = candidates.bytes() / limit as usize;
            assert!(each <= 200, "{each} bytes");
        }
    }

    #[test]
    fn an_address_is_queued_once_however_often_it_is_found() {
        let mut candidates = candidates(1);
        let addr = "10.0.0.1:1".parse().unwrap();
        assert!(matches!(candidates.add("a".into(), addr), Added::New));
        let id = candidates.by_addr(addr).unwrap();
        assert!(matches!(candidates.add("a".into(), addr), Added::Known(_)));
        assert!(matches!(candidates.add("b".into(), addr), Added::Channel));
        assert!(matches!(
            candidates.add("a".into(), "10.0.0.2:1".parse().unwrap()),
            Added::Full
        ));
        assert_eq!((candidates.queued(), candidates.front()), (1, Some(id)));
        candidates.start_dial(id, Instant::ZERO);
        assert_eq!((candidates.queued(), candidates.front()), (0, None));
        candidates.forget(id);
        assert!(matches!(candidates.add("a".into(), addr), Added::New));
    }

    #[test]
    fn leaving_a_channel_meets_its_candidates_and_no_others() {
        let mut candidates = candidates(1000);
        let addr = |n: u8| SocketAddr::from(([10, 0, 0, n], 1));
        for n in 0..100 {
            candidates.add("other".into(), addr(n));
        }
        for n in 95..105 {
            candidates.add("left".into(), addr(n));
        }
        let left: Vec<_> = std::iter::from_fn(|| candidates.leave(&"left".into())).collect();
        assert_eq!(left.len(), 10);
        assert_eq!(left.iter().filter(|(_, alone)| *alone).count(), 5);
        for (id, alone) in left {
            assert_eq!(candidates.is_unwanted(id), alone);
        }
        assert_eq!(candidates.leave(&"left".into()), None);
    }

    proptest! {
        #[test]
        fn queue_and_links_behave_like_lists(
            ops in proptest::collection::vec((0u8..7, 0u8..8, 0u32..3), 0..300)
        ) {
            let mut candidates = candidates(8);
            let addr = |n: u8| SocketAddr::from(([10, 0, 0, n], 1));
            let mut queue: VecDeque<u8> = VecDeque::new();
            let mut linked: BTreeMap<u8, u32> = BTreeMap::new();
            for (op, n, to) in ops {
                let known = candidates.by_addr(addr(n));
                let Some(id) = known else {
                    candidates.add("a".into(), addr(n));
                    queue.push_back(n);
                    continue;
                };
                if op == 6 {
                    while let Some(id) = candidates.pop_linked(&peer(to)) {
                        let SocketAddr::V4(v4) = candidates.get(id).unwrap().addr else { panic!() };
                        prop_assert_eq!(linked.remove(&v4.ip().octets()[3]), Some(to));
                    }
                    prop_assert!(!linked.values().any(|other| *other == to));
                    continue;
                }
                queue.retain(|other| *other != n);
                linked.remove(&n);
                match op {
                    0 => _ = candidates.forget(id),
                    1 => candidates.start_dial(id, Instant::ZERO),
                    2 => candidates.wait(id, Instant::ZERO, 1),
                    3 | 4 => {
                        candidates.link(id, &peer(to));
                        linked.insert(n, to);
                    }
                    _ => {
                        candidates.enqueue(id);
                        queue.push_back(n);
                    }
                }
                let front = queue.front().and_then(|n| candidates.by_addr(addr(*n)));
                prop_assert_eq!(candidates.front(), front);
                prop_assert_eq!(candidates.queued() as usize, queue.len());
            }
            while let Some(n) = queue.pop_front() {
                let id = candidates.front();
                prop_assert_eq!(id, candidates.by_addr(addr(n)));
                candidates.start_dial(id.unwrap(), Instant::ZERO);
            }
            prop_assert_eq!(candidates.front(), None);
        }
    }
}
