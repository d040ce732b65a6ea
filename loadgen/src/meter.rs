//! What both sides cost: CPU per thread over the window, memory over the number of connections.

use crate::system::{self, ThreadTime};
use std::time::{Duration, Instant};

/// The threads that are the target's.
#[derive(Clone, Debug)]
pub(crate) enum TargetThreads {
    /// These threads of this process.
    Own(Vec<u32>),
    /// All threads of another process.
    Process(u32),
    /// The target cannot be seen.
    Unseen,
}

/// A reading of the threads' clocks: those of the generator, and the target's by thread (none
/// when it cannot be seen).
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    at: Instant,
    generator: Vec<ThreadTime>,
    target: Vec<(u32, ThreadTime)>,
}

/// What threads did between two readings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spent {
    wall: Duration,
    generator: Vec<ThreadTime>,
    target: Vec<ThreadTime>,
}

/// Shares of a wall time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Share {
    /// On a processor, 1 being all the time.
    pub(crate) busy: f64,
    /// Ready, but somebody else had the processor.
    pub(crate) waiting: f64,
}

impl Reading {
    /// Reads the clocks of the generator's threads and of the target's. Kernel workers that an
    /// io_uring keeps for a thread count as that thread.
    pub(crate) fn take(generator: &[u32], target: &TargetThreads) -> Self {
        let me = std::process::id();
        let workers = io_workers(me);
        let with_workers = |thread: u32| {
            let mut time = system::thread_time(me, thread).unwrap_or_default();
            for (_, cpu) in workers.iter().filter(|(owner, _)| *owner == thread) {
                time.cpu += *cpu;
            }
            time
        };
        let target = match target {
            TargetThreads::Own(threads) => threads
                .iter()
                .map(|&thread| (thread, with_workers(thread)))
                .collect(),
            TargetThreads::Process(process) => system::threads(*process)
                .into_iter()
                .filter_map(|thread| Some((thread, system::thread_time(*process, thread)?)))
                .collect(),
            TargetThreads::Unseen => Vec::new(),
        };
        Self {
            at: Instant::now(),
            generator: generator
                .iter()
                .map(|&thread| with_workers(thread))
                .collect(),
            target,
        }
    }

    /// What was used since `earlier`. A thread that is new since then counts in full.
    pub(crate) fn since(&self, earlier: &Self) -> Spent {
        let generator = self
            .generator
            .iter()
            .enumerate()
            .map(|(at, time)| minus(*time, earlier.generator.get(at).copied()));
        let target = self.target.iter().map(|(thread, time)| {
            let before = earlier.target.iter().find(|(other, _)| other == thread);
            minus(*time, before.map(|(_, time)| *time))
        });
        Spent {
            wall: self.at.duration_since(earlier.at),
            generator: generator.collect(),
            target: target.collect(),
        }
    }
}

fn minus(time: ThreadTime, earlier: Option<ThreadTime>) -> ThreadTime {
    let earlier = earlier.unwrap_or_default();
    ThreadTime {
        cpu: time.cpu.saturating_sub(earlier.cpu),
        waiting: time.waiting.saturating_sub(earlier.waiting),
    }
}

/// io_uring's kernel workers of a process: the thread each works for, and its CPU time.
fn io_workers(process: u32) -> Vec<(u32, Duration)> {
    let worker = |thread: u32| {
        let name = system::thread_name(process, thread);
        let owner = name.strip_prefix("iou-wrk-")?.parse().ok()?;
        Some((owner, system::thread_time(process, thread)?.cpu))
    };
    system::threads(process)
        .into_iter()
        .filter_map(worker)
        .collect()
}

impl Spent {
    /// CPU time of all generator threads.
    pub(crate) fn generator(&self) -> Duration {
        self.generator.iter().map(|time| time.cpu).sum()
    }

    /// CPU time of all the target's threads; `None` when it cannot be seen.
    pub(crate) fn target(&self) -> Option<Duration> {
        (!self.target.is_empty()).then(|| self.target.iter().map(|time| time.cpu).sum())
    }

    /// The generator thread with the least time left.
    pub(crate) fn generator_busiest(&self) -> Share {
        self.busiest(&self.generator).unwrap_or_default()
    }

    /// The target's thread with the least time left.
    pub(crate) fn target_busiest(&self) -> Option<Share> {
        self.busiest(&self.target)
    }

    fn busiest(&self, threads: &[ThreadTime]) -> Option<Share> {
        let time = threads.iter().max_by_key(|time| time.cpu + time.waiting)?;
        let share = |part: Duration| part.as_secs_f64() / self.wall.as_secs_f64().max(1e-9);
        Some(Share {
            busy: share(time.cpu),
            waiting: share(time.waiting),
        })
    }
}

/// Memory at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Weight {
    /// Connections up.
    pub(crate) open: u64,
    /// Resident bytes of the generator's process.
    pub(crate) generator: u64,
    /// Resident bytes of the target's process, if it is another one and can be seen.
    pub(crate) target: Option<u64>,
    /// The kernel's small objects on the whole machine.
    pub(crate) kernel: u64,
}

impl Weight {
    pub(crate) fn take(open: u64, target: Option<u32>) -> Self {
        Self {
            open,
            generator: system::resident(std::process::id()).unwrap_or(0),
            target: target.and_then(system::resident),
            kernel: system::kernel_objects().unwrap_or(0),
        }
    }
}

/// Bytes per connection: the slope of the least-squares line through (connections, bytes).
/// `None` with fewer than two different numbers of connections.
pub(crate) fn slope(points: impl Iterator<Item = (u64, u64)> + Clone) -> Option<f64> {
    let count = points.clone().count() as f64;
    let mean = |pick: fn((u64, u64)) -> u64| {
        points.clone().map(|point| pick(point) as f64).sum::<f64>() / count
    };
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = points
        .clone()
        .map(|point| (point.0 as f64 - x).powi(2))
        .sum();
    let along: f64 = points
        .map(|point| (point.0 as f64 - x) * (point.1 as f64 - y))
        .sum();
    (spread > 0.0).then(|| along / spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_ignore_what_is_there_without_connections() {
        let line = (0..10).map(|n| (n * 100, 5_000_000 + n * 100 * 512));
        assert!((slope(line).unwrap() - 512.0).abs() < 1e-6);
        assert_eq!(slope([(5, 1), (5, 9)].into_iter()), None);
        assert_eq!(slope(std::iter::empty()), None);
    }

    #[test]
    fn only_what_was_used_in_between_counts() {
        let ms = Duration::from_millis;
        let time = |cpu, waiting| ThreadTime {
            cpu: ms(cpu),
            waiting: ms(waiting),
        };
        let start = Instant::now();
        let before = Reading {
            at: start,
            generator: vec![time(100, 0)],
            target: vec![(1, time(500, 40))],
        };
        let after = Reading {
            at: start + ms(1_000),
            generator: vec![time(1_090, 5)],
            target: vec![(1, time(1_100, 140)), (2, time(10, 0))],
        };
        let spent = after.since(&before);
        assert_eq!(spent.generator(), ms(990));
        assert_eq!(spent.target(), Some(ms(610)));
        assert_eq!(
            spent.target_busiest(),
            Some(Share {
                busy: 0.6,
                waiting: 0.1
            })
        );
        assert_eq!(
            spent.generator_busiest(),
            Share {
                busy: 0.99,
                waiting: 0.005
            }
        );
        let unseen = Reading {
            target: vec![],
            ..after
        }
        .since(&before);
        assert_eq!((unseen.target(), unseen.target_busiest()), (None, None));
    }

    #[test]
    fn a_busy_thread_of_our_own_shows() {
        let thread = system::thread_id();
        let own = TargetThreads::Own(vec![thread]);
        let before = Reading::take(&[thread], &own);
        let deadline = Instant::now() + Duration::from_secs(5);
        let spent = loop {
            let spent = Reading::take(&[thread], &own).since(&before);
            if spent.generator() >= Duration::from_millis(20) || Instant::now() > deadline {
                break spent;
            }
        };
        assert!(spent.generator() >= Duration::from_millis(20));
        assert_eq!(spent.target().map(|cpu| cpu > Duration::ZERO), Some(true));
    }
}
