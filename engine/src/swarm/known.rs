//! For which channels connections are known, and how channels stand.

use super::candidates::{CandidateId, State};
use super::conns::Stage;
use super::{PeerMessage, Swarm};
use crate::names::{ChannelKey, ConnId, PeerId};
use flock_transport::Instant;
use hashbrown::HashMap;
use std::net::SocketAddr;

/// Channels remembered for a connection beside those of its own candidate.
const CHANNELS_MAX: usize = 256;

/// How a channel stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChannelStatus {
    /// Whether it is joined.
    pub joined: bool,
    /// Candidates found for it that wait to be dialled.
    pub queued: u64,
    /// Those being dialled, or shaking hands.
    pub connecting: u64,
    /// Those that wait for a retry.
    pub waiting: u64,
    /// Connected peers known for it.
    pub connected: u64,
}

impl ChannelStatus {
    /// Adds what another shard knows.
    pub(crate) fn add(&mut self, other: Self) {
        self.queued += other.queued;
        self.connecting += other.connecting;
        self.waiting += other.waiting;
        self.connected += other.connected;
    }
}

/// Channels of connections that other candidates turned out to lead to: those that a peer dialled,
/// and those to a peer with several addresses. Most connections have none.
pub(super) struct Known {
    conns: HashMap<ConnId, Vec<ChannelKey>, ahash::RandomState>,
    /// The connected peers that candidates here are linked to, by the hash those are linked by.
    peers: HashMap<u64, PeerId, ahash::RandomState>,
}

impl Known {
    pub(super) fn new(hasher: ahash::RandomState) -> Self {
        Self {
            conns: HashMap::with_hasher(hasher.clone()),
            peers: HashMap::with_hasher(hasher),
        }
    }

    fn add(&mut self, conn: ConnId, channels: Vec<ChannelKey>) {
        let known = self.conns.entry(conn).or_default();
        for channel in channels {
            if known.len() < CHANNELS_MAX && !known.contains(&channel) {
                known.push(channel);
            }
        }
    }

    pub(super) fn forget(&mut self, conn: ConnId) {
        self.conns.remove(&conn);
    }

    /// A channel was left.
    pub(super) fn leave(&mut self, channel: &ChannelKey) {
        self.conns.retain(|_, channels| {
            channels.retain(|known| known != channel);
            !channels.is_empty()
        });
    }

    fn of(&self, conn: ConnId) -> &[ChannelKey] {
        self.conns.get(&conn).map_or(&[], Vec::as_slice)
    }
}

impl Swarm {
    /// The candidate behind a connection leads to a peer that is connected otherwise.
    pub(super) fn link(&mut self, now: Instant, conn: ConnId) {
        self.hand_channels_on(now, conn);
        let Some(record) = self.conns.get_mut(conn) else {
            return;
        };
        if let (Some(id), Some(peer)) = (record.candidate.take(), record.peer.clone()) {
            self.places.release(id);
            let hash = self.candidates.link(id, &peer);
            self.known.peers.insert(hash, peer);
        }
    }

    /// A peer that candidates were linked to is not connected any more.
    pub(super) fn unlinked(&mut self, peer: &PeerId) {
        self.known.peers.remove(&self.candidates.link_hash(peer));
    }

    /// A known candidate was found for another channel.
    pub(super) fn found_again(&mut self, now: Instant, addr: SocketAddr, channel: &ChannelKey) {
        let candidate = self.candidates.by_addr(addr);
        let state = candidate
            .and_then(|id| self.candidates.get(id))
            .map(|c| c.state);
        if let Some(State::Linked(hash)) = state
            && let Some(peer) = self.known.peers.get(&hash).cloned()
        {
            let channels = vec![channel.clone()];
            let home = self.homes.of_peer(&peer);
            self.send(now, home, PeerMessage::Known { peer, channels });
        }
    }

    /// Tells the home of a peer what a connection that is about to go was known for, so that the
    /// one that stays is known for it, too.
    fn hand_channels_on(&mut self, now: Instant, conn: ConnId) {
        let channels = self.channels_of(conn);
        let peer = self.conns.get(conn).and_then(|record| record.peer.clone());
        if let Some(peer) = peer.filter(|_| !channels.is_empty()) {
            let home = self.homes.of_peer(&peer);
            self.send(now, home, PeerMessage::Known { peer, channels });
        }
    }

    /// As home.
    pub(super) fn known(&mut self, now: Instant, peer: &PeerId, channels: Vec<ChannelKey>) {
        if let Some(conn) = self.home.keeper(peer) {
            self.send(now, conn.shard, PeerMessage::KnownFor { conn, channels });
        }
    }

    pub(super) fn known_for(&mut self, conn: ConnId, channels: Vec<ChannelKey>) {
        if self.conns.get(conn).is_some() {
            self.known.add(conn, channels);
        }
    }

    /// The channels a connection is known for.
    pub(crate) fn channels_of(&self, conn: ConnId) -> Vec<ChannelKey> {
        let candidate = self.conns.get(conn).and_then(|record| record.candidate);
        let mut channels = candidate.map_or(Vec::new(), |id| self.candidates.channels_of(id));
        for channel in self.known.of(conn) {
            if !channels.contains(channel) {
                channels.push(channel.clone());
            }
        }
        channels
    }

    /// The admitted connections known for a channel.
    pub(crate) fn conns_of(&self, channel: &ChannelKey) -> Vec<ConnId> {
        let dialled = self.candidates.found_for(channel);
        let dialled = dialled.filter_map(|id| match self.candidates.get(id)?.state {
            State::Connection(conn) => Some(conn),
            _ => None,
        });
        let known = self.known.conns.iter();
        let known = known.filter(|(_, channels)| channels.contains(channel));
        let all = dialled.chain(known.map(|(conn, _)| *conn));
        let mut conns: Vec<ConnId> = all.filter(|conn| self.is_admitted(*conn)).collect();
        conns.sort_unstable_by_key(|conn| (conn.slot, conn.generation));
        conns.dedup();
        conns
    }

    fn is_admitted(&self, conn: ConnId) -> bool {
        let record = self.conns.get(conn);
        record.is_some_and(|record| record.stage == Stage::Admitted)
    }

    pub(crate) fn channel_status(&self, channel: &ChannelKey) -> ChannelStatus {
        let mut status = ChannelStatus {
            connected: self.conns_of(channel).len() as u64,
            ..ChannelStatus::default()
        };
        for id in self.candidates.found_for(channel) {
            match self.candidates.get(id).map(|candidate| candidate.state) {
                Some(State::Queued) => status.queued += 1,
                Some(State::Waiting) => status.waiting += 1,
                Some(State::Dialling) => status.connecting += 1,
                Some(State::Connection(conn)) => {
                    status.connecting += u64::from(!self.is_admitted(conn));
                }
                Some(State::Linked(_)) | None => {}
            }
        }
        status
    }

    /// A candidate of the channel whose dial or handshake has not come to an end, or that is about to
    /// be dialled; one that has to wait for room is not. `last` is where it was found last.
    pub(crate) fn unsettled(
        &self,
        channel: &ChannelKey,
        last: Option<CandidateId>,
    ) -> Option<CandidateId> {
        let unsettled = |id: &CandidateId| match self.candidates.get(*id).map(|c| c.state) {
            Some(State::Queued) => {
                let reserved = self.candidates.is_reserved(*id);
                !self.suspended && self.counts.has_room(reserved)
            }
            Some(State::Dialling) => true,
            Some(State::Connection(conn)) => !self.is_admitted(conn),
            _ => false,
        };
        last.filter(unsettled)
            .or_else(|| self.candidates.found_for(channel).find(unsettled))
    }
}
