//! What a path is like: one point of the matrix of paths that uTP must cope with.

use flock_tests::net::{Discipline, Host, LinkConfig};
use std::time::Duration;

pub(crate) const MS: Duration = Duration::from_millis(1);

/// Bytes per second of `kbit` kilobits per second.
pub(crate) const fn kbit(kbit: u64) -> u64 {
    kbit * 125
}

/// Bytes per second of `mbit` megabits per second.
pub(crate) const fn mbit(mbit: u64) -> u64 {
    kbit(mbit * 1_000)
}

/// A path and what is sent over it.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// What is special about it.
    pub(crate) name: String,
    /// From the initiator to the acceptor.
    pub(crate) there: LinkConfig,
    /// Back.
    pub(crate) back: LinkConfig,
    /// The machines of initiator and acceptor.
    pub(crate) hosts: [Host; 2],
    /// Bytes that initiator and acceptor send.
    pub(crate) bytes: [u64; 2],
    /// The time within which all must be there.
    pub(crate) limit: Duration,
}

impl Case {
    /// A clean path: this round-trip time, this rate both ways, and queues of one product of the
    /// two, but 20 packets at least. The initiator sends for some seconds of the rate.
    pub(crate) fn clean(rtt: Duration, rate: u64) -> Self {
        let link = LinkConfig {
            rate,
            delay: rtt / 2,
            ..LinkConfig::default()
        };
        let bytes = (rate * 3).clamp(200_000, 3_000_000);
        let case = Self {
            name: format!("{} x {}", duration(rtt), bit_rate(rate)),
            there: link.clone(),
            back: link,
            hosts: [Host::default(), Host::default()],
            bytes: [bytes, 0],
            limit: Duration::from_secs(300),
        };
        case.queued(1.0)
    }

    /// With queues of so many products of rate and round-trip time.
    pub(crate) fn queued(mut self, products: f64) -> Self {
        let rtt = self.there.delay + self.back.delay;
        for link in [&mut self.there, &mut self.back] {
            let nanos = rtt.mul_f64(products).as_nanos() * u128::from(link.rate) / 1_000_000_000;
            link.queue = usize::try_from(nanos).unwrap_or(usize::MAX).max(30_000);
        }
        self
    }

    /// Under another name, with whatever else is changed.
    pub(crate) fn with(mut self, name: &str, change: impl FnOnce(&mut Self)) -> Self {
        self.name = format!("{}, {name}", self.name);
        change(&mut self);
        self
    }

    /// With the same change to the links both ways.
    pub(crate) fn both(self, name: &str, change: impl Fn(&mut LinkConfig)) -> Self {
        self.with(name, |case| {
            change(&mut case.there);
            change(&mut case.back);
        })
    }
}

/// CoDel as it is usually set.
pub(crate) const CODEL: Discipline = Discipline::Codel {
    target: Duration::from_millis(5),
    interval: Duration::from_millis(100),
};

/// The same for each flow.
pub(crate) const FAIR_CODEL: Discipline = Discipline::FairCodel {
    target: Duration::from_millis(5),
    interval: Duration::from_millis(100),
};

fn duration(duration: Duration) -> String {
    let micros = duration.as_micros();
    if micros.is_multiple_of(1_000) {
        format!("{} ms", micros / 1_000)
    } else {
        format!("{micros} us")
    }
}

fn bit_rate(rate: u64) -> String {
    let kbit = rate / 125;
    if kbit.is_multiple_of(1_000) {
        format!("{} Mbit/s", kbit / 1_000)
    } else {
        format!("{kbit} kbit/s")
    }
}
