//! A shard: one driver, its connections, and its slice of the swarm. It is a value with
//! [`Shard::step`]; a thread is only something that calls it.

mod backlog;
mod bandwidth;
mod board;
mod channels;
mod command;
mod cx;
mod datagrams;
mod dispatch;
mod files;
mod handshake;
mod idle;
mod inherited;
mod joints;
mod link;
pub(crate) mod mailbox;
mod memory;
mod obey;
mod pause;
mod reports;
mod start;
mod stream;
mod utp;

pub(crate) use bandwidth::Scope;
pub(crate) use board::Board;
pub use board::{ShardCounters, ShardStats};
pub(crate) use command::{Adoption, Command, ConnCommand, Mail, Reply};
pub use cx::{ConnCx, ShardCx};
pub use files::FileRefused;
pub(crate) use start::{ShardSetup, Wiring};

use crate::api::Handler;
use crate::event::{Event, ShardFailure};
use crate::files::Readers;
use crate::hub::Hub;
use crate::io::{Completions, Driver, Op, OpKey, SocketId, Verb};
use crate::session::Factory;
use crate::swarm::{Action, CandidateId, PeerMessage, Swarm};
use crate::table::Key;
use bytes::Bytes;
use flock_tcp::StreamOptions;
use flock_transport::{CloseHow, CloseReason, Errno, Instant, Transport};
use hashbrown::HashMap;
use link::{Link, Links, Phase, Timer};
use mailbox::{Mailbox, Sender};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;
use stream::Stream;

/// Whether a shard goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Call [`Shard::step`] again.
    Running,
    /// The shard was shut down, and everything it had is closed.
    Done,
}

/// One shard of an engine. Made by [`Builder`](crate::Builder).
pub struct Shard<D: Driver, H: Handler> {
    driver: D,
    swarm: Swarm,
    links: Links,
    /// The handler's state of each open link, by slot.
    users: Vec<Option<H::Conn>>,
    handler: H,
    mailbox: Mailbox<Mail<H::Msg>>,
    mail: Vec<Mail<H::Msg>>,
    routes: Vec<Sender<Mail<H::Msg>>>,
    listeners: Vec<Listener>,
    /// Whether another shard has more unread mail than starting anything new allows.
    crowded: bool,
    dials: HashMap<(CandidateId, Transport), Key, ahash::RandomState>,
    completions: Completions,
    /// The deadline of the next turn.
    sleep_until: Option<Instant>,
    expired: Vec<Timer>,
    /// Our side of the handshake, encoded once.
    frame: Bytes,
    /// The embedder's own handshake instead.
    protocol: Option<Factory>,
    stream: StreamOptions,
    /// Which transports there are; one at least.
    tcp: bool,
    utp: bool,
    handshake_timeout: Duration,
    /// What admitted connections have to do to stay.
    watch: Option<idle::Watch>,
    /// Connections that may linger after the swarm refused them.
    endings: u32,
    hub: Arc<Hub>,
    readers: Arc<Readers>,
    board: Arc<Board>,
    counters: ShardCounters,
    /// Whether the application wants nothing new.
    pause: pause::Pause,
    flushes: channels::Flushes,
    sweep: Option<memory::Sweep>,
    /// When to stop waiting for connections to end; set once shutdown begins.
    ending: Option<Instant>,
}

struct Listener {
    socket: SocketId,
    accepting: bool,
    /// Closed as soon as it accepts no more.
    leaving: bool,
    /// Which call of the API made it: all shards' listeners of one call stand and fall together.
    group: u64,
    /// When to try a listener again that broke.
    broken_until: Instant,
}

/// How long a listener that broke rests before it is tried again.
const LISTENER_REST: Duration = Duration::from_secs(1);

/// How often to look whether a shard that did not read its mail does again.
const CROWD_LOOK: Duration = Duration::from_millis(1);

/// How long the driver may take to get its memory back from the kernel at the end.
const DRAIN_GRACE: Duration = Duration::from_secs(1);

impl<D: Driver, H: Handler> Shard<D, H> {
    /// Takes one turn: waits for completions, mail or a deadline and handles what came.
    ///
    /// A driver that cannot go on counts as shutdown: every connection is reported closed.
    pub fn step(&mut self) -> Step {
        let mut completions = std::mem::take(&mut self.completions);
        let turned = self.driver.turn(self.sleep_until, &mut completions);
        self.mailbox.awake();
        let now = match turned {
            Ok(now) => now,
            Err(error) => return self.fail(Errno::from_io(&error)),
        };
        self.links.now = now;
        for completion in completions.drain(..) {
            self.complete(now, completion);
        }
        self.completions = completions;
        self.read_mail(now);
        self.expire(now);
        self.serve_utp(now);
        self.serve_bandwidth(now);
        self.hold_starts(now);
        self.flush(now);
        let handler = self.end_turn();
        self.look_at_memory();
        self.report_drained();
        self.settle_flushes();
        let done = self
            .ending
            .is_some_and(|at| self.links.table.is_empty() || now >= at);
        if done {
            return self.finish(now);
        }
        self.publish();
        self.sleep_until = self.prepare_sleep(handler);
        Step::Running
    }

    /// The driver, for its counters and, in a simulation, its world.
    pub fn driver(&self) -> &D {
        &self.driver
    }

    /// Until when the next turn may sleep. From here on senders of mail wake the driver: between
    /// two steps, too, so that whoever calls them may wait for that before the next.
    fn prepare_sleep(&mut self, handler: Option<Instant>) -> Option<Instant> {
        if !self.mailbox.prepare_sleep() || self.links.has_bulk() {
            return Some(Instant::ZERO);
        }
        // A shard that reads its mail again wakes nobody for it.
        let look = self.crowded.then(|| self.links.now + CROWD_LOOK);
        let resting = |listener: &Listener| (!listener.accepting).then_some(listener.broken_until);
        let rested = self.listeners.iter().filter_map(resting);
        let rested = rested.filter(|at| *at > self.links.now).min();
        [
            self.links.wheel.next_deadline(),
            self.swarm.next_deadline(),
            self.links.utp.next_deadline(self.handshake_timeout),
            self.links.limits.next_deadline(),
            self.ending,
            self.flushes.next_deadline(self.links.now),
            self.sweep
                .as_ref()
                .and_then(|sweep| sweep.next_deadline(self.links.now)),
            look,
            rested,
            handler,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn expire(&mut self, now: Instant) {
        let mut expired = std::mem::take(&mut self.expired);
        self.links
            .wheel
            .expire(now, &mut |timer| expired.push(timer));
        for timer in expired.drain(..) {
            if self.links.is_rearmed(timer) {
                // Changed by a handler called just before, for one that expired with it.
                continue;
            }
            match timer {
                Timer::Handshake(key) => {
                    self.swarm.handshake_timeout(self.links.conn_id(key));
                    self.links.abort(key, CloseReason::HandshakeTimeout);
                }
                Timer::Idle(key) => self.look_for_idle(key),
                Timer::Linger(key) => {
                    self.links.linger_expired(key);
                }
                Timer::User(key) => {
                    self.call(key, |handler, cx, conn| handler.on_timer(cx, conn));
                }
            }
        }
        self.expired = expired;
        self.swarm.on_deadline(now);
    }

    /// While events pile up unread, another shard does not read its mail, or the end has begun,
    /// nothing new is started.
    fn hold_starts(&mut self, now: Instant) {
        self.crowded = self.routes.iter().any(Sender::crowded);
        let stopped = self.ending.is_some() || self.pause.is_set();
        let hold = stopped || self.hub.congested() || self.crowded;
        self.swarm.suspend_starts(now, hold);
        for (_, side) in &mut self.links.utp.sides {
            side.endpoint.hold(hold || side.retired);
        }
        for listener in &mut self.listeners {
            let socket = listener.socket;
            if hold && listener.accepting {
                let verb = Verb::Accept;
                self.driver.cancel(OpKey { socket, verb });
            } else if !hold && !listener.accepting && listener.broken_until <= now {
                listener.accepting = true;
                submit(&mut self.driver, Op::Accept { listener: socket });
            }
        }
    }

    /// Carries out what the swarm decided and what connections want, until both are quiet.
    fn flush(&mut self, now: Instant) {
        self.links.grant_bulk();
        loop {
            self.act(now);
            if let Some(key) = self.links.next_dirty() {
                if !self.links.defer_bulk(key) {
                    self.pump(now, key);
                }
            } else if let Some(key) = self.links.next_bulk() {
                self.pump(now, key);
            } else if !self.settle_utp(now) {
                self.transmit(now);
                if !self.settle_utp(now) {
                    break;
                }
            }
        }
    }

    /// Carries out the swarm's decisions.
    fn act(&mut self, now: Instant) {
        while let Some(action) = self.swarm.poll_action() {
            match action {
                Action::Dial {
                    candidate,
                    transport,
                    addr,
                } => self.dial(now, candidate, transport, addr),
                Action::AbortDial {
                    candidate,
                    transport,
                } => self.abort_dial(candidate, transport),
                Action::Begin { conn } => self.begin_handshake(Links::key(conn)),
                Action::Admit(info) => self.admit(&info),
                Action::Close { conn, reason } => self.part(now, Links::key(conn), reason),
                Action::Send { shard, message } => {
                    self.counters.messages_sent += 1;
                    let route = &self.routes[usize::from(shard)];
                    match message {
                        PeerMessage::Refill { hops } => route.nudge(hops),
                        message => route.send_protocol(Mail::Peer(message)),
                    }
                }
                Action::Emit(event) => self.hub.push(event),
            }
        }
    }

    /// Closes a connection that the swarm does not want. Its peer is left time to read our id and
    /// the end, but no more peers at a time than may shake hands: further ones are reset. So are
    /// those that make room for others.
    fn part(&mut self, now: Instant, key: Key, reason: CloseReason) {
        if reason == CloseReason::TooManyHandshakes {
            self.links.abort(key, reason);
        } else if self.links.ending() < self.endings {
            self.links.close(key, reason);
        } else {
            self.counters.endings_reset += 1;
            self.links.abort(key, reason);
        }
        self.report_closed(now, key);
    }

    /// Hands a connection's operations to the driver.
    fn pump(&mut self, now: Instant, key: Key) {
        loop {
            let Some(link) = self.links.table.get_mut(key) else {
                return;
            };
            if matches!(link.phase, Phase::Dialling) {
                return;
            }
            // A uTP connection's wishes are with its endpoint already.
            let Stream::Tcp { machine, socket } = &mut link.stream else {
                return;
            };
            let socket = *socket;
            let Some(verb) = machine.next_verb() else {
                return;
            };
            let op = match verb {
                flock_tcp::Verb::Recv => Op::Recv { socket },
                flock_tcp::Verb::RecvOnce => Op::RecvOnce { socket },
                flock_tcp::Verb::Send(chunks) => Op::Send { socket, chunks },
                flock_tcp::Verb::ShutdownWrite => Op::ShutdownWrite { socket },
                flock_tcp::Verb::CancelRecv => {
                    self.driver.cancel(OpKey {
                        socket,
                        verb: Verb::Recv,
                    });
                    continue;
                }
                flock_tcp::Verb::Close(how) => {
                    self.report_closed(now, key);
                    Op::Close { socket, how }
                }
            };
            submit(&mut self.driver, op);
        }
    }

    /// Tells swarm and handler that a connection is over. Its transport may still be ending.
    fn report_closed(&mut self, now: Instant, key: Key) {
        let conn = self.links.conn_id(key);
        let was = self.links.begin_ending(key);
        if matches!(was, None | Some(Phase::Ending | Phase::Dialling)) {
            return;
        }
        let Some(link) = self.links.table.get(key) else {
            return;
        };
        let reason = link.reason.unwrap_or(CloseReason::PeerClosed);
        let (bytes_in, bytes_out) = (link.stream.bytes_in(), link.stream.bytes_out());
        self.counters.count_closed(reason);
        self.swarm.closed(now, conn, reason, bytes_in, bytes_out);
        let slot = self.users.get_mut(index(key));
        if let Some(user) = slot.and_then(Option::take) {
            let mut cx = ShardCx {
                links: &mut self.links,
            };
            let handler = &mut self.handler;
            let call = AssertUnwindSafe(|| handler.on_closed(&mut cx, conn, user, reason));
            if catch_unwind(call).is_err() {
                self.counters.handler_panics += 1;
            }
        }
    }

    /// Calls the handler for an open connection.
    fn call(&mut self, key: Key, run: impl FnOnce(&mut H, &mut ConnCx<'_>, &mut H::Conn)) {
        let panicked = invoke(
            &mut self.handler,
            &mut self.links,
            &mut self.users,
            key,
            run,
        );
        self.counters.handler_panics += u64::from(panicked);
    }

    /// Lets the handler finish; until when the next turn is to come for it.
    fn end_turn(&mut self) -> Option<Instant> {
        let call = AssertUnwindSafe(|| self.handler.on_turn_end());
        let Ok(within) = catch_unwind(call) else {
            self.counters.handler_panics += 1;
            return None;
        };
        within.map(|time| self.links.now + time)
    }

    fn publish(&mut self) {
        let stats = self.swarm.stats();
        self.counters.mail_refused = self.mailbox.refused();
        self.counters.swarm = self.swarm.counters();
        self.counters.utp = self.links.utp.counters();
        self.counters.driver = self.driver.counters();
        self.counters.peers_held_back = self.links.held_back;
        self.counters.files_failed = self.links.limits.files_failed();
        self.counters.handler_panics += self.links.joints.take_panics();
        self.counters.timers_refused = self.links.wheel.refused();
        self.board
            .publish(usize::from(self.links.shard), stats, &self.counters);
    }

    /// The driver cannot go on. An engine is whole or not at all: the other shards are told to
    /// shut down, since peers and candidates of this one are nobody's any more.
    fn fail(&mut self, errno: Errno) -> Step {
        self.counters.driver_failures += 1;
        self.hub.push(Event::ShardFailed {
            shard: usize::from(self.links.shard),
            reason: ShardFailure::Driver(errno),
        });
        for route in &self.routes {
            let within = self.links.linger;
            route.send_protocol(Mail::Command(Command::Shutdown { within }));
        }
        self.finish(self.links.now)
    }

    /// Reports and closes what is left, and gives the driver's memory back.
    fn finish(&mut self, now: Instant) -> Step {
        self.swarm.suspend_starts(now, true);
        let dials: Vec<_> = self.dials.keys().copied().collect();
        for (candidate, transport) in dials {
            self.abort_dial(candidate, transport);
            self.swarm.dial_failed(now, candidate, transport, false);
        }
        let keys: Vec<Key> = self.links.table.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.links.abort(key, CloseReason::Shutdown);
            self.report_closed(now, key);
            self.links.remove(key);
        }
        self.act(now);
        self.end_turn();
        self.flush_datagrams(now);
        let drained = self.driver.shutdown(DRAIN_GRACE);
        self.counters.operations_leaked += drained.leaked;
        self.publish();
        self.hub.shard_ended();
        Step::Done
    }
}

/// Runs `run` for the open connection behind `key`; whether it panicked. A connection whose
/// handler panicked is reset.
fn invoke<H: Handler>(
    handler: &mut H,
    links: &mut Links,
    users: &mut [Option<H::Conn>],
    key: Key,
    run: impl FnOnce(&mut H, &mut ConnCx<'_>, &mut H::Conn),
) -> bool {
    let open = |link: &Link| matches!(link.phase, Phase::Open) && link.reason.is_none();
    if !links.table.get(key).is_some_and(open) {
        return false;
    }
    let Some(Some(user)) = users.get_mut(index(key)) else {
        return false;
    };
    let mut cx = ConnCx { links, key };
    if catch_unwind(AssertUnwindSafe(|| run(handler, &mut cx, user))).is_ok() {
        return false;
    }
    links.abort(key, CloseReason::HandlerPanicked);
    true
}

/// Submits an operation that only a full socket table could refuse, and that opens no socket.
fn submit<D: Driver>(driver: &mut D, op: Op) {
    let accepted = driver.submit(op);
    debug_assert!(accepted.is_ok(), "only connects are refused");
}

fn index(key: Key) -> usize {
    key.slot as usize
}

/// A socket nobody wants: closed with FIN, so that the other side sees an orderly end.
fn discard<D: Driver>(driver: &mut D, socket: SocketId) {
    submit(
        driver,
        Op::Close {
            socket,
            how: CloseHow::Fin,
        },
    );
}
