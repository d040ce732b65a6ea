//! How newcomers fare beside others: how long a peer waits for its handshake and for its first byte
//! while one shard serves bulk streams, or thousands of slow peers.
//!
//! The shard has a core of its own. Those it serves, and the newcomers, share the other one: what a
//! newcomer waits for there is the same as without the others only as far as that core is idle, so
//! that the figures are an upper bound.

use crate::environment::{Environment, core_idle};
use crate::job::{self, BULK_WRITE, FRAME_LEN, SERVER_FRAME};
use crate::limit::sys::{self, Epoll};
use crate::stats::Summary;
use bytes::Bytes;
use flock_engine::io::{Backend, raise_open_files};
use flock_engine::{Bandwidth, ConnCx, ConnectionInfo, Flock, Handler, IdChoice, PeerId, Queued};
use std::fmt::Write as _;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The shard's core; everything else has the other one.
const CORE: usize = 0;
/// Bytes a second of a slow peer: 1 Mbit/s.
const SLOW: u64 = 125_000;
/// Asks for bytes without end.
const WANT_ALL: u8 = b'a';
/// Asks for one byte.
const WANT_ONE: u8 = b'1';
/// Between newcomers.
const PAUSE: Duration = Duration::from_millis(2);
/// Events taken at once.
const EVENTS: usize = 256;
/// What a newcomer waits for before that counts as failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Serves what the first byte of a peer asks for.
struct Seeder {
    chunk: Bytes,
}

impl Handler for Seeder {
    /// Whether it wants everything.
    type Conn = bool;
    type Msg = ();

    fn on_connection(&mut self, _: &mut ConnCx<'_>, _: &ConnectionInfo) -> bool {
        false
    }

    fn on_data(&mut self, conn: &mut ConnCx<'_>, all: &mut bool, data: &[u8]) {
        *all = data.contains(&WANT_ALL);
        if *all {
            self.fill(conn);
        } else if conn.send(self.chunk.slice(..1)).is_err() {
            conn.close();
        }
    }

    fn on_writable(&mut self, conn: &mut ConnCx<'_>, all: &mut bool) {
        if *all {
            self.fill(conn);
        }
    }
}

impl Seeder {
    fn fill(&self, conn: &mut ConnCx<'_>) {
        while matches!(conn.send(self.chunk.clone()), Ok(Queued::Ok)) {}
    }
}

/// Who is served beside the newcomers.
#[derive(Clone, Copy, Debug)]
enum Beside {
    Bulk(usize),
    Slow(usize),
}

/// What newcomers waited for in one window, microseconds.
#[derive(Debug, Default)]
struct Waits {
    handshake: Vec<f64>,
    first_byte: Vec<f64>,
}

/// Measures newcomers beside `bulk` streams and beside `slow` peers, and alone in between, for
/// `rounds` windows each, and tabulates.
///
/// # Errors
/// Those of either side; most often too few descriptors.
pub fn run(bulk: usize, slow: usize, rounds: usize, window: Duration) -> io::Result<String> {
    let files = raise_open_files()?;
    let need = 2 * slow.max(bulk) as u64 + 100;
    if files.soft < need {
        let what = format!("{slow} slow peers need {need} open files");
        return Err(io::Error::other(what));
    }
    let mut text = format!(
        "{}.\n\nNewcomers over TCP, one every {} ms, to one shard on core {CORE}; they and all others on the other core; {rounds} windows of {:.1} s. \
         Median of the windows' figures, least and greatest.\n\n\
         | beside | handshake p50, us | handshake p99, us | first byte p99, us | p99 to that alone | Gbit/s beside | shard's core busy |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
        Environment::read(),
        PAUSE.as_millis(),
        window.as_secs_f64(),
    );
    for beside in [Beside::Bulk(bulk), Beside::Slow(slow)] {
        if beside.count() > 0 {
            rows(&mut text, beside, rounds, window)?;
        }
    }
    Ok(text)
}

impl Beside {
    fn count(self) -> usize {
        match self {
            Self::Bulk(count) | Self::Slow(count) => count,
        }
    }

    fn bandwidth(self) -> Bandwidth {
        match self {
            Self::Bulk(_) => Bandwidth::UNLIMITED,
            Self::Slow(_) => Bandwidth::both(SLOW),
        }
    }
}

fn rows(text: &mut String, beside: Beside, rounds: usize, window: Duration) -> io::Result<()> {
    let id = PeerId::new(&SERVER_FRAME[1..]).expect("32 bytes make an id");
    let flock = Flock::builder()
        .backend(Backend::Uring)
        .id(IdChoice::Fixed(id))
        .utp(false)
        .shards(1)
        .cpus([CORE])
        .half_open(1 << 16)
        .peer_bandwidth(beside.bandwidth())
        .start_with(|_| Seeder {
            chunk: job::payload(BULK_WRITE),
        })
        .map_err(io::Error::other)?;
    let bind = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let addr = flock.listen_at(bind).map_err(io::Error::other)?;
    // On a thread of its own: the next engine could not leave a core that this one is bound to.
    let measured = thread::scope(|scope| {
        let windows = scope.spawn(|| windows(addr, beside, rounds, window));
        windows.join()
    });
    let (alone, crowded) =
        measured.unwrap_or_else(|_| Err(io::Error::other("the newcomers panicked")))?;
    flock.shutdown(Duration::ZERO);
    let name = match beside {
        Beside::Bulk(count) => format!("{count} bulk streams"),
        Beside::Slow(count) => format!("{count} peers at 1 Mbit/s"),
    };
    alone.row(text, "nobody", &alone.p99);
    crowded.row(text, &name, &alone.p99);
    Ok(())
}

/// Windows alone and beside others, in turn.
fn windows(
    addr: SocketAddr,
    beside: Beside,
    rounds: usize,
    window: Duration,
) -> io::Result<(Figures, Figures)> {
    sys::pin(1 - CORE)?;
    let mut alone = Figures::default();
    let mut crowded = Figures::default();
    for _ in 0..rounds {
        alone.add(&newcomers(addr, window)?, 0.0, 0.0);
        let crowd = Crowd::gather(addr, beside.count())?;
        let (begun, idle, bytes) = (Instant::now(), core_idle(CORE)?, crowd.bytes());
        let waits = newcomers(addr, window)?;
        let took = begun.elapsed().as_secs_f64();
        let busy = 1.0 - (core_idle(CORE)? - idle).as_secs_f64() / took;
        #[expect(
            clippy::cast_precision_loss,
            reason = "bytes of a window are below 2^52"
        )]
        let gigabits = (crowd.bytes() - bytes) as f64 * 8e-9 / took;
        crowd.leave()?;
        crowded.add(&waits, gigabits, busy);
    }
    Ok((alone, crowded))
}

/// The figures of some windows.
#[derive(Debug, Default)]
struct Figures {
    p50: Vec<f64>,
    p99: Vec<f64>,
    first_byte: Vec<f64>,
    gigabits: Vec<f64>,
    busy: Vec<f64>,
}

impl Figures {
    fn add(&mut self, waits: &Waits, gigabits: f64, busy: f64) {
        self.p50.push(percentile(&waits.handshake, 50));
        self.p99.push(percentile(&waits.handshake, 99));
        self.first_byte.push(percentile(&waits.first_byte, 99));
        self.gigabits.push(gigabits);
        self.busy.push(busy);
    }

    fn row(&self, text: &mut String, name: &str, alone: &[f64]) {
        let ratios: Vec<f64> = self.p99.iter().zip(alone).map(|(a, b)| a / b).collect();
        let _ = writeln!(
            text,
            "| {name} | {} | {} | {} | {} | {:.1} | {:.0} % |",
            spread(&self.p50, 0),
            spread(&self.p99, 0),
            spread(&self.first_byte, 0),
            spread(&ratios, 2),
            Summary::of(&self.gigabits).median,
            Summary::of(&self.busy).median * 100.0,
        );
    }
}

fn spread(values: &[f64], digits: usize) -> String {
    let Summary { median, min, max } = Summary::of(values);
    format!("{median:.digits$} ({min:.digits$} to {max:.digits$})")
}

fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// Peers that come one after the other for a window, each for an id and a byte.
fn newcomers(addr: SocketAddr, window: Duration) -> io::Result<Waits> {
    let mut waits = Waits::default();
    let end = Instant::now() + window;
    let mut number = 1 << 40;
    while Instant::now() < end {
        let begun = Instant::now();
        let mut stream = meet(addr, number)?;
        waits.handshake.push(begun.elapsed().as_secs_f64() * 1e6);
        stream.write_all(&[WANT_ONE])?;
        stream.read_exact(&mut [0])?;
        waits.first_byte.push(begun.elapsed().as_secs_f64() * 1e6);
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        number += 1;
        thread::sleep(PAUSE);
    }
    Ok(waits)
}

/// A connection after its handshake, from one of many addresses.
fn meet(addr: SocketAddr, number: u64) -> io::Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    let [.., low] = number.to_be_bytes();
    let from = SocketAddrV4::new(Ipv4Addr::new(127, 0, 1, low), 0);
    socket.bind(&SocketAddr::from(from).into())?;
    socket.connect(&addr.into())?;
    let mut stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&job::client_frame(number))?;
    let mut frame = [0; FRAME_LEN];
    stream.read_exact(&mut frame)?;
    Ok(stream)
}

/// Peers that take all they get, on one thread.
struct Crowd {
    bytes: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<()>>,
}

impl Crowd {
    fn gather(addr: SocketAddr, count: usize) -> io::Result<Self> {
        let (bytes, over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (counted, stop) = (Arc::clone(&bytes), Arc::clone(&over));
        let mut streams = Vec::with_capacity(count);
        for number in 0..count as u64 {
            streams.push(meet(addr, number)?);
        }
        for mut stream in &streams {
            stream.write_all(&[WANT_ALL])?;
            stream.set_nonblocking(true)?;
        }
        let thread = thread::spawn(move || {
            sys::pin(1 - CORE)?;
            take(&streams, &counted, &stop)
        });
        // All of them have begun.
        let begun = Instant::now();
        while bytes.load(Ordering::Relaxed) < count as u64 * 10_000 {
            if begun.elapsed() > PATIENCE {
                return Err(io::Error::other("the others got nothing"));
            }
            thread::sleep(PAUSE);
        }
        Ok(Self {
            bytes,
            over,
            thread,
        })
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn leave(self) -> io::Result<()> {
        self.over.store(true, Ordering::Relaxed);
        let joined = self.thread.join();
        joined.unwrap_or_else(|_| Err(io::Error::other("the others panicked")))
    }
}

fn take(streams: &[TcpStream], bytes: &AtomicU64, over: &AtomicBool) -> io::Result<()> {
    let epoll = Epoll::new()?;
    for (stream, number) in streams.iter().zip(0..) {
        epoll.add(stream, libc::EPOLLIN, number)?;
    }
    let mut buffer = vec![0; 256 << 10];
    let mut ready = Vec::with_capacity(EVENTS);
    while !over.load(Ordering::Relaxed) {
        epoll.wait(&mut ready)?;
        for event in &ready {
            let index = usize::try_from(event.u64).unwrap_or(usize::MAX);
            let Some(mut stream) = streams.get(index) else {
                continue;
            };
            match stream.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(len) => {
                    bytes.fetch_add(len as u64, Ordering::Relaxed);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
    for stream in streams {
        socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert!((percentile(&values, 50) - 100.0).abs() < f64::EPSILON);
        assert!((percentile(&values, 99) - 198.0).abs() < f64::EPSILON);
        assert!(percentile(&[], 99).is_nan());
    }

    #[test]
    fn newcomers_are_served_beside_a_crowd() {
        let text = run(2, 3, 1, Duration::from_millis(50)).unwrap();
        for crowd in ["| 2 bulk streams |", "| 3 peers at 1 Mbit/s |"] {
            assert!(text.contains(crowd), "{text}");
        }
    }
}
