//! Listening: at a port, at an address, on sockets that somebody else made.

use super::builder::FlockError;
use super::flock::{Flock, Inner, not_on_a_shard, post};
use crate::io::{Inherited, InheritedKind};
use crate::shard::{Adoption, Command, Mail};
use flock_tcp::ListenOptions;
use std::fmt::Display;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::sync::mpsc::sync_channel;
use std::sync::{MutexGuard, PoisonError};

impl<M: Send + 'static> Flock<M> {
    /// Listens on `port` for IPv4 and IPv6, 0 for any, and returns the address bound. Blocks
    /// until all shards listen; when one cannot, none does, and earlier listeners stay.
    ///
    /// # Errors
    /// The port is taken, also by another process of the same user, or may not be used; or this
    /// was called by a handler.
    pub fn listen(&self, port: u16) -> Result<SocketAddr, FlockError> {
        not_on_a_shard()?;
        self.listen_any(&mut self.inner.lock_listens(), port)
    }

    /// As [`listen`](Self::listen), on one address.
    ///
    /// # Errors
    /// As [`listen`](Self::listen).
    pub fn listen_at(&self, addr: SocketAddr) -> Result<SocketAddr, FlockError> {
        not_on_a_shard()?;
        self.listen_as(&mut self.inner.lock_listens(), addr)
    }

    fn listen_any(&self, listens: &mut u64, port: u16) -> Result<SocketAddr, FlockError> {
        let six = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port);
        match self.listen_as(listens, six) {
            // A host without IPv6.
            Err(FlockError::Io(error)) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                let four = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
                self.listen_as(listens, four)
            }
            other => other,
        }
    }

    /// Of several that ask at a time one listens, and the others wait for it.
    pub(super) fn listen_if_nobody_did(&self) -> Result<(), FlockError> {
        if self.listening().is_empty() {
            not_on_a_shard()?;
            let mut listens = self.inner.lock_listens();
            if self.listening().is_empty() {
                self.listen_any(&mut listens, 0)?;
            }
        }
        Ok(())
    }

    fn listen_as(&self, listens: &mut u64, addr: SocketAddr) -> Result<SocketAddr, FlockError> {
        *listens += 1;
        let group = *listens;
        let mut at = addr;
        for shard in 0..self.shards() {
            match self.listen_shard(shard, group, at) {
                Ok(here) => at = here,
                Err(error) => {
                    // Half a group would lose the connections that hash to the other half.
                    self.unlisten(group..=group);
                    return Err(error);
                }
            }
        }
        self.inner.lock_bound().push(at);
        Ok(at)
    }

    fn listen_shard(
        &self,
        shard: usize,
        group: u64,
        addr: SocketAddr,
    ) -> Result<SocketAddr, FlockError> {
        let options = ListenOptions {
            shared: self.shards() > 1,
            exclusive: shard == 0,
            ..self.inner.listen
        };
        let (reply, answer) = sync_channel(1);
        let command = Command::Listen {
            addr,
            options,
            group,
            reply,
        };
        post(&self.inner.senders[shard], command)?;
        Ok(answer.recv().map_err(|_| FlockError::ShutDown)??)
    }

    /// Listens on sockets that somebody else made: those of socket activation (sd_listen_fds(3)),
    /// or of a predecessor that hands them on. Returns their addresses. Each is a TCP socket that
    /// listens, or a UDP socket that is bound and not connected, for uTP. Blocks until all shards
    /// listen; when one cannot, none does, and earlier listeners stay.
    ///
    /// The engine works on duplicates, and closes those. While somebody else holds a listener,
    /// too (the parent, the caller who passed it by reference), whoever dials waits in its backlog
    /// when this engine listens no more, and the next one serves it: after a
    /// [`drain`](Self::drain) nobody has been refused. Backlog, dual stack and address are as they
    /// were made; what connections inherit is set as [`listen`](Self::listen) does. On the fallback
    /// backend listeners become nonblocking (`O_NONBLOCK`) for all who hold them.
    ///
    /// One socket at an address is served by every shard. As many as there are shards
    /// (`SO_REUSEPORT`) get a shard each, in the order of binding, which saves handing datagrams
    /// on. Two engines cannot share a UDP socket at a time, since each would take datagrams
    /// meant for the other: with uTP the next one starts when this one has ended.
    ///
    /// # Errors
    /// There are no sockets, one of them is something else or for a transport that is switched
    /// off, there are more UDP sockets at an address than shards (nothing was changed then), or
    /// the engine is one of the caller's drivers that take none; or this was called by a handler.
    pub fn listen_on<S: AsFd>(
        &self,
        sockets: impl IntoIterator<Item = S>,
    ) -> Result<Vec<SocketAddr>, FlockError> {
        not_on_a_shard()?;
        let sets = self.inspect(sockets)?;
        let mut listens = self.inner.lock_listens();
        let first = *listens + 1;
        for set in &sets {
            *listens += 1;
            if let Err(error) = self.adopt(*listens, set) {
                self.unlisten(first..=*listens);
                return Err(error);
            }
        }
        let mut addrs = Vec::new();
        for set in &sets {
            let addr = set[0].addr;
            if !addrs.contains(&addr) {
                addrs.push(addr);
            }
        }
        self.inner.lock_bound().extend(&addrs);
        Ok(addrs)
    }

    /// Duplicates of the sockets, those of one kind at one address together.
    fn inspect<S: AsFd>(
        &self,
        sockets: impl IntoIterator<Item = S>,
    ) -> Result<Vec<Vec<Inherited>>, FlockError> {
        let mut sets: Vec<Vec<Inherited>> = Vec::new();
        for (at, socket) in sockets.into_iter().enumerate() {
            let wrong = |what: &dyn Display| {
                FlockError::Option(format!("the inherited socket at {at}: {what}"))
            };
            let socket = Inherited::of(socket.as_fd()).map_err(|error| match error.kind() {
                ErrorKind::InvalidInput => wrong(&error),
                _ => error.into(),
            })?;
            match socket.kind {
                InheritedKind::Listener if !self.inner.tcp => {
                    return Err(wrong(&"it is for TCP, which is switched off"));
                }
                InheritedKind::Datagrams if !self.inner.utp => {
                    return Err(wrong(&"it is for uTP, which is switched off"));
                }
                InheritedKind::Listener | InheritedKind::Datagrams => {}
            }
            let alike = |set: &&mut Vec<Inherited>| {
                set[0].kind == socket.kind && set[0].addr == socket.addr
            };
            match sets.iter_mut().find(alike) {
                Some(set)
                    if socket.kind == InheritedKind::Datagrams && set.len() == self.shards() =>
                {
                    return Err(wrong(&"more UDP sockets at an address than shards"));
                }
                Some(set) => set.push(socket),
                None => sets.push(vec![socket]),
            }
        }
        match sets.is_empty() {
            true => Err(FlockError::Option("no inherited sockets".to_owned())),
            false => Ok(sets),
        }
    }

    /// Shards and sockets go around until each has one of the other.
    fn adopt(&self, group: u64, set: &[Inherited]) -> Result<(), FlockError> {
        for at in 0..self.shards().max(set.len()) {
            let (reply, answer) = sync_channel(1);
            let adoption = Adoption {
                socket: set[at % set.len()].duplicate()?,
                siblings: set.len(),
                options: self.inner.listen,
                group,
                reply,
            };
            let shard = &self.inner.senders[at % self.shards()];
            post(shard, Command::Adopt(adoption))?;
            answer.recv().map_err(|_| FlockError::ShutDown)??;
        }
        Ok(())
    }

    /// Takes listening back.
    fn unlisten(&self, groups: RangeInclusive<u64>) {
        for group in groups {
            for sender in &self.inner.senders {
                sender.send_protocol(Mail::Command(Command::Unlisten { group }));
            }
        }
    }

    /// The addresses listened on.
    #[must_use]
    pub fn listening(&self) -> Vec<SocketAddr> {
        self.inner.lock_bound().clone()
    }
}

impl<M: Send + 'static> Inner<M> {
    fn lock_listens(&self) -> MutexGuard<'_, u64> {
        self.listens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
