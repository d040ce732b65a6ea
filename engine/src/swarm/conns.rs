//! The swarm's own record of each connection.

use super::candidates::CandidateId;
use crate::event::ConnectionInfo;
use crate::names::{ChannelKey, ConnId, PeerId};
use crate::pages::Pages;
use flock_transport::Transport;
use std::net::SocketAddr;

pub(super) struct Conn {
    generation: u32,
    /// When it was admitted, seconds.
    pub(super) since: u32,
    pub(super) stage: Stage,
    pub(super) transport: Transport,
    /// Set for connections this side dialled.
    pub(super) candidate: Option<CandidateId>,
    pub(super) initiator: bool,
    pub(super) channel: Option<ChannelKey>,
    pub(super) addr: SocketAddr,
    pub(super) peer: Option<PeerId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Handshaking,
    /// The home shard has been asked.
    Claiming,
    /// The home has been asked, but it is too late for its answer: time ran out, or it is banned.
    Late,
    Admitted,
    /// About to be closed by our own decision.
    Refused,
}

/// Connections by the slot of their name, which the shard chose.
pub(super) struct Conns {
    slots: Pages<Option<Conn>>,
}

impl Conn {
    pub(super) fn new(transport: Transport, addr: SocketAddr) -> Self {
        Self {
            generation: 0,
            since: 0,
            stage: Stage::Handshaking,
            transport,
            candidate: None,
            initiator: false,
            channel: None,
            addr,
            peer: None,
        }
    }

    pub(super) fn info(&self, conn: ConnId) -> ConnectionInfo {
        ConnectionInfo {
            conn,
            transport: self.transport,
            initiator: self.initiator,
            channel: self.channel.clone(),
            addr: self.addr,
            peer_id: self.peer.clone(),
        }
    }
}

impl Conns {
    pub(super) const fn new() -> Self {
        Self {
            slots: Pages::new(),
        }
    }

    pub(super) fn insert(&mut self, id: ConnId, mut conn: Conn) {
        while self.slots.len() <= id.slot {
            self.slots.push(None);
        }
        let place = self.slots.get_mut(id.slot).expect("opened above");
        debug_assert!(place.is_none(), "the shard reused a slot too early");
        conn.generation = id.generation;
        *place = Some(conn);
    }

    pub(super) fn get(&self, id: ConnId) -> Option<&Conn> {
        let conn = self.slots.get(id.slot)?.as_ref()?;
        (conn.generation == id.generation).then_some(conn)
    }

    pub(super) fn get_mut(&mut self, id: ConnId) -> Option<&mut Conn> {
        let conn = self.slots.get_mut(id.slot)?.as_mut()?;
        (conn.generation == id.generation).then_some(conn)
    }

    /// Whether the peer dialled and has not stated its id yet.
    pub(super) fn is_unfinished_inbound(&self, id: ConnId) -> bool {
        self.get(id)
            .is_some_and(|conn| conn.stage == Stage::Handshaking && !conn.initiator)
    }

    pub(super) fn remove(&mut self, id: ConnId) -> Option<Conn> {
        self.get(id)?;
        self.slots.get_mut(id.slot)?.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(slot: u32, generation: u32) -> ConnId {
        ConnId {
            shard: 0,
            slot,
            generation,
        }
    }

    fn conn() -> Conn {
        Conn::new(Transport::Tcp, "10.0.0.1:1".parse().unwrap())
    }

    #[test]
    fn a_hundred_thousand_connections_waste_no_memory() {
        const N: u32 = 100_000;
        let mut conns = Conns::new();
        for slot in 0..N {
            conns.insert(id(slot, 0), conn());
        }
        let each = conns.slots.bytes() as f64 / f64::from(N);
        assert!(each <= size_of::<Option<Conn>>() as f64 + 1.0, "{each}");
        assert!(size_of::<Option<Conn>>() <= 120);
    }

    #[test]
    fn a_name_from_before_leads_nowhere() {
        let mut conns = Conns::new();
        conns.insert(id(300, 0), conn());
        assert!(conns.get(id(299, 0)).is_none() && conns.get(id(5000, 0)).is_none());
        assert!(conns.remove(id(300, 1)).is_none());
        assert!(conns.remove(id(300, 0)).is_some());
        conns.insert(id(300, 1), conn());
        assert!(conns.get(id(300, 0)).is_none() && conns.get_mut(id(300, 1)).is_some());
    }
}
