//! Streams: two sides, the segments between them, and how they end.

use super::faults::Faults;
use super::world::{NetEvent, World};
use crate::io::SocketId;
use bytes::{Buf, Bytes, BytesMut};
use flock_tcp::StreamOptions;
use flock_transport::{CloseHow, Errno, Instant};
use rand::Rng;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

/// `net.ipv4.tcp_fin_timeout`: how long a closed side waits for the other's FIN.
const FIN_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) enum Segment {
    SynAck,
    Data(Bytes),
    Fin,
    Rst,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The dial has not reached its listener.
    Absent,
    Connecting,
    Open,
    /// Reset by the other side, or the dial failed; the owner may still read what arrived before.
    Broken,
    /// Answers everything with RST.
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fin {
    No,
    Wanted,
    Sent,
    Delivered,
}

/// One end of a stream, with what the kernel holds for it.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) node: usize,
    pub(super) addr: SocketAddr,
    pub(super) state: State,
    pub(super) owner: Option<(usize, SocketId)>,
    /// Taken from `Send`, not sent yet.
    tx: BytesMut,
    tx_limit: usize,
    pub(super) fin: Fin,
    /// Sent, not arrived yet.
    flight: VecDeque<(Instant, Segment)>,
    flight_bytes: usize,
    last_arrival: Instant,
    /// Received, not read yet.
    pub(super) rx: VecDeque<Bytes>,
    rx_bytes: usize,
    rx_limit: usize,
    pub(super) eof: bool,
    /// What the next operation on a broken side is told.
    pub(super) error: Option<Errno>,
    /// Closed by its owner, still delivering.
    orphan: bool,
}

impl Side {
    pub(super) fn new(node: usize, addr: SocketAddr, state: State) -> Self {
        Self {
            node,
            addr,
            state,
            owner: None,
            tx: BytesMut::new(),
            tx_limit: 0,
            fin: Fin::No,
            flight: VecDeque::new(),
            flight_bytes: 0,
            last_arrival: Instant::ZERO,
            rx: VecDeque::new(),
            rx_bytes: 0,
            rx_limit: 0,
            eof: false,
            error: None,
            orphan: false,
        }
    }

    pub(super) fn take_options(&mut self, options: &StreamOptions, faults: &Faults) {
        let or = |own: Option<u32>, usual: usize| own.map_or(usual, |n| n as usize).max(1);
        self.tx_limit = or(options.send_buffer, faults.send_buffer);
        self.rx_limit = or(options.recv_buffer, faults.receive_buffer);
    }

    fn ended(&self) -> bool {
        matches!(self.state, State::Gone | State::Absent)
    }

    fn end(&mut self) {
        self.state = State::Gone;
        self.owner = None;
        self.tx.clear();
        self.rx.clear();
        self.rx_bytes = 0;
    }
}

/// A connection; side 0 dialled.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) sides: [Side; 2],
    pair: (SocketAddr, SocketAddr),
}

impl Stream {
    pub(super) fn new(sides: [Side; 2], pair: (SocketAddr, SocketAddr)) -> Self {
        Self { sides, pair }
    }
}

impl World {
    pub(super) fn side(&mut self, stream: u64, side: usize) -> Option<&mut Side> {
        self.streams.get_mut(&stream).map(|s| &mut s.sides[side])
    }

    pub(super) fn look_at_owner(&mut self, stream: u64, side: usize) {
        if let Some((station, socket)) = self.side(stream, side).and_then(|side| side.owner) {
            self.stations[station].list(socket);
        }
    }

    /// Sends a segment, after all that were sent before.
    pub(super) fn launch(&mut self, stream: u64, side: usize, segment: Segment) {
        let Some(nodes) = self.streams.get(&stream).map(|s| &s.sides) else {
            return;
        };
        let (from, to) = (nodes[side].node, nodes[1 - side].node);
        let arrival = self.arrival(from, to);
        let Some(sender) = self.side(stream, side) else {
            return;
        };
        let at = arrival.max(sender.last_arrival);
        sender.last_arrival = at;
        if let Segment::Data(bytes) = &segment {
            sender.flight_bytes += bytes.len();
        }
        sender.flight.push_back((at, segment));
        self.schedule(at, NetEvent::Segment { stream, side });
    }

    /// Takes bytes from the owner's `Send` and sends segments, as far as there is room for both.
    pub(super) fn drive(&mut self, stream: u64, side: usize) {
        loop {
            let fed = self.feed(stream, side);
            let sent = self.pump(stream, side);
            if !fed && !sent {
                return;
            }
        }
    }

    fn feed(&mut self, stream: u64, side: usize) -> bool {
        let Some(sides) = self.streams.get_mut(&stream).map(|s| &mut s.sides) else {
            return false;
        };
        let sender = &mut sides[side];
        let room = sender.tx_limit.saturating_sub(sender.tx.len());
        let Some((station, socket)) = sender.owner else {
            return false;
        };
        if room == 0 || sender.state != State::Open || sender.fin != Fin::No {
            return false;
        }
        let station = &mut self.stations[station];
        let Some(send) = station.get(socket).and_then(|s| s.send.as_mut()) else {
            return false;
        };
        if send.left == 0 || send.cancelling {
            return false;
        }
        let mut room = room;
        while room > 0
            && let Some(chunk) = send.chunks.first_mut()
        {
            let take = room.min(chunk.len());
            sender.tx.extend_from_slice(&chunk[..take]);
            chunk.advance(take);
            send.left -= take;
            room -= take;
            if chunk.is_empty() {
                send.chunks.remove(0);
            }
        }
        send.rounds += 1;
        let (done, second) = (send.left == 0, send.rounds == 2);
        station.counters.short_sends += u64::from(second);
        if done {
            station.list(socket);
        }
        true
    }

    fn pump(&mut self, stream: u64, side: usize) -> bool {
        let mut moved = false;
        loop {
            let Some(sides) = self.streams.get_mut(&stream).map(|s| &mut s.sides) else {
                return moved;
            };
            let window = match sides[1 - side].state {
                State::Open | State::Connecting => {
                    let held = sides[side].flight_bytes + sides[1 - side].rx_bytes;
                    sides[1 - side].rx_limit.saturating_sub(held)
                }
                _ => usize::MAX,
            };
            let sender = &mut sides[side];
            if sender.state != State::Open {
                return moved;
            }
            if sender.tx.is_empty() {
                if sender.fin == Fin::Wanted {
                    sender.fin = Fin::Sent;
                    self.launch(stream, side, Segment::Fin);
                }
                return moved;
            }
            let most = sender.tx.len().min(window);
            if most == 0 {
                return moved;
            }
            let size = self.rng.random_range(self.faults.segment.clone());
            let bytes = sender.tx.split_to(size.clamp(1, most)).freeze();
            moved = true;
            if self.chance(self.faults.reset) {
                self.probe("reset-in-flight");
                return self.reset_both(stream);
            }
            self.launch(stream, side, Segment::Data(bytes));
        }
    }

    /// A middlebox resets the stream: both sides get RST.
    fn reset_both(&mut self, stream: u64) -> bool {
        for side in 0..2 {
            self.break_off(stream, side);
        }
        false
    }

    pub(super) fn segment_arrives(&mut self, stream: u64, side: usize) {
        let now = self.now;
        let Some(sender) = self.side(stream, side) else {
            return;
        };
        // A reset may have overtaken what this event was for.
        if sender.flight.front().is_none_or(|(at, _)| *at > now) {
            return;
        }
        let Some((_, segment)) = sender.flight.pop_front() else {
            return;
        };
        match segment {
            Segment::SynAck => self.syn_ack_arrives(stream, 1 - side),
            Segment::Data(bytes) => {
                sender.flight_bytes -= bytes.len();
                self.data_arrives(stream, 1 - side, bytes);
            }
            Segment::Fin => {
                sender.fin = Fin::Delivered;
                if sender.orphan && sender.eof {
                    sender.end();
                }
                self.fin_arrives(stream, 1 - side);
            }
            Segment::Rst => self.break_off(stream, 1 - side),
        }
        self.forget(stream);
    }

    fn syn_ack_arrives(&mut self, stream: u64, side: usize) {
        let Some(dialler) = self.side(stream, side) else {
            return;
        };
        if dialler.state == State::Connecting {
            dialler.state = State::Open;
            self.look_at_owner(stream, side);
        } else if dialler.state != State::Open {
            self.launch(stream, side, Segment::Rst);
        }
    }

    fn data_arrives(&mut self, stream: u64, side: usize, bytes: Bytes) {
        let Some(receiver) = self.side(stream, side) else {
            return;
        };
        if receiver.state == State::Open && !receiver.orphan {
            receiver.rx_bytes += bytes.len();
            receiver.rx.push_back(bytes);
            return self.look_at_owner(stream, side);
        }
        // Nobody will read it (RFC 9293, section 3.10.7.1; RFC 2525, section 2.17).
        if receiver.state != State::Broken {
            self.probe("data-to-nobody");
            receiver_ends(self, stream, side);
        }
    }

    fn fin_arrives(&mut self, stream: u64, side: usize) {
        let Some(receiver) = self.side(stream, side) else {
            return;
        };
        if receiver.state != State::Open {
            return;
        }
        receiver.eof = true;
        if receiver.orphan && receiver.fin == Fin::Delivered {
            receiver.end();
        }
        self.look_at_owner(stream, side);
        // A sender held back by a node that crashed finds out: its probes are answered with RST.
        self.drive(stream, side);
    }

    /// RST arrived.
    fn break_off(&mut self, stream: u64, side: usize) {
        let Some(receiver) = self.side(stream, side) else {
            return;
        };
        match receiver.state {
            State::Connecting => receiver.error = Some(Errno(libc::ECONNREFUSED)),
            State::Open => receiver.error = Some(Errno(libc::ECONNRESET)),
            State::Absent | State::Broken | State::Gone => return,
        }
        if receiver.orphan {
            receiver.end();
        } else {
            receiver.state = State::Broken;
            receiver.tx.clear();
        }
        self.look_at_owner(stream, side);
    }

    /// Ends a side with RST: what it holds is dropped, what is in flight only sometimes.
    pub(super) fn abort(&mut self, stream: u64, side: usize) {
        let overtakes = self.chance(0.5);
        let Some(ending) = self.side(stream, side) else {
            return;
        };
        let tell = ending.state == State::Open;
        if !ending.ended() {
            ending.end();
        }
        if tell {
            if overtakes {
                ending.flight.retain(|(_, s)| matches!(s, Segment::SynAck));
                ending.flight_bytes = 0;
                self.probe("reset-drops-flight");
            }
            self.launch(stream, side, Segment::Rst);
        }
        self.forget(stream);
    }

    /// Ends a side of a crashed node; what it had sent still arrives, then FIN.
    pub(super) fn vanish(&mut self, stream: u64, side: usize) {
        let Some(ending) = self.side(stream, side) else {
            return;
        };
        let tell = ending.state == State::Open && matches!(ending.fin, Fin::No | Fin::Wanted);
        ending.end();
        if tell {
            self.launch(stream, side, Segment::Fin);
        }
        self.forget(stream);
    }

    /// The owner calls `close(2)`.
    pub(super) fn close_side(&mut self, stream: u64, side: usize, how: CloseHow) {
        let now = self.now;
        let Some(closing) = self.side(stream, side) else {
            return;
        };
        closing.owner = None;
        let unread = closing.rx_bytes > 0;
        if closing.state != State::Open || how == CloseHow::Rst || unread {
            if closing.state == State::Open && how == CloseHow::Fin {
                self.probe("unread-data-resets");
            }
            return self.abort(stream, side);
        }
        closing.orphan = true;
        if closing.fin == Fin::No {
            closing.fin = Fin::Wanted;
        }
        if closing.fin == Fin::Delivered && closing.eof {
            closing.end();
        }
        self.schedule(now + FIN_TIMEOUT, NetEvent::Reap { stream, side });
        self.drive(stream, side);
        self.forget(stream);
    }

    pub(super) fn reap(&mut self, stream: u64, side: usize) {
        let again = self.now + FIN_TIMEOUT;
        let Some(waiting) = self.side(stream, side) else {
            return;
        };
        if !waiting.orphan || waiting.ended() {
            return;
        }
        if waiting.fin == Fin::Delivered {
            waiting.end();
            self.probe("fin-timeout");
            self.forget(stream);
        } else {
            // It still delivers to a slow reader, which acknowledges: Linux goes on, too.
            self.schedule(again, NetEvent::Reap { stream, side });
        }
    }

    /// Reads up to `most` bytes into `into`, over several segments unless the seed splits them.
    pub(super) fn read(&mut self, stream: u64, side: usize, most: usize, into: &mut Vec<u8>) {
        loop {
            let split = self.chance(self.faults.split);
            let Some(reader) = self.side(stream, side) else {
                return;
            };
            let Some(segment) = reader.rx.front_mut() else {
                break;
            };
            let take = segment.len().min(most - into.len());
            into.extend_from_slice(&segment.split_to(take));
            if segment.is_empty() {
                reader.rx.pop_front();
            }
            reader.rx_bytes -= take;
            if split || into.len() == most {
                break;
            }
        }
        self.drive(stream, 1 - side);
    }

    /// Drops the stream once nothing can come of it any more.
    fn forget(&mut self, stream: u64) {
        let done = |side: &Side| side.ended() && side.flight.is_empty();
        if let Some(ended) = self.streams.get(&stream)
            && ended.sides.iter().all(done)
        {
            self.pairs.remove(&ended.pair);
            self.streams.remove(&stream);
        }
    }
}

/// Answers data that nobody will read.
fn receiver_ends(world: &mut World, stream: u64, side: usize) {
    if let Some(receiver) = world.side(stream, side) {
        receiver.end();
    }
    world.launch(stream, side, Segment::Rst);
}
