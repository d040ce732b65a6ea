//! The connections of an endpoint, found by key and by flow.

use super::Key;
use super::network::host;
use crate::config::Config;
use crate::connection::Connection;
use ahash::RandomState;
use hashbrown::{HashMap, HashTable};
use std::net::SocketAddr;

/// Connections in numbered places, and an index by peer and id that holds only the place and the id.
pub(crate) struct Connections {
    slots: Vec<Slot>,
    free: Vec<u32>,
    index: HashTable<(u32, u16)>,
    hash: RandomState,
    len: usize,
    max: u32,
    /// Connections of each host, if they are limited.
    hosts: Option<HashMap<u64, u32, RandomState>>,
    per_host: u32,
}

struct Slot {
    connection: Option<Box<Connection>>,
    generation: u32,
}

impl Connections {
    pub(crate) fn new(config: &Config, hash: RandomState) -> Self {
        let limited = config.connections_per_host < config.connections_max;
        Self {
            hosts: limited.then(|| HashMap::with_hasher(hash.clone())),
            per_host: config.connections_per_host,
            slots: Vec::new(),
            free: Vec::new(),
            index: HashTable::new(),
            hash,
            len: 0,
            max: config.connections_max,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len >= self.max as usize
    }

    /// Whether the host at this address has as many as it may.
    pub(crate) fn is_crowded(&self, peer: &SocketAddr) -> bool {
        let hosts = self.hosts.as_ref();
        let count = hosts.and_then(|hosts| hosts.get(&host(peer)).copied());
        hosts.is_some() && count.unwrap_or(0) >= self.per_host
    }

    /// Takes a connection in; there is room, and its flow is nobody else's.
    pub(crate) fn insert(&mut self, connection: Connection) -> Key {
        debug_assert!(!self.is_full(), "asked before");
        let (peer, id) = (connection.peer(), connection.recv_id());
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                connection: None,
                generation: 0,
            });
            u32::try_from(self.slots.len() - 1).expect("no more than `max` slots")
        });
        self.slots[slot as usize].connection = Some(Box::new(connection));
        self.len += 1;
        if let Some(hosts) = &mut self.hosts {
            *hosts.entry(host(&peer)).or_default() += 1;
        }
        self.add_flow(&peer, id, slot);
        Key {
            slot,
            generation: self.slots[slot as usize].generation,
        }
    }

    /// Makes packets from `peer` with `id` those of the connection at `slot`, too.
    pub(crate) fn add_flow(&mut self, peer: &SocketAddr, id: u16, slot: u32) {
        let (hash, slots) = (&self.hash, &self.slots);
        let entry = hash.hash_one((peer, id));
        self.index.insert_unique(entry, (slot, id), |&(slot, id)| {
            let connection = slots[slot as usize].connection.as_ref();
            connection.map_or(0, |c| hash.hash_one((&c.peer(), id)))
        });
    }

    pub(crate) fn remove_flow(&mut self, peer: &SocketAddr, id: u16, slot: u32) {
        let hash = self.hash.hash_one((peer, id));
        if let Ok(entry) = self.index.find_entry(hash, |&entry| entry == (slot, id)) {
            entry.remove();
        }
    }

    pub(crate) fn find(&self, peer: &SocketAddr, id: u16) -> Option<u32> {
        let hash = self.hash.hash_one((peer, id));
        let found = self.index.find(hash, |&(slot, entry)| {
            let connection = self.slots[slot as usize].connection.as_ref();
            entry == id && connection.is_some_and(|c| c.peer() == *peer)
        });
        found.map(|&(slot, _)| slot)
    }

    pub(crate) fn get(&self, key: Key) -> Option<&Connection> {
        let slot = self.slots.get(key.slot as usize)?;
        let connection = slot.connection.as_deref()?;
        (slot.generation == key.generation).then_some(connection)
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut Connection> {
        let slot = self.slots.get_mut(key.slot as usize)?;
        let connection = slot.connection.as_deref_mut()?;
        (slot.generation == key.generation).then_some(connection)
    }

    pub(crate) fn at_mut(&mut self, slot: u32) -> Option<&mut Connection> {
        self.slots.get_mut(slot as usize)?.connection.as_deref_mut()
    }

    /// The key of the connection at `slot`.
    pub(crate) fn key(&self, slot: u32) -> Key {
        Key {
            slot,
            generation: self.slots[slot as usize].generation,
        }
    }

    pub(crate) fn remove(&mut self, slot: u32) -> Option<(Key, Box<Connection>)> {
        let key = self.key(slot);
        let connection = self.slots.get(slot as usize)?.connection.as_ref()?;
        let (peer, id, other) = (
            connection.peer(),
            connection.recv_id(),
            connection.other_id(),
        );
        self.remove_flow(&peer, id, slot);
        if let Some(other) = other {
            self.remove_flow(&peer, other, slot);
        }
        let place = &mut self.slots[slot as usize];
        // A key that is 2^32 uses old may be taken for a new one; nobody keeps one that long.
        place.generation = place.generation.wrapping_add(1);
        let connection = place.connection.take()?;
        self.free.push(slot);
        self.len -= 1;
        if let Some(hosts) = &mut self.hosts
            && let Some(count) = hosts.get_mut(&host(&peer))
        {
            *count -= 1;
            if *count == 0 {
                hosts.remove(&host(&peer));
            }
        }
        Some((key, connection))
    }
}
