//! What the reference model is made of: times that are known roughly, bans, sums, and which of two
//! connections stays.

use flock_engine::{BanTarget, Instant, PeerId, SwarmCounters};
use std::net::SocketAddr;
use std::time::Duration;

/// Longer than a message takes from here to a shard, and that to all others and to the hosts and
/// back.
pub(crate) const SLACK: Duration = Duration::from_millis(40);

/// Longer than it takes the shards to read their mail.
const MAIL: Duration = Duration::from_millis(2);

/// When something happens: the engine draws its waits, and reads its mail when it gets to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) from: Instant,
    pub(crate) to: Instant,
}

impl Span {
    /// A wait that is drawn, ±10 %.
    pub(crate) fn drawn(now: Instant, wait: Duration) -> Self {
        Self {
            from: now + wait.mul_f64(0.9),
            to: now + wait.mul_f64(1.1) + SLACK,
        }
    }

    /// A time that is fixed.
    pub(crate) fn fixed(now: Instant, wait: Duration) -> Self {
        let from = now + wait;
        Self {
            from,
            to: from + SLACK,
        }
    }

    /// What is asked for now happens to the shards, or so long after it does.
    fn asked(now: Instant, after: Duration) -> Self {
        let from = now + after;
        Self {
            from,
            to: from + MAIL,
        }
    }

    pub(crate) fn union(self, other: Self) -> Self {
        Self {
            from: self.from.min(other.from),
            to: self.to.max(other.to),
        }
    }

    /// Until when it is not known what is going on, if that is so now or soon.
    pub(crate) fn open_until(self, now: Instant) -> Option<Instant> {
        (self.from <= now + SLACK && now <= self.to).then(|| self.to + SLACK)
    }
}

/// Whether something is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Holds {
    No,
    Perhaps,
    Yes,
}

struct Ban {
    target: BanTarget,
    from: Span,
    until: Option<Span>,
}

/// Who is banned, in the order in which that was asked for.
#[derive(Default)]
pub(crate) struct Bans(Vec<Ban>);

impl Bans {
    /// Bans from now on, in place of an earlier ban of the same target.
    pub(crate) fn add(&mut self, now: Instant, target: BanTarget, expires: Option<Duration>) {
        self.lift(now, &target);
        let from = Span::asked(now, Duration::ZERO);
        let until = expires.map(|after| Span::asked(now, after));
        self.0.push(Ban {
            target,
            from,
            until,
        });
    }

    pub(crate) fn lift(&mut self, now: Instant, target: &BanTarget) {
        for ban in self.0.iter_mut().filter(|ban| ban.target == *target) {
            let end = Span::asked(now, Duration::ZERO);
            if ban.until.is_none_or(|until| end.to < until.to) {
                ban.until = Some(end);
            }
        }
        self.0
            .retain(|ban| ban.until.is_none_or(|until| now <= until.to));
    }

    pub(crate) fn addr(&self, now: Instant, addr: SocketAddr) -> Holds {
        let hits = self.0.iter().filter(|ban| ban.hits(addr));
        hits.map(|ban| ban.holds(now)).max().unwrap_or(Holds::No)
    }

    /// Whether an address is banned for a shard that has read of all its bans.
    pub(crate) fn addr_once_read(&self, now: Instant, addr: SocketAddr) -> Holds {
        let hits = self.0.iter().filter(|ban| ban.hits(addr));
        hits.map(|ban| ban.goes_on(now)).max().unwrap_or(Holds::No)
    }

    pub(crate) fn peer(&self, now: Instant, peer: &PeerId) -> Holds {
        let target = BanTarget::Peer(peer.clone());
        let hits = self.0.iter().filter(|ban| ban.target == target);
        hits.map(|ban| ban.holds(now)).max().unwrap_or(Holds::No)
    }

    /// The times at which a ban begins or ends.
    pub(crate) fn edges(&self) -> impl Iterator<Item = Span> {
        self.0
            .iter()
            .flat_map(|ban| [Some(ban.from), ban.until])
            .flatten()
    }
}

impl Ban {
    fn hits(&self, addr: SocketAddr) -> bool {
        match &self.target {
            BanTarget::Addr(banned) => *banned == addr,
            BanTarget::Net(net) => net.contains(&addr.ip()),
            BanTarget::Peer(_) => false,
        }
    }

    fn holds(&self, now: Instant) -> Holds {
        let beginning = now <= self.from.to;
        let most = if beginning {
            Holds::Perhaps
        } else {
            Holds::Yes
        };
        self.goes_on(now).min(most)
    }

    /// Whether it has not ended.
    fn goes_on(&self, now: Instant) -> Holds {
        match self.until {
            Some(until) if now > until.to => Holds::No,
            Some(until) if now >= until.from => Holds::Perhaps,
            _ => Holds::Yes,
        }
    }
}

/// The duplicate rule over one transport: whether of two connections to `peer` the first stays,
/// going by which side dialled the second. The connection stays that the smaller id dialled.
pub(crate) fn first_stays(own: &PeerId, peer: &PeerId, keep: bool, second_is_ours: bool) -> bool {
    let second_dialled_by = if second_is_ours { own } else { peer };
    let other_side = if second_is_ours { peer } else { own };
    keep || second_dialled_by > other_side
}

/// The counters as far as events tell them. A connection that its peer ended while it was being
/// admitted counts as admitted with the engine, and nobody is told; `unheard` is whether such a one
/// may have been redundant besides.
pub(crate) fn told(mut sums: SwarmCounters, unheard: bool) -> SwarmCounters {
    sums.handshakes_failed += std::mem::take(&mut sums.claims_granted);
    sums.claims_sent = 0;
    if unheard {
        let refused = std::mem::take(&mut sums.redundant_refused);
        sums.handshakes_failed += refused;
        sums.redundant_replaced += refused;
    }
    sums
}

/// Inbound connections that were seen.
pub(crate) fn arrivals(sums: &SwarmCounters) -> u64 {
    let refused = sums
        .iter()
        .filter(|counter| counter.name.starts_with("inbound_"));
    sums.handshakes_inbound + refused.map(|counter| counter.value).sum::<u64>()
}
