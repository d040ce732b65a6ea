//! Completions, and what follows from them.

use super::datagrams::Incoming;
use super::link::{Links, Phase, TokenKind, link_token, token_kind};
use super::stream::Stream;
use super::{LISTENER_REST, Listener, Shard, discard, index, invoke};
use crate::api::Handler;
use crate::event::{ConnectionInfo, Event, RefuseReason};
use crate::io::{Completion, ConnectOptions, Driver, Op, Outcome, SocketId};
use crate::session::{Progress, Session};
use crate::swarm::CandidateId;
use crate::table::Key;
use flock_transport::{CloseReason, Errno, HandshakeError, Instant, Transport};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};

impl<D: Driver, H: Handler> Shard<D, H> {
    pub(super) fn complete(&mut self, now: Instant, completion: Completion) {
        match token_kind(completion.token) {
            TokenKind::Listener => self.on_listener(now, completion.socket, completion.outcome),
            TokenKind::Datagrams => {
                self.on_datagram_socket(now, completion.socket, completion.outcome);
            }
            TokenKind::Link(key) => self.on_link(now, key, completion.outcome),
        }
    }

    fn on_listener(&mut self, now: Instant, socket: SocketId, outcome: Outcome) {
        match outcome {
            Outcome::Accepted { socket, peer } => self.accepted(now, socket, peer),
            Outcome::AcceptEnded(errno) => {
                let broken = errno != Errno::CANCELED;
                self.counters.accept_failures += u64::from(broken);
                let ended = |listener: &&mut Listener| listener.socket == socket;
                for listener in self.listeners.iter_mut().filter(ended) {
                    listener.accepting = false;
                    if broken {
                        listener.broken_until = now + LISTENER_REST;
                    }
                }
                self.close_leaving();
            }
            // A connection that was refused, or the listener itself.
            _ => {}
        }
    }

    fn accepted(&mut self, now: Instant, socket: SocketId, addr: SocketAddr) {
        if self.ending.is_some() {
            return discard(&mut self.driver, socket);
        }
        if self.links.table.is_full() {
            self.counters.inbound_refused += 1;
            let reason = RefuseReason::TableFull;
            self.swarm.refuse_inbound(Transport::Tcp, addr, reason);
            self.act(now);
            return discard(&mut self.driver, socket);
        }
        if self.swarm.inbound(now, Transport::Tcp, addr).is_err() {
            self.counters.inbound_refused += 1;
            self.act(now);
            return discard(&mut self.driver, socket);
        }
        // Whoever made room for it goes first.
        self.act(now);
        let phase = Phase::Handshaking(Session::default());
        let stream = self.links.tcp(socket);
        let key = self
            .links
            .insert(stream, addr, phase, None)
            .expect("the table has room");
        self.driver.assign(socket, link_token(key));
        let conn = self.links.conn_id(key);
        self.swarm.inbound_started(now, conn, addr, Transport::Tcp);
        self.begin_handshake(key);
        self.act(now);
    }

    pub(super) fn dial(
        &mut self,
        now: Instant,
        candidate: CandidateId,
        transport: Transport,
        addr: SocketAddr,
    ) {
        let started = match transport {
            Transport::Tcp => self.dial_tcp(candidate, addr),
            Transport::Utp => self.dial_utp(now, candidate, addr),
        };
        match started {
            Some(key) => {
                self.dials.insert((candidate, transport), key);
            }
            None => {
                self.counters.dials_refused += 1;
                self.swarm.dial_failed(now, candidate, transport, false);
            }
        }
    }

    fn dial_tcp(&mut self, candidate: CandidateId, addr: SocketAddr) -> Option<Key> {
        let options = ConnectOptions {
            stream: self.stream,
            source: None,
        };
        let key = self.links.table.vacant_key()?;
        let connect = Op::Connect {
            to: addr,
            options,
            token: link_token(key),
        };
        let op = self.driver.submit(connect).ok()?;
        let stream = self.links.tcp(op.socket);
        self.links
            .insert(stream, addr, Phase::Dialling, Some(candidate))
    }

    pub(super) fn abort_dial(&mut self, candidate: CandidateId, transport: Transport) {
        let Some(link) = self
            .dials
            .remove(&(candidate, transport))
            .and_then(|key| self.links.remove(key))
        else {
            return;
        };
        match link.stream {
            Stream::Tcp { socket, .. } => discard(&mut self.driver, socket),
            Stream::Utp(utp) => {
                let now = self.links.now;
                let side = self.links.utp.side(utp.side);
                side.disown(utp.key);
                side.endpoint.abort(now, utp.key);
            }
        }
    }

    fn on_link(&mut self, now: Instant, key: Key, outcome: Outcome) {
        let Some(link) = self.links.table.get_mut(key) else {
            return;
        };
        let Stream::Tcp { machine, .. } = &mut link.stream else {
            return;
        };
        let event = match outcome {
            Outcome::Connected => return self.connected(now, key),
            Outcome::ConnectFailed(errno) => {
                return self.dial_failed(now, key, errno.kind() == ErrorKind::TimedOut);
            }
            Outcome::Data(loan) => {
                let all = 0..self.driver.bytes(loan).len();
                return self.on_data(now, key, &Incoming::Lent(loan, all));
            }
            Outcome::Eof => machine.on_eof(),
            Outcome::RecvEnded(errno) => machine.on_recv_ended(errno),
            Outcome::Sent { bytes } => {
                let event = machine.on_sent(bytes);
                self.links.extend_linger(key);
                event
            }
            Outcome::SendFailed(errno) => machine.on_send_failed(errno),
            Outcome::Closed => {
                self.report_closed(now, key);
                self.links.remove(key);
                return;
            }
            Outcome::Accepted { .. }
            | Outcome::AcceptEnded(_)
            | Outcome::Datagrams { .. }
            | Outcome::TrainSent { .. }
            | Outcome::TrainRefused { .. } => return,
        };
        self.links.touch(key);
        match event {
            None => {}
            Some(flock_tcp::Event::PeerEnded) => self.peer_ended(key),
            Some(flock_tcp::Event::Writable) if !self.links.note_writable(key) => {}
            Some(flock_tcp::Event::Writable) => {
                self.call(key, |handler, cx, conn| handler.on_writable(cx, conn));
            }
            Some(flock_tcp::Event::Broken(reason)) => self.links.abort(key, reason),
        }
    }

    fn connected(&mut self, now: Instant, key: Key) {
        let conn = self.links.conn_id(key);
        let Some(link) = self.links.table.get(key) else {
            return;
        };
        let Some(candidate) = link.candidate else {
            return;
        };
        self.swarm
            .dial_established(now, candidate, conn, Transport::Tcp);
        self.act(now);
    }

    /// What was dialled is not there, or broke before it became the connection.
    pub(super) fn dial_failed(&mut self, now: Instant, key: Key, timed_out: bool) {
        let Some(link) = self.links.remove(key) else {
            return;
        };
        if let Some(candidate) = link.candidate {
            let transport = link.stream.transport();
            self.dials.remove(&(candidate, transport));
            self.swarm.dial_failed(now, candidate, transport, timed_out);
        }
    }

    pub(super) fn peer_ended(&mut self, key: Key) {
        if !self.links.joints.is_unused() {
            self.deliver_last(key);
        }
        match self.links.table.get(key).map(|link| &link.phase) {
            Some(Phase::Handshaking(handshake)) => {
                let reason = if handshake.has_begun() {
                    CloseReason::Handshake(HandshakeError::Truncated)
                } else {
                    CloseReason::PeerClosed
                };
                self.links.close(key, reason);
            }
            Some(Phase::Open) => self.call(key, |handler, cx, conn| handler.on_end(cx, conn)),
            // While the claim is out, the end waits for its answer.
            _ => {}
        }
    }

    pub(super) fn on_data(&mut self, now: Instant, key: Key, incoming: &Incoming) {
        let len = incoming.bytes(&self.driver).len();
        let Some(link) = self.links.table.get_mut(key) else {
            return;
        };
        if !link.stream.on_data(len) {
            return;
        }
        match self.links.joints.is_unused() {
            true => self.deliver(now, key, incoming),
            false => self.deliver_joined(now, key, incoming),
        }
    }

    /// Hands bytes of the peer to whom they are for: its handshake or the application.
    pub(super) fn deliver(&mut self, now: Instant, key: Key, incoming: &Incoming) {
        let data = incoming.bytes(&self.driver);
        let Some(link) = self.links.table.get_mut(key) else {
            return;
        };
        match &mut link.phase {
            Phase::Open => {
                let (handler, users) = (&mut self.handler, &mut self.users);
                let panicked = invoke(handler, &mut self.links, users, key, |handler, cx, conn| {
                    handler.on_data(cx, conn, data);
                });
                self.counters.handler_panics += u64::from(panicked);
                self.links.note_received(key, data.len());
            }
            Phase::Handshaking(session) => {
                let mut reply = Vec::new();
                let progress = session.feed(data, &mut reply);
                if let Some(Progress::Done { consumed, .. }) = progress {
                    link.phase = Phase::Claiming(data[consumed..].to_vec());
                }
                self.shake(now, key, progress, reply);
            }
            Phase::Claiming(held) => {
                held.extend_from_slice(data);
                self.hold_while_claiming(key);
            }
            Phase::Dialling | Phase::Ending => {}
        }
    }

    /// Holds the peer back while its claim is out and bytes already wait. One that says nothing
    /// before it hears from us costs no pause.
    pub(super) fn hold_while_claiming(&mut self, key: Key) {
        if let Some(link) = self.links.table.get_mut(key)
            && matches!(&link.phase, Phase::Claiming(held) if !held.is_empty())
        {
            self.links.pause(key);
        }
    }

    /// The home shard admitted the connection: it is the handler's from here on.
    pub(super) fn admit(&mut self, info: &ConnectionInfo) {
        let key = Links::key(info.conn);
        let Some(link) = self.links.table.get_mut(key) else {
            return;
        };
        if link.reason.is_some() {
            return;
        }
        let Phase::Claiming(held) = std::mem::replace(&mut link.phase, Phase::Open) else {
            unreachable!("only a claiming connection is admitted");
        };
        let ended = link.stream.peer_ended();
        if !held.is_empty() {
            // Before the handler is called: its own wish to pause comes later and counts.
            self.links.resume(key);
        }
        self.links.clear_stage_timer(key);
        self.watch_idle(key);
        self.links.limit(key, info.channel.as_ref());
        self.hub.push(Event::Connection(info.clone()));
        let mut cx = super::ConnCx {
            links: &mut self.links,
            key,
        };
        let handler = &mut self.handler;
        let Ok(user) = catch_unwind(AssertUnwindSafe(|| handler.on_connection(&mut cx, info)))
        else {
            self.counters.handler_panics += 1;
            return self.links.abort(key, CloseReason::HandlerPanicked);
        };
        if self.users.len() <= index(key) {
            self.users.resize_with(index(key) + 1, || None);
        }
        self.users[index(key)] = Some(user);
        self.counters.admitted += 1;
        if !held.is_empty() {
            self.call(key, |handler, cx, conn| handler.on_data(cx, conn, &held));
        }
        if ended {
            self.call(key, |handler, cx, conn| handler.on_end(cx, conn));
        }
    }
}
