//! Targets that are not engines: a thread each, blocking sockets, one way of behaving.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Behaviour {
    /// An id of 40 bytes in pieces, and application bytes behind it.
    Dribble,
    /// A length of nothing but continuation bits.
    Garbage,
    /// Ends the stream inside the frame.
    HangUp,
    /// Says nothing.
    Silence,
}

pub(crate) struct Fake {
    addr: SocketAddr,
    ids: Arc<Mutex<HashSet<[u8; 33]>>>,
    over: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Fake {
    pub(crate) fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let ids = Arc::new(Mutex::new(HashSet::new()));
        let over = Arc::new(AtomicBool::new(false));
        let (seen, stop) = (ids.clone(), over.clone());
        let acceptor = std::thread::spawn(move || {
            let mut served = Vec::new();
            for stream in listener.incoming() {
                if stop.load(Ordering::Acquire) {
                    break;
                }
                let (stream, seen) = (stream.unwrap(), seen.clone());
                served.push(std::thread::spawn(move || serve(stream, behaviour, &seen)));
            }
            for thread in served {
                thread.join().unwrap();
            }
        });
        Self {
            addr,
            ids,
            over,
            acceptor: Some(acceptor),
        }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many different ids peers have stated.
    pub(crate) fn ids_seen(&self) -> usize {
        self.ids.lock().unwrap().len()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        // Ends the wait for a next connection.
        drop(TcpStream::connect(self.addr));
        let ended = self.acceptor.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

/// Peers may close or reset at any time, so errors end the service and nothing else.
fn serve(mut stream: TcpStream, behaviour: Behaviour, seen: &Mutex<HashSet<[u8; 33]>>) {
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let mut id = [0; 33];
    if stream.read_exact(&mut id).is_err() {
        return;
    }
    seen.lock().unwrap().insert(id);
    let said = match behaviour {
        Behaviour::Dribble => dribble(&mut stream),
        Behaviour::Garbage => stream.write_all(&[0xff; 8]),
        Behaviour::HangUp => stream.write_all(&[32, 1, 2, 3]),
        Behaviour::Silence => Ok(()),
    };
    if said.is_err() || matches!(behaviour, Behaviour::HangUp) {
        return;
    }
    let mut rest = [0; 64];
    while stream.read(&mut rest).is_ok_and(|read| read > 0) {}
}

fn dribble(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(&[40])?;
    stream.write_all(&[7; 3])?;
    stream.write_all(&[7; 37])?;
    stream.write_all(b"hello")
}
