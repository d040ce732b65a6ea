//! The numbers that shards share: what counts against `max_connections`, and who waits for room.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Shared by all swarms of an engine.
///
/// Sequential consistency matters in one place: a shard first shows that it has candidates
/// queued and then asks for room; whoever makes room first makes it and then looks for queued
/// candidates. So one of the two sees the other, and no shard waits for ever.
#[derive(Debug)]
pub(crate) struct SharedCounts {
    /// Admitted peers in the high half, dials and outbound handshakes in the low one.
    used: AtomicU64,
    /// 0: no limit.
    max_connections: u32,
    queued: Vec<AtomicU32>,
    next_refill: AtomicU32,
}

const ADMITTED_ONE: u64 = 1 << 32;

fn admitted(used: u64) -> u64 {
    used >> 32
}

fn dialling(used: u64) -> u64 {
    used & (ADMITTED_ONE - 1)
}

impl SharedCounts {
    pub(crate) fn new(shards: u16, max_connections: u32) -> Self {
        Self {
            used: AtomicU64::new(0),
            max_connections,
            queued: (0..shards).map(|_| AtomicU32::new(0)).collect(),
            next_refill: AtomicU32::new(0),
        }
    }

    fn limit(&self) -> u64 {
        if self.max_connections == 0 {
            u64::MAX
        } else {
            u64::from(self.max_connections)
        }
    }

    /// Whether an inbound connection would be refused anyway.
    pub(crate) fn full(&self) -> bool {
        admitted(self.used.load(Ordering::SeqCst)) >= self.limit()
    }

    #[cfg(test)]
    pub(crate) fn is_unused(&self) -> bool {
        self.used.load(Ordering::SeqCst) == 0
    }

    /// Whether a dial would find room.
    pub(crate) fn has_room(&self) -> bool {
        let used = self.used.load(Ordering::SeqCst);
        admitted(used) + dialling(used) < self.limit()
    }

    /// Takes room for a dial: admitted and dialled together stay within the limit.
    pub(crate) fn reserve_dial(&self) -> bool {
        self.take(1, |used| admitted(used) + dialling(used) < self.limit())
    }

    pub(crate) fn release_dial(&self) {
        let before = self.used.fetch_sub(1, Ordering::SeqCst);
        debug_assert!(dialling(before) > 0, "a dial was released twice");
    }

    /// Takes room for an admitted peer.
    pub(crate) fn admit(&self) -> bool {
        self.take(ADMITTED_ONE, |used| admitted(used) < self.limit())
    }

    pub(crate) fn release_admitted(&self) {
        let before = self.used.fetch_sub(ADMITTED_ONE, Ordering::SeqCst);
        debug_assert!(admitted(before) > 0, "a peer was released twice");
    }

    fn take(&self, amount: u64, room: impl Fn(u64) -> bool) -> bool {
        let more = |used| room(used).then_some(used + amount);
        self.used
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, more)
            .is_ok()
    }

    /// Shows how many candidates of a shard wait to be dialled.
    pub(crate) fn show_queued(&self, shard: u16, queued: u32) {
        self.queued[usize::from(shard)].store(queued, Ordering::SeqCst);
    }

    /// The shard whose turn it is to use room that was made, if any has candidates queued.
    pub(crate) fn next_waiting(&self) -> Option<u16> {
        self.waiting(None)
    }

    /// The same, for a shard that has used what it could.
    pub(crate) fn next_waiting_but(&self, not: u16) -> Option<u16> {
        self.waiting(Some(not))
    }

    fn waiting(&self, not: Option<u16>) -> Option<u16> {
        if self.max_connections == 0 {
            return None;
        }
        let shards = u32::try_from(self.queued.len()).unwrap_or(u32::MAX);
        let first = self.next_refill.fetch_add(1, Ordering::Relaxed) % shards;
        (0..shards)
            .map(|step| (first + step) % shards)
            .map(|shard| u16::try_from(shard).expect("shards are numbered in 16 bits"))
            .find(|shard| {
                let queued = &self.queued[usize::from(*shard)];
                Some(*shard) != not && queued.load(Ordering::SeqCst) > 0
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dials_leave_room_for_what_is_admitted_but_admission_counts_peers_alone() {
        let counts = SharedCounts::new(1, 2);
        assert!(counts.reserve_dial() && counts.reserve_dial());
        assert!(!counts.reserve_dial());
        assert!(counts.admit() && counts.admit());
        assert!(!counts.admit() && counts.full());
        counts.release_dial();
        counts.release_dial();
        counts.release_admitted();
        assert!(counts.reserve_dial() && !counts.reserve_dial());
    }

    #[test]
    fn room_goes_to_the_shards_in_turn() {
        let counts = SharedCounts::new(3, 1);
        assert_eq!(counts.next_waiting(), None);
        counts.show_queued(0, 5);
        counts.show_queued(2, 5);
        let turns: Vec<_> = (0..6).map(|_| counts.next_waiting().unwrap()).collect();
        assert!(turns.contains(&0) && turns.contains(&2) && !turns.contains(&1));
        for _ in 0..6 {
            assert_eq!(counts.next_waiting_but(0), Some(2));
        }
        counts.show_queued(2, 0);
        assert_eq!(counts.next_waiting_but(0), None);
    }
}
