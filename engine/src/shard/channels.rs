//! What a shard is asked of channels.

use super::Shard;
use super::link::Links;
use crate::api::{Handler, Pending};
use crate::io::Driver;
use crate::names::{ChannelKey, ConnId};
use crate::swarm::CandidateId;
use bytes::Bytes;
use flock_transport::Instant;
use std::time::Duration;

/// How often to look at the latest: another shard may take the room that a candidate here waits for,
/// and then nothing happens here.
const LOOK: Duration = Duration::from_millis(100);

/// Askers at a time; further ones are refused.
const FLUSHES_MAX: usize = 1024;

/// Who waits for the candidates of a channel to have been tried.
#[derive(Default)]
pub(super) struct Flushes(Vec<Flush>);

struct Flush {
    channel: ChannelKey,
    /// A candidate that was not through when it was looked at last, so that a look costs little.
    last: Option<CandidateId>,
    pending: Pending,
}

impl Flushes {
    pub(super) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        (!self.0.is_empty()).then(|| now + LOOK)
    }
}

impl<D: Driver, H: Handler> Shard<D, H> {
    /// Answers at the end of a turn after which no candidate of the channel is on its way.
    pub(super) fn flush_channel(&mut self, channel: ChannelKey, pending: Pending) {
        if self.flushes.0.len() >= FLUSHES_MAX {
            return pending.refuse();
        }
        self.flushes.0.push(Flush {
            channel,
            last: None,
            pending,
        });
    }

    pub(super) fn settle_flushes(&mut self) {
        let swarm = &self.swarm;
        let settled = |flush: &mut Flush| {
            flush.last = swarm.unsettled(&flush.channel, flush.last);
            flush.last.is_none()
        };
        for flush in self.flushes.0.extract_if(.., settled) {
            flush.pending.settle();
        }
    }

    /// Sends to every peer known for the channel.
    pub(super) fn broadcast(&mut self, channel: &ChannelKey, data: &Bytes) {
        for conn in self.swarm.conns_of(channel) {
            self.send_from_afar(conn, data.clone());
        }
    }

    /// Sends what another thread has, who does not wait for room.
    pub(super) fn send_from_afar(&mut self, conn: ConnId, data: Bytes) {
        let key = Links::key(conn);
        match self.links.send(key, data) {
            Ok(_) => {}
            Err(flock_tcp::SendRefused::Closed(_)) => self.counters.stale_commands += 1,
            Err(flock_tcp::SendRefused::Full(_)) => {
                // A stream with a hole in it is worth nothing to the peer.
                self.counters.sends_overflowed += 1;
                self.links
                    .abort(key, flock_transport::CloseReason::SendQueueFull);
            }
        }
    }
}
