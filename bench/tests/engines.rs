//! Every engine does every job, with every other engine's reference partner, and both sides
//! count the same.

use flock_bench::engine::{Drive, Engine};
use flock_bench::engines::{self, flock, utp_native};
use flock_bench::job::{Close, Job, Targets};
use flock_bench::limit;
use flock_bench::measure::{Client, Server};
use flock_transport::Transport;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

const UNITS: u64 = 50;
const PEERS: usize = 8;

fn check(server: Engine, client: Engine, job: Job) {
    let peers = if client.name.ends_with("-one") {
        1
    } else {
        PEERS
    };
    let what = format!("{} <- {} {job:?}", server.name, client.name);
    let bind = SocketAddr::from(([0, 0, 0, 0], 0));
    let server = Server::start(server, job, bind, None).expect(&what);
    let targets = Targets::here(client.transport, server.addr.port());
    let drive = Drive::new(job, targets, peers, Some(UNITS));
    let client = Client::start(client, drive, None).expect(&what);
    let driven = Arc::clone(&client.cx);
    client.finish().expect(&what);
    assert_eq!(driven.done.load(Relaxed), UNITS, "{what}: units");
    assert_eq!(driven.errors.load(Relaxed), 0, "{what}: errors");

    let (frames, bytes) = match job {
        Job::Life(_) => (UNITS, 0),
        job => (peers as u64, UNITS * job.request() as u64),
    };
    let served = &server.cx.served;
    let deadline = Instant::now() + Duration::from_secs(5);
    while (served.ended.load(Relaxed), served.bytes.load(Relaxed)) != (frames, bytes) {
        assert!(Instant::now() < deadline, "{what}: {served:?}");
        std::thread::yield_now();
    }
    assert_eq!(served.frames.load(Relaxed), frames, "{what}: frames");
    assert_eq!(served.errors.load(Relaxed), 0, "{what}: server errors");
    server.stop().expect(&what);
}

fn all(job: Job) {
    for engine in engines::of(Transport::Tcp) {
        check(engine, engine, job);
        check(engine, limit::epoll::ENGINE, job);
        check(limit::uring::ENGINE, engine, job);
    }
}

#[test]
fn lives_that_end_with_fin() {
    all(Job::Life(Close::Fin));
}

#[test]
fn lives_that_end_with_reset() {
    all(Job::Life(Close::Rst));
}

#[test]
fn echoes_small_and_larger_than_any_buffer() {
    all(Job::Echo(64));
    all(Job::Echo(300_000));
}

#[test]
fn one_blob_to_many() {
    all(Job::Blob(1 << 20));
}

#[test]
fn bulk() {
    all(Job::Bulk);
}

/// Raw datagrams are no uTP: such an engine talks to itself alone.
fn is_raw(engine: Engine) -> bool {
    engine.name.starts_with("udp-")
}

fn all_utp(job: Job) {
    let there = |engine: &Engine| {
        let missing = utp_native::missing().filter(|_| engine.name == utp_native::ENGINE.name);
        if let Some(why) = &missing {
            eprintln!("skipped: {}: {why}", engine.name);
        }
        missing.is_none() && (engine.plays)(job)
    };
    for engine in engines::of(Transport::Utp).filter(there) {
        check(engine, engine, job);
        if !is_raw(engine) {
            check(engine, flock::UTP_URING, job);
            check(flock::UTP_POLL, engine, job);
        }
    }
}

#[test]
fn bulk_over_utp() {
    all_utp(Job::Bulk);
}

#[test]
fn lives_over_utp() {
    all_utp(Job::Life(Close::Fin));
}

#[test]
fn lives_over_utp_that_end_with_reset() {
    all_utp(Job::Life(Close::Rst));
}
