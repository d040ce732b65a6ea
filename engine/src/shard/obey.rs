//! Mail: requests of the API, messages of other shards and of the embedder.

use super::command::{Command, ConnCommand, Mail};
use super::cx::ShardCx;
use super::link::{Link, Links, Phase, listener_token};
use super::{Listener, Shard, discard};
use crate::api::Handler;
use crate::io::{Driver, SocketId};
use crate::names::ConnId;
use crate::swarm::PeerMessage;
use flock_tcp::ListenOptions;
use flock_transport::{CloseReason, Instant};
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

impl<D: Driver, H: Handler> Shard<D, H> {
    pub(super) fn read_mail(&mut self, now: Instant) {
        let mut mail = std::mem::take(&mut self.mail);
        let nudge = self.mailbox.take(&mut mail);
        for message in mail.drain(..) {
            match message {
                Mail::Peer(message) => self.swarm.message(now, message),
                Mail::Command(command) => self.obey(now, command),
                Mail::Datagram(datagram) => self.on_forwarded(now, datagram),
                Mail::User(message) => {
                    let mut cx = ShardCx {
                        links: &mut self.links,
                    };
                    let handler = &mut self.handler;
                    let call = AssertUnwindSafe(|| handler.on_message(&mut cx, message));
                    if catch_unwind(call).is_err() {
                        self.counters.handler_panics += 1;
                    }
                }
            }
            self.act(now);
        }
        self.mail = mail;
        if let Some(hops) = nudge {
            self.swarm.message(now, PeerMessage::Refill { hops });
            self.act(now);
        }
    }

    fn obey(&mut self, now: Instant, command: Command) {
        match command {
            Command::Listen {
                addr,
                options,
                group,
                reply,
            } => {
                // Without an answer the asker learns that the engine has been shut down.
                if self.ending.is_none() {
                    // An asker that has gone does not mind.
                    let _ = reply.try_send(self.listen_in(group, addr, &options));
                }
            }
            Command::Adopt(adoption) => self.adopt(adoption),
            Command::Unlisten { group } => self.unlisten(|other| other == group),
            Command::Leave { channel } => self.swarm.leave(now, &channel),
            Command::AddPeer {
                channel,
                addr,
                reserved: false,
            } => self.swarm.add_peer(now, channel, addr),
            Command::AddPeer { channel, addr, .. } => {
                self.swarm.add_reserved_peer(now, channel, addr);
            }
            Command::Ban {
                target,
                channel,
                expires_after,
            } => {
                let expires = expires_after.map(|after| now + after);
                self.swarm.ban(now, &target, channel.as_ref(), expires);
            }
            Command::Unban { target } => self.swarm.unban(&target),
            Command::Bans { reply } => {
                let _ = reply.try_send(self.swarm.bans(now));
            }
            Command::ChannelStatus { channel, reply } => {
                let _ = reply.try_send(self.swarm.channel_status(&channel));
            }
            Command::ChannelConnections { channel, reply } => {
                let conns = self.swarm.conns_of(&channel).into_iter();
                let infos = conns.filter_map(|conn| self.swarm.info(conn));
                let _ = reply.try_send(infos.collect());
            }
            Command::LimitChannel { channel, quota } => {
                self.swarm.limit_channel(now, channel, quota);
            }
            Command::Flush { channel, pending } => self.flush_channel(channel, pending),
            Command::Broadcast { channel, data } => self.broadcast(&channel, &data),
            Command::Suspend(suspended) => self.pause.suspend(suspended),
            Command::Drain { reply } => self.drain(now, reply),
            Command::Reports { reply } => {
                let _ = reply.try_send(self.reports());
            }
            Command::Conn { conn, what } => self.obey_conn(conn, what),
            Command::Connections { reply } => {
                let infos = self
                    .open()
                    .filter_map(|key| self.swarm.info(self.links.conn_id(key)));
                let _ = reply.try_send(infos.collect());
            }
            Command::Fetched { conn, fetched } => self.on_fetched(conn, fetched),
            Command::Bandwidth(scope) => self.set_bandwidth(&scope),
            Command::Shutdown { within } => self.shut_down(now, within),
        }
    }

    /// Listens at `addr` on this shard and returns the address bound.
    ///
    /// # Errors
    /// As [`Driver::listen`].
    pub fn listen(&mut self, addr: SocketAddr, options: &ListenOptions) -> io::Result<SocketAddr> {
        self.listen_in(0, addr, options)
    }

    fn listen_in(
        &mut self,
        group: u64,
        addr: SocketAddr,
        options: &ListenOptions,
    ) -> io::Result<SocketAddr> {
        if self.ending.is_some() {
            return Err(io::Error::other("the engine is shutting down"));
        }
        if !self.tcp {
            return self.listen_utp(group, addr, options);
        }
        let (socket, bound) = self.bind_both(group, addr, options)?;
        self.add_listener(group, socket);
        Ok(bound)
    }

    pub(super) fn add_listener(&mut self, group: u64, socket: SocketId) {
        self.listeners.push(Listener {
            socket,
            accepting: false,
            leaving: false,
            group,
            broken_until: Instant::ZERO,
        });
    }

    /// A TCP listener, and the same port for uTP if that is spoken: where any will do, one that is
    /// free for both.
    fn bind_both(
        &mut self,
        group: u64,
        addr: SocketAddr,
        options: &ListenOptions,
    ) -> io::Result<(SocketId, SocketAddr)> {
        const TRIES: usize = 16;
        for _ in 0..TRIES {
            let (socket, bound) = self.driver.listen(addr, options, listener_token())?;
            if !self.utp {
                return Ok((socket, bound));
            }
            match self.listen_utp(group, bound, options) {
                Ok(_) => return Ok((socket, bound)),
                Err(error) => {
                    discard(&mut self.driver, socket);
                    if addr.port() != 0 || error.kind() != io::ErrorKind::AddrInUse {
                        return Err(error);
                    }
                }
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }

    /// Accepts no more at the listeners of these groups. uTP connections there are go on.
    pub(super) fn unlisten(&mut self, which: impl Fn(u64) -> bool) {
        for listener in self
            .listeners
            .extract_if(.., |listener| which(listener.group))
        {
            discard(&mut self.driver, listener.socket);
        }
        self.retire_sides(which);
    }

    /// Lets the uTP connections of these groups end, and accepts no more.
    pub(super) fn retire_sides(&mut self, which: impl Fn(u64) -> bool) {
        for (_, side) in &mut self.links.utp.sides {
            if side.group.is_some_and(&which) {
                side.retired = true;
                side.endpoint.hold(true);
            }
        }
        let driver = &mut self.driver;
        self.links.utp.sides.retain(|_, side| {
            let idle = side.retired && side.endpoint.is_empty();
            if idle {
                discard(driver, side.socket);
            }
            !idle
        });
    }

    fn obey_conn(&mut self, conn: ConnId, what: ConnCommand) {
        let key = Links::key(conn);
        if self.links.table.get(key).is_none() {
            self.counters.stale_commands += 1;
            return;
        }
        match what {
            ConnCommand::Send(data) => self.send_from_afar(conn, data),
            ConnCommand::Close => self.links.close(key, CloseReason::Local),
            ConnCommand::Evict => self.links.close(key, CloseReason::Evicted),
        }
    }

    /// Starts nothing any more, says goodbye to everybody, and gives them `within` to answer.
    fn shut_down(&mut self, now: Instant, within: Duration) {
        let at = now + within;
        // Who asks again for less has lost patience.
        self.ending = Some(self.ending.map_or(at, |ending| ending.min(at)));
        self.unlisten(|_| true);
        self.swarm.suspend_starts(now, true);
        self.abort_dials(now);
        self.links.parting = true;
        let keys: Vec<_> = self.links.table.iter().map(|(key, _)| key).collect();
        for key in keys {
            let dialling = |link: &Link| matches!(link.phase, Phase::Dialling);
            if !self.links.table.get(key).is_none_or(dialling) {
                self.links.close(key, CloseReason::Shutdown);
                self.links.part(key);
            }
        }
    }
}
