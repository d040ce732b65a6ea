//! What is remembered for a fixed time about something that has a key but no connection.

use ahash::RandomState;
use flock_transport::{Instant, canonical};
use hashbrown::HashTable;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// Names a flow as its receiver sees it: whom the datagrams come from, and the connection id in
/// them. The scope of a link-local address is not part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Flow {
    ip: [u8; 16],
    port: u16,
    id: u16,
}

impl Flow {
    pub(crate) fn new(from: &SocketAddr, id: u16) -> Self {
        let ip = match from.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        };
        Self {
            ip,
            port: from.port(),
            id,
        }
    }

    /// The address again, an IPv4 one as such.
    pub(crate) fn addr(&self) -> SocketAddr {
        let ip = IpAddr::V6(Ipv6Addr::from(self.ip));
        canonical(SocketAddr::new(ip, self.port))
    }
}

/// One entry per flow, at most `max` of them, each for the same time: the oldest is the first
/// that goes, whether its time is up or its room is wanted.
pub(crate) struct Ring<T> {
    entries: VecDeque<Entry<T>>,
    /// The serial number of the front entry.
    first: u32,
    index: HashTable<u32>,
    hash: RandomState,
    life_ms: u32,
    max: usize,
}

struct Entry<T> {
    flow: Flow,
    /// Milliseconds, wrapping.
    until: u32,
    /// `None` once removed.
    value: Option<T>,
}

fn millis(now: Instant) -> u32 {
    const MASK: u64 = u32::MAX as u64;
    u32::try_from((now.as_nanos() / 1_000_000) & MASK).unwrap_or(0)
}

impl<T> Ring<T> {
    #[cfg(test)]
    pub(crate) const ENTRY_BYTES: usize = size_of::<Entry<T>>();

    pub(crate) fn new(max: u32, life: Duration, hash: RandomState) -> Self {
        Self {
            entries: VecDeque::new(),
            first: 0,
            index: HashTable::new(),
            hash,
            life_ms: u32::try_from(life.as_millis()).unwrap_or(u32::MAX >> 1),
            max: usize::try_from(max).unwrap_or(usize::MAX).max(1),
        }
    }

    /// Entries that are remembered.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// Forgets what is too old, telling the owner.
    pub(crate) fn expire(&mut self, now: Instant, mut gone: impl FnMut(&Flow, T)) {
        let now = millis(now);
        while let Some(front) = self.entries.front() {
            // Less than half the circle behind: due.
            let due = now.wrapping_sub(front.until) < u32::MAX / 2;
            if front.value.is_some() && !due {
                break;
            }
            if let Some((flow, value)) = self.pop_front() {
                gone(&flow, value);
            }
        }
    }

    /// Remembers `value`. The flow has no entry yet. Returns the oldest entry if it had to make
    /// room.
    pub(crate) fn insert(&mut self, now: Instant, flow: Flow, value: T) -> Option<(Flow, T)> {
        let mut evicted = None;
        while self.entries.len() >= self.max {
            evicted = self.pop_front().or(evicted);
        }
        let serial = self.serial(self.entries.len());
        self.entries.push_back(Entry {
            flow,
            until: millis(now).wrapping_add(self.life_ms),
            value: Some(value),
        });
        let (entries, first, hash) = (&self.entries, self.first, &self.hash);
        self.index
            .insert_unique(hash.hash_one(flow), serial, |&serial| {
                hash.hash_one(entries[place(first, serial)].flow)
            });
        evicted
    }

    pub(crate) fn get_mut(&mut self, flow: &Flow) -> Option<&mut T> {
        let place = self.find(flow)?;
        self.entries[place].value.as_mut()
    }

    /// How long the flow's entry has been there, in whole milliseconds, rounded up.
    pub(crate) fn age(&self, now: Instant, flow: &Flow) -> Option<Duration> {
        let left = self.entries[self.find(flow)?]
            .until
            .wrapping_sub(millis(now));
        let age = self.life_ms.saturating_sub(left).saturating_add(1);
        Some(Duration::from_millis(age.into()))
    }

    pub(crate) fn remove(&mut self, flow: &Flow) -> Option<T> {
        let (entries, first) = (&self.entries, self.first);
        let found = self
            .index
            .find_entry(self.hash.hash_one(flow), |&serial| {
                entries[place(first, serial)].flow == *flow
            })
            .ok()?;
        let place = place(first, *found.get());
        found.remove();
        let value = self.entries[place].value.take();
        while self.entries.front().is_some_and(|e| e.value.is_none()) {
            self.entries.pop_front();
            self.first = self.first.wrapping_add(1);
        }
        value
    }

    fn find(&self, flow: &Flow) -> Option<usize> {
        let serial = self.index.find(self.hash.hash_one(flow), |&serial| {
            self.entries[place(self.first, serial)].flow == *flow
        })?;
        Some(place(self.first, *serial))
    }

    fn serial(&self, place: usize) -> u32 {
        self.first
            .wrapping_add(u32::try_from(place).unwrap_or(u32::MAX))
    }

    fn pop_front(&mut self) -> Option<(Flow, T)> {
        let front = self.entries.front()?;
        if front.value.is_some() {
            let (flow, serial) = (front.flow, self.first);
            let entry = self
                .index
                .find_entry(self.hash.hash_one(flow), |&s| s == serial);
            if let Ok(entry) = entry {
                entry.remove();
            }
        }
        let front = self.entries.pop_front()?;
        self.first = self.first.wrapping_add(1);
        Some((front.flow, front.value?))
    }
}

fn place(first: u32, serial: u32) -> usize {
    serial.wrapping_sub(first) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(max: u32) -> Ring<u32> {
        let hash = RandomState::with_seeds(1, 2, 3, 4);
        Ring::new(max, Duration::from_secs(8), hash)
    }

    fn flow(id: u16) -> Flow {
        Flow::new(&SocketAddr::from(([10, 0, 0, 1], 7)), id)
    }

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn entries_live_their_time_and_no_longer() {
        let mut ring = ring(100);
        // Across the wrap of the milliseconds, after 49.7 days.
        let start = 4_294_967 - 5;
        for id in 0..10 {
            ring.insert(at(start + u64::from(id)), flow(id), u32::from(id));
        }
        assert_eq!(ring.remove(&flow(3)), Some(3));
        assert_eq!(ring.remove(&flow(3)), None);
        let mut gone = Vec::new();
        ring.expire(at(start + 12), |_, value| gone.push(value));
        assert_eq!(gone, [0, 1, 2, 4]);
        assert_eq!(ring.len(), 5);
        assert_eq!(ring.get_mut(&flow(4)), None);
        assert_eq!(ring.get_mut(&flow(9)), Some(&mut 9));
        let age = ring.age(at(start + 12), &flow(9));
        assert_eq!(age, Some(Duration::from_millis(3_001)));
        ring.expire(at(start + 30), |_, _| {});
        assert_eq!((ring.len(), ring.entries.len()), (0, 0));
    }

    #[test]
    fn a_full_ring_forgets_the_oldest() {
        let mut ring = ring(4);
        for id in 0..4 {
            assert!(ring.insert(at(1), flow(id), u32::from(id)).is_none());
        }
        assert_eq!(ring.insert(at(1), flow(4), 4), Some((flow(0), 0)));
        assert_eq!(ring.remove(&flow(1)), Some(1));
        assert!(ring.insert(at(1), flow(5), 5).is_none());
        assert_eq!(ring.len(), 4);
        for id in 2..6 {
            assert_eq!(ring.get_mut(&flow(id)), Some(&mut u32::from(id)));
        }
    }
}
