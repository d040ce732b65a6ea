use super::*;
use crate::io::ConnectOptions;
use bytes::Bytes;
use flock_tcp::StreamOptions;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;

const PATIENCE: Duration = Duration::from_secs(20);

/// A driver, and what it reported so far.
struct Bench {
    driver: UringDriver,
    seen: Vec<Completion>,
    received: Vec<(SocketId, Vec<u8>)>,
}

impl Bench {
    fn new(config: &DriverConfig) -> Self {
        Self {
            driver: UringDriver::new(config, Clock::start()).unwrap(),
            seen: Vec::new(),
            received: Vec::new(),
        }
    }

    fn small() -> Self {
        Self::new(&DriverConfig {
            submissions: 64,
            completions: 256,
            buffers: 16,
            buffer_size: 4096,
            ..DriverConfig::default()
        })
    }

    fn turn(&mut self, wait: Duration) -> usize {
        let mut out = Completions::new();
        let deadline = self.driver.clock.now() + wait;
        self.driver.turn(Some(deadline), &mut out).unwrap();
        for completion in &out {
            if let Outcome::Data(loan) = completion.outcome {
                let bytes = self.driver.bytes(loan).to_vec();
                self.received.push((completion.socket, bytes));
            }
        }
        self.seen.extend_from_slice(&out);
        out.len()
    }

    /// Takes turns until `done`.
    fn until(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        let end = self.driver.clock.now() + PATIENCE;
        while !done(self) {
            assert!(self.driver.clock.now() < end, "in time: {:?}", self.seen);
            self.turn(Duration::from_millis(50));
        }
    }

    fn count(&self, like: impl Fn(&Completion) -> bool) -> usize {
        self.seen.iter().filter(|one| like(one)).count()
    }

    fn outcomes(&self, socket: SocketId) -> Vec<Outcome> {
        self.seen
            .iter()
            .filter(|one| one.socket == socket)
            .map(|one| one.outcome)
            .collect()
    }

    fn listen(&mut self) -> (SocketId, SocketAddr) {
        let addr = "127.0.0.1:0".parse().unwrap();
        let options = ListenOptions::default();
        let (listener, bound) = self.driver.listen(addr, &options, Token(1)).unwrap();
        self.driver.submit(Op::Accept { listener }).unwrap();
        (listener, bound)
    }

    fn accepted(&self) -> Vec<SocketId> {
        self.seen
            .iter()
            .filter_map(|one| match one.outcome {
                Outcome::Accepted { socket, .. } => Some(socket),
                _ => None,
            })
            .collect()
    }

    fn pair(&mut self) -> (SocketId, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_read_timeout(Some(PATIENCE)).unwrap();
        (self.driver.adopt(ours.into(), Token(2)).unwrap(), theirs)
    }

    fn recv(&mut self, socket: SocketId) -> OpKey {
        self.driver.submit(Op::Recv { socket }).unwrap()
    }

    fn send(&mut self, socket: SocketId, parts: &[Bytes]) -> OpKey {
        let chunks = parts.iter().cloned().collect();
        self.driver.submit(Op::Send { socket, chunks }).unwrap()
    }

    fn close(&mut self, socket: SocketId, how: CloseHow) {
        self.driver.submit(Op::Close { socket, how }).unwrap();
    }

    fn connect(&mut self, to: SocketAddr) -> OpKey {
        let options = ConnectOptions {
            stream: StreamOptions::default(),
            source: None,
        };
        let token = Token(3);
        self.driver
            .submit(Op::Connect { to, options, token })
            .unwrap()
    }
}

fn is_closed(one: &Completion) -> bool {
    one.outcome == Outcome::Closed
}

#[test]
fn a_connection_from_accept_to_closed() {
    let mut bench = Bench::small();
    let (_listener, bound) = bench.listen();
    let mut client = TcpStream::connect(bound).unwrap();
    bench.until(|b| !b.accepted().is_empty());
    let socket = bench.accepted()[0];
    bench.driver.assign(socket, Token(9));
    bench.recv(socket);
    client.write_all(b"ping").unwrap();
    bench.until(|b| !b.received.is_empty());
    assert_eq!(bench.received[0], (socket, b"ping".to_vec()));
    bench.send(
        socket,
        &[Bytes::from_static(b"po"), Bytes::from_static(b"ng")],
    );
    bench.until(|b| b.outcomes(socket).contains(&Outcome::Sent { bytes: 4 }));
    let mut answer = [0; 4];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"pong");
    drop(client);
    bench.until(|b| b.outcomes(socket).contains(&Outcome::Eof));
    bench.close(socket, CloseHow::Fin);
    bench.until(|b| b.count(is_closed) == 1);
    assert!(
        bench
            .seen
            .iter()
            .filter(|c| c.socket == socket)
            .all(|c| c.token == Token(9))
    );
}

#[test]
fn tiny_queues_overflow_and_spill_without_loss() {
    let mut bench = Bench::new(&DriverConfig {
        submissions: 4,
        completions: 8,
        buffers: 64,
        buffer_size: 64,
        batch: 5,
        ..DriverConfig::default()
    });
    const PEERS: usize = 100;
    let (_listener, bound) = bench.listen();
    bench.turn(Duration::ZERO);
    let mut clients: Vec<_> = (0..PEERS)
        .map(|_| TcpStream::connect(bound).unwrap())
        .collect();
    bench.until(|b| b.accepted().len() == PEERS);
    for socket in bench.accepted() {
        bench.recv(socket);
    }
    bench.turn(Duration::ZERO);
    for (index, client) in clients.iter_mut().enumerate() {
        client.write_all(&[u8::try_from(index).unwrap()]).unwrap();
    }
    bench.until(|b| b.received.len() == PEERS);
    let mut bytes: Vec<u8> = bench.received.iter().map(|(_, data)| data[0]).collect();
    bytes.sort_unstable();
    assert!(bytes.iter().copied().eq(0..u8::try_from(PEERS).unwrap()));
    for socket in bench.accepted() {
        bench.close(socket, CloseHow::Fin);
    }
    bench.until(|b| b.count(is_closed) == PEERS);
    for mut client in clients {
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(client.read(&mut [0; 4]).unwrap(), 0);
    }
    let counters = bench.driver.counters();
    assert!(counters.completion_overflows > 0, "{counters:?}");
    assert!(counters.submissions_spilled > 0, "{counters:?}");
    assert_eq!(counters.soft_errors, 0);
}

#[test]
fn two_buffers_feed_many_sockets() {
    let mut bench = Bench::new(&DriverConfig {
        buffers: 2,
        buffer_size: 16,
        ..DriverConfig::default()
    });
    let mut pairs: Vec<_> = (0..32).map(|_| bench.pair()).collect();
    for (socket, _) in &pairs {
        bench.recv(*socket);
    }
    for round in 0..3_u8 {
        for (_, peer) in &mut pairs {
            peer.write_all(&[round; 40]).unwrap();
        }
        bench.turn(Duration::ZERO);
    }
    let total = pairs.len() * 120;
    bench.until(|b| b.received.iter().map(|(_, d)| d.len()).sum::<usize>() == total);
    for (socket, _) in &pairs {
        let bytes: Vec<u8> = bench
            .received
            .iter()
            .filter(|(from, _)| from == socket)
            .flat_map(|(_, data)| data.clone())
            .collect();
        assert!(bytes.is_sorted() && bytes.len() == 120);
    }
    assert!(bench.driver.counters().receives_parked > 0);
    // Starved receives are cancelled and closed like any other.
    for (socket, _) in &pairs {
        bench.close(*socket, CloseHow::Fin);
    }
    bench.until(|b| b.count(is_closed) == 32);
}

#[test]
fn long_sends_arrive_whole_and_end_once() {
    let mut bench = Bench::small();
    let (socket, mut peer) = bench.pair();
    let part = Bytes::from((0..=250_u8).cycle().take(1_000_003).collect::<Vec<_>>());
    let parts = [part.clone(), Bytes::new(), part.clone(), part.clone()];
    let expected = part.len() * 3;
    bench.send(socket, &parts);
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        peer.read_to_end(&mut all).unwrap();
        all
    });
    let sent = Outcome::Sent {
        bytes: expected as u64,
    };
    bench.until(|b| !b.outcomes(socket).is_empty());
    assert_eq!(bench.outcomes(socket), [sent]);
    bench.close(socket, CloseHow::Fin);
    bench.until(|b| b.count(is_closed) == 1);
    let all = reader.join().unwrap();
    assert_eq!(all.len(), expected);
    assert!(all.chunks(part.len()).all(|chunk| chunk == part));
}

#[test]
fn a_cancelled_receive_loses_nothing() {
    let mut bench = Bench::small();
    let (socket, mut peer) = bench.pair();
    for round in 0..50_u8 {
        let key = bench.recv(socket);
        peer.write_all(&[round]).unwrap();
        if round % 2 == 0 {
            bench.turn(Duration::ZERO);
        }
        bench.driver.cancel(key);
        bench.driver.cancel(key);
        let ends = usize::from(round) + 1;
        bench.until(|b| b.count(|one| one.outcome == Outcome::RecvEnded(reap::CANCELED)) == ends);
    }
    bench.recv(socket);
    bench.until(|b| b.received.iter().map(|(_, d)| d.len()).sum::<usize>() == 50);
    let bytes: Vec<u8> = bench.received.iter().flat_map(|(_, d)| d.clone()).collect();
    assert!(bytes.iter().copied().eq(0..50));
}

#[test]
fn a_dial_ends_once_whatever_happens_to_it() {
    let mut bench = Bench::small();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let mut keys = Vec::new();
    for index in 0..60 {
        let key = bench.connect(to);
        if index % 2 == 0 {
            bench.turn(Duration::ZERO);
        }
        match index % 3 {
            0 => bench.driver.cancel(key),
            1 => bench.close(key.socket, CloseHow::Rst),
            _ => {}
        }
        keys.push(key.socket);
    }
    bench.until(|b| {
        keys.iter()
            .all(|&socket| b.count(|one| one.socket == socket) > 0)
    });
    // Closed dials say `Closed` only, unless they had connected before; nothing else twice.
    for (index, &socket) in keys.iter().enumerate() {
        let outcomes = bench.outcomes(socket);
        if index % 3 == 1 {
            bench.until(|b| b.outcomes(socket).last() == Some(&Outcome::Closed));
        } else {
            assert_eq!(outcomes.len(), 1, "{outcomes:?}");
        }
    }
    let refused = bench.connect("127.0.0.1:1".parse().unwrap());
    bench.until(|b| !b.outcomes(refused.socket).is_empty());
    let error = Errno(libc::ECONNREFUSED);
    assert_eq!(
        bench.outcomes(refused.socket),
        [Outcome::ConnectFailed(error)]
    );
    bench.close(refused.socket, CloseHow::Fin);
    bench.turn(Duration::ZERO);
    assert_eq!(bench.outcomes(refused.socket).len(), 1);
}

#[test]
fn after_close_only_closed_comes() {
    let mut bench = Bench::small();
    let (socket, mut peer) = bench.pair();
    bench.recv(socket);
    let big = Bytes::from(vec![7; 1 << 22]);
    bench.send(socket, &[big]);
    bench.turn(Duration::from_millis(1));
    peer.write_all(b"unread").unwrap();
    let before = bench.outcomes(socket).len();
    bench.close(socket, CloseHow::Fin);
    bench.close(socket, CloseHow::Fin);
    bench.until(|b| b.count(is_closed) == 1);
    assert_eq!(bench.outcomes(socket)[before..], [Outcome::Closed]);
    // The kernel let go of the descriptor too: the peer sees the end.
    bench.turn(Duration::ZERO);
    let mut rest = Vec::new();
    let _ = peer.read_to_end(&mut rest);
    assert!(peer.write_all(b"x").is_err());
}

#[test]
fn the_table_is_bounded() {
    let mut bench = Bench::new(&DriverConfig {
        sockets: 3,
        ..DriverConfig::default()
    });
    let (_listener, bound) = bench.listen();
    let clients: Vec<_> = (0..4).map(|_| TcpStream::connect(bound).unwrap()).collect();
    bench.until(|b| b.driver.counters().accepts_refused == 2);
    assert_eq!(bench.accepted().len(), 2);
    let op = Op::Connect {
        to: bound,
        options: ConnectOptions::default(),
        token: Token(0),
    };
    assert!(bench.driver.submit(op).is_err());
    drop(clients);
}

#[test]
fn waking_ends_a_wait_from_another_thread() {
    let mut bench = Bench::small();
    let waker = bench.driver.waker();
    waker.wake();
    waker.wake();
    let start = bench.driver.clock.now();
    assert_eq!(bench.turn(PATIENCE), 0);
    for _ in 0..200 {
        let waker = waker.clone();
        let thread = std::thread::spawn(move || waker.wake());
        assert_eq!(bench.turn(PATIENCE), 0);
        thread.join().unwrap();
    }
    assert!(bench.driver.clock.now() - start < PATIENCE);
    let before = bench.driver.clock.now();
    let wait = Duration::from_micros(1500);
    bench.turn(wait);
    assert!(bench.driver.clock.now() - before >= wait);
}

#[test]
fn spinning_finds_what_sleeping_would() {
    let mut bench = Bench::new(&DriverConfig {
        spin: Duration::from_millis(5),
        ..DriverConfig::default()
    });
    let (socket, mut peer) = bench.pair();
    bench.recv(socket);
    for round in 1..100 {
        peer.write_all(b"x").unwrap();
        bench.until(|b| b.received.len() == round);
    }
}

#[test]
fn built_here_and_run_there() {
    let mut bench = Bench::small();
    let (socket, mut peer) = bench.pair();
    bench.recv(socket);
    let thread = std::thread::spawn(move || {
        peer.write_all(b"hello").unwrap();
        bench.until(|b| !b.received.is_empty());
        bench
    });
    // Back on this thread it cannot be drained: the kernel refuses anybody but the owner.
    let mut bench = thread.join().unwrap();
    let drained = bench.driver.shutdown(Duration::from_millis(10));
    assert_eq!(drained.ended, 0);
    assert!(drained.leaked >= 1);
}

#[test]
fn shutting_down_ends_what_is_in_flight() {
    let mut bench = Bench::small();
    let mut pairs: Vec<_> = (0..20).map(|_| bench.pair()).collect();
    for (socket, _) in &pairs {
        bench.recv(*socket);
        bench.send(*socket, &[Bytes::from(vec![1; 1 << 22])]);
    }
    let (_listener, bound) = bench.listen();
    bench.turn(Duration::from_millis(1));
    let drained = bench.driver.shutdown(PATIENCE);
    assert_eq!(drained.leaked, 0);
    assert_eq!(drained.ended, 41);
    assert_eq!(bench.driver.shutdown(PATIENCE), Drained::default());
    assert!(bench.driver.turn(None, &mut Completions::new()).is_err());
    drop(bench);
    for (_, peer) in &mut pairs {
        let mut rest = Vec::new();
        // Ends only once the kernel has let go of the other end.
        let _ = peer.read_to_end(&mut rest);
        assert!(peer.write_all(b"x").is_err());
    }
    assert!(TcpStream::connect(bound).is_err());
}

#[test]
#[should_panic(expected = "a loan ends with its turn")]
fn a_loan_ends_with_its_turn() {
    let mut bench = Bench::small();
    let (socket, mut peer) = bench.pair();
    bench.recv(socket);
    peer.write_all(b"x").unwrap();
    bench.until(|b| !b.received.is_empty());
    let Some(Outcome::Data(loan)) = bench.outcomes(socket).first().copied() else {
        panic!("data first");
    };
    bench.turn(Duration::ZERO);
    let _ = bench.driver.bytes(loan);
}

/// Short lives of one message each way cost one system call a turn, and three entries a
/// connection: receive, send, close.
#[test]
fn a_short_life_costs_three_entries() {
    const THREADS: usize = 4;
    const EACH: usize = 250;
    let mut bench = Bench::small();
    let (_listener, bound) = bench.listen();
    let clients: Vec<_> = (0..THREADS)
        .map(|_| {
            std::thread::spawn(move || {
                for _ in 0..EACH {
                    let mut stream = TcpStream::connect(bound).unwrap();
                    stream.write_all(&[1; 33]).unwrap();
                    stream.read_exact(&mut [0; 33]).unwrap();
                }
            })
        })
        .collect();
    let answer = Bytes::from_static(&[2; 33]);
    bench.until(|b| {
        for one in std::mem::take(&mut b.seen) {
            match one.outcome {
                Outcome::Accepted { socket, .. } => {
                    b.recv(socket);
                }
                Outcome::Data(_) => {
                    b.send(one.socket, std::slice::from_ref(&answer));
                }
                Outcome::Eof | Outcome::RecvEnded(_) => b.close(one.socket, CloseHow::Fin),
                Outcome::Closed => b.received.clear(),
                _ => {}
            }
        }
        clients.iter().all(std::thread::JoinHandle::is_finished) && b.driver.slots.live_count() == 1
    });
    for client in clients {
        client.join().unwrap();
    }
    let ring = &bench.driver.ring;
    let lives = u64::try_from(THREADS * EACH).unwrap();
    assert!(ring.pushed < lives * 3 + 10, "{}", ring.pushed);
    let turns = bench.driver.counters().turns;
    let enters = ring.enters.get();
    assert!(enters <= turns + turns / 4 + 10, "{enters} in {turns}");
}

/// A seccomp filter as container runtimes install it: io_uring_setup gives `EPERM`. It holds for
/// the calling thread only, which ends with the test.
fn forbid_rings() {
    const LOAD_NUMBER: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let setup = u32::try_from(libc::SYS_io_uring_setup).unwrap();
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut steps = [
        step(LOAD_NUMBER, 0, 0, 0),
        step(JUMP_IF_EQUAL, 0, 1, setup),
        step(
            RETURN,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned(),
        ),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: 4,
        filter: steps.as_mut_ptr(),
    };
    // SAFETY: takes integers only.
    let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(result, 0);
    let mode = libc::SECCOMP_MODE_FILTER;
    // SAFETY: the program is valid for the length of the call; the kernel copies it.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) };
    assert_eq!(result, 0);
}

#[test]
fn a_filter_leads_to_epoll_and_is_named() {
    use crate::io::{Backend, Reason, Unavailable, select};
    let thread = std::thread::spawn(|| {
        forbid_rings();
        let error = UringDriver::new(&DriverConfig::default(), Clock::start()).err();
        assert_eq!(
            error.and_then(|error| error.raw_os_error()),
            Some(libc::EPERM)
        );
        let auto = select(Backend::Auto).unwrap();
        assert_eq!(auto.backend, Backend::Poll);
        (select(Backend::Uring), auto.reason)
    });
    let (asked, reason) = thread.join().unwrap();
    let why = asked.unwrap_err();
    assert!(matches!(
        why,
        Unavailable::Filtered | Unavailable::Sysctl { .. }
    ));
    assert_eq!(reason, Reason::Fallback(why));
}
