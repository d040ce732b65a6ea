use crate::event::ConnectionInfo;
use crate::names::ConnId;
use crate::shard::{ConnCx, ShardCx};
use flock_transport::CloseReason;
use std::time::Duration;

/// The shard-local level: one handler per shard, called on the shard's thread with borrowed
/// slices, no hop and no copy in between.
///
/// A handler that blocks stops its whole shard. A handler that panics loses the connection it
/// was called for ([`CloseReason::HandlerPanicked`]); the panic is counted and the shard lives.
/// It stays in use afterwards, so it should not rely on invariants a panic may have cut short.
pub trait Handler: 'static {
    /// State of one connection, kept by the engine beside it.
    type Conn: 'static;
    /// What other threads may send to a shard ([`Flock::send_message`](crate::Flock::send_message)).
    type Msg: Send + 'static;

    /// A peer is connected: its handshake is done and it was admitted.
    fn on_connection(&mut self, cx: &mut ConnCx<'_>, info: &ConnectionInfo) -> Self::Conn;

    /// The peer sent `data`, never empty. It is the engine's memory, valid for this call.
    fn on_data(&mut self, cx: &mut ConnCx<'_>, conn: &mut Self::Conn, data: &[u8]);

    /// The peer ended its direction. What was sent to it still goes out; the default then closes.
    /// Who has more to send, and waits for `on_writable`, does not close here, but
    /// [`end`](ConnCx::end)s after the last of it.
    fn on_end(&mut self, cx: &mut ConnCx<'_>, conn: &mut Self::Conn) {
        let _ = conn;
        cx.close();
    }

    /// The send queue fell below its low-water mark after having been above the high one.
    fn on_writable(&mut self, cx: &mut ConnCx<'_>, conn: &mut Self::Conn) {
        let _ = (cx, conn);
    }

    /// The timer set by [`ConnCx::set_timer`] ran out.
    fn on_timer(&mut self, cx: &mut ConnCx<'_>, conn: &mut Self::Conn) {
        let _ = (cx, conn);
    }

    /// The connection is over; exactly once for every `on_connection`.
    fn on_closed(
        &mut self,
        cx: &mut ShardCx<'_>,
        id: ConnId,
        conn: Self::Conn,
        reason: CloseReason,
    ) {
        let _ = (cx, id, conn, reason);
    }

    /// Another thread sent `msg` to this shard.
    fn on_message(&mut self, cx: &mut ShardCx<'_>, msg: Self::Msg) {
        let _ = (cx, msg);
    }

    /// The calls of this turn are over, and what they queued is with the driver, as far as it was not
    /// more than a turn carries. For what is cheaper
    /// done once than after each call, such as waking other threads. Returns within what time the next
    /// turn should end at the latest, if anything is left to do.
    fn on_turn_end(&mut self) -> Option<Duration> {
        None
    }
}

/// The handler that accepts every peer and drops what it says. For engines that only count.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ignore;

impl Handler for Ignore {
    type Conn = ();
    type Msg = ();

    fn on_connection(&mut self, _: &mut ConnCx<'_>, _: &ConnectionInfo) {}

    fn on_data(&mut self, _: &mut ConnCx<'_>, (): &mut (), _: &[u8]) {}
}
