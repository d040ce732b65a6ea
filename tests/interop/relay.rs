//! A second address of a peer that speaks uTP.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Hands datagrams on between a port of this host and whoever sends to the relay's.
pub(crate) struct Relay {
    pub(crate) addr: SocketAddr,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    pub(crate) fn to(port: u16) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        // How late it notices that it is over.
        let patience = Some(Duration::from_millis(50));
        socket.set_read_timeout(patience).expect("a valid time");
        let addr = socket.local_addr().expect("it is bound");
        let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let over = Arc::new(AtomicBool::new(false));
        let told = over.clone();
        let thread = thread::spawn(move || pass_on(&socket, peer, &told));
        Self {
            addr,
            over,
            thread: Some(thread),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its panic was reported.
            let _ = thread.join();
        }
    }
}

fn pass_on(socket: &UdpSocket, peer: SocketAddr, over: &AtomicBool) {
    let mut client = None;
    let mut datagram = [0; 1 << 16];
    while !over.load(Ordering::Relaxed) {
        let (len, from) = match socket.recv_from(&mut datagram) {
            Ok(received) => received,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                continue;
            }
            Err(error) => panic!("the relay cannot receive: {error}"),
        };
        let to = if from == peer { client } else { Some(peer) };
        if from != peer {
            client = Some(from);
        }
        // What cannot be sent is lost, as any datagram may be.
        let _ = to.map(|to| socket.send_to(&datagram[..len], to));
    }
}
