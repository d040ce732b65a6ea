//! What connections cost in memory: idle ones after their handshake (user space of the server, by
//! the slope between few and many and by the whole growth, and kernel slabs of both ends), and
//! ones that are being sent a blob they share.

use crate::engine::Engine;
use crate::environment::{resident_bytes, slab_bytes, tcp_buffer_bytes};
use crate::job::{self, Close, FRAME_LEN, Job, Targets};
use crate::roles::{Place, Side};
use socket2::SockRef;
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

/// Bytes at one count of connections.
#[derive(Clone, Copy, Debug)]
struct Level {
    resident: u64,
    /// Where the kernel tells.
    slab: Option<u64>,
}

/// Holds `few`, then `many` idle connections to a server of each engine, and tabulates.
///
/// # Errors
/// Those of the server's process and of the connections; most often too few descriptors.
pub fn run(engines: &[Engine], few: usize, many: usize) -> io::Result<String> {
    if few == 0 || many <= few {
        let what = "the upper count of connections must be above the lower one, and that above 0";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    let mut text = format!(
        "Idle connections after their handshake, {few} and {many} of them.\n\n\
         | server | user bytes each (slope) | user bytes each (growth from before listening) | \
         kernel slab bytes each, both ends (slope) |\n| --- | --- | --- | --- |\n"
    );
    for &engine in engines {
        let (mut side, ready) = Place::here().serve(engine, Job::Life(Close::Fin), Some(1), 1)?;
        let mut held = Vec::new();
        let low = level(&mut side, &mut held, ready.port, few)?;
        let high = level(&mut side, &mut held, ready.port, many)?;
        let (between, all) = (many - few, many);
        let kernel = low.slab.zip(high.slab);
        let kernel = kernel.map(|(low, high)| each(low, high, between));
        let _ = writeln!(
            text,
            "| {} | {:.0} | {:.0} | {} |",
            engine.name,
            each(low.resident, high.resident, between),
            each(ready.resident, high.resident, all),
            kernel.map_or("not told (needs root)".to_owned(), |bytes| format!(
                "{bytes:.0}"
            )),
        );
        drop(held);
        side.stop()?;
    }
    Ok(text)
}

/// The blob of [`blobs`].
const BLOB: usize = 1 << 20;

/// Sends every one of `peers` peers of each engine the same blob, and tabulates what that takes
/// while nobody reads, and once all have read.
///
/// # Errors
/// As [`run`].
pub fn blobs(engines: &[Engine], peers: usize) -> io::Result<String> {
    let mut text = format!(
        "\nOne shared blob of 1 MiB to {peers} peers: growth in MiB.\n\n\
         | server | user space, nobody reads | TCP buffers of both ends, nobody reads | \
         user space, all have read |\n| --- | --- | --- | --- |\n"
    );
    for &engine in engines {
        let (mut side, ready) = Place::here().serve(engine, Job::Blob(BLOB), Some(1), 1)?;
        let mut held = Vec::new();
        let idle = level(&mut side, &mut held, ready.port, peers)?;
        let buffers = tcp_buffer_bytes()?;
        for stream in &mut held {
            stream.write_all(b"?")?;
        }
        let full = settled(tcp_buffer_bytes)?;
        let unread = resident_bytes(side.pid())?;
        let mut blob = vec![0; BLOB];
        for stream in &mut held {
            stream.read_exact(&mut blob)?;
        }
        let read = resident_bytes(side.pid())?;
        let mebi = |before, after| each(before, after, 1) / f64::from(1 << 20);
        let _ = writeln!(
            text,
            "| {} | {:.1} | {:.1} | {:.1} |",
            engine.name,
            mebi(idle.resident, unread),
            mebi(buffers, full),
            mebi(idle.resident, read),
        );
        drop(held);
        side.stop()?;
    }
    Ok(text)
}

/// What `read` says once it has not grown for a fifth of a second; at most five seconds from now.
fn settled(read: impl Fn() -> io::Result<u64>) -> io::Result<u64> {
    let deadline = Instant::now() + Duration::from_secs(5);
    let (mut last, mut since) = (read()?, Instant::now());
    while since.elapsed() < Duration::from_millis(200) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
        let now = read()?;
        if now > last {
            (last, since) = (now, Instant::now());
        }
    }
    Ok(last)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "bytes of one machine are far below 2^52"
)]
fn each(before: u64, after: u64, count: usize) -> f64 {
    (after as f64 - before as f64) / count as f64
}

/// Opens connections until `count` are held, waits until the server knows them, and reads.
fn level(side: &mut Side, held: &mut Vec<TcpStream>, port: u16, count: usize) -> io::Result<Level> {
    let targets = Targets::loopback(port);
    while held.len() < count {
        let number = held.len() as u64;
        let mut stream = TcpStream::connect(targets.nth(number))?;
        // Reset at the end: connections in TIME_WAIT would be counted with the next engine's.
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        stream.write_all(&job::client_frame(number))?;
        let mut frame = [0; FRAME_LEN];
        stream.read_exact(&mut frame)?;
        if !job::is_server_frame(&frame) {
            return Err(crate::engine::unexpected("not the server's frame"));
        }
        held.push(stream);
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while side.count()?.frames < count as u64 {
        if Instant::now() > deadline {
            return Err(io::Error::other("the server lost connections"));
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(Level {
        resident: resident_bytes(side.pid())?,
        slab: slab_bytes().ok(),
    })
}
