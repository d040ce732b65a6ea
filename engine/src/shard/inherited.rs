//! Serving sockets that somebody else made.

use super::Shard;
use super::command::Adoption;
use super::link::{datagram_token, listener_token};
use crate::api::Handler;
use crate::io::{DatagramOptions, Driver, Inherited, InheritedKind};
use flock_tcp::ListenOptions;
use std::io;

impl<D: Driver, H: Handler> Shard<D, H> {
    /// Serves this shard's duplicate of a socket.
    pub(super) fn adopt(&mut self, adoption: Adoption) {
        let Adoption {
            socket,
            siblings,
            options,
            group,
            reply,
        } = adoption;
        // Without an answer the asker learns that the engine has been shut down.
        if self.ending.is_some() {
            return;
        }
        let adopted = match socket.kind {
            InheritedKind::Listener => self.adopt_listener(group, socket, &options),
            InheritedKind::Datagrams => self.adopt_datagrams(group, socket, siblings),
        };
        // An asker that has gone does not mind.
        let _ = reply.try_send(adopted);
    }

    fn adopt_listener(
        &mut self,
        group: u64,
        socket: Inherited,
        options: &ListenOptions,
    ) -> io::Result<()> {
        let token = listener_token();
        let (socket, _) = self.driver.adopt_listener(socket.fd, options, token)?;
        self.add_listener(group, socket);
        Ok(())
    }

    /// Each shard has the connections whose ids name it, whichever socket their datagrams come by:
    /// the kernel steers them where every shard has a socket of its own, and shards hand on what
    /// is not theirs.
    fn adopt_datagrams(
        &mut self,
        group: u64,
        socket: Inherited,
        siblings: usize,
    ) -> io::Result<()> {
        let shards = self.routes.len();
        let options = DatagramOptions {
            shared: shards > 1,
            exclusive: false,
            ..DatagramOptions::default()
        };
        let token = datagram_token();
        let bound = self.driver.adopt_datagrams(socket.fd, &options, token)?;
        let last = usize::from(self.links.shard) + 1 == shards;
        if shards > 1 && siblings == shards && last {
            self.steer(bound.socket);
        }
        self.add_side(&bound, &options, Some(group));
        Ok(())
    }
}
