//! Counters for Prometheus.

use crate::shard::{Board, ShardStats};
use flock_transport::Counter;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::fmt;
use std::sync::Arc;

/// The counters of an engine, as a collector for a [`prometheus_client::registry::Registry`]:
/// `flock_…` for shards, `flock_swarm_…`, `flock_utp_…`, `flock_driver_…`, summed over the shards
/// whenever they are asked for, as of their latest turns. It does not keep the engine running.
#[derive(Clone, Debug)]
pub struct Metrics {
    board: Arc<Board>,
}

impl Metrics {
    pub(crate) fn new(board: Arc<Board>) -> Self {
        Self { board }
    }
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let ShardStats { peers, counters } = self.board.sum();
        for (name, help, value) in [
            (
                "connecting",
                "Dials and unfinished handshakes.",
                peers.connecting,
            ),
            ("queued", "Peers found and not yet dialled.", peers.queued),
            ("connected", "Peers connected.", peers.connected),
        ] {
            let name = format!("flock_{name}");
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(&name, help, None, gauge.metric_type())?)?;
        }
        encode_all(&mut encoder, "flock", counters.iter())?;
        encode_all(&mut encoder, "flock_swarm", counters.swarm.iter())?;
        encode_all(&mut encoder, "flock_utp", counters.utp.iter())?;
        encode_all(&mut encoder, "flock_driver", counters.driver.iter())
    }
}

fn encode_all(
    encoder: &mut DescriptorEncoder<'_>,
    prefix: &str,
    counters: impl Iterator<Item = Counter>,
) -> fmt::Result {
    for Counter { name, help, value } in counters {
        let name = format!("{prefix}_{name}");
        let counter = ConstCounter::new(value);
        counter.encode(encoder.encode_descriptor(&name, help, None, counter.metric_type())?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::ShardCounters;
    use crate::swarm::Stats;
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    #[test]
    fn shards_are_summed_and_every_counter_is_shown_once() {
        let board = Arc::new(Board::new(2));
        let peers = Stats {
            connected: 3,
            ..Stats::default()
        };
        let mut counters = ShardCounters {
            admitted: 5,
            ..ShardCounters::default()
        };
        counters.swarm.dials_tcp = 7;
        counters.utp.stray = 11;
        counters.driver.turns = 13;
        board.publish(0, peers, &counters);
        board.publish(1, peers, &counters);
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Metrics::new(board)));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "flock_connected 6",
            "flock_admitted_total 10",
            "flock_swarm_dials_tcp_total 14",
            "flock_utp_stray_total 22",
            "flock_driver_turns_total 26",
            "# HELP flock_swarm_dials_tcp Dials over TCP.",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
        }
        let mut names: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let shown = names.len();
        names.dedup_by_key(|line| line.split(' ').next());
        assert_eq!(names.len(), shown);
    }
}
