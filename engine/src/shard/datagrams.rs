//! Datagrams: from the driver to the uTP endpoints, from these to connections, and back.

use super::command::{Forwarded, Mail};
use super::link::{Phase, datagram_token};
use super::stream::{Stream, UtpStream};
use super::{LISTENER_REST, Shard, submit};
use crate::api::Handler;
use crate::event::RefuseReason;
use crate::io::{BoundDatagrams, DatagramOptions, Driver, LoanId, Op, Outcome, SocketId};
use crate::session::Session;
use crate::swarm::CandidateId;
use crate::table::Key;
use bytes::Bytes;
use flock_tcp::ListenOptions;
use flock_transport::{CloseReason, Errno, Instant, Transport};
use flock_utp::Event;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

/// How long to leave a kernel alone that has no room for datagrams.
const FULL_REST: Duration = Duration::from_millis(1);

/// Received bytes, wherever they lie.
pub(super) enum Incoming {
    /// In what the driver lends.
    Lent(LoanId, Range<usize>),
    /// In memory of their own.
    Held(Bytes),
    /// What a connector made of some.
    Made(Vec<u8>),
}

impl Incoming {
    pub(super) fn bytes<'a>(&'a self, driver: &'a impl Driver) -> &'a [u8] {
        match self {
            Self::Lent(loan, range) => &driver.bytes(*loan)[range.clone()],
            Self::Held(bytes) => bytes,
            Self::Made(bytes) => bytes,
        }
    }
}

/// The datagrams that events of an endpoint refer to.
#[derive(Clone)]
enum Datagrams {
    /// The loan from this offset on.
    Lent(LoanId, usize),
    Held(Bytes),
    /// None: no event does.
    None,
}

impl Datagrams {
    fn slice(&self, range: Range<usize>) -> Option<Incoming> {
        match self {
            Self::Lent(loan, at) => Some(Incoming::Lent(*loan, at + range.start..at + range.end)),
            Self::Held(bytes) => Some(Incoming::Held(bytes.slice(range))),
            Self::None => None,
        }
    }
}

impl<D: Driver, H: Handler> Shard<D, H> {
    pub(super) fn on_datagram_socket(&mut self, now: Instant, socket: SocketId, outcome: Outcome) {
        let Some(side) = self.links.utp.of_socket(socket) else {
            return;
        };
        match outcome {
            Outcome::Datagrams {
                from,
                received_at,
                segment,
                loan,
            } => self.on_datagrams(now, side, (from, received_at), segment.into(), loan),
            Outcome::TrainSent { tag } => {
                let side = self.links.utp.side(side);
                side.under_way -= 1;
                side.endpoint.sent(tag, now);
            }
            Outcome::TrainRefused { tag, errno } => self.train_refused(now, side, tag, errno),
            Outcome::RecvEnded(_) => {
                self.counters.datagram_failures += 1;
                self.links.utp.side(side).broken_until = Some(now + LISTENER_REST);
            }
            _ => {}
        }
    }

    fn train_refused(&mut self, now: Instant, side: u32, tag: u64, errno: Errno) {
        let side = self.links.utp.side(side);
        side.under_way -= 1;
        match errno.0 {
            libc::ENOBUFS | libc::ENOMEM | libc::EAGAIN | libc::ECANCELED => {
                self.counters.trains_refused += 1;
                side.full_until = now + FULL_REST;
                side.endpoint.refused(tag, now);
            }
            libc::EMSGSIZE => side.endpoint.refused(tag, now),
            // There is no way to the peer now. It is as if the network had lost the train: what
            // waits for an answer is tried again, ever more rarely.
            _ => {
                self.counters.trains_lost += 1;
                side.endpoint.sent(tag, now);
            }
        }
    }

    fn on_datagrams(
        &mut self,
        now: Instant,
        side: u32,
        (from, received_at): (SocketAddr, Instant),
        segment: usize,
        loan: LoanId,
    ) {
        let bytes = self.driver.bytes(loan);
        let own = self.links.shard;
        let it = self.links.utp.side(side);
        let stray = |datagram: &[u8]| flock_utp::steer(datagram, it.shards) != own;
        if it.shards < 2 || !bytes.chunks(segment).any(stray) {
            it.endpoint.handle(now, from, received_at, segment, bytes);
            self.utp_events(now, &Datagrams::Lent(loan, 0));
            return;
        }
        // What the kernel joined, or could not steer.
        let (shards, group) = (it.shards, it.group);
        for at in (0..bytes.len()).step_by(segment) {
            let bytes = self.driver.bytes(loan);
            let datagram = &bytes[at..bytes.len().min(at + segment)];
            let owner = flock_utp::steer(datagram, shards);
            if owner == own {
                let it = self.links.utp.side(side);
                it.endpoint
                    .handle(now, from, received_at, segment, datagram);
                self.utp_events(now, &Datagrams::Lent(loan, at));
            } else {
                let forwarded = Mail::Datagram(Forwarded {
                    group,
                    from,
                    received_at,
                    bytes: Bytes::copy_from_slice(datagram),
                    stray: false,
                });
                self.forward(owner, forwarded);
            }
        }
    }

    fn forward(&mut self, owner: u16, forwarded: Mail<H::Msg>) {
        let taken = self.routes[usize::from(owner)].send(forwarded).is_ok();
        self.counters.datagrams_forwarded += u64::from(taken);
        self.counters.datagrams_dropped += u64::from(!taken);
    }

    /// Asks the shards that a RESET may be for which ended nothing here.
    fn pass_on_reset(
        &mut self,
        side: u32,
        (from, received_at): (SocketAddr, Instant),
        reset: &Incoming,
    ) {
        let it = self.links.utp.side(side);
        let (shards, group) = (it.shards, it.group);
        let bytes = match reset {
            Incoming::Held(bytes) => bytes.clone(),
            other => Bytes::copy_from_slice(other.bytes(&self.driver)),
        };
        for owner in flock_utp::reset_owners(&bytes, shards) {
            let forwarded = Mail::Datagram(Forwarded {
                group,
                from,
                received_at,
                bytes: bytes.clone(),
                stray: true,
            });
            self.forward(owner, forwarded);
        }
    }

    /// A datagram for us that arrived at another shard.
    pub(super) fn on_forwarded(&mut self, now: Instant, datagram: Forwarded) {
        let sides = self.links.utp.sides.iter_mut();
        let mut sides = sides.filter(|(_, side)| side.group == datagram.group);
        let Some((_, side)) = sides.next() else {
            self.counters.datagrams_dropped += 1;
            return;
        };
        let (from, bytes) = (datagram.from, datagram.bytes);
        let at = datagram.received_at.min(now);
        side.endpoint.handle(now, from, at, bytes.len(), &bytes);
        let datagrams = match datagram.stray {
            // What a RESET brings refers to no bytes, but for the wish to ask others.
            true => Datagrams::None,
            false => Datagrams::Held(bytes),
        };
        self.utp_events(now, &datagrams);
    }

    /// All datagrams of this turn have been handled, and time has passed.
    pub(super) fn serve_utp(&mut self, now: Instant) {
        let silent_since = Instant::ZERO + (now - (Instant::ZERO + self.handshake_timeout));
        for (_, side) in &mut self.links.utp.sides {
            side.endpoint.end_batch(now);
            if side.endpoint.next_deadline().is_some_and(|at| at <= now) {
                side.endpoint.on_deadline(now);
            }
            side.drop_silent(now, silent_since);
            if side.broken_until.is_some_and(|until| until <= now) {
                side.broken_until = None;
                let socket = side.socket;
                submit(&mut self.driver, Op::Recv { socket });
            }
        }
        self.settle_utp(now);
    }

    /// Tells connections what happened to them, where it is no datagram's news. Says whether
    /// there was any.
    pub(super) fn settle_utp(&mut self, now: Instant) -> bool {
        self.utp_events(now, &Datagrams::None)
    }

    /// Hands what the endpoints have to say to the driver.
    pub(super) fn transmit(&mut self, now: Instant) {
        for (_, side) in &mut self.links.utp.sides {
            let socket = side.socket;
            while let Some(train) = side.next_train(now) {
                let taken = self.driver.send_train(socket, train);
                debug_assert!(taken.is_ok(), "no more than it takes");
                side.under_way += 1;
            }
        }
    }

    fn utp_events(&mut self, now: Instant, datagrams: &Datagrams) -> bool {
        let mut any = false;
        while let Some((side, event)) = self.links.utp.poll_event() {
            any = true;
            self.on_utp_event(now, side, event, datagrams);
        }
        any
    }

    fn on_utp_event(&mut self, now: Instant, side: u32, event: Event, datagrams: &Datagrams) {
        match event {
            Event::Accepted { key, .. } => self.links.utp.side(side).wait_for_data(now, key),
            Event::Connected { key } => self.utp_connected(now, side, key),
            Event::Data { key, range } => {
                if let Some(incoming) = datagrams.slice(range) {
                    self.utp_data(now, side, key, &incoming);
                }
            }
            Event::Buffered { key, bytes } => {
                self.utp_data(now, side, key, &Incoming::Held(bytes));
            }
            Event::Eof { key } => {
                if let Some(link) = self.links.utp.side(side).owner(key) {
                    self.utp_ended(link);
                }
            }
            Event::Delivered { key } => {
                if let Some(link) = self.links.utp.side(side).owner(key) {
                    self.links.part(link);
                }
            }
            Event::Writable { key } => {
                if let Some(link) = self.links.utp.side(side).owner(key)
                    && self.links.note_writable(link)
                {
                    self.call(link, |handler, cx, conn| handler.on_writable(cx, conn));
                }
            }
            Event::StrayReset { from, range } => {
                if let Some(reset) = datagrams.slice(range) {
                    self.pass_on_reset(side, (from, now), &reset);
                }
            }
            Event::Closed { key, reason, acked } => self.utp_closed(now, side, key, reason, acked),
            _ => {}
        }
    }

    fn utp_data(&mut self, now: Instant, side: u32, key: flock_utp::Key, incoming: &Incoming) {
        let owner = self.links.utp.side(side).owner(key);
        let link = owner.or_else(|| self.utp_inbound(now, side, key));
        if let Some(link) = link {
            self.on_data(now, link, incoming);
        }
    }

    /// An accepted connection has said something: from here on it is one.
    fn utp_inbound(&mut self, now: Instant, side: u32, key: flock_utp::Key) -> Option<Key> {
        let it = self.links.utp.side(side);
        // None: it was ended when its data was on the way to us.
        let addr = it.endpoint.peer(key)?;
        if self.ending.is_some() {
            it.endpoint.abort(now, key);
            return None;
        }
        if self.links.table.is_full() {
            self.counters.inbound_refused += 1;
            let reason = RefuseReason::TableFull;
            self.swarm.refuse_inbound(Transport::Utp, addr, reason);
        } else if self.swarm.inbound(now, Transport::Utp, addr).is_err() {
            self.counters.inbound_refused += 1;
        } else {
            // Whoever made room for it goes first.
            self.act(now);
            let stream = Stream::Utp(UtpStream::new(side, key));
            let phase = Phase::Handshaking(Session::default());
            let link = self.links.insert(stream, addr, phase, None)?;
            self.links.utp.side(side).own(key, link);
            let conn = self.links.conn_id(link);
            self.swarm.inbound_started(now, conn, addr, Transport::Utp);
            self.begin_handshake(link);
            self.act(now);
            return Some(link);
        }
        self.links.utp.endpoint(side).abort(now, key);
        self.act(now);
        None
    }

    fn utp_connected(&mut self, now: Instant, side: u32, key: flock_utp::Key) {
        let Some(link) = self.links.utp.side(side).owner(key) else {
            return;
        };
        let conn = self.links.conn_id(link);
        let candidate = self.links.table.get(link).and_then(|link| link.candidate);
        if let Some(candidate) = candidate {
            self.swarm
                .dial_established(now, candidate, conn, Transport::Utp);
            self.act(now);
        }
    }

    fn utp_ended(&mut self, key: Key) {
        let Some(link) = self.links.table.get_mut(key) else {
            return;
        };
        if let Stream::Utp(utp) = &mut link.stream {
            utp.ended = true;
        }
        if link.reason.is_none() {
            self.peer_ended(key);
        }
    }

    fn utp_closed(
        &mut self,
        now: Instant,
        side: u32,
        key: flock_utp::Key,
        reason: CloseReason,
        acked: u64,
    ) {
        let Some(key) = self.links.utp.side(side).disown(key) else {
            return;
        };
        let Some(link) = self.links.table.get_mut(key) else {
            return;
        };
        if let Stream::Utp(utp) = &mut link.stream {
            utp.bytes_out = acked;
        }
        if matches!(link.phase, Phase::Dialling) {
            let timed_out = reason == CloseReason::ConnectTimeout;
            return self.dial_failed(now, key, timed_out);
        }
        link.reason.get_or_insert(reason);
        self.report_closed(now, key);
        self.links.remove(key);
    }

    /// Starts a uTP dial that says nothing but SYN until it is wanted.
    pub(super) fn dial_utp(
        &mut self,
        now: Instant,
        candidate: CandidateId,
        addr: SocketAddr,
    ) -> Option<Key> {
        let side = match self.links.utp.for_dial(addr) {
            Some(side) => side,
            None => self.open_dialling_side(addr).ok()?,
        };
        if self.links.table.is_full() {
            return None;
        }
        let key = self
            .links
            .utp
            .endpoint(side)
            .connect_quiet(now, addr)
            .ok()?;
        let stream = Stream::Utp(UtpStream::new(side, key));
        let link = self
            .links
            .insert(stream, addr, Phase::Dialling, Some(candidate))?;
        self.links.utp.side(side).own(key, link);
        Some(link)
    }

    /// A socket to dial from, where none listens.
    fn open_dialling_side(&mut self, to: SocketAddr) -> io::Result<u32> {
        let six = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let four = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let options = DatagramOptions::default();
        let bound = match self.driver.bind_datagrams(six, &options, datagram_token()) {
            // A host without IPv6.
            Err(_) if to.is_ipv4() => {
                self.driver
                    .bind_datagrams(four, &options, datagram_token())?
            }
            other => other?,
        };
        Ok(self.add_side(&bound, &options, None))
    }

    /// Receives uTP connections at `addr`, and returns the address bound.
    pub(super) fn listen_utp(
        &mut self,
        group: u64,
        addr: SocketAddr,
        listen: &ListenOptions,
    ) -> io::Result<SocketAddr> {
        let options = DatagramOptions {
            shared: listen.shared,
            exclusive: listen.exclusive,
            dual_stack: listen.dual_stack,
            ..DatagramOptions::default()
        };
        let bound = self
            .driver
            .bind_datagrams(addr, &options, datagram_token())?;
        let shards = u16::try_from(self.routes.len()).unwrap_or(u16::MAX);
        let last = self.links.shard + 1 == shards;
        if options.shared && last {
            self.steer(bound.socket);
        }
        self.add_side(&bound, &options, Some(group));
        Ok(bound.addr)
    }

    /// Makes the kernel give each shard's socket the datagrams of its connections.
    pub(super) fn steer(&mut self, last: SocketId) {
        let shards = u16::try_from(self.routes.len()).unwrap_or(u16::MAX);
        if self.driver.steer(last, shards).is_err() {
            // The kernel spreads them by address, and shards hand on what is not theirs.
            self.counters.steering_failures += 1;
        }
    }

    pub(super) fn add_side(
        &mut self,
        bound: &BoundDatagrams,
        options: &DatagramOptions,
        group: Option<u64>,
    ) -> u32 {
        let capped = bound.capped(options).next().is_some();
        self.counters.datagram_buffers_capped += u64::from(capped);
        for buffer in bound.capped(options) {
            self.hub.buffer_capped(buffer);
        }
        let socket = bound.socket;
        submit(&mut self.driver, Op::Recv { socket });
        let shards = match options.shared {
            true => u16::try_from(self.routes.len()).unwrap_or(u16::MAX),
            false => 1,
        };
        let shard = if shards > 1 { self.links.shard } else { 0 };
        self.links.utp.add(bound, group, (shard, shards))
    }

    /// Lets the kernel have what is still to be said, as far as it takes it soon.
    pub(super) fn flush_datagrams(&mut self, now: Instant) {
        const TURNS: usize = 8;
        self.transmit(now);
        let mut completions = std::mem::take(&mut self.completions);
        for _ in 0..TURNS {
            if self
                .links
                .utp
                .sides
                .iter()
                .all(|(_, side)| side.under_way == 0)
            {
                break;
            }
            let soon = self.driver.now() + FULL_REST;
            if self.driver.turn(Some(soon), &mut completions).is_err() {
                break;
            }
            for completion in &completions {
                let over = matches!(
                    completion.outcome,
                    Outcome::TrainSent { .. } | Outcome::TrainRefused { .. }
                );
                if let Some(side) = self.links.utp.of_socket(completion.socket)
                    && over
                {
                    self.links.utp.side(side).under_way -= 1;
                }
            }
            self.transmit(now);
        }
        completions.clear();
        self.completions = completions;
    }
}
