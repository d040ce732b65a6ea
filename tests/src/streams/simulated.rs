//! Engines and tasks on one thread, in virtual time.

use super::{Side, Stage, Task};
use flock_engine::io::DriverConfig;
use flock_engine::io::sim::{Faults, SimDriver, SimWorld};
use flock_engine::{Flock, JoinOptions, ListenOptions, Shard, Step, Streams, Transport, utp};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// What the receiving end of a stream holds that its engine does not take; a sending socket as much.
const WINDOW: u32 = 64 << 10;

/// What a task takes each time it is polled.
const STEP: Duration = Duration::from_micros(10);

/// For how long a task may wait.
const HOUR: Duration = Duration::from_secs(3_600);

/// Turns after which somebody must be spinning.
const TURNS_MAX: u32 = 3_000_000;

/// Two engines of one shard each, decided by a seed.
pub struct Simulated {
    world: SimWorld,
    seed: u64,
    transport: Transport,
    shards: BTreeMap<usize, Shard<SimDriver, Streams>>,
}

impl std::fmt::Debug for Simulated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulated")
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}

/// A task's waker: it has something to do.
struct Ready(AtomicBool);

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Simulated {
    /// A world without mishaps but those of timing.
    #[must_use]
    pub fn new(seed: u64, transport: Transport) -> Self {
        Self {
            world: SimWorld::new(seed, Faults::default()),
            seed,
            transport,
            shards: BTreeMap::new(),
        }
    }

    fn engine(&mut self, ip: IpAddr, listen: bool) -> Flock {
        let node = self.world.node(&[ip]);
        let driver = self.world.driver(node, DriverConfig::default());
        let id = driver.id();
        let utp = utp::Config {
            receive_window: WINDOW,
            ..utp::Config::default()
        };
        let (flock, shards) = Flock::builder()
            .utp_config(utp)
            .seed(self.seed + id as u64)
            .tcp(self.transport == Transport::Tcp)
            .utp(self.transport == Transport::Utp)
            .assemble_streams(vec![driver])
            .expect("it can be had here");
        for mut shard in shards {
            if listen {
                let at = SocketAddr::new(ip, 7000);
                shard
                    .listen(at, &ListenOptions::default())
                    .expect("it can be had here");
            }
            self.shards.insert(id, shard);
        }
        flock
    }

    /// Gives a turn to whoever has something to do within `time`; whether there is somebody.
    fn turn(&mut self, time: Duration) -> bool {
        let limit = self.world.now() + time;
        let Some(driver) = self.world.next(limit) else {
            return false;
        };
        if let Some(shard) = self.shards.get_mut(&driver)
            && shard.step() == Step::Done
        {
            self.shards.remove(&driver);
        }
        true
    }

    fn finish<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let cx = &mut Context::from_waker(Waker::noop());
        for _ in 0..TURNS_MAX {
            if let Poll::Ready(value) = future.as_mut().poll(cx) {
                return value;
            }
            assert!(self.turn(HOUR), "{self:?}: it never happens");
        }
        panic!("{self:?}: it never happens");
    }
}

impl Stage for Simulated {
    fn meet(&mut self) -> [Side; 2] {
        let ips = [1, 2].map(|n| IpAddr::V4(Ipv4Addr::new(10, 0, 0, n)));
        let (a, b) = (self.engine(ips[0], true), self.engine(ips[1], false));
        b.join("c", JoinOptions { announce: false })
            .expect("it can be had here");
        b.add_peer("c", SocketAddr::new(ips[0], 7000))
            .expect("it can be had here");
        [a, b].map(|flock| Side {
            connection: self.finish(flock.accept()).expect("the engine lives"),
            flock,
        })
    }

    /// Tasks are polled only after they were woken: one that is not woken in time is stuck.
    fn run(&mut self, tasks: Vec<Task>) {
        let ready = |task| (task, Arc::new(Ready(AtomicBool::new(true))));
        let mut tasks: Vec<_> = tasks.into_iter().map(ready).collect();
        for _ in 0..TURNS_MAX {
            tasks.retain_mut(|(task, ready)| {
                if !ready.0.swap(false, Ordering::Relaxed) {
                    return true;
                }
                let waker = Waker::from(ready.clone());
                task.as_mut()
                    .poll(&mut Context::from_waker(&waker))
                    .is_pending()
            });
            if tasks.is_empty() {
                return;
            }
            let awake = tasks
                .iter()
                .any(|(_, ready)| ready.0.load(Ordering::Relaxed));
            // As long as a task has something to do, no time passes but what that takes.
            let time = if awake { STEP } else { HOUR };
            assert!(self.turn(time) || awake, "{self:?}: nobody wakes a task");
        }
        panic!("{self:?}: a task waits in vain");
    }

    fn much(&self) -> usize {
        2 << 20
    }

    fn network_holds(&self) -> usize {
        2 * WINDOW as usize
    }

    fn turn_brings(&self) -> usize {
        64 << 10
    }
}
