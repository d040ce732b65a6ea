//! Who plays in a world, and the loop that gives each its turn.

use flock_engine::io::sim::SimWorld;
use flock_transport::Instant;
use std::collections::BTreeMap;
use std::time::Duration;

/// Longer than any turn costs on the world's clock: a larger step of the clock means that nobody
/// had anything to do.
const TURN_COSTS: Duration = Duration::from_micros(10);

/// Something with a driver in the world.
pub trait Actor {
    /// The number of its driver.
    fn driver(&self) -> usize;

    /// Takes one turn; `false` when it is over and wants no more.
    fn step(&mut self) -> bool;

    /// Gives up the actor for its own type, for reading what it learnt.
    fn as_any(&self) -> &dyn std::any::Any;
}

/// How [`Cast::run`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Nothing will ever happen again.
    Quiet,
    /// The time was up.
    Limit,
    /// More turns than allowed: somebody spins.
    Spinning,
}

/// The actors of a world by their drivers.
pub struct Cast {
    world: SimWorld,
    actors: BTreeMap<usize, Box<dyn Actor>>,
}

impl std::fmt::Debug for Cast {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.actors.keys()).finish()
    }
}

impl Cast {
    /// An empty stage.
    #[must_use]
    pub fn new(world: SimWorld) -> Self {
        Self {
            world,
            actors: BTreeMap::new(),
        }
    }

    /// Adds an actor; it takes turns from now on.
    pub fn add(&mut self, actor: impl Actor + 'static) {
        self.actors.insert(actor.driver(), Box::new(actor));
    }

    /// Takes an actor off, with everything it holds.
    pub fn remove(&mut self, driver: usize) {
        self.actors.remove(&driver);
    }

    /// The actors that are of this type.
    pub fn of<A: 'static>(&self) -> impl Iterator<Item = &A> {
        let actors = self.actors.values();
        actors.filter_map(|actor| actor.as_any().downcast_ref())
    }

    /// Gives turns until `limit`. `settled` is called whenever nobody had anything left to do
    /// and the clock moved on.
    pub fn run(&mut self, limit: Instant, mut settled: impl FnMut()) -> Ended {
        let mut before = self.world.now();
        let mut turns_since_move = 0_u32;
        while let Some(driver) = self.world.next(limit) {
            let now = self.world.now();
            if now - before > TURN_COSTS {
                settled();
                turns_since_move = 0;
            }
            before = now;
            turns_since_move += 1;
            if turns_since_move > 1_000_000 {
                return Ended::Spinning;
            }
            let Some(actor) = self.actors.get_mut(&driver) else {
                continue;
            };
            if !actor.step() {
                self.actors.remove(&driver);
            }
        }
        settled();
        if self.world.now() >= limit {
            Ended::Limit
        } else {
            Ended::Quiet
        }
    }
}
