//! The swarm's own record of each connection.

use super::candidates::CandidateId;
use crate::event::ConnectionInfo;
use crate::names::{ChannelKey, ConnId, PeerId};
use flock_transport::Transport;
use std::net::SocketAddr;

pub(super) struct Conn {
    generation: u32,
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
    /// The home has been asked, but there is no more time for its answer.
    Late,
    Admitted,
    /// About to be closed by our own decision.
    Refused,
}

/// Connections by the slot of their name, which the shard chose.
#[derive(Default)]
pub(super) struct Conns {
    slots: Vec<Option<Conn>>,
}

impl Conn {
    pub(super) fn new(transport: Transport, addr: SocketAddr) -> Self {
        Self {
            generation: 0,
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
    pub(super) fn insert(&mut self, id: ConnId, mut conn: Conn) {
        let slot = id.slot as usize;
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || None);
        }
        debug_assert!(
            self.slots[slot].is_none(),
            "the shard reused a slot too early"
        );
        conn.generation = id.generation;
        self.slots[slot] = Some(conn);
    }

    pub(super) fn get(&self, id: ConnId) -> Option<&Conn> {
        let conn = self.slots.get(id.slot as usize)?.as_ref()?;
        (conn.generation == id.generation).then_some(conn)
    }

    pub(super) fn get_mut(&mut self, id: ConnId) -> Option<&mut Conn> {
        let conn = self.slots.get_mut(id.slot as usize)?.as_mut()?;
        (conn.generation == id.generation).then_some(conn)
    }

    pub(super) fn remove(&mut self, id: ConnId) -> Option<Conn> {
        self.get(id)?;
        self.slots[id.slot as usize].take()
    }
}
