//! Peers that are dead, stopped, silent or many.

use super::peers::{RawPeer, engine, id, local, wait_for};
use flock_engine::io::{Backend, raise_open_files};
use flock_engine::{Flock, Ignore};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

super::on_both_backends!(
    killed_and_stopped_peers_harm_nobody,
    thousands_of_silent_peers_are_bounded_and_end,
    newcomers_get_in_beside_silent_peers,
);

/// Peers in a process of their own: `COUNT` connections, each with its handshake, then one line
/// on stdout, then nothing.
const PEER_PROCESS: &str = "import socket,sys,time
n, port, first = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
def read(s, n):
    b = b''
    while len(b) < n:
        b += s.recv(n - len(b)) or exit('closed')
all = []
for i in range(n):
    s = socket.create_connection(('127.0.0.1', port))
    s.sendall(bytes([32]) + (first + i).to_bytes(32, 'big'))
    read(s, 33)
    all.append(s)
print('up', flush=True)
time.sleep(120)
";

struct PeerProcess(Child);

impl PeerProcess {
    fn start(count: u32, to: SocketAddr, first: u32) -> Self {
        let mut child = Command::new("python3")
            .args([
                "-c",
                PEER_PROCESS,
                &count.to_string(),
                &to.port().to_string(),
            ])
            .arg(first.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs the peers");
        let mut line = [0; 3];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut line)
            .unwrap();
        Self(child)
    }

    fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        assert!(
            Command::new("kill")
                .args([name, &pid])
                .status()
                .unwrap()
                .success()
        );
    }
}

impl Drop for PeerProcess {
    fn drop(&mut self) {
        // Already dead in some cases.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn echo_works(flock: &Flock<()>, to: SocketAddr, byte: u8) {
    let before = flock.stats().connected;
    let peer = RawPeer::handshake(to, &id(byte));
    wait_for("a newcomer", || flock.stats().connected > before);
    drop(peer);
    wait_for("the newcomer to go", || flock.stats().connected <= before);
}

fn killed_and_stopped_peers_harm_nobody(backend: Backend) {
    let flock = engine(backend).start_with(|_| Ignore).unwrap();
    let to = local(flock.listen(0).unwrap());
    let killed = PeerProcess::start(100, to, 1);
    let stopped = PeerProcess::start(50, to, 1_000);
    let _healthy = PeerProcess::start(50, to, 2_000);
    wait_for("200 peers", || flock.stats().connected == 200);
    stopped.signal("-STOP");
    killed.signal("-KILL");
    wait_for("half of them to go", || flock.stats().connected == 100);
    echo_works(&flock, to, 9);
    drop(stopped);
    wait_for("the stopped ones to go", || flock.stats().connected == 50);
    echo_works(&flock, to, 9);
    flock.shutdown(Duration::from_millis(100));
}

/// Ten thousand sockets at a time is what one process may have: one test of them at a time.
static MANY: Mutex<()> = Mutex::new(());

/// Resident memory of this process in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn silent_wave(flock: &Flock<()>, to: SocketAddr) {
    let mut silent = Vec::new();
    for _ in 0..10_000 {
        silent.push(TcpStream::connect(to).unwrap());
        let connecting = flock.stats().connecting;
        assert!(connecting <= 2_000, "half-open handshakes are limited");
    }
    wait_for("timeouts", || flock.stats().connecting == 0);
}

fn thousands_of_silent_peers_are_bounded_and_end(backend: Backend) {
    let _alone = MANY.lock().unwrap_or_else(PoisonError::into_inner);
    raise_open_files().unwrap();
    let flock = engine(backend)
        .half_open(1_000)
        .handshake_timeout(Duration::from_secs(2))
        .start_with(|_| Ignore)
        .unwrap();
    let to = local(flock.listen(0).unwrap());
    let mut healthy = RawPeer::handshake(to, &id(1));
    silent_wave(&flock, to);
    // Other tests run beside this one and take memory, too, but not during each wave; a leak of a
    // kilobyte for each silent peer would be more every time.
    let mut growths = Vec::new();
    while growths.iter().all(|growth| *growth >= 8 << 10) {
        assert!(
            growths.len() < 5,
            "{growths:?} KiB more after the same again"
        );
        let before = resident();
        silent_wave(&flock, to);
        growths.push(resident().saturating_sub(before));
    }
    healthy.stream.write_all(b"still here").unwrap();
    echo_works(&flock, to, 9);
    assert_eq!(flock.stats().connected, 1);
    let counters = flock.counters().counters;
    assert!(counters.handshake_timeouts > 0);
    assert!(counters.inbound_refused + counters.swarm.handshakes_crowded_out > 0);
    flock.shutdown(Duration::from_millis(100));
}

fn newcomers_get_in_beside_silent_peers(backend: Backend) {
    let flock = engine(backend)
        .half_open(100)
        .handshake_timeout(Duration::from_secs(10))
        .start_with(|_| Ignore)
        .unwrap();
    let to = local(flock.listen(0).unwrap());
    let mut silent = Vec::new();
    for newcomer in 1..=5 {
        // More than there are places, so that all of them are taken.
        silent.extend((0..300).map(|_| TcpStream::connect(to).unwrap()));
        let mut peer = None;
        wait_for("a newcomer", || {
            peer = RawPeer::try_handshake(to, &id(newcomer)).ok();
            peer.is_some()
        });
        assert!(flock.stats().connecting <= 200);
    }
    let counters = flock.counters().counters;
    assert_eq!(counters.handshake_timeouts, 0, "nobody waited for those");
    assert!(counters.swarm.handshakes_crowded_out > 0);
    flock.shutdown(Duration::from_millis(100));
}
