//! From options to a running engine.

use super::builder::{Assembled, Builder, FlockError};
use super::flock::{DROP_SHUTDOWN, Flock, Inner, enter_shard};
use super::joined::Joined;
use crate::api::Handler;
use crate::bandwidth::SharedRates;
use crate::event::{Event, ShardFailure};
use crate::hub::Hub;

use crate::io::{Backend, Clock, Driver, PollDriver, Selected, UringDriver, Waker, select};
use crate::shard::mailbox::{Mailbox, Sender};
use crate::shard::{Board, Command, Mail, ShardSetup, Step, Wiring};
use crate::swarm::{Homes, SharedCounts};
use rand::RngCore;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// A shard's thread, while it is being set up: it makes its driver and says how to wake it, then
/// waits for the rest.
struct Starting<M> {
    thread: JoinHandle<()>,
    waker: Receiver<io::Result<Waker>>,
    setup: SyncSender<ShardSetup<M>>,
}

pub(super) fn start<H: Handler>(
    options: &Builder,
    handler: impl Fn(usize) -> H + Send + Sync + 'static,
    wired: impl FnOnce(&[Sender<Mail<H::Msg>>]),
) -> Result<Flock<H::Msg>, FlockError> {
    options.check()?;
    let selected = select(options.backend).map_err(FlockError::Backend)?;
    let shards = match options.shards {
        Some(shards) => shards,
        None => std::thread::available_parallelism()?.get(),
    };
    let handler = Arc::new(handler);
    let clock = Clock::start();
    let mut starting = Vec::with_capacity(shards);
    for shard in 0..shards {
        let cpu = options.cpus.get(shard % options.cpus.len().max(1)).copied();
        let make = handler.clone();
        let config = options.driver;
        starting.push(match selected.backend {
            Backend::Poll => spawn(shard, cpu, make, move || PollDriver::new(&config, clock))?,
            _ => spawn(shard, cpu, make, move || UringDriver::new(&config, clock))?,
        });
    }
    let mut wakers = Vec::with_capacity(shards);
    for thread in &starting {
        let made = thread.waker.recv();
        wakers.push(made.map_err(|_| io::Error::other("a shard's thread died"))??);
    }
    let (inner, setups) = wire(options, wakers, Some(selected));
    wired(&inner.senders);
    for (thread, setup) in starting.into_iter().zip(setups) {
        // A thread that is gone shows when the engine is shut down.
        let _ = thread.setup.send(setup);
        lock(&inner.threads).push(thread.thread);
    }
    Ok(Flock::new(inner))
}

pub(super) fn assemble<D: Driver, H: Handler>(
    options: Builder,
    drivers: Vec<D>,
    handler: impl Fn(usize) -> H,
) -> Result<Assembled<D, H>, FlockError> {
    let options = options.shards(drivers.len());
    options.check()?;
    let wakers = drivers.iter().map(Driver::waker).collect();
    let (inner, setups) = wire(&options, wakers, None);
    let shards = drivers
        .into_iter()
        .zip(setups)
        .enumerate()
        .map(|(shard, (driver, setup))| setup.build(driver, handler(shard)))
        .collect();
    Ok((Flock::new(inner), shards))
}

/// Makes what the shards share, and each one's part of it.
fn wire<M: Send + 'static>(
    options: &Builder,
    wakers: Vec<Waker>,
    selected: Option<Selected>,
) -> (Inner<M>, Vec<ShardSetup<M>>) {
    let mut rng = options.rng();
    let id = options.choose_id(&mut rng);
    let hash_seed = rng.next_u64();
    let count = u16::try_from(wakers.len()).expect("checked with the options");
    let hub = Arc::new(Hub::new(options.events_limit, wakers.clone()));
    let mailboxes: Vec<_> = wakers
        .into_iter()
        .map(|waker| Mailbox::new(options.mailbox, waker))
        .collect();
    let senders: Vec<_> = mailboxes.iter().map(|(sender, _)| sender.clone()).collect();
    let wiring = Wiring {
        senders: senders.clone(),
        hub: hub.clone(),
        board: Arc::new(Board::new(usize::from(count))),
        counts: Arc::new(SharedCounts::new(count, options.quotas(), hash_seed)),
        rates: Arc::new(SharedRates::new(options.bandwidth)),
        readers: Arc::default(),
        id: id.clone(),
        hash_seed,
    };
    let inner = Inner {
        senders,
        hub,
        board: wiring.board.clone(),
        rates: wiring.rates.clone(),
        joined: Joined::new(hash_seed),
        channel_rates: Mutex::default(),
        channel_quotas: Mutex::default(),
        homes: Homes::new(hash_seed, count),
        id,
        selected,
        tcp: options.tcp,
        utp: options.utp,
        listen: flock_tcp::ListenOptions {
            stream: options.stream,
            ..options.listen
        },
        threads: Mutex::default(),
        bound: Mutex::default(),
        listens: Mutex::default(),
        exchange: None,
        over: false.into(),
    };
    let setups = (0..count)
        .zip(mailboxes)
        .map(|(shard, (_, mailbox))| ShardSetup {
            shard,
            mailbox,
            wiring: wiring.clone(),
            options: options.clone(),
            seed: rng.next_u64(),
        })
        .collect();
    (inner, setups)
}

fn spawn<D: Driver, H: Handler>(
    shard: usize,
    cpu: Option<usize>,
    handler: Arc<impl Fn(usize) -> H + Send + Sync + 'static>,
    driver: impl FnOnce() -> io::Result<D> + Send + 'static,
) -> io::Result<Starting<H::Msg>> {
    let (tell, waker) = sync_channel(1);
    let (setup, receive) = sync_channel::<ShardSetup<H::Msg>>(1);
    let name = format!("flock-{shard}");
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        let made = cpu.map_or(Ok(()), pin).and_then(|()| driver());
        let driver = match made {
            Ok(driver) => driver,
            Err(error) => {
                // Whoever started the engine may have given up on another shard already.
                let _ = tell.send(Err(error));
                return;
            }
        };
        if tell.send(Ok(driver.waker())).is_err() {
            return;
        }
        let Ok(setup) = receive.recv() else { return };
        enter_shard();
        // Dropped after the shard, whose own drop tells its connections.
        let _watch = Watch {
            shard,
            hub: setup.wiring.hub.clone(),
            senders: setup.wiring.senders.clone(),
        };
        let mut running = setup.build(driver, handler(shard));
        while running.step() == Step::Running {}
    })?;
    Ok(Starting {
        thread,
        waker,
        setup,
    })
}

/// Notices that a shard's thread panics. The engine ends with it, and says so: its peers,
/// candidates and claims are nobody's any more.
struct Watch<M> {
    shard: usize,
    hub: Arc<Hub>,
    senders: Vec<Sender<Mail<M>>>,
}

impl<M> Drop for Watch<M> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        self.hub.push(Event::ShardFailed {
            shard: self.shard,
            reason: ShardFailure::Panicked,
        });
        self.hub.shard_ended();
        for sender in &self.senders {
            let within = DROP_SHUTDOWN;
            sender.send_protocol(Mail::Command(Command::Shutdown { within }));
        }
    }
}

/// Pins this thread to `cpu`, which must be one it may run on anyway.
fn pin(cpu: usize) -> io::Result<()> {
    let allowed = sched_getaffinity(None)?;
    if cpu >= CpuSet::MAX_CPU || !allowed.is_set(cpu) {
        let text = format!("cpu {cpu} is not among those this process may use");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let mut only = CpuSet::new();
    only.set(cpu);
    Ok(sched_setaffinity(None, &only)?)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
