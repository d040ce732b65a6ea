//! The embedder's own judgement.

use crate::event::ConnectionInfo;
use flock_transport::Transport;
use std::fmt;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// What a firewall is asked about.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Approach<'a> {
    /// Somebody connected to us, and nothing has been said. Over uTP: its first data is here.
    Inbound {
        /// The remote address.
        addr: SocketAddr,
        /// TCP or uTP.
        transport: Transport,
    },
    /// A candidate was found, or is about to be dialled.
    Outbound {
        /// Its address.
        addr: SocketAddr,
    },
    /// A peer, in either direction, has stated its id.
    Identified(&'a ConnectionInfo),
}

/// A function that says who may connect. It runs on the shards, between packets: it must not
/// block.
#[derive(Clone)]
pub(crate) struct Firewall(Arc<dyn Fn(&Approach<'_>) -> bool + Send + Sync>);

impl Firewall {
    /// A firewall that lets pass what `allows` says. One that panics lets nothing pass.
    pub(crate) fn new(allows: impl Fn(&Approach<'_>) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(allows))
    }

    pub(crate) fn allows(&self, approach: &Approach<'_>) -> bool {
        catch_unwind(AssertUnwindSafe(|| (self.0)(approach))).unwrap_or(false)
    }
}

impl fmt::Debug for Firewall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Firewall")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_panics_lets_nothing_pass() {
        let addr = "10.0.0.1:1".parse().unwrap();
        let broken = Firewall::new(|approach| match approach {
            Approach::Inbound { .. } => true,
            _ => panic!("a bug of the embedder, on purpose"),
        });
        assert!(!broken.allows(&Approach::Outbound { addr }));
        let transport = Transport::Tcp;
        assert!(broken.allows(&Approach::Inbound { addr, transport }));
    }
}
