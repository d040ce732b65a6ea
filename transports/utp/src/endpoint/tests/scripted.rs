use super::pair::Side;
use crate::wire::{Header, Kind, Seq, decode};
use crate::{Config, Event, Key};
use flock_transport::{CloseReason, Instant, Train};
use std::net::SocketAddr;
use std::time::Duration;

/// One endpoint, and packets made by hand.
pub(super) struct Scripted {
    pub(super) now: Instant,
    pub(super) side: Side,
    pub(super) peer: SocketAddr,
}

pub(super) fn packet(kind: Kind, id: u16, seq: u16, ack: u16) -> Header {
    Header {
        kind,
        id,
        timestamp: 5000,
        timestamp_diff: 0,
        window: 1 << 20,
        seq: Seq::new(seq),
        ack: Seq::new(ack),
    }
}

impl Scripted {
    pub(super) fn new(config: Config) -> Self {
        Self {
            now: Instant::ZERO + Duration::from_secs(50),
            side: Side::new(config, SocketAddr::from(([10, 0, 0, 1], 1)), 9),
            peer: SocketAddr::from(([10, 0, 0, 2], 2)),
        }
    }

    /// Gives it a packet, as a batch of its own, and returns the answers.
    pub(super) fn give(&mut self, header: &Header, payload: &[u8]) -> Vec<Header> {
        let mut bytes = header.encode(0).to_vec();
        bytes.extend_from_slice(payload);
        let (now, peer) = (self.now, self.peer);
        self.side
            .endpoint
            .handle(now, peer, now, bytes.len(), &bytes);
        self.side.take_events(&bytes);
        self.side.endpoint.end_batch(now);
        self.drain()
    }

    /// What it sends now.
    pub(super) fn drain(&mut self) -> Vec<Header> {
        let mut train = Train::default();
        let mut sent = Vec::new();
        while self.side.endpoint.poll_transmit(self.now, &mut train) {
            self.side.endpoint.sent(train.tag, self.now);
            let bytes: Vec<u8> = train.parts().flatten().copied().collect();
            for datagram in bytes.chunks(train.segment()) {
                sent.push(decode(datagram).unwrap().header);
            }
        }
        self.side.take_events(&[]);
        sent
    }

    /// Lets time pass, and returns what it sent and when, in milliseconds.
    pub(super) fn wait(&mut self, span: Duration) -> Vec<(u128, Header)> {
        let (start, end) = (self.now, self.now + span);
        let mut sent = Vec::new();
        while let Some(at) = self.side.endpoint.next_deadline().filter(|&at| at <= end) {
            self.now = self.now.max(at);
            self.side.endpoint.on_deadline(self.now);
            let after = self.now.since(start).as_millis();
            sent.extend(self.drain().into_iter().map(|header| (after, header)));
        }
        self.now = end;
        sent
    }

    /// A connection that it accepted: peer's SYN 100 with id 40, and its own first number.
    pub(super) fn accepted(&mut self) -> (Key, u16) {
        let answer = self.give(&packet(Kind::Syn, 40, 100, 0), b"");
        let isn = answer[0].seq.get();
        self.give(&packet(Kind::State, 41, 101, isn.wrapping_sub(1)), b"");
        (self.side.key().unwrap(), isn)
    }

    /// A connection that it dialled: our id, the number after its SYN; the peer's first number is
    /// 500.
    pub(super) fn dialled(&mut self) -> (Key, u16, u16) {
        let key = self.side.endpoint.connect(self.now, self.peer).unwrap();
        let syn = self.drain()[0];
        self.give(&packet(Kind::State, syn.id, 500, syn.seq.get()), b"");
        (key, syn.id, syn.seq.next().get())
    }

    pub(super) fn closed(&self) -> Option<(Key, CloseReason)> {
        self.side.events.iter().find_map(Event::closed)
    }
}
