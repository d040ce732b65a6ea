//! What comes from the network.

use super::half_open::Confirmation;
use super::ring::Flow;
use super::{Endpoint, Event};
use crate::connection::{Connection, Incoming, Verdict, micros};
use crate::wire::{Header, Kind, Packet, Seq, decode};
use flock_transport::{CloseReason, Instant, canonical};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

/// A datagram, where it lies in what was handed in, and when and from where it came.
struct Arrived<'a> {
    now: Instant,
    received_at: Instant,
    from: SocketAddr,
    packet: &'a Packet<'a>,
    bytes: &'a [u8],
    range: Range<usize>,
}

/// Whether nobody can be there.
fn is_impossible(from: &SocketAddr) -> bool {
    let broadcast = matches!(from.ip(), IpAddr::V4(ip) if ip.is_broadcast());
    from.port() == 0 || from.ip().is_multicast() || from.ip().is_unspecified() || broadcast
}

impl Endpoint {
    /// Takes datagrams from one source: each of `segment` bytes but the last, which may be
    /// shorter. `received_at` is when the kernel received them, not later than `now`.
    ///
    /// The events that follow refer to `datagrams` and are to be taken before the next call.
    pub fn handle(
        &mut self,
        now: Instant,
        from: SocketAddr,
        received_at: Instant,
        segment: usize,
        datagrams: &[u8],
    ) {
        let from = canonical(from);
        let segment = segment.max(1);
        let mut last: Option<(u16, u32)> = None;
        let mut start = 0;
        for bytes in datagrams.chunks(segment) {
            let range = start..start + bytes.len();
            start = range.end;
            self.counters.datagrams_in += 1;
            self.counters.bytes_in += bytes.len() as u64;
            let Some(packet) = decode(bytes).filter(|_| !is_impossible(&from)) else {
                self.counters.malformed += 1;
                continue;
            };
            let arrived = Arrived {
                now,
                received_at,
                from,
                packet: &packet,
                bytes,
                range,
            };
            let id = packet.header.id;
            // Datagrams of one source are mostly of one connection.
            let known = last.filter(|&(of, _)| of == id).map(|(_, slot)| slot);
            let slot = known.or_else(|| self.connections.find(&from, id));
            last = slot.map(|slot| (id, slot));
            if self.dispatch(slot, &arrived) {
                last = None;
            }
        }
    }

    /// All datagrams at hand have been handled: acknowledgements are due, one for each connection,
    /// but more where a gap is new.
    pub fn end_batch(&mut self, now: Instant) {
        let mut touched = std::mem::take(&mut self.touched);
        for slot in touched.drain(..) {
            if let Some(connection) = self.connections.at_mut(slot) {
                connection.touched = false;
                self.settle(now, slot);
            }
        }
        self.touched = touched;
    }

    /// Returns whether a connection came or went.
    fn dispatch(&mut self, slot: Option<u32>, arrived: &Arrived<'_>) -> bool {
        let header = &arrived.packet.header;
        match (header.kind, slot) {
            (Kind::Reset, _) => {
                self.on_reset(slot, arrived);
                true
            }
            // A SYN's id is that of packets from us.
            (Kind::Syn, _) => {
                self.on_syn(arrived);
                false
            }
            (_, Some(slot)) => self.on_packet(slot, arrived),
            (_, None) => self.on_stray(arrived),
        }
    }

    fn on_packet(&mut self, slot: u32, arrived: &Arrived<'_>) -> bool {
        let room = self.room();
        let key = self.connections.key(slot);
        let Some(connection) = self.connections.at_mut(slot) else {
            return true;
        };
        let header = arrived.packet.payload;
        let incoming = Incoming {
            now: arrived.now,
            received_at: arrived.received_at,
            packet: arrived.packet,
            payload: &arrived.bytes[header..],
            range: arrived.range.start + header..arrived.range.end,
            room,
            config: &self.config,
        };
        let before = connection.held();
        let verdict = connection.on_packet(&incoming, key, &mut self.events);
        let after = connection.held();
        let (peer, finished) = (connection.peer(), connection.finished());
        if !connection.touched {
            connection.touched = true;
            self.touched.push(slot);
        }
        self.account(before, after);
        match verdict {
            Verdict::Connected { unused } => {
                if let Some(unused) = unused {
                    self.connections.remove_flow(&peer, unused, slot);
                }
            }
            Verdict::Invalid | Verdict::Doubtful => self.counters.invalid += 1,
            Verdict::Dropped => self.counters.beyond_window += 1,
            Verdict::Taken | Verdict::Reset => {}
        }
        if let Some(reason) = finished {
            self.drop_connection(arrived.now, slot, reason, false);
        }
        finished.is_some()
    }

    fn on_syn(&mut self, arrived: &Arrived<'_>) {
        let header = &arrived.packet.header;
        let recv_id = header.id.wrapping_add(1);
        if self.connections.find(&arrived.from, recv_id).is_some() {
            // Its connection is confirmed: a late repetition.
            self.counters.stray += 1;
            return;
        }
        if self.held_back {
            self.counters.syns_held_back += 1;
            return;
        }
        if !self.config.accept {
            return self.refuse(arrived, header.id);
        }
        let Self { half_open, rng, .. } = self;
        let isn = half_open.on_syn(arrived.now, &arrived.from, recv_id, header.seq, rng);
        if let Some(isn) = isn {
            // The ids are a new connection's from here on.
            self.tombstones.remove(&Flow::new(&arrived.from, recv_id));
            let answer = self.answer(arrived, Kind::State, header.id, isn, header.seq);
            self.replies.push(arrived.from, answer);
        }
    }

    /// A packet other than SYN and RESET that belongs to no connection. Returns whether it made
    /// one.
    fn on_stray(&mut self, arrived: &Arrived<'_>) -> bool {
        let header = &arrived.packet.header;
        let flow = Flow::new(&arrived.from, header.id);
        self.tombstones.expire(arrived.now, |_, _| {});
        if let Some(&mut tombstone) = self.tombstones.get_mut(&flow) {
            // A repeated FIN means that our acknowledgement of it was lost.
            if header.kind != Kind::State {
                let (seq, ack) = (Seq::new(tombstone.seq), Seq::new(tombstone.ack));
                let answer = self.answer(arrived, Kind::State, tombstone.send_id, seq, ack);
                self.replies.push(arrived.from, answer);
            }
            return false;
        }
        let (from, id) = (&arrived.from, header.id);
        let confirmation = self
            .half_open
            .confirm(arrived.now, from, id, header.seq, header.ack);
        match confirmation {
            Confirmation::Confirmed { syn, isn, took } => self.accept(arrived, syn, isn, took),
            Confirmation::Refused => false,
            Confirmation::Unknown => {
                self.counters.stray += 1;
                self.refuse(arrived, header.id);
                false
            }
        }
    }

    fn accept(
        &mut self,
        arrived: &Arrived<'_>,
        syn: Seq,
        isn: Seq,
        took: Option<Duration>,
    ) -> bool {
        let id = arrived.packet.header.id;
        if self.connections.is_full() || self.connections.is_crowded(&arrived.from) {
            self.counters.accept_refused += 1;
            self.refuse(arrived, id.wrapping_sub(1));
            return false;
        }
        let (now, from) = (arrived.now, arrived.from);
        let mut connection = Connection::accepted(&self.config, now, from, id, syn, isn);
        if let Some(known) = self.mtus.get(from) {
            connection.set_mtu(&self.config, known);
        }
        if let Some(took) = took {
            connection.confirmed_after(now, took);
        }
        let key = self.connections.insert(connection);
        self.counters.accepted += 1;
        self.events.push_back(Event::Accepted { key, from });
        self.on_packet(key.slot, arrived);
        true
    }

    fn on_reset(&mut self, slot: Option<u32>, arrived: &Arrived<'_>) {
        let (id, ack) = (arrived.packet.header.id, arrived.packet.header.ack);
        // Some stacks send back our own id: then ours is one beside it.
        let sent_back = [id.wrapping_sub(1), id.wrapping_add(1)]
            .into_iter()
            .filter_map(|id| self.connections.find(&arrived.from, id));
        for slot in slot
            .into_iter()
            .chain(sent_back.collect::<arrayvec::ArrayVec<_, 2>>())
        {
            let Some(connection) = self.connections.at_mut(slot) else {
                continue;
            };
            let ours = connection.receives(id) || connection.send_id() == id;
            if ours && connection.on_reset(ack) == Verdict::Reset {
                self.counters.resets_received += 1;
                let reason = CloseReason::PeerReset;
                return self.drop_connection(arrived.now, slot, reason, false);
            }
        }
        let given_up = [id, id.wrapping_add(1)]
            .into_iter()
            .filter(|&recv_id| self.half_open.on_reset(&arrived.from, recv_id, ack));
        if given_up.count() == 0 {
            self.counters.resets_ignored += 1;
            let rate = self.config.resets_per_second;
            if self.shards > 1 && self.stray_resets.take(arrived.now, rate) {
                self.events.push_back(Event::StrayReset {
                    from: arrived.from,
                    range: arrived.range.clone(),
                });
            }
        }
    }

    /// Answers a packet with RESET, within the limits.
    fn refuse(&mut self, arrived: &Arrived<'_>, id: u16) {
        let config = &self.config;
        let allowed =
            self.network_resets
                .take(arrived.now, &arrived.from, config.resets_per_network)
                && self.resets.take(arrived.now, config.resets_per_second);
        if !allowed {
            self.counters.resets_withheld += 1;
            return;
        }
        let seq = Seq::new(rand::Rng::random(&mut self.rng));
        let answer = self.answer(arrived, Kind::Reset, id, seq, arrived.packet.header.seq);
        self.counters.resets_sent += 1;
        self.replies.push(arrived.from, answer);
    }

    fn answer(&self, to: &Arrived<'_>, kind: Kind, id: u16, seq: Seq, ack: Seq) -> Header {
        let sent = to.packet.header.timestamp;
        let took = micros(to.received_at).wrapping_sub(sent);
        let window = u64::from(self.config.receive_window).min(self.room());
        Header {
            kind,
            id,
            timestamp: micros(to.now),
            timestamp_diff: if sent == 0 { 0 } else { took },
            window: u32::try_from(window).unwrap_or(u32::MAX),
            seq,
            ack,
        }
    }
}
