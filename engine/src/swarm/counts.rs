//! The numbers that shards share: what counts against the limits, and who waits for room.

use super::admission::{AcceptRate, Quotas};
use crate::sources::{Crowded, Sources};
use flock_transport::{CloseReason, Instant};
use std::net::IpAddr;
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
    /// Those of the admitted that dialled us, and those that we dialled.
    inbound: AtomicU32,
    outbound: AtomicU32,
    /// Those of the admitted that have a reserved place.
    reserved: AtomicU32,
    quotas: Quotas,
    sources: Sources,
    accept_rate: AcceptRate,
    queued: Vec<AtomicU32>,
    /// Bytes that each shard has to send, as of a moment ago.
    queued_bytes: Vec<AtomicU64>,
    next_refill: AtomicU32,
}

/// What an admitted peer counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Whether we dialled it.
    pub(crate) initiator: bool,
    /// Whether that was a candidate with a reserved place.
    pub(crate) reserved: bool,
}

const ADMITTED_ONE: u64 = 1 << 32;

fn admitted(used: u64) -> u64 {
    used >> 32
}

fn dialling(used: u64) -> u64 {
    used & (ADMITTED_ONE - 1)
}

fn quota(limit: u32) -> u64 {
    if limit == 0 { u64::MAX } else { limit.into() }
}

impl SharedCounts {
    /// `seed` keys hashes.
    pub(crate) fn new(shards: u16, quotas: Quotas, seed: u64) -> Self {
        Self {
            used: AtomicU64::new(0),
            inbound: AtomicU32::new(0),
            outbound: AtomicU32::new(0),
            reserved: AtomicU32::new(0),
            sources: Sources::new(quotas.per_ip, quotas.per_subnet, seed),
            accept_rate: AcceptRate::new(quotas.accept_rate),
            quotas,
            queued: (0..shards).map(|_| AtomicU32::new(0)).collect(),
            queued_bytes: (0..shards).map(|_| AtomicU64::new(0)).collect(),
            next_refill: AtomicU32::new(0),
        }
    }

    /// With a limit of the total alone.
    #[cfg(test)]
    pub(crate) fn limited(shards: u16, connections: u32) -> Self {
        let quotas = Quotas {
            connections,
            ..Quotas::default()
        };
        Self::new(shards, quotas, 1)
    }

    fn limit(&self) -> u64 {
        quota(self.quotas.connections)
    }

    /// Admitted peers without a reserved place may be as many as leave the reserved ones free; those
    /// with one may be as many as there are places.
    fn limit_for(&self, reserved: bool) -> u64 {
        if reserved || self.quotas.connections == 0 {
            return self.limit();
        }
        let used = self.reserved.load(Ordering::SeqCst);
        let free = self.quotas.reserved.saturating_sub(used);
        self.limit().saturating_sub(free.into())
    }

    /// Whether an inbound connection would be refused anyway.
    pub(crate) fn full(&self) -> bool {
        admitted(self.used.load(Ordering::SeqCst)) >= self.limit_for(false)
    }

    /// Whether one would be refused because of its direction.
    pub(crate) fn inbound_full(&self) -> bool {
        u64::from(self.inbound.load(Ordering::SeqCst)) >= quota(self.quotas.inbound)
    }

    /// Counts a connection or dial by its address; [`release_source`](Self::release_source) ends
    /// that.
    pub(crate) fn take_source(&self, ip: IpAddr) -> Result<(), Crowded> {
        self.sources.take(ip)
    }

    pub(crate) fn release_source(&self, ip: IpAddr) {
        self.sources.release(ip);
    }

    /// Whether one more inbound connection is within the rate, against which it counts.
    pub(crate) fn take_accept(&self, now: Instant) -> bool {
        self.accept_rate.take(now)
    }

    #[cfg(test)]
    pub(crate) fn directions(&self) -> (u32, u32) {
        let count = |way: &AtomicU32| way.load(Ordering::SeqCst);
        (count(&self.inbound), count(&self.outbound))
    }

    #[cfg(test)]
    pub(crate) fn is_unused(&self) -> bool {
        let ways = [&self.inbound, &self.outbound];
        self.used.load(Ordering::SeqCst) == 0
            && self.reserved.load(Ordering::SeqCst) == 0
            && ways.iter().all(|way| way.load(Ordering::SeqCst) == 0)
            && self.sources.is_unused()
    }

    /// Whether a dial would find room.
    pub(crate) fn has_room(&self, reserved: bool) -> bool {
        self.dial_fits(self.used.load(Ordering::SeqCst), reserved)
    }

    /// Admitted and dialled together stay within the limit, and those of them that go out within
    /// theirs. A peer that is being admitted counts as dialled, or as outbound, or for a moment
    /// as both, since `outbound` is read later.
    fn dial_fits(&self, used: u64, reserved: bool) -> bool {
        let outbound = u64::from(self.outbound.load(Ordering::SeqCst));
        admitted(used) + dialling(used) < self.limit_for(reserved)
            && outbound + dialling(used) < quota(self.quotas.outbound)
    }

    /// Takes room for a dial.
    pub(crate) fn reserve_dial(&self, reserved: bool) -> bool {
        self.take(1, |used| self.dial_fits(used, reserved))
    }

    pub(crate) fn release_dial(&self) {
        let before = self.used.fetch_sub(1, Ordering::SeqCst);
        debug_assert!(dialling(before) > 0, "a dial was released twice");
    }

    /// Takes room for an admitted peer, or says which limit is reached.
    pub(crate) fn admit(&self, place: Place) -> Result<(), CloseReason> {
        let Place {
            initiator,
            reserved,
        } = place;
        if initiator {
            // Its dial found room.
            self.outbound.fetch_add(1, Ordering::SeqCst);
        } else {
            let more = |count| (u64::from(count) < quota(self.quotas.inbound)).then_some(count + 1);
            self.inbound
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, more)
                .map_err(|_| CloseReason::TooManyInbound)?;
        }
        let fits = |used| admitted(used) < self.limit_for(reserved);
        if self.take(ADMITTED_ONE, fits) {
            self.reserved.fetch_add(reserved.into(), Ordering::SeqCst);
            return Ok(());
        }
        self.way(initiator).fetch_sub(1, Ordering::SeqCst);
        Err(CloseReason::TooManyConnections)
    }

    pub(crate) fn release_admitted(&self, place: Place) {
        self.reserved
            .fetch_sub(place.reserved.into(), Ordering::SeqCst);
        let before = self.way(place.initiator).fetch_sub(1, Ordering::SeqCst);
        debug_assert!(before > 0, "a direction was released twice");
        let before = self.used.fetch_sub(ADMITTED_ONE, Ordering::SeqCst);
        debug_assert!(admitted(before) > 0, "a peer was released twice");
    }

    /// A connection took the place of another one to the same peer, whatever the limits of their
    /// directions: which of the two stays is not for one side to say.
    pub(crate) fn replace_admitted(&self, was: Place, is: Place) {
        self.way(is.initiator).fetch_add(1, Ordering::SeqCst);
        self.way(was.initiator).fetch_sub(1, Ordering::SeqCst);
        self.reserved
            .fetch_add(is.reserved.into(), Ordering::SeqCst);
        self.reserved
            .fetch_sub(was.reserved.into(), Ordering::SeqCst);
    }

    fn way(&self, initiator: bool) -> &AtomicU32 {
        if initiator {
            &self.outbound
        } else {
            &self.inbound
        }
    }

    fn take(&self, amount: u64, room: impl Fn(u64) -> bool) -> bool {
        let more = |used| room(used).then_some(used + amount);
        self.used
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, more)
            .is_ok()
    }

    pub(crate) fn has_watermark(&self) -> bool {
        self.quotas.queued_bytes > 0
    }

    pub(crate) fn show_queued_bytes(&self, shard: u16, bytes: u64) {
        self.queued_bytes[usize::from(shard)].store(bytes, Ordering::Relaxed);
    }

    /// Whether so much waits to be sent that nobody else should be served.
    pub(crate) fn above_watermark(&self) -> bool {
        let queued = self.queued_bytes.iter();
        let sum = || {
            queued
                .map(|shard| shard.load(Ordering::Relaxed))
                .sum::<u64>()
        };
        self.has_watermark() && sum() >= self.quotas.queued_bytes
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
        if self.quotas.connections == 0 && self.quotas.outbound == 0 {
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

    fn way(initiator: bool) -> Place {
        Place {
            initiator,
            reserved: false,
        }
    }

    #[test]
    fn dials_leave_room_for_what_is_admitted_but_admission_counts_peers_alone() {
        let counts = SharedCounts::limited(1, 2);
        assert!(counts.reserve_dial(false) && counts.reserve_dial(false));
        assert!(!counts.reserve_dial(false));
        assert!(counts.admit(way(true)).is_ok() && counts.admit(way(false)).is_ok());
        let full = Err(CloseReason::TooManyConnections);
        assert!(
            counts.admit(way(false)) == full && counts.admit(way(true)) == full && counts.full()
        );
        counts.release_dial();
        counts.release_dial();
        counts.release_admitted(way(true));
        assert!(counts.reserve_dial(false) && !counts.reserve_dial(false));
        counts.release_dial();
        counts.release_admitted(way(false));
        assert!(counts.is_unused());
    }

    #[test]
    fn each_direction_has_its_own_limit() {
        let quotas = Quotas {
            inbound: 1,
            outbound: 2,
            ..Quotas::default()
        };
        let counts = SharedCounts::new(1, quotas, 1);
        assert!(
            counts.reserve_dial(false) && counts.reserve_dial(false) && !counts.reserve_dial(false)
        );
        assert_eq!(counts.admit(way(true)), Ok(()));
        counts.release_dial();
        assert!(
            !counts.reserve_dial(false),
            "admitted is as good as dialled"
        );
        assert!(!counts.inbound_full());
        assert_eq!(counts.admit(way(false)), Ok(()));
        assert!(counts.inbound_full() && !counts.full());
        assert_eq!(counts.admit(way(false)), Err(CloseReason::TooManyInbound));
        // An outbound connection in the place of the inbound one.
        counts.replace_admitted(way(false), way(true));
        assert!(!counts.inbound_full());
        counts.release_admitted(way(true));
        assert!(!counts.reserve_dial(false));
        counts.release_admitted(way(true));
        assert!(counts.reserve_dial(false));
    }

    #[test]
    fn reserved_places_are_for_those_they_are_reserved_for() {
        let quotas = Quotas {
            connections: 3,
            reserved: 1,
            ..Quotas::default()
        };
        let counts = SharedCounts::new(1, quotas, 1);
        let reserved = Place {
            initiator: true,
            reserved: true,
        };
        let over = Err(CloseReason::TooManyConnections);
        assert!(counts.admit(way(false)).is_ok() && counts.admit(way(false)).is_ok());
        assert!(counts.full() && !counts.reserve_dial(false));
        assert_eq!(counts.admit(way(true)), over);
        assert!(counts.reserve_dial(true) && counts.admit(reserved).is_ok());
        counts.release_dial();
        assert_eq!(
            counts.admit(reserved),
            over,
            "there are no more places than that"
        );
        // With its place taken, the others may have all the rest, and no more.
        counts.release_admitted(way(false));
        assert!(!counts.full() && counts.admit(way(false)).is_ok() && counts.full());
        counts.release_admitted(reserved);
        assert!(counts.full(), "it is free for those it is for");
        counts.release_admitted(way(false));
        counts.release_admitted(way(false));
        assert!(counts.is_unused());
    }

    #[test]
    fn room_goes_to_the_shards_in_turn() {
        let counts = SharedCounts::limited(3, 1);
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
