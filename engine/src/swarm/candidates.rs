//! Addresses that discovery produced, and what became of them. Each belongs to the shard that
//! its hash names, so there is one dial for an address however many channels it was found for.

use crate::event::Peer;
use crate::names::{ChannelKey, ConnId, PeerId};
use crate::table::{Key, Table};
use crate::wheel::{TimerId, Wheel};
use flock_transport::Instant;
use hashbrown::HashMap;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// Names a candidate; never reused.
pub(crate) type CandidateId = Key;

/// Channels remembered per candidate; being found for more changes nothing but these names.
const CHANNELS_MAX: usize = 256;

/// Stale entries of the queue that are not worth looking for.
const QUEUE_SLACK: usize = 64;

pub(super) struct Candidate {
    pub(super) addr: SocketAddr,
    /// The channels it was found for; the first is the one its events name.
    pub(super) channels: SmallVec<[ChannelKey; 1]>,
    pub(super) state: State,
    pub(super) retries: u8,
    /// Runs out when a dial takes too long, or a wait for the next one is over.
    pub(super) timer: Option<TimerId>,
    in_queue: bool,
}

/// Where a candidate stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// To be dialled as soon as there is room.
    Queued,
    /// Waiting for its next dial.
    Waiting,
    Dialling,
    /// Behind this connection, from its handshake on.
    Connection(ConnId),
    /// It leads to a peer that is connected otherwise.
    Linked(PeerId),
}

impl Candidate {
    pub(super) fn peer(&self) -> Peer {
        let channel = self
            .channels
            .first()
            .cloned()
            .unwrap_or_else(|| ChannelKey::from(""));
        Peer {
            channel,
            addr: self.addr,
            retries: u32::from(self.retries),
        }
    }
}

/// All candidates of a shard.
pub(super) struct Candidates {
    table: Table<Candidate>,
    by_addr: HashMap<SocketAddr, CandidateId, ahash::RandomState>,
    linked: HashMap<PeerId, SmallVec<[CandidateId; 1]>, ahash::RandomState>,
    queue: VecDeque<CandidateId>,
    queued: u32,
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
    pub(super) fn new(limit: u32, hasher: ahash::RandomState) -> Self {
        Self {
            table: Table::new(limit),
            by_addr: HashMap::with_hasher(hasher.clone()),
            linked: HashMap::with_hasher(hasher),
            queue: VecDeque::new(),
            queued: 0,
            wheel: Wheel::new(Instant::ZERO, limit),
        }
    }

    pub(super) fn add(&mut self, channel: ChannelKey, addr: SocketAddr) -> Added {
        if let Some(&id) = self.by_addr.get(&addr) {
            let candidate = self.table.get_mut(id).expect("indexed candidates exist");
            if candidate.channels.contains(&channel) || candidate.channels.len() >= CHANNELS_MAX {
                return Added::Known(id);
            }
            candidate.channels.push(channel);
            return Added::Channel;
        }
        let candidate = Candidate {
            addr,
            channels: SmallVec::from_buf([channel]),
            state: State::Waiting,
            retries: 0,
            timer: None,
            in_queue: false,
        };
        let Some(id) = self.table.insert(candidate) else {
            return Added::Full;
        };
        self.by_addr.insert(addr, id);
        self.enqueue(id);
        Added::New
    }

    pub(super) fn get(&self, id: CandidateId) -> Option<&Candidate> {
        self.table.get(id)
    }

    pub(super) fn by_addr(&self, addr: SocketAddr) -> Option<CandidateId> {
        self.by_addr.get(&addr).copied()
    }

    pub(super) fn ids(&self) -> Vec<CandidateId> {
        self.table.iter().map(|(id, _)| id).collect()
    }

    pub(super) fn queued(&self) -> u32 {
        self.queued
    }

    /// Moves a candidate to another state; its timer ends.
    pub(super) fn set_state(&mut self, id: CandidateId, state: State) {
        let Some(candidate) = self.table.get_mut(id) else {
            return;
        };
        if let Some(timer) = candidate.timer.take() {
            self.wheel.cancel(timer);
        }
        let was = std::mem::replace(&mut candidate.state, state.clone());
        if was == State::Queued && state != State::Queued {
            self.queued -= 1;
        }
        if let State::Linked(peer) = was {
            self.unlink(&peer, id);
        }
        if let State::Linked(peer) = state {
            self.linked.entry(peer).or_default().push(id);
        }
    }

    pub(super) fn enqueue(&mut self, id: CandidateId) {
        self.set_state(id, State::Queued);
        let Some(candidate) = self.table.get_mut(id) else {
            return;
        };
        self.queued += 1;
        if !std::mem::replace(&mut candidate.in_queue, true) {
            self.queue.push_back(id);
            self.sweep_queue();
        }
    }

    /// Takes out of the queue what was forgotten while in it, as soon as that is the larger
    /// part: the queue stays within twice the queued candidates at a constant cost for each.
    fn sweep_queue(&mut self) {
        if self.queue.len() <= 2 * self.queued as usize + QUEUE_SLACK {
            return;
        }
        let table = &mut self.table;
        self.queue.retain(|id| match table.get_mut(*id) {
            Some(candidate) => {
                candidate.in_queue = candidate.state == State::Queued;
                candidate.in_queue
            }
            None => false,
        });
    }

    /// The candidate whose turn it is; it stays queued.
    pub(super) fn front(&mut self) -> Option<CandidateId> {
        loop {
            let id = *self.queue.front()?;
            match self.table.get_mut(id) {
                Some(candidate) if candidate.state == State::Queued => return Some(id),
                Some(candidate) => candidate.in_queue = false,
                None => {}
            }
            self.queue.pop_front();
        }
    }

    /// Takes the front of the queue out of it, to be dialled until `deadline`.
    pub(super) fn start_dial(&mut self, id: CandidateId, deadline: Instant) {
        let front = self.queue.pop_front();
        debug_assert_eq!(front, Some(id));
        self.set_state(id, State::Dialling);
        self.arm(id, deadline);
        if let Some(candidate) = self.table.get_mut(id) {
            candidate.in_queue = false;
        }
    }

    /// Lets the candidate wait until `at` for its next dial.
    pub(super) fn wait(&mut self, id: CandidateId, at: Instant, retries: u8) {
        self.set_state(id, State::Waiting);
        self.arm(id, at);
        if let Some(candidate) = self.table.get_mut(id) {
            candidate.retries = retries;
        }
    }

    fn arm(&mut self, id: CandidateId, at: Instant) {
        if let Some(candidate) = self.table.get_mut(id) {
            // One timer a candidate, and the wheel has room for one each.
            candidate.timer = self.wheel.insert(id, at);
        }
    }

    pub(super) fn forget(&mut self, id: CandidateId) -> Option<Candidate> {
        self.set_state(id, State::Waiting);
        let candidate = self.table.remove(id)?;
        self.by_addr.remove(&candidate.addr);
        Some(candidate)
    }

    /// Takes a channel away from a candidate; whether none is left.
    pub(super) fn leave(&mut self, id: CandidateId, channel: &ChannelKey) -> bool {
        let Some(candidate) = self.table.get_mut(id) else {
            return false;
        };
        let before = candidate.channels.len();
        candidate.channels.retain(|other| other != channel);
        before > 0 && candidate.channels.is_empty()
    }

    /// The candidates linked to a peer, which has gone.
    pub(super) fn take_linked(&mut self, peer: &PeerId) -> SmallVec<[CandidateId; 1]> {
        self.linked.remove(peer).unwrap_or_default()
    }

    fn unlink(&mut self, peer: &PeerId, id: CandidateId) {
        if let Some(ids) = self.linked.get_mut(peer) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.linked.remove(peer);
            }
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.wheel.next_deadline()
    }

    pub(super) fn expire(&mut self, now: Instant, into: &mut Vec<CandidateId>) {
        self.wheel.expire(now, &mut |id| into.push(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_candidate_is_small() {
        let all = size_of::<Candidate>() + size_of::<(SocketAddr, CandidateId)>();
        assert!(all <= 200, "{all}");
    }

    #[test]
    fn an_address_is_queued_once_however_often_it_is_found() {
        let hasher = ahash::RandomState::with_seeds(1, 2, 3, 4);
        let mut candidates = Candidates::new(1, hasher);
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
    fn the_queue_does_not_grow_by_what_is_forgotten() {
        let mut candidates = Candidates::new(2, ahash::RandomState::with_seeds(1, 2, 3, 4));
        let stays = "10.0.0.1:1".parse().unwrap();
        candidates.add("a".into(), stays);
        for port in 2..10_000 {
            let addr = SocketAddr::from(([10, 0, 0, 2], port));
            assert!(matches!(candidates.add("a".into(), addr), Added::New));
            candidates.forget(candidates.by_addr(addr).unwrap());
        }
        assert!(candidates.queue.len() <= QUEUE_SLACK + 4);
        assert_eq!(candidates.front(), candidates.by_addr(stays));
    }
}
