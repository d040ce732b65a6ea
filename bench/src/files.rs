//! How to send a file: the ways that the system has, and the engine's, hot and cold.
//!
//! One stream over loopback; the sender has core 0. A peer over TCP lets the kernel drop what comes, so
//! that the sender is what is measured; one over uTP is an engine.

use crate::environment::{Environment, core_idle};
use crate::job::{self, FRAME_LEN, SERVER_FRAME};
use crate::limit::sys;
use crate::limit::uring;
use crate::stats::Summary;
use flock_engine::io::Backend;
use flock_engine::{ConnCx, ConnectionInfo, Flock, Handler, IdChoice, JoinOptions, PeerId};
use rustix::fs::{Advice, fadvise, sendfile};
use rustix::pipe::{SpliceFlags, fcntl_setpipe_size, pipe, splice};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// The sender's core; the receiver has the other one.
const CORE: usize = 0;
/// Bytes handed over at a time, where that is a choice.
const PIECE: usize = 256 << 10;
/// What a transfer may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// A way to send a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Pread,
    Uring,
    Sendfile,
    Splice,
    Tcp(Backend),
    Utp(Backend),
}

impl Way {
    const ALL: [Self; 7] = [
        Self::Pread,
        Self::Uring,
        Self::Sendfile,
        Self::Splice,
        Self::Tcp(Backend::Uring),
        Self::Tcp(Backend::Poll),
        Self::Utp(Backend::Uring),
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Pread => "pread, send",
            Self::Uring => "io_uring read beside send",
            Self::Sendfile => "sendfile",
            Self::Splice => "splice through a pipe",
            Self::Tcp(Backend::Poll) => "`send_file`, TCP, epoll",
            Self::Tcp(_) => "`send_file`, TCP, io_uring",
            Self::Utp(_) => "`send_file`, uTP, io_uring",
        }
    }
}

/// Sends a file of `len` bytes each way whose name contains `some`, `rounds` times hot and as often
/// cold, and tabulates.
///
/// # Errors
/// Those of either side, and of the disk.
pub fn run(len: u64, rounds: usize, some: &str) -> io::Result<String> {
    let file = Arc::new(written(len)?);
    let mut text = format!(
        "{}.\n\nA file of {} MiB over loopback, {rounds} times; the sender on core {CORE}. Cold: the page cache was \
         dropped before each. Per core: by the time that the core was busy, the kernel's work included. Medians, least and greatest.\n\n\
         | way | cache | Gbit/s | Gbit/s per core | core busy |\n| --- | --- | --- | --- | --- |\n",
        Environment::read(),
        len >> 20,
    );
    let ways = Way::ALL.map(|way| way.name().contains(some).then_some(way));
    let ways: Vec<Way> = ways.into_iter().flatten().collect();
    for cold in [false, true] {
        let mut figures = vec![[Vec::new(), Vec::new(), Vec::new()]; ways.len()];
        for round in 0..rounds {
            for place in 0..ways.len() {
                let at = turn_of(place, round, ways.len());
                let (way, figures) = (ways[at], &mut figures[at]);
                let sent = if cold {
                    send_cold(way, &file, len)?
                } else {
                    send(way, &file, len)?
                };
                #[expect(clippy::cast_precision_loss, reason = "a file is shorter than 2^52")]
                let gigabits = len as f64 * 8e-9 / sent.took.as_secs_f64();
                let busy = sent.busy.as_secs_f64() / sent.took.as_secs_f64();
                for (series, value) in figures.iter_mut().zip([gigabits, gigabits / busy, busy]) {
                    series.push(value);
                }
            }
        }
        for (way, [rate, per_core, busy]) in ways.iter().zip(&figures) {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {:.0} % |",
                way.name(),
                if cold { "cold" } else { "hot" },
                spread(rate),
                spread(per_core),
                Summary::of(busy).median * 100.0,
            );
        }
    }
    Ok(text)
}

/// Who comes at a place in a round: every time somebody else, and not always behind the same.
fn turn_of(place: usize, round: usize, ways: usize) -> usize {
    let at = (place + round / 2) % ways;
    if round.is_multiple_of(2) {
        at
    } else {
        ways - 1 - at
    }
}

/// The mean of two transfers in a row. On a machine that lends its memory every second one is twice as
/// fast, whatever the way: it finds the memory that the one before gave back, the next has to borrow anew.
fn send_cold(way: Way, file: &Arc<File>, len: u64) -> io::Result<Sent> {
    let mut both = Sent {
        took: Duration::ZERO,
        busy: Duration::ZERO,
    };
    for _ in 0..2 {
        file.sync_all()?;
        fadvise(&**file, 0, None, Advice::DontNeed)?;
        let sent = send(way, file, len)?;
        both.took += sent.took / 2;
        both.busy += sent.busy / 2;
    }
    Ok(both)
}

fn spread(values: &[f64]) -> String {
    let Summary { median, min, max } = Summary::of(values);
    format!("{median:.1} ({min:.1} to {max:.1})")
}

fn written(len: u64) -> io::Result<File> {
    let mut file = tempfile::tempfile()?;
    let piece = job::payload(1 << 20);
    let mut left = len;
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
        file.write_all(&piece[..now])?;
        left -= now as u64;
    }
    Ok(file)
}

/// One transfer.
struct Sent {
    took: Duration,
    /// Of that the sender's core was busy.
    busy: Duration,
}

fn send(way: Way, file: &Arc<File>, len: u64) -> io::Result<Sent> {
    match way {
        Way::Tcp(backend) => from_engine(backend, file, len, drain_peer),
        Way::Utp(backend) => from_engine(backend, file, len, sink_peer),
        raw => from_thread(raw, Arc::clone(file), len),
    }
}

/// Runs `receive` on a thread of its own: the next engine could not leave a core that this one is
/// bound to.
fn on_the_other_core<T: Send>(receive: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let receiving = scope.spawn(|| {
            sys::pin(1 - CORE)?;
            receive()
        });
        let received = receiving.join();
        received.unwrap_or_else(|_| Err(io::Error::other("the receiver panicked")))
    })
}

/// Runs `transfer`, which returns when everything has arrived.
fn timed(transfer: impl FnOnce() -> io::Result<()>) -> io::Result<Sent> {
    let (begun, idle) = (Instant::now(), core_idle(CORE)?);
    transfer()?;
    let took = begun.elapsed();
    let idle = core_idle(CORE)?.saturating_sub(idle);
    Ok(Sent {
        took,
        busy: took.saturating_sub(idle).max(Duration::from_millis(1)),
    })
}

fn from_thread(way: Way, file: Arc<File>, len: u64) -> io::Result<Sent> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let stream = TcpStream::connect(listener.local_addr()?)?;
    let (peer, _) = listener.accept()?;
    timed(move || {
        let sending = thread::spawn(move || {
            sys::pin(CORE)?;
            match way {
                Way::Pread => by_pread(&file, len, &stream),
                Way::Uring => uring::files::send(&file, len, PIECE, &stream),
                Way::Sendfile => by_sendfile(&file, len, &stream),
                _ => by_splice(&file, len, &stream),
            }
        });
        on_the_other_core(|| drain(&peer, len))?;
        let sent = sending.join();
        sent.unwrap_or_else(|_| Err(io::Error::other("the sender panicked")))
    })
}

fn by_pread(file: &File, len: u64, mut stream: &TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    let mut at = 0;
    while at < len {
        let want = PIECE.min(usize::try_from(len - at).unwrap_or(usize::MAX));
        file.read_exact_at(&mut buffer[..want], at)?;
        stream.write_all(&buffer[..want])?;
        at += want as u64;
    }
    Ok(())
}

fn by_sendfile(file: &File, len: u64, stream: &TcpStream) -> io::Result<()> {
    let mut at = 0;
    while at < len {
        let want = usize::try_from(len - at).unwrap_or(usize::MAX).min(1 << 30);
        if sendfile(stream, file, Some(&mut at), want)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

fn by_splice(file: &File, len: u64, stream: &TcpStream) -> io::Result<()> {
    let (from, to) = pipe()?;
    fcntl_setpipe_size(&to, PIECE)?;
    let mut at = 0;
    let flags = SpliceFlags::MOVE | SpliceFlags::MORE;
    while at < len {
        let mut piped = splice(file, Some(&mut at), &to, None, PIECE, flags)?;
        if piped == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while piped > 0 {
            piped -= splice(&from, None, stream, None, piped, flags)?;
        }
    }
    Ok(())
}

/// Takes `len` bytes, which the kernel drops instead of copying them (`MSG_TRUNC`, tcp(7)).
fn drain(stream: &TcpStream, len: u64) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let socket = socket2::SockRef::from(stream);
    let mut nowhere = vec![MaybeUninit::uninit(); 1 << 20];
    let mut got = 0;
    while got < len {
        match socket.recv_with_flags(&mut nowhere, libc::MSG_TRUNC)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => got += count as u64,
        }
    }
    Ok(())
}

/// Sends the file to whoever says something.
struct Seeder {
    file: Arc<File>,
    len: u64,
}

impl Handler for Seeder {
    type Conn = ();
    type Msg = ();

    fn on_connection(&mut self, _: &mut ConnCx<'_>, _: &ConnectionInfo) {}

    fn on_data(&mut self, conn: &mut ConnCx<'_>, (): &mut (), _: &[u8]) {
        if conn.send_file(Arc::clone(&self.file), 0..self.len).is_err() {
            conn.close();
        }
    }
}

fn from_engine(
    backend: Backend,
    file: &Arc<File>,
    len: u64,
    receive: fn(Backend, SocketAddr, u64) -> io::Result<Sent>,
) -> io::Result<Sent> {
    let id = PeerId::new(&SERVER_FRAME[1..]).expect("32 bytes make an id");
    let file = Arc::clone(file);
    let flock = Flock::builder()
        .backend(backend)
        .id(IdChoice::Fixed(id))
        .shards(1)
        .cpus([CORE])
        .start_with(move |_| Seeder {
            file: Arc::clone(&file),
            len,
        })
        .map_err(io::Error::other)?;
    let bind = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let addr = flock.listen_at(bind).map_err(io::Error::other)?;
    let sent = on_the_other_core(|| receive(backend, addr, len));
    flock.shutdown(Duration::ZERO);
    sent
}

/// A peer over TCP that is a bare socket.
fn drain_peer(_: Backend, addr: SocketAddr, len: u64) -> io::Result<Sent> {
    let mut stream = TcpStream::connect(addr)?;
    stream.write_all(&job::client_frame(1))?;
    stream.read_exact(&mut [0; FRAME_LEN])?;
    timed(|| {
        stream.write_all(b"?")?;
        drain(&stream, len)
    })
}

/// Says when it has got everything.
struct Sink {
    left: u64,
    told: Sender<bool>,
}

impl Handler for Sink {
    type Conn = ();
    type Msg = ();

    fn on_connection(&mut self, _: &mut ConnCx<'_>, _: &ConnectionInfo) {
        // Whoever does not listen any more has given up.
        let _ = self.told.send(false);
    }

    fn on_data(&mut self, _: &mut ConnCx<'_>, (): &mut (), data: &[u8]) {
        self.left = self.left.saturating_sub(data.len() as u64);
        if self.left == 0 {
            let _ = self.told.send(true);
        }
    }
}

/// A peer over uTP, which is an engine.
fn sink_peer(backend: Backend, addr: SocketAddr, len: u64) -> io::Result<Sent> {
    let (told, tell) = channel();
    let flock = Flock::builder()
        .backend(backend)
        .tcp(false)
        .shards(1)
        .cpus([1 - CORE])
        .start_with(move |_| Sink {
            left: len,
            told: told.clone(),
        })
        .map_err(io::Error::other)?;
    let options = JoinOptions { announce: false };
    flock.join("file", options).map_err(io::Error::other)?;
    flock.add_peer("file", addr).map_err(io::Error::other)?;
    let wait = || tell.recv_timeout(PATIENCE).map_err(io::Error::other);
    wait()?;
    let conns = flock.connections().map_err(io::Error::other)?;
    let conn = conns.first().ok_or(io::ErrorKind::NotConnected)?.conn;
    let sent = timed(|| {
        flock.send_to(conn, "?").map_err(io::Error::other)?;
        wait().map(|_all| ())
    });
    flock.shutdown(Duration::ZERO);
    sent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_carries_a_file() {
        let text = run(3_000_001, 1, "").unwrap();
        for way in Way::ALL {
            assert_eq!(text.matches(way.name()).count(), 2, "{text}");
        }
    }
}
