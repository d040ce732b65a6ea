//! Completions, and what follows from them.

use super::link::{Links, Phase, Timer, TokenKind, link_token, token_kind};
use super::{LISTENER_REST, Listener, Shard, discard, index, invoke};
use crate::api::Handler;
use crate::event::{ConnectionInfo, Event, RefuseReason};
use crate::io::{Completion, ConnectOptions, Driver, LoanId, Op, Outcome, SocketId};
use crate::session::{Handshake, Progress};
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
        let phase = Phase::Handshaking(Handshake::default());
        let key = self
            .links
            .insert(socket, addr, phase, None)
            .expect("the table has room");
        self.driver.assign(socket, link_token(key));
        let conn = self.links.conn_id(key);
        self.swarm.inbound_started(conn, addr, Transport::Tcp);
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
        debug_assert_eq!(transport, Transport::Tcp, "uTP is switched off");
        let options = ConnectOptions {
            stream: self.stream,
            source: None,
        };
        let started = self.links.table.vacant_key().and_then(|key| {
            let connect = Op::Connect {
                to: addr,
                options,
                token: link_token(key),
            };
            let op = self.driver.submit(connect).ok()?;
            self.links
                .insert(op.socket, addr, Phase::Dialling, Some(candidate))
        });
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

    pub(super) fn abort_dial(&mut self, candidate: CandidateId, transport: Transport) {
        let Some(link) = self
            .dials
            .remove(&(candidate, transport))
            .and_then(|key| self.links.remove(key))
        else {
            return;
        };
        discard(&mut self.driver, link.socket);
    }

    pub(super) fn begin_handshake(&mut self, key: Key) {
        if let Some(link) = self.links.table.get_mut(key) {
            // An empty queue takes one frame whatever its limits are.
            let sent = link.tcp.send(self.frame.clone());
            debug_assert!(sent.is_ok(), "the handshake fits an empty queue");
        }
        self.links
            .set_stage_timer(Timer::Handshake(key), self.handshake_timeout);
        self.links.touch(key);
    }

    fn on_link(&mut self, now: Instant, key: Key, outcome: Outcome) {
        let Some(link) = self.links.table.get_mut(key) else {
            return;
        };
        let event = match outcome {
            Outcome::Connected => return self.connected(now, key),
            Outcome::ConnectFailed(errno) => return self.connect_failed(now, key, errno),
            Outcome::Data(loan) => return self.on_data(now, key, loan),
            Outcome::Eof => link.tcp.on_eof(),
            Outcome::RecvEnded(errno) => link.tcp.on_recv_ended(errno),
            Outcome::Sent { bytes } => {
                let event = link.tcp.on_sent(bytes);
                self.links.extend_linger(key);
                event
            }
            Outcome::SendFailed(errno) => link.tcp.on_send_failed(errno),
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
            Some(flock_tcp::Event::Writable) => {
                self.call(key, |handler, cx, conn| handler.on_writable(cx, conn));
            }
            Some(flock_tcp::Event::Broken(reason)) => self.links.abort(key, reason),
        }
    }

    fn connected(&mut self, now: Instant, key: Key) {
        let conn = self.links.conn_id(key);
        let Some(link) = self.links.table.get_mut(key) else {
            return;
        };
        let Some(candidate) = link.candidate.take() else {
            return;
        };
        link.phase = Phase::Handshaking(Handshake::default());
        let transport = Transport::Tcp;
        self.dials.remove(&(candidate, transport));
        self.swarm.dial_established(now, candidate, conn, transport);
        self.act(now);
    }

    fn connect_failed(&mut self, now: Instant, key: Key, errno: Errno) {
        let Some(candidate) = self.links.remove(key).and_then(|link| link.candidate) else {
            return;
        };
        let transport = Transport::Tcp;
        self.dials.remove(&(candidate, transport));
        let timed_out = errno.kind() == ErrorKind::TimedOut;
        self.swarm.dial_failed(now, candidate, transport, timed_out);
    }

    fn peer_ended(&mut self, key: Key) {
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

    fn on_data(&mut self, now: Instant, key: Key, loan: LoanId) {
        let data = self.driver.bytes(loan);
        let Some(link) = self.links.table.get_mut(key) else {
            return;
        };
        if !link.tcp.on_data(data.len()) {
            return;
        }
        match &mut link.phase {
            Phase::Open => {
                let (handler, users) = (&mut self.handler, &mut self.users);
                let panicked = invoke(handler, &mut self.links, users, key, |handler, cx, conn| {
                    handler.on_data(cx, conn, data);
                });
                self.counters.handler_panics += u64::from(panicked);
            }
            Phase::Handshaking(handshake) => match handshake.feed(data) {
                Progress::More => {}
                Progress::Done { peer_id, consumed } => {
                    link.phase = Phase::Claiming(data[consumed..].to_vec());
                    let conn = self.links.conn_id(key);
                    self.swarm.handshake_done(now, conn, peer_id);
                    self.act(now);
                    self.hold_while_claiming(key);
                }
                Progress::Reject(error) => {
                    self.links.abort(key, CloseReason::Handshake(error));
                }
            },
            Phase::Claiming(held) => {
                held.extend_from_slice(data);
                self.hold_while_claiming(key);
            }
            Phase::Dialling | Phase::Ending => {}
        }
    }

    /// Holds the peer back while its claim is out and bytes already wait. One that says nothing
    /// before it hears from us costs no pause.
    fn hold_while_claiming(&mut self, key: Key) {
        if let Some(link) = self.links.table.get_mut(key)
            && matches!(&link.phase, Phase::Claiming(held) if !held.is_empty())
        {
            link.tcp.pause_recv();
            self.links.touch(key);
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
        let ended = link.tcp.peer_ended();
        if !held.is_empty() {
            // Before the handler is called: its own wish to pause comes later and counts.
            link.tcp.resume_recv();
            self.links.touch(key);
        }
        self.links.clear_stage_timer(key);
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
