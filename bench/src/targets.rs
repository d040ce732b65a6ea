//! What was promised, and whether the measurement keeps it.

use crate::stats::{self, Bounds, Summary};
use serde::Serialize;

/// Rounds a verdict needs.
pub const ROUNDS: usize = 15;
/// How far the 95 % bound may lie beyond the promised ratio.
pub const SLACK: f64 = 0.03;
/// The seed of the bootstrap.
pub const SEED: u64 = 2026;

/// Which figure of a window is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Processor time per unit, both sides.
    Cpu,
    /// Processor time per unit, the server's side.
    ServerCpu,
    /// Units per second.
    Rate,
}

impl Metric {
    /// What it is called in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "CPU",
            Self::ServerCpu => "server CPU",
            Self::Rate => "rate",
        }
    }
}

/// A promised ratio.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// The subject's figure is at most so many times the reference's.
    AtMost(f64),
    /// The subject's figure is at least so many times the reference's.
    AtLeast(f64),
}

/// One promise.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Target {
    /// The scenario it is about.
    pub scenario: &'static str,
    /// Who promises.
    pub subject: &'static str,
    /// Against whom.
    pub reference: &'static str,
    /// In what.
    pub metric: Metric,
    /// How much.
    pub limit: Limit,
}

/// Whether a promise was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The median is on the right side, and the 95 % bound within [`SLACK`] of it.
    Met,
    /// The median is on the right side, the bound is not.
    Unsure,
    /// The median is on the wrong side.
    Missed,
    /// Fewer than [`ROUNDS`] rounds, or failed connections.
    Void,
}

impl Verdict {
    /// As a word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::Unsure => "not sure",
            Self::Missed => "missed",
            Self::Void => "void",
        }
    }
}

/// Paired ratios and what they say.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Ratio {
    /// Median and range of the ratios, round by round.
    pub ratio: Summary,
    /// Where the median lies.
    pub bounds: Bounds,
    /// How many rounds.
    pub rounds: usize,
}

impl Ratio {
    /// The ratios of `subject` to `reference`, figures of the same rounds.
    #[must_use]
    pub fn paired(subject: &[f64], reference: &[f64]) -> Self {
        let ratios: Vec<f64> = subject.iter().zip(reference).map(|(a, b)| a / b).collect();
        Self {
            ratio: Summary::of(&ratios),
            bounds: stats::bounds(&ratios, SEED),
            rounds: ratios.len(),
        }
    }

    /// Whether it keeps within `limit`; `clean` says that no connection failed.
    #[must_use]
    pub fn judge(&self, limit: Limit, clean: bool) -> Verdict {
        let median = self.ratio.median;
        let (kept, sure) = match limit {
            Limit::AtMost(most) => (median <= most, self.bounds.upper <= most * (1.0 + SLACK)),
            Limit::AtLeast(least) => (median >= least, self.bounds.lower >= least * (1.0 - SLACK)),
        };
        match (kept, sure) {
            _ if self.rounds < ROUNDS || !clean => Verdict::Void,
            (true, true) => Verdict::Met,
            (true, false) => Verdict::Unsure,
            (false, _) => Verdict::Missed,
        }
    }
}

const fn cpu(
    scenario: &'static str,
    subject: &'static str,
    reference: &'static str,
    most: f64,
) -> Target {
    Target {
        scenario,
        subject,
        reference,
        metric: Metric::Cpu,
        limit: Limit::AtMost(most),
    }
}

const fn rate(
    scenario: &'static str,
    subject: &'static str,
    reference: &'static str,
    least: f64,
) -> Target {
    Target {
        scenario,
        subject,
        reference,
        metric: Metric::Rate,
        limit: Limit::AtLeast(least),
    }
}

/// Every promise.
pub const ALL: &[Target] = &[
    cpu("life-fin", "flock-uring", "uring-qa0", 1.10),
    cpu("life-fin", "flock-uring-ack", "uring", 1.10),
    cpu("life-fin", "flock-uring", "tokio", 0.72),
    cpu("life-fin", "flock-uring", "monoio-tuned", 0.95),
    cpu("life-fin", "flock-uring", "tokio-uring-tuned", 0.95),
    cpu("life-fin", "flock-uring", "compio-tuned", 0.95),
    cpu("life-fin", "flock-poll", "epoll-qa0", 1.10),
    cpu("life-fin", "flock-poll-ack", "epoll", 1.10),
    cpu("life-rst", "flock-uring", "uring-qa0", 1.10),
    cpu("life-rst", "flock-uring-ack", "uring", 1.10),
    cpu("life-rst", "flock-uring", "tokio", 0.72),
    cpu("life-rst", "flock-uring", "monoio-tuned", 0.95),
    cpu("life-rst", "flock-uring", "tokio-uring-tuned", 0.95),
    cpu("life-rst", "flock-uring", "compio-tuned", 0.95),
    cpu("life-rst", "flock-poll", "epoll-qa0", 1.10),
    cpu("life-rst", "flock-poll-ack", "epoll", 1.10),
    cpu("server-fin", "flock-uring-guarded", "flock-uring", 1.03),
    rate("shards", "flock-uring", "uring-qa0", 0.9),
    cpu("shards", "flock-uring", "flock-uring-single", 1.15),
    rate("echo-64k", "flock-uring-async", "flock-uring", 0.8),
    rate("echo-64k", "flock-uring-async", "tokio", 0.8),
    rate("bulk", "flock-uring", "tokio", 0.9),
    rate("bulk", "flock-uring", "monoio-tuned", 0.9),
    rate("bulk", "flock-uring", "uring", 0.9),
    rate("bulk", "flock-uring", "epoll", 0.9),
    cpu("utp-life-fin", "flock-utp-uring", "librqbit-utp", 0.75),
    cpu("utp-life-fin", "flock-utp-uring", "udp-exchange", 1.3),
    rate("utp-life-fin", "flock-utp-uring", "utp-native", 8.0),
    cpu("utp-life-rst", "flock-utp-uring", "udp-exchange", 1.3),
    rate("utp-bulk", "flock-utp-uring", "librqbit-utp", 8.0),
    rate("utp-bulk", "flock-utp-uring", "utp-native", 12.0),
    rate("utp-bulk", "flock-utp-uring", "udp-gso", 0.5),
    rate("utp-bulk", "flock-utp-poll", "flock-utp-uring", 0.8),
    rate("utp-bulk-64", "flock-utp-uring", "flock-utp-uring-one", 0.9),
    rate("utp-bulk-64", "flock-utp-poll", "flock-utp-uring", 0.8),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_needs_the_median_the_bound_and_enough_rounds() {
        let ratio = |value: f64, rounds| Ratio::paired(&vec![value; rounds], &vec![1.0; rounds]);
        let most = Limit::AtMost(1.1);
        assert_eq!(ratio(1.1, 15).judge(most, true), Verdict::Met);
        assert_eq!(ratio(1.11, 15).judge(most, true), Verdict::Missed);
        assert_eq!(ratio(1.0, 14).judge(most, true), Verdict::Void);
        assert_eq!(ratio(1.0, 15).judge(most, false), Verdict::Void);
        assert_eq!(
            ratio(0.9, 15).judge(Limit::AtLeast(0.9), true),
            Verdict::Met
        );

        let mut wide = vec![1.0; 8];
        wide.extend([1.5; 7]);
        let wide = Ratio::paired(&wide, &[1.0; 15]);
        assert_eq!(wide.judge(most, true), Verdict::Unsure);
    }
}
