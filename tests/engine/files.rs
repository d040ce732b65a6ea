//! Parts of files, over both transports.

use super::peers::{Ground, PATIENCE, engine, local, next_event, wait_for};
use bytes::Bytes;
use flock_engine::{
    Bandwidth, Builder, CloseReason, ConnCx, Connection, ConnectionInfo, Event, Flock, Handler,
    JoinOptions, RecvError,
};
use std::fs::File;
use std::future::Future;
use std::io::Write;
use std::os::fd::AsFd;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

super::on_every_ground!(
    a_file_keeps_its_place_among_bytes,
    a_handler_sends_a_file_to_many_and_ends,
    a_cold_file_arrives,
    a_file_that_is_too_short_ends_the_connection,
    a_file_keeps_to_the_limit,
);

const LEN: usize = 9_000_000;

fn content() -> Vec<u8> {
    (0..=250_u8).cycle().take(LEN).collect()
}

fn file() -> Arc<File> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&content()).unwrap();
    Arc::new(file)
}

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future on this thread.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    loop {
        if let Poll::Ready(done) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return done;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "it takes too long");
        std::thread::park_timeout(left);
    }
}

/// Two engines, the first of which dialled the second, and their ends.
pub(crate) fn meet(dialler: Builder, acceptor: Builder) -> [(Flock, Connection); 2] {
    let (a, b) = (dialler.start().unwrap(), acceptor.start().unwrap());
    let addr = local(b.listen(0).unwrap());
    a.join("c", JoinOptions { announce: false }).unwrap();
    a.add_peer("c", addr).unwrap();
    let there = b.accept_timeout(PATIENCE).expect("the acceptor's end");
    let here = a.accept_timeout(PATIENCE).expect("the dialler's end");
    [(a, here), (b, there)]
}

pub(crate) fn read_to_end(connection: &Connection) -> Result<Vec<u8>, RecvError> {
    let mut all = Vec::new();
    while let Some(piece) = connection.recv_timeout(PATIENCE)? {
        all.extend_from_slice(&piece);
    }
    Ok(all)
}

fn a_file_keeps_its_place_among_bytes(ground: Ground) {
    let [(a, here), (b, there)] = meet(engine(ground), engine(ground));
    let (file, content) = (file(), content());
    let blob = Bytes::from(content.clone());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            block_on(async {
                here.send(blob.slice(..400_000)).await.unwrap();
                here.send_file(file.clone(), 10..LEN as u64).await.unwrap();
                here.send("between").await.unwrap();
                here.send_file(file.clone(), 0..0).await.unwrap();
                here.send_file(file.clone(), 5..6).await.unwrap();
                here.send(blob.slice(..400_000)).await.unwrap();
            });
            here.end();
        });
        let got = read_to_end(&there).unwrap();
        let parts = [
            &content[..400_000],
            &content[10..],
            b"between",
            &content[5..6],
            &content[..400_000],
        ];
        assert!(got == parts.concat(), "{} bytes", got.len());
    });
    a.shutdown(PATIENCE);
    b.shutdown(PATIENCE);
}

/// Sends the same file to everybody, and ends.
struct Seeder(Arc<File>);

impl Handler for Seeder {
    type Conn = ();
    type Msg = ();

    fn on_connection(&mut self, cx: &mut ConnCx<'_>, _: &ConnectionInfo) {
        cx.send_file(self.0.clone(), 0..LEN as u64).unwrap();
        cx.send(Bytes::from_static(b"!")).unwrap();
        cx.end();
    }

    fn on_data(&mut self, _: &mut ConnCx<'_>, (): &mut (), _: &[u8]) {}
}

fn a_handler_sends_a_file_to_many_and_ends(ground: Ground) {
    let file = file();
    let seeder = engine(ground)
        .start_with(move |_| Seeder(file.clone()))
        .unwrap();
    let addr = local(seeder.listen(0).unwrap());
    let peers: Vec<Flock> = (0..4).map(|_| engine(ground).start().unwrap()).collect();
    for peer in &peers {
        peer.add_peer("c", addr).unwrap();
    }
    std::thread::scope(|scope| {
        for peer in &peers {
            scope.spawn(|| {
                let connection = peer.accept_timeout(PATIENCE).expect("the seeder");
                let got = read_to_end(&connection).unwrap();
                assert!(
                    got.len() == LEN + 1 && got[..LEN] == content(),
                    "{}",
                    got.len()
                );
            });
        }
    });
    seeder.shutdown(PATIENCE);
}

fn a_cold_file_arrives(ground: Ground) {
    let [(a, here), (b, there)] = meet(engine(ground), engine(ground));
    // On a disk, if the place for build output is: what was written out may be forgotten.
    let mut file = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    file.write_all(&content()).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(file.as_fd(), 0, None, rustix::fs::Advice::DontNeed).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            block_on(here.send_file(Arc::new(file), 0..LEN as u64)).unwrap();
            here.end();
        });
        let got = read_to_end(&there).unwrap();
        assert!(got == content(), "{} bytes", got.len());
    });
    a.shutdown(PATIENCE);
    b.shutdown(PATIENCE);
}

fn a_file_that_is_too_short_ends_the_connection(ground: Ground) {
    let [(a, here), (b, there)] = meet(engine(ground), engine(ground));
    let mut events = a.events().unwrap();
    let file = file();
    let sending = std::thread::spawn(move || block_on(here.send_file(file, 0..LEN as u64 + 1)));
    assert!(read_to_end(&there).is_err(), "no end in order");
    assert!(matches!(
        sending.join().unwrap(),
        Err(RecvError::Closed(CloseReason::FileFailed(_)))
    ));
    next_event(&mut events, "the reason", |event| match event {
        Event::ConnectionClosed {
            reason: CloseReason::FileFailed(_),
            ..
        } => Some(()),
        _ => None,
    });
    wait_for("the count", || a.counters().counters.files_failed == 1);
    a.shutdown(PATIENCE);
    b.shutdown(PATIENCE);
}

fn a_file_keeps_to_the_limit(ground: Ground) {
    const RATE: u64 = 8_000_000;
    let slow = engine(ground).bandwidth(Bandwidth::both(RATE));
    let [(a, here), (b, there)] = meet(slow, engine(ground));
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            block_on(here.send_file(file(), 0..LEN as u64)).unwrap();
            here.end();
        });
        assert_eq!(read_to_end(&there).unwrap().len(), LEN);
    });
    let took = start.elapsed();
    let least = Duration::from_millis((LEN as u64 - 500_000) * 1000 / RATE);
    assert!(took >= least, "{took:?}");
    a.shutdown(PATIENCE);
    b.shutdown(PATIENCE);
}
