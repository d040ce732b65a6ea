use bytes::Bytes;
use flock_engine::io::Backend;
use flock_engine::utp::steer;
use flock_engine::{Connection, Flock, JoinOptions};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);
const SHARDS: u16 = 2;
/// Windows without and with the flood, in turn.
const PAIRS: usize = 9;
/// Spells of other work on the machine last seconds. A flood that reaches both shards leaves a quarter
/// in every attempt.
const ATTEMPTS: usize = 4;
const WINDOW: Duration = Duration::from_millis(300);
/// SYNs of a window, at the most.
const SYNS: u32 = 40_000;

/// Processor time of the thread of this name, nanoseconds (proc_pid_schedstat: the first figure).
fn thread_time(name: &str) -> u64 {
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let task = task.unwrap().path();
        let comm = fs::read_to_string(task.join("comm")).unwrap_or_default();
        if comm.trim() == name {
            let text = fs::read_to_string(task.join("schedstat")).unwrap();
            return text.split(' ').next().unwrap().parse().unwrap();
        }
    }
    panic!("no thread {name}");
}

fn engine(backend: Backend, shards: usize) -> Flock {
    let options = Flock::builder().backend(backend).tcp(false).shards(shards);
    options.start().unwrap()
}

/// Connections until one is on the second shard; peers with others are let go.
fn meet_second_shard(target: &Flock, backend: Backend) -> (Flock, Connection, Connection) {
    let port = target.listen(0).unwrap().port();
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    for _ in 0..64 {
        let peer = engine(backend, 1);
        peer.join("c", JoinOptions { announce: false }).unwrap();
        peer.add_peer("c", to).unwrap();
        let here = target.accept_timeout(PATIENCE).expect("a peer");
        let there = peer.accept_timeout(PATIENCE).expect("its end");
        if here.id().shard() == 1 {
            return (peer, there, here);
        }
        peer.shutdown(Duration::ZERO);
    }
    panic!("64 random ids were all of one shard");
}

/// SYNs that are all the first shard's.
fn flood(to: SocketAddr, stop: &AtomicBool) {
    let socket = UdpSocket::bind((Ipv4Addr::new(127, 66, 1, 1), 0)).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut answer = [0; 64];
    let mut sent = 0;
    for number in (0..=u16::MAX).cycle() {
        if sent == SYNS || stop.load(Ordering::Relaxed) {
            return;
        }
        let [high, low] = number.to_be_bytes();
        let mut syn = [0_u8; 20];
        syn[..4].copy_from_slice(&[0x41, 0, high, low]);
        syn[16..18].copy_from_slice(&[1, 1]);
        if steer(&syn, SHARDS) == 0 {
            let _no_room = socket.send_to(&syn, to);
            while socket.recv_from(&mut answer).is_ok() {}
            sent += 1;
        }
    }
}

/// Bytes that arrive within a window, for each millisecond of the second shard's processor time.
fn rate(connection: &Connection) -> u64 {
    let (before, until) = (thread_time("flock-1"), Instant::now() + WINDOW);
    let mut bytes = 0;
    while Instant::now() < until {
        let piece = connection.recv_timeout(PATIENCE).unwrap();
        bytes += piece.expect("it goes on").len() as u64;
    }
    let spent = thread_time("flock-1") - before;
    bytes * 1_000_000 / spent.max(1)
}

/// What the other shard keeps of its throughput beside the flood, percent: the median of some windows.
fn attempt(connection: &Connection, to: SocketAddr) -> u64 {
    let mut kept = Vec::with_capacity(PAIRS);
    for _ in 0..PAIRS {
        let alone = rate(connection);
        let stop = AtomicBool::new(false);
        let beside = thread::scope(|scope| {
            scope.spawn(|| flood(to, &stop));
            let beside = rate(connection);
            stop.store(true, Ordering::Relaxed);
            beside
        });
        kept.push(beside * 100 / alone.max(1));
    }
    kept.sort_unstable();
    println!("percent of its throughput that the other shard kept: {kept:?}");
    kept[PAIRS / 2]
}

fn others_are_left_alone(backend: Backend) {
    let target = engine(backend, usize::from(SHARDS));
    let (peer, there, here) = meet_second_shard(&target, backend);
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, target.listening()[0].port()));
    let over = AtomicBool::new(false);
    let kept = thread::scope(|scope| {
        scope.spawn(|| {
            let piece = Bytes::from(vec![0; 64 << 10]);
            while !over.load(Ordering::Relaxed) {
                if there.send_timeout(piece.clone(), PATIENCE).is_err() {
                    return;
                }
            }
        });
        rate(&here);
        let mut attempts = (0..ATTEMPTS).map(|_| attempt(&here, to));
        let kept = attempts.find(|kept| *kept >= 80);
        over.store(true, Ordering::Relaxed);
        peer.shutdown(Duration::ZERO);
        kept
    });
    let counted = target.counters().counters;
    assert!(counted.utp.cookies > 0, "no flood: {:?}", counted.utp);
    assert!(kept.is_some(), "less than 80 % in every attempt");
    target.shutdown(Duration::ZERO);
}

#[test]
fn a_flood_of_one_shard_leaves_the_other_its_throughput() {
    for backend in [Backend::Uring, Backend::Poll] {
        others_are_left_alone(backend);
    }
}
