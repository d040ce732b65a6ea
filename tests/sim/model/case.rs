//! Carries a plan out, and holds the engine against the model.

use super::engine::{Watch, assemble};
use super::plan::{Op, Plan, Says, Step};
use super::reference::Model;
use super::rules::{arrivals, told};
use super::town::Town;
use flock_engine::io::sim::{Faults, SimWorld};
use flock_engine::{ConnId, Flock, FlockError, Instant, JoinOptions, SwarmCounters};
use flock_tests::world::{Cast, Ended};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// Longer than a dial and a handshake take, and a goodbye.
const SETTLE: Duration = Duration::from_millis(80);

/// Looks for a time at which everything is decided, before going on without.
const PATIENCE: u32 = 40;

/// What a case came to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reached {
    pub(crate) sums: SwarmCounters,
    pub(crate) settled: u64,
    /// Settled with a doubt left about `queued`.
    pub(crate) doubtful: u64,
    /// Times something was always going on.
    pub(crate) unsettled: u64,
}

struct Case {
    world: SimWorld,
    cast: Cast,
    town: Town,
    flock: Flock<()>,
    watch: Watch,
    reached: Reached,
}

fn network() -> Faults {
    Faults {
        latency: Duration::from_micros(50)..=Duration::from_millis(2),
        jitter: Duration::from_micros(500),
        ..Faults::default()
    }
}

/// Carries out a plan; the first mistake, if there is one. A panic is one, too.
pub(crate) fn run(plan: &Plan) -> Result<Reached, String> {
    let run = AssertUnwindSafe(|| carry_out(plan));
    catch_unwind(run).unwrap_or_else(|_| Err("a panic".to_owned()))
}

fn carry_out(plan: &Plan) -> Result<Reached, String> {
    let mut case = Case::new(plan);
    for step in &plan.steps {
        match step {
            Step::Alone(op) => case.begin(op),
            Step::Burst(ops) => {
                for (op, pause) in ops {
                    case.begin(op);
                    case.pass(*pause)?;
                }
            }
            Step::Pass(time) => case.pass(*time)?,
        }
        case.settle()?;
    }
    case.shut_down()?;
    Ok(case.reached)
}

impl Case {
    fn new(plan: &Plan) -> Self {
        let mut rng = SmallRng::seed_from_u64(plan.seed);
        let world = SimWorld::new(rng.random(), network());
        let model = Model::new(&plan.options, &plan.hosts);
        let (flock, watch, shards) = assemble(&world, &plan.options, rng.random(), model);
        let town = Town::new(&world, &plan.hosts);
        let mut cast = Cast::new(world.clone());
        for shard in shards {
            cast.add(shard);
        }
        cast.add(town.actor());
        Self {
            world,
            cast,
            town,
            flock,
            watch,
            reached: Reached::default(),
        }
    }

    fn begin(&mut self, op: &Op) {
        let now = self.world.now();
        let mut model = self.watch.model.borrow_mut();
        let note = format!("{} us {op:?}", now.as_nanos() / 1_000);
        model.notes.push(note);
        let flock = &self.flock;
        let asked: Result<(), FlockError> = match op.clone() {
            Op::Join(channel) => {
                model.joined.insert(channel.clone());
                flock
                    .join(channel, JoinOptions { announce: false })
                    .map(drop)
            }
            Op::Leave(channel) => {
                model.leave(&channel);
                flock.leave(channel)
            }
            Op::AddPeer(channel, addr) => {
                model.add_peer(channel.clone(), addr);
                flock.add_peer(channel, addr)
            }
            Op::RemovePeer(channel, addr) => {
                model.ban(now, addr.into(), Some(channel.clone()), None);
                flock.remove_peer(channel, addr)
            }
            Op::Ban(target, expires) => {
                model.ban(now, target.clone(), None, expires);
                flock.ban(target, expires)
            }
            Op::Unban(target) => {
                model.bans.lift(now, &target);
                flock.unban(target)
            }
            Op::DialIn(_) | Op::PeerCloses(..) | Op::Stop(_) | Op::Start(..) => {
                host_acts(&self.town, &mut model, now, op);
                Ok(())
            }
            Op::Suspend(true) => {
                model.suspended.get_or_insert(now);
                flock.suspend()
            }
            Op::Suspend(false) => {
                model.resume(now);
                flock.resume()
            }
            Op::Disconnect(which) => match model.nth_admitted(which) {
                Some(conn) => {
                    model.disconnected.insert(conn);
                    flock.disconnect(conn)
                }
                None => Ok(()),
            },
        };
        asked.expect("room in the mailbox");
    }

    /// Runs for a while, comparing the counters whenever nothing is on its way between shards.
    fn pass(&mut self, time: Duration) -> Result<(), String> {
        let limit = self.world.now() + time;
        let (flock, watch, world) = (&self.flock, &self.watch, &self.world);
        let ended = self.cast.run(limit, || {
            let mut model = watch.model.borrow_mut();
            let counts = model.counts(world.now());
            let stats = flock.stats();
            let same = (stats.connecting, stats.connected)
                == (counts.least.connecting, counts.least.connected);
            model.expect(same, &format!("{stats:?}, but the model has {counts:?}"));
        });
        let mut model = self.watch.model.borrow_mut();
        model.expect(ended != Ended::Spinning, "somebody spins");
        let users = self.watch.users.borrow().wrong.clone();
        match model.wrong.take().or(users) {
            Some(wrong) => Err(format!("{wrong}\n\nlatest:\n{}", model.notes.join("\n"))),
            None => Ok(()),
        }
    }

    /// Runs until all has happened that follows from what was done, and compares everything.
    fn settle(&mut self) -> Result<(), String> {
        self.pass(SETTLE)?;
        for _ in 0..PATIENCE {
            let now = self.world.now();
            let open = self.watch.model.borrow().open_until(now);
            match open {
                Some(until) => self.pass(until - now + SETTLE)?,
                None => {
                    self.compare();
                    return self.pass(Duration::ZERO);
                }
            }
        }
        self.reached.unsettled += 1;
        Ok(())
    }

    fn compare(&mut self) {
        let now = self.world.now();
        let mut model = self.watch.model.borrow_mut();
        model.expect_settled(now);
        let (stats, counts) = (self.flock.stats(), model.counts(now));
        let most = counts.least.queued + counts.doubt;
        let queued = (counts.least.queued..=most).contains(&stats.queued);
        let mut rest = stats;
        rest.queued = counts.least.queued;
        let same = queued && rest == counts.least;
        model.expect(same, &format!("{stats:?}, but the model has {counts:?}"));
        let peers: Vec<_> = self.watch.users.borrow().peers.iter().cloned().collect();
        let same = peers.iter().eq(model.admitted.keys());
        model.expect(same, &format!("the handlers have {peers:?}"));
        let sums = self.flock.counters().counters.swarm;
        let unheard = model.unheard;
        let (counted, expected) = (told(sums, unheard), told(model.sums, unheard));
        for (counted, expected) in counted.iter().zip(expected.iter()) {
            let text = format!("the engine counted {counted:?}, the model {expected:?}");
            model.expect(counted == expected, &text);
        }
        // Who dials meanwhile waits where the engine does not see it.
        let all_seen = model.suspended.is_none();
        for host in 0..model.hosts.len() {
            let (theirs, ours) = (self.town.open(host), model.open(host));
            let text = format!("host {host} has {theirs} connections, the engine {ours} with it");
            model.expect(theirs == ours || !all_seen, &text);
        }
        let [dialled, connected, given_up] = self.town.dials();
        let seen = arrivals(&model.sums);
        model.expect(
            seen <= dialled && (connected <= seen + given_up || !all_seen),
            &format!("{dialled} dials, {connected} of them connected, {seen} arrived"),
        );
        self.reached.sums = sums;
        self.reached.settled += 1;
        self.reached.doubtful += u64::from(counts.doubt > 0);
    }

    /// Everybody is let go, and nothing is left.
    fn shut_down(&mut self) -> Result<(), String> {
        self.watch.model.borrow_mut().ending = true;
        self.flock.begin_shutdown(Duration::from_secs(5));
        self.pass(Duration::from_secs(6))?;
        let mut model = self.watch.model.borrow_mut();
        let left = self.flock.stats();
        let open = model.conns.len();
        model.expect(
            (left.connecting, left.connected, open) == (0, 0, 0),
            &format!("after the shutdown: {left:?}, {open} connections"),
        );
        let users = self.watch.users.borrow().peers.len();
        model.expect(users == 0, "the handlers still have peers");
        drop(model);
        self.pass(Duration::ZERO)
    }
}

/// What hosts do by themselves.
fn host_acts(town: &Town, model: &mut Model, now: Instant, op: &Op) {
    match op.clone() {
        Op::DialIn(host) => {
            town.dial(host);
        }
        Op::PeerCloses(host, which, how) => {
            model.host_acts(now, host);
            town.close(host, which, how);
        }
        Op::Stop(host) => {
            model.host_acts(now, host);
            model.hosts[host].up = false;
            town.stop(host);
        }
        Op::Start(host, says) if town.start(host, &says) => model.host_starts(now, host, says),
        _ => {}
    }
}

/// Leaves out what a mistake does not need.
pub(crate) fn shrink(plan: &Plan) -> Plan {
    let mut least = plan.clone();
    let mut size = least.steps.len();
    while size > 0 {
        let mut from = 0;
        while from < least.steps.len() {
            let mut less = least.clone();
            let to = (from + size).min(less.steps.len());
            less.steps.drain(from..to);
            if run(&less).is_err() {
                least = less;
            } else {
                from += size;
            }
        }
        size /= 2;
    }
    least
}

impl Model {
    fn host_starts(&mut self, now: Instant, host: usize, says: Says) {
        self.host_acts(now, host);
        self.hosts[host].up = true;
        self.hosts[host].changed = now;
        self.hosts[host].says = says;
    }

    fn nth_admitted(&self, which: usize) -> Option<ConnId> {
        let all: Vec<_> = self.admitted.values().collect();
        all.get(which % all.len().max(1)).map(|conn| **conn)
    }
}
