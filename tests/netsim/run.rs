//! One transfer over one path, watched all the time, and what came of it.

use crate::case::Case;
use flock_tests::net::{Capture, Change, Flow, Job, LinkReport, Network, Pair, UtpNode};
use flock_transport::{CloseReason, Instant};
use flock_utp::{Config, Congestion};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::time::Duration;

/// uTP with some settings.
#[derive(Clone, Debug)]
pub(crate) struct Stack {
    /// What is special about them.
    pub(crate) name: &'static str,
    /// The settings of both ends.
    pub(crate) config: Config,
}

/// The stacks that every path is tried with.
pub(crate) fn stacks() -> Vec<Stack> {
    let stack = |name, congestion| Stack {
        name,
        config: Config {
            congestion,
            ..Config::default()
        },
    };
    let target = Duration::from_millis(60);
    vec![
        stack("ledbat", Congestion::default()),
        stack("ledbat++", Congestion::LedbatPlusPlus { target }),
        stack("cubic", Congestion::Cubic),
    ]
}

/// What came of a transfer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figures {
    /// Until both ends were done.
    pub(crate) took: Duration,
    /// Bytes per second of payload, both directions.
    pub(crate) goodput: f64,
    /// Datagrams that initiator and acceptor sent.
    pub(crate) sent: [u64; 2],
    /// Packets that did not arrive, there and back.
    pub(crate) dropped: [u64; 2],
    /// What 95 of 100 packets waited at most, there and back.
    pub(crate) waited: [Duration; 2],
    /// Hash of all that was delivered.
    pub(crate) trace: u64,
}

/// Runs the case.
///
/// # Panics
/// If something that must hold does not: with the seed, after writing what both ends saw to files.
pub(crate) fn run(case: &Case, stack: &Stack, seed: u64) -> Figures {
    let attempt = |capture| {
        catch_unwind(AssertUnwindSafe(|| {
            Transfer::new(case, stack, seed, capture).finish()
        }))
    };
    let first = attempt(false);
    if let Ok(Ok(figures)) = first {
        return figures;
    }
    let again = attempt(true);
    println!(
        "{} with {} (replay it with FLOCK_SEED={seed}); what both ends saw is in\n  \
         {}\n  {}",
        case.name,
        stack.name,
        capture_path(seed, 0).display(),
        capture_path(seed, 1).display()
    );
    match again {
        Ok(Ok(_)) => panic!("a failure that does not replay: {first:?}"),
        Ok(Err(wrong)) => panic!("{}: {wrong}\n{case:#?}", case.name),
        Err(panic) => resume_unwind(panic),
    }
}

fn capture_path(seed: u64, end: usize) -> PathBuf {
    let name = ["initiator", "acceptor"][end];
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    folder.join(format!("netsim-{seed}-{name}.pcap"))
}

/// How often what must hold is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

struct Transfer<'a> {
    case: &'a Case,
    network: Network,
    pair: Pair,
    watch: [Watch; 2],
    patience: Duration,
}

impl<'a> Transfer<'a> {
    fn new(case: &'a Case, stack: &Stack, seed: u64, capture: bool) -> Self {
        let mut network = Network::new(seed);
        let [left, right] = case.hosts.clone();
        let (job, reverse) = Job::pair(seed, case.bytes);
        let pair = Pair::build(
            &mut network,
            (left, UtpNode::new(stack.config.clone(), 2 * seed, job)),
            (
                right,
                UtpNode::new(stack.config.clone(), 2 * seed + 1, reverse),
            ),
            case.there.clone(),
            case.back.clone(),
        );
        if capture {
            for (end, node) in [pair.left, pair.right].into_iter().enumerate() {
                let file = Capture::create(&capture_path(seed, end));
                network.capture(node, file.expect("the capture file can be created"));
            }
        }
        network.act(pair.left, |node: &mut UtpNode, now| {
            node.connect(now, Pair::right_address());
        });
        Self {
            case,
            network,
            pair,
            watch: [Watch::default(), Watch::default()],
            patience: patience(case),
        }
    }

    fn node(&self, end: usize) -> &UtpNode {
        let id = [self.pair.left, self.pair.right][end];
        self.network.node(id)
    }

    fn flow(&self, end: usize) -> Option<&Flow> {
        self.node(end).flows().first()
    }

    fn reports(&self) -> [&LinkReport; 2] {
        [self.pair.there, self.pair.back].map(|link| self.network.report(link))
    }

    fn finish(mut self) -> Result<Figures, String> {
        let limit = Instant::ZERO + self.case.limit;
        let mut took = None;
        while took.is_none() || !self.over() {
            let next = self.network.now() + LOOK_EVERY;
            if next > limit {
                let ends = [0, 1].map(|end| self.flow(end).map(Flow::summary));
                return Err(format!("not done after {:?}: {ends:#?}", self.case.limit));
            }
            self.network.run_until(next);
            if self.given_up() {
                took = Some(self.network.now().since(Instant::ZERO));
                break;
            }
            self.look()?;
            if took.is_none() && self.done() {
                took = Some(self.network.now().since(Instant::ZERO));
            }
            if self.never_met() {
                took = Some(self.network.now().since(Instant::ZERO));
                break;
            }
        }
        let took = took.unwrap_or_default();
        let counts = [self.pair.left, self.pair.right].map(|node| self.network.counts(node));
        let bytes = self.case.bytes[0] + self.case.bytes[1];
        Ok(Figures {
            took,
            goodput: bytes as f64 / took.as_secs_f64(),
            sent: counts.map(|counts| counts.sent),
            dropped: self.reports().map(LinkReport::dropped),
            waited: self.reports().map(LinkReport::waited_p95),
            trace: self.network.trace(),
        })
    }

    /// An end gave up after a long time in which all was lost.
    fn given_up(&self) -> bool {
        let now = self.network.now();
        let closed = |end: &usize| {
            let flow = self.flow(*end);
            flow.is_some_and(|flow| flow.closed().is_some() && !flow.done())
        };
        let silent = |watch: &Watch| now.since(watch.came_at) >= GIVE_UP;
        [0, 1].iter().any(closed) && self.watch.iter().any(silent)
    }

    /// The dial was given up, for which there was a reason.
    fn never_met(&self) -> bool {
        let closed = self.flow(0).and_then(Flow::closed);
        let lost = self.reports().into_iter().any(|report| lost(report) > 0);
        lost && self.flow(1).is_none() && closed == Some(CloseReason::ConnectTimeout)
    }

    /// Both have all, and both ends.
    fn done(&self) -> bool {
        [0, 1]
            .iter()
            .all(|end| self.flow(*end).is_some_and(Flow::done))
    }

    /// Both connections are closed.
    fn over(&self) -> bool {
        [0, 1]
            .iter()
            .all(|end| self.flow(*end).is_some_and(|flow| flow.closed().is_some()))
    }

    /// Whether nothing passes one of the links now.
    fn is_dark(&self, now: Instant) -> bool {
        let links = [&self.case.there, &self.case.back];
        let mut dark = links.iter().flat_map(|link| &link.blackouts);
        dark.any(|dark| dark.contains(&now))
    }

    fn look(&mut self) -> Result<(), String> {
        let dropped: u64 = self.reports().map(lost).iter().sum();
        for end in [0, 1] {
            let Some(flow) = self.flow(end) else {
                // Nothing can be missed before there is a connection.
                self.watch[end].dropped_at = self.network.now();
                continue;
            };
            if let Some(wrong) = flow.wrong() {
                return Err(format!("end {end}: {wrong}"));
            }
            let (given, summary) = (flow.given(), flow.summary());
            let came = self.flow(1 - end).map_or(0, |flow| flow.received().total());
            let now = self.network.now();
            let dark = self.is_dark(now);
            let watch = &mut self.watch[end];
            let idle = given <= came;
            let unknown = came <= FIRST_FLIGHT;
            let patience = self.patience + if unknown { RTO_FIRST } else { Duration::ZERO };
            let stalled = watch.stalled(now, came, dropped, dark || idle, patience);
            if stalled {
                return Err(format!(
                    "end {end} at {now:?}: nothing new comes although nothing was lost lately, \
                     {:?}: {summary}",
                    self.watch[end]
                ));
            }
        }
        Ok(())
    }
}

/// Packets that did not arrive as they were.
fn lost(report: &LinkReport) -> u64 {
    report.dropped() + report.damaged
}

/// Three retransmission timeouts of this path when its queues are full.
fn patience(case: &Case) -> Duration {
    let links = [&case.there, &case.back];
    let full = links.map(|link| {
        let changes = link.changes.iter();
        let rates = changes.filter_map(|(_, change)| match change {
            Change::Rate(rate) => Some(*rate),
            _ => None,
        });
        let rate = rates.chain([link.rate]).min().unwrap_or(link.rate);
        let queue = Duration::from_secs_f64(link.queue as f64 / rate as f64);
        (link.delay + link.jitter) * 2 + queue
    });
    let hosts = case
        .hosts
        .iter()
        .map(|host| host.gather + host.lateness)
        .sum::<Duration>();
    (full[0] + full[1] + hosts + RTO_MIN) * 3
}

/// The least retransmission timeout.
const RTO_MIN: Duration = Duration::from_millis(250);

/// The timeout of a sender that has not measured a round trip yet (RFC 6298, section 2.1), which it
/// may not have before all it began with has come, in bytes: an acknowledgement was lost.
const RTO_FIRST: Duration = Duration::from_secs(1);
const FIRST_FLIGHT: u64 = 10 * 1_452;

/// No connection is given up earlier.
const GIVE_UP: Duration = Duration::from_secs(20);

/// Notices when nothing moves in one direction.
#[derive(Debug, Default)]
struct Watch {
    came: u64,
    dropped: u64,
    /// When something came last, and when something was lost last.
    came_at: Instant,
    /// For how long nothing had come then: if the acknowledgement is lost, the sender does not
    /// know that it is over.
    pause: Duration,
    dropped_at: Instant,
}

impl Watch {
    /// Whether nothing comes for longer than timeouts explain. Each doubles the one before it, so
    /// that after an outage the next comes before twice its length has passed.
    fn stalled(
        &mut self,
        now: Instant,
        came: u64,
        dropped: u64,
        excused: bool,
        patience: Duration,
    ) -> bool {
        if came != self.came {
            self.pause = now.since(self.came_at);
            (self.came, self.came_at, self.dropped_at) = (came, now, now);
        }
        if excused || dropped != self.dropped {
            (self.dropped, self.dropped_at) = (dropped, now);
        }
        let outage = self.dropped_at.since(self.came_at);
        now.since(self.dropped_at) > patience + (self.pause + outage) * 2
    }
}
