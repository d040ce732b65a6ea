use super::clock::Clock;
use flock_transport::{Instant, Train};
use std::any::Any;
use std::net::SocketAddr;
use std::time::Duration;

/// What sits behind an address: a machine that takes datagrams and the time, and gives datagrams
/// and its next deadline. All times are those of the node's own [`Clock`].
pub trait Node: Any {
    /// Datagrams came: each `segment` bytes long but the last, which may be shorter.
    fn handle(
        &mut self,
        now: Instant,
        from: SocketAddr,
        received_at: Instant,
        segment: usize,
        datagrams: &[u8],
    );

    /// All datagrams at hand have been handled.
    fn end_batch(&mut self, _now: Instant) {}

    /// Fills a train that is to go out; false: there is none.
    fn poll_transmit(&mut self, now: Instant, train: &mut Train) -> bool;

    /// The train with this tag was taken.
    fn sent(&mut self, _now: Instant, _tag: u64) {}

    /// The train with this tag was not taken, and nothing of it was sent. The node is asked for
    /// trains again a little later.
    fn refused(&mut self, _now: Instant, _tag: u64) {}

    /// When it wants to be called again, if nothing comes before.
    fn next_deadline(&self) -> Option<Instant>;

    /// Its deadline has come.
    fn on_deadline(&mut self, now: Instant);
}

/// The machine a node runs on.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Its clock.
    pub clock: Clock,
    /// How long arriving datagrams wait for more of them before all are handled in one batch, as
    /// a busy shard finds them. Zero: each is a batch.
    pub gather: Duration,
    /// How late its deadlines are served.
    pub lateness: Duration,
    /// Probability that a train is refused, as by a full socket buffer.
    pub refuse: f64,
}
