//! A shard as home of peer ids: which connection to a peer stays.

use super::counts::SharedCounts;
use super::message::{Contender, PeerMessage};
use crate::names::{ConnId, PeerId};
use crate::table::{Key, Table};
use flock_transport::{CloseReason, Transport};
use hashbrown::HashTable;
use std::sync::Arc;

/// The peers whose home is this shard.
///
/// The index holds keys rather than peers: a hash table is up to twice as large as what is in it,
/// and there is an entry for every connected peer.
pub(super) struct Home {
    own: PeerId,
    keep_existing: bool,
    counts: Arc<SharedCounts>,
    hasher: ahash::RandomState,
    index: HashTable<Key>,
    peers: Table<Held>,
}

/// A peer that is connected.
struct Held {
    peer: PeerId,
    holder: Contender,
    /// The holder was told to end: whoever comes meanwhile does not lose to it.
    yielding: bool,
    /// What most peers never need.
    more: Option<Box<More>>,
}

#[derive(Default)]
struct More {
    /// Takes the holder's place when that has gone.
    next: Option<Contender>,
    /// Shards with candidates that lead to this peer.
    linked: Vec<u16>,
}

/// What the home decided, each for the shard of a connection.
pub(super) type Verdicts = Vec<(u16, PeerMessage)>;

impl Home {
    pub(super) fn new(
        own: PeerId,
        keep_existing: bool,
        counts: Arc<SharedCounts>,
        hasher: ahash::RandomState,
    ) -> Self {
        Self {
            own,
            keep_existing,
            counts,
            hasher,
            index: HashTable::new(),
            // Bounded by the connections of all shards, each of which has its own limit.
            peers: Table::new(u32::MAX),
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.peers.is_empty() && self.index.is_empty()
    }

    fn find(&self, peer: &PeerId) -> Option<Key> {
        let same = |key: &Key| self.peers.get(*key).is_some_and(|held| held.peer == *peer);
        self.index.find(self.hasher.hash_one(peer), same).copied()
    }

    /// A connection's handshake is done.
    pub(super) fn claim(&mut self, peer: PeerId, new: Contender, out: &mut Verdicts) {
        match self.find(&peer) {
            Some(key) => self.contend(key, new, out),
            None => match self.counts.admit(new.place()) {
                Ok(()) => {
                    self.insert(peer, new);
                    out.push((new.conn.shard, PeerMessage::Granted { conn: new.conn }));
                }
                Err(reason) => out.push(refused(new.conn, reason)),
            },
        }
    }

    /// The connection to a peer that stays.
    pub(super) fn keeper(&self, peer: &PeerId) -> Option<ConnId> {
        let held = self.peers.get(self.find(peer)?)?;
        let next = held.more.as_ref().and_then(|more| more.next);
        Some(next.unwrap_or(held.holder).conn)
    }

    fn insert(&mut self, peer: PeerId, holder: Contender) {
        let hash = self.hasher.hash_one(&peer);
        let held = Held {
            peer,
            holder,
            yielding: false,
            more: None,
        };
        let key = self.peers.insert(held).expect("fewer peers than 2^32");
        let (peers, hasher) = (&self.peers, &self.hasher);
        self.index.insert_unique(hash, key, |key| {
            let held = peers.get(*key).expect("indexed peers exist");
            hasher.hash_one(&held.peer)
        });
    }

    /// The peer has a connection already.
    fn contend(&mut self, key: Key, new: Contender, out: &mut Verdicts) {
        let Some(held) = self.peers.get_mut(key) else {
            return;
        };
        let waiting = held.more.as_ref().and_then(|more| more.next);
        let rival = waiting.or((!held.yielding).then_some(held.holder));
        let loses = rival
            .is_some_and(|rival| first_wins(&self.own, &held.peer, self.keep_existing, rival, new));
        if loses {
            held.link(new);
            out.push(refused(new.conn, CloseReason::Redundant));
            return;
        }
        held.more.get_or_insert_default().next = Some(new);
        if let Some(loser) = rival {
            held.link(loser);
        }
        if let Some(loser) = waiting {
            out.push(refused(loser.conn, CloseReason::Redundant));
        } else if !std::mem::replace(&mut held.yielding, true) {
            let conn = held.holder.conn;
            out.push((conn.shard, PeerMessage::Yield { conn }));
        }
    }

    /// A connection that claimed is over. Whether that made room for another one.
    pub(super) fn release(&mut self, peer: &PeerId, conn: ConnId, out: &mut Verdicts) -> bool {
        let Some(key) = self.find(peer) else {
            return false;
        };
        let Some(held) = self.peers.get_mut(key) else {
            return false;
        };
        if held.holder.conn != conn {
            if let Some(more) = &mut held.more
                && more.next.is_some_and(|next| next.conn == conn)
            {
                more.next = None;
            }
            return false;
        }
        if let Some(next) = held.more.as_mut().and_then(|more| more.next.take()) {
            let was = std::mem::replace(&mut held.holder, next);
            held.yielding = false;
            self.counts.replace_admitted(was.place(), next.place());
            out.push((next.conn.shard, PeerMessage::Granted { conn: next.conn }));
            return was.initiator && !next.initiator;
        }
        let place = held.holder.place();
        self.remove(key, out);
        self.counts.release_admitted(place);
        true
    }

    fn remove(&mut self, key: Key, out: &mut Verdicts) {
        let Some(held) = self.peers.remove(key) else {
            return;
        };
        let hash = self.hasher.hash_one(&held.peer);
        if let Ok(entry) = self.index.find_entry(hash, |other| *other == key) {
            entry.remove();
        }
        for shard in held.more.map_or(Vec::new(), |more| more.linked) {
            let peer = held.peer.clone();
            out.push((shard, PeerMessage::PeerGone { peer }));
        }
    }
}

fn refused(conn: ConnId, reason: CloseReason) -> (u16, PeerMessage) {
    (conn.shard, PeerMessage::Refused { conn, reason })
}

impl Held {
    /// Remembers that an outbound connection that lost leaves its candidate linked to the peer.
    /// Peers that dial us again and again, as the original does, cost nothing.
    fn link(&mut self, loser: Contender) {
        if !loser.initiator {
            return;
        }
        let linked = &mut self.more.get_or_insert_default().linked;
        if !linked.contains(&loser.conn.shard) {
            linked.push(loser.conn.shard);
        }
    }
}

/// The duplicate rule: whether of two connections to `peer` the one that was first stays.
///
/// Both sides must come to the same end, whatever order they see: TCP before uTP; else the
/// connection that the smaller id dialled.
fn first_wins(
    own: &PeerId,
    peer: &PeerId,
    keep_existing: bool,
    first: Contender,
    second: Contender,
) -> bool {
    if keep_existing {
        return true;
    }
    match (first.transport, second.transport) {
        (Transport::Utp, Transport::Tcp) => false,
        (Transport::Tcp, Transport::Utp) => true,
        _ if second.initiator => peer < own,
        _ => peer > own,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contender(slot: u32, initiator: bool, transport: Transport) -> Contender {
        Contender {
            conn: ConnId {
                shard: 0,
                slot,
                generation: 0,
            },
            initiator,
            transport,
            reserved: false,
        }
    }

    #[test]
    fn both_sides_of_two_connections_keep_the_same_one() {
        let (low, high) = (PeerId::new(&[1]).unwrap(), PeerId::new(&[2]).unwrap());
        use Transport::{Tcp, Utp};
        for (one, other) in [(Tcp, Tcp), (Tcp, Utp), (Utp, Tcp), (Utp, Utp)] {
            // Connection 1 was dialled by `low`, connection 2 by `high`; each side may see
            // either first.
            let kept = |own: &PeerId, peer: &PeerId, swap: bool| {
                let first = contender(1, own == &low, one);
                let second = contender(2, own == &high, other);
                let (a, b) = if swap {
                    (second, first)
                } else {
                    (first, second)
                };
                let kept = if first_wins(own, peer, false, a, b) {
                    a
                } else {
                    b
                };
                kept.conn.slot
            };
            let all = [
                kept(&low, &high, false),
                kept(&low, &high, true),
                kept(&high, &low, false),
                kept(&high, &low, true),
            ];
            assert!(
                all.iter().all(|slot| *slot == all[0]),
                "{one} {other}: {all:?}"
            );
            let expected = if one == Utp && other == Tcp { 2 } else { 1 };
            assert_eq!(all[0], expected);
        }
    }

    #[test]
    fn a_replacement_waits_for_the_holder_and_may_give_up() {
        let (own, peer) = (PeerId::new(&[1]).unwrap(), PeerId::new(&[2]).unwrap());
        let counts = Arc::new(SharedCounts::limited(1, 1));
        let hasher = ahash::RandomState::with_seeds(1, 2, 3, 4);
        let mut home = Home::new(own, false, counts.clone(), hasher);
        let mut out = Vec::new();
        let inbound = contender(1, false, Transport::Tcp);
        let outbound = contender(2, true, Transport::Tcp);
        home.claim(peer.clone(), inbound, &mut out);
        assert!(matches!(out.pop(), Some((0, PeerMessage::Granted { .. }))));
        home.claim(peer.clone(), outbound, &mut out);
        assert!(matches!(out.pop(), Some((0, PeerMessage::Yield { conn })) if conn.slot == 1));
        assert!(
            !home.release(&peer, outbound.conn, &mut out),
            "the replacement gave up"
        );
        assert!(
            home.release(&peer, inbound.conn, &mut out),
            "so the holder leaves room"
        );
        assert!(out.is_empty() && !counts.full());
    }

    #[test]
    fn nobody_loses_to_a_holder_that_is_on_its_way_out() {
        let (own, peer) = (PeerId::new(&[1]).unwrap(), PeerId::new(&[2]).unwrap());
        let hasher = ahash::RandomState::with_seeds(1, 2, 3, 4);
        let mut home = Home::new(own, false, Arc::new(SharedCounts::limited(1, 1)), hasher);
        let mut out = Vec::new();
        let holder = contender(1, false, Transport::Utp);
        let gave_up = contender(2, false, Transport::Tcp);
        let late = contender(3, false, Transport::Utp);
        home.claim(peer.clone(), holder, &mut out);
        home.claim(peer.clone(), gave_up, &mut out);
        assert!(matches!(out.pop(), Some((0, PeerMessage::Yield { conn })) if conn.slot == 1));
        assert!(!home.release(&peer, gave_up.conn, &mut out));
        out.clear();
        // By the rule it would lose, to a connection that is about to end.
        home.claim(peer.clone(), late, &mut out);
        assert!(out.is_empty(), "told to yield once: {out:?}");
        assert!(!home.release(&peer, holder.conn, &mut out));
        assert!(matches!(out.pop(), Some((0, PeerMessage::Granted { conn })) if conn.slot == 3));
        // The one that took the place is an ordinary holder again.
        home.claim(peer.clone(), contender(4, false, Transport::Utp), &mut out);
        assert!(matches!(out.pop(), Some((0, PeerMessage::Refused { .. }))));
    }

    /// The original's rule, spelt out for every combination: an existing connection, a new one,
    /// which of the two ids is smaller.
    #[test]
    fn the_rule_is_the_originals() {
        use Transport::{Tcp, Utp};
        let (low, high) = (PeerId::new(&[1]).unwrap(), PeerId::new(&[2]).unwrap());
        for (own, remote) in [(&low, &high), (&high, &low)] {
            for case in 0..16 {
                let bit = |n: u32| case >> n & 1 == 1;
                let pick = |utp| if utp { Utp } else { Tcp };
                let (old, new) = (pick(bit(0)), pick(bit(1)));
                let (old_ours, new_ours) = (bit(2), bit(3));
                // "If the old one is uTP and the new one TCP, the old one goes. Otherwise the
                // new one goes if it is ours and the remote id smaller, or theirs and the
                // remote id larger, or uTP where the old one is TCP."
                let new_goes = !(old == Utp && new == Tcp)
                    && ((new_ours && remote < own)
                        || (!new_ours && remote > own)
                        || (new == Utp && old == Tcp));
                let (first, second) = (contender(1, old_ours, old), contender(2, new_ours, new));
                assert_eq!(
                    first_wins(own, remote, false, first, second),
                    new_goes,
                    "{case:04b}"
                );
                assert!(first_wins(own, remote, true, first, second));
            }
        }
    }

    /// Every case there is, as the original decides it: who dialled the old connection and over
    /// what, the same of the new one, and which of the two stays when our id is the smaller one
    /// and when it is the larger one.
    #[test]
    fn which_of_two_connections_stays() {
        const CASES: &str = "
            ours   tcp  ours   tcp   new  old
            ours   tcp  ours   utp   old  old
            ours   tcp  theirs tcp   old  new
            ours   tcp  theirs utp   old  old
            ours   utp  ours   tcp   new  new
            ours   utp  ours   utp   new  old
            ours   utp  theirs tcp   new  new
            ours   utp  theirs utp   old  new
            theirs tcp  ours   tcp   new  old
            theirs tcp  ours   utp   old  old
            theirs tcp  theirs tcp   old  new
            theirs tcp  theirs utp   old  old
            theirs utp  ours   tcp   new  new
            theirs utp  ours   utp   new  old
            theirs utp  theirs tcp   new  new
            theirs utp  theirs utp   old  new";
        let (low, high) = (PeerId::new(&[1]).unwrap(), PeerId::new(&[2]).unwrap());
        let contend = |own: &PeerId, peer: &PeerId, old: Contender, new: Contender| {
            let hasher = ahash::RandomState::with_seeds(1, 2, 3, 4);
            let counts = Arc::new(SharedCounts::limited(1, 1));
            let mut home = Home::new(own.clone(), false, counts, hasher);
            let mut out = Vec::new();
            home.claim(peer.clone(), old, &mut out);
            home.claim(peer.clone(), new, &mut out);
            match out.pop() {
                Some((0, PeerMessage::Refused { conn, .. })) if conn == new.conn => "old",
                Some((0, PeerMessage::Yield { conn })) if conn == old.conn => "new",
                other => panic!("{other:?}"),
            }
        };
        for case in CASES.lines().skip(1) {
            let words: Vec<&str> = case.split_whitespace().collect();
            let [who, over, new_who, new_over, if_smaller, if_larger] = words[..] else {
                panic!("{case}")
            };
            let transport = |over| match over {
                "tcp" => Transport::Tcp,
                _ => Transport::Utp,
            };
            let old = contender(1, who == "ours", transport(over));
            let new = contender(2, new_who == "ours", transport(new_over));
            assert_eq!(contend(&low, &high, old, new), if_smaller, "{case}");
            assert_eq!(contend(&high, &low, old, new), if_larger, "{case}");
            // The other side has the other view of the same two, and comes to the same end.
            let mirrored = |c: Contender| contender(c.conn.slot, !c.initiator, c.transport);
            let seen = contend(&high, &low, mirrored(old), mirrored(new));
            assert_eq!(seen, if_smaller, "{case}");
            // In the other order, too, unless one side dialled both over one transport: then
            // the smaller id keeps its newer connection and the larger its older one.
            if who != new_who || over != new_over {
                let other = if if_smaller == "old" { "new" } else { "old" };
                assert_eq!(contend(&low, &high, new, old), other, "{case}");
            }
        }
    }

    #[test]
    fn a_connected_peer_costs_little_however_often_it_dials() {
        let held = size_of::<Held>();
        assert!(held <= 80, "{held}");
        let (own, peer) = (PeerId::new(&[1]).unwrap(), PeerId::new(&[2]).unwrap());
        let hasher = ahash::RandomState::with_seeds(1, 2, 3, 4);
        let mut home = Home::new(own, false, Arc::new(SharedCounts::limited(1, 0)), hasher);
        let mut out = Vec::new();
        for slot in 0..5 {
            home.claim(
                peer.clone(),
                contender(slot, false, Transport::Tcp),
                &mut out,
            );
        }
        assert!(
            out.drain(1..)
                .all(|(_, verdict)| matches!(verdict, PeerMessage::Refused { .. }))
        );
        assert!(home.peers.iter().all(|(_, held)| held.more.is_none()));
    }
}
