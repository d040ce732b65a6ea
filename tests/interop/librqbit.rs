//! uTP with the crate `librqbit-utp`, in both roles. It needs no Node, and never skips.

use crate::utp_host::Host;
use flock_transport::CloseReason;
use librqbit_utp::{UtpSocketUdp, UtpStream};
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

/// How long the ends of its last connections may take, which it sends in tasks of its own.
const GRACE: Duration = Duration::from_millis(500);
/// It keeps 32 SYNs that nobody has accepted, and forgets what is dialled beyond.
const AT_ONCE: usize = 25;

fn pattern(bytes: usize, seed: u8) -> Vec<u8> {
    (0..251_u8).cycle().skip(seed.into()).take(bytes).collect()
}

/// A peer that runs a script on a thread of its own.
struct Peer<T> {
    port: u16,
    done: Receiver<T>,
}

impl<T: Send + 'static> Peer<T> {
    fn run<F>(script: impl FnOnce(Arc<UtpSocketUdp>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = T>,
    {
        let (tell_port, port) = channel();
        let (tell, done) = channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            tokio::task::LocalSet::new().block_on(&runtime, async {
                let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
                let socket = UtpSocketUdp::new_udp(any).await.unwrap();
                tell_port.send(socket.bind_addr().port()).unwrap();
                let result = script(socket).await;
                // Whoever waits for it may have failed.
                let _nobody_waits = tell.send(result);
                sleep(GRACE).await;
            });
        });
        let port = port.recv_timeout(Duration::from_secs(20)).unwrap();
        Self { port, done }
    }

    /// Runs our side until the script is over.
    fn finish(self, host: &mut Host) -> T {
        let mut result = None;
        host.run_until("the end of its script", |_| {
            match self.done.try_recv() {
                Ok(done) => result = Some(done),
                Err(TryRecvError::Disconnected) => panic!("its script failed"),
                Err(TryRecvError::Empty) => {}
            }
            result.is_some()
        });
        result.expect("waited for")
    }
}

async fn dial(socket: &Arc<UtpSocketUdp>, port: u16) -> UtpStream {
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    socket.connect(to).await.unwrap()
}

/// Everything up to the end.
async fn read_all(stream: &mut UtpStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    all
}

async fn echo(mut stream: UtpStream) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(len) => stream.write_all(&buffer[..len]).await.unwrap(),
        }
    }
}

#[test]
fn we_dial_and_are_echoed() {
    let peer = Peer::run(|socket| async move {
        let mut stream = socket.accept().await.unwrap();
        let mut all = vec![0; 1_000_000];
        stream.read_exact(&mut all).await.unwrap();
        stream.write_all(&all).await.unwrap();
        assert_eq!(read_all(&mut stream).await, b"");
        all.len()
    });
    let mut host = Host::new(21);
    let key = host.dial(peer.port);
    let sent = pattern(1_000_000, 3);
    host.send(key, sent.clone());
    host.run_until("the echo", |host| {
        host.conn(key).received.len() == sent.len()
    });
    assert!(host.conn(key).received == sent);
    host.end(key);
    assert_eq!(peer.finish(&mut host), sent.len());
    host.run_until("the close", |host| host.conn(key).closed.is_some());
    assert_eq!(host.conn(key).closed, Some(CloseReason::PeerClosed));
}

#[test]
fn it_dials_and_is_echoed() {
    let mut host = Host::new(22);
    host.echo = true;
    let port = host.port();
    let peer = Peer::run(move |socket| async move {
        let mut stream = dial(&socket, port).await;
        let sent = pattern(300_000, 9);
        stream.write_all(&sent).await.unwrap();
        let mut back = vec![0; sent.len()];
        stream.read_exact(&mut back).await.unwrap();
        stream.shutdown().await.unwrap();
        back == sent
    });
    assert!(peer.finish(&mut host));
}

#[test]
fn sixty_four_mebibytes_go_each_way() {
    const BYTES: usize = 64 << 20;
    let mut host = Host::new(23);
    let there = Peer::run(|socket| async move {
        let mut stream = socket.accept().await.unwrap();
        read_all(&mut stream).await == pattern(BYTES, 5)
    });
    let key = host.dial(there.port);
    host.send(key, pattern(BYTES, 5));
    host.end(key);
    assert!(there.finish(&mut host));
    let port = host.port();
    let back = Peer::run(move |socket| async move {
        let mut stream = dial(&socket, port).await;
        stream.write_all(&pattern(BYTES, 7)).await.unwrap();
        stream.shutdown().await.unwrap();
    });
    let key = host.accept();
    host.run_until("all of it", |host| host.conn(key).ended);
    assert!(host.conn(key).received == pattern(BYTES, 7));
    back.finish(&mut host);
}

/// It knows no half-close: our end is the end of both directions for it, and what it had not sent by then
/// is lost. What had arrived is ours, and the connection ends without a reset.
#[test]
fn our_end_is_its_end() {
    let mut host = Host::new(24);
    let peer = Peer::run(|socket| async move {
        let mut stream = socket.accept().await.unwrap();
        stream.write_all(&pattern(30_000, 2)).await.unwrap();
        let mut all = Vec::new();
        let _end_or_error = stream.read_to_end(&mut all).await;
        all
    });
    let key = host.dial(peer.port);
    host.send(key, pattern(10, 1));
    host.run_until("its bytes", |host| host.conn(key).received.len() == 30_000);
    host.end(key);
    assert_eq!(peer.finish(&mut host), pattern(10, 1));
    host.run_until("the close", |host| host.conn(key).closed.is_some());
    assert_eq!(host.conn(key).closed, Some(CloseReason::PeerClosed));
    assert!(host.conn(key).received == pattern(30_000, 2));
}

#[test]
fn both_ends_write_at_once() {
    let mut host = Host::new(25);
    let port = host.port();
    let peer = Peer::run(move |socket| async move {
        let mut stream = dial(&socket, port).await;
        stream.write_all(&pattern(500_000, 4)).await.unwrap();
        let mut all = vec![0; 500_000];
        stream.read_exact(&mut all).await.unwrap();
        stream.shutdown().await.unwrap();
        all == pattern(500_000, 6)
    });
    let key = host.accept();
    host.send(key, pattern(500_000, 6));
    host.run_until("its end", |host| host.conn(key).ended);
    assert!(host.conn(key).received == pattern(500_000, 4));
    host.end(key);
    assert!(peer.finish(&mut host));
}

#[test]
fn a_thousand_connections_one_after_another_and_beside_each_other() {
    let peer = Peer::run(|socket| async move {
        for _ in 0..1000 {
            let stream = socket.accept().await.unwrap();
            spawn_local(echo(stream));
        }
    });
    let mut host = Host::new(26);
    for _ in 0..1000 / AT_ONCE {
        let keys: Vec<_> = (0..AT_ONCE).map(|_| host.dial(peer.port)).collect();
        for key in &keys {
            host.send(*key, pattern(33, 0));
        }
        host.run_until("the echoes", |host| {
            keys.iter().all(|key| host.conn(*key).received.len() == 33)
        });
        for key in &keys {
            assert_eq!(host.conn(*key).received, pattern(33, 0));
            host.end(*key);
        }
        host.run_until("the ends", |host| {
            keys.iter().all(|key| host.conn(*key).closed.is_some())
        });
        assert!(
            keys.iter()
                .all(|key| host.conn(*key).closed == Some(CloseReason::PeerClosed))
        );
    }
    peer.finish(&mut host);
}

#[test]
fn a_peer_that_closes_during_a_transfer_is_noticed() {
    let mut host = Host::new(27);
    let peer = Peer::run(|socket| async move {
        let mut stream = socket.accept().await.unwrap();
        let mut some = vec![0; 100_000];
        stream.read_exact(&mut some).await.unwrap();
    });
    let key = host.dial(peer.port);
    host.send(key, pattern(20_000_000, 0));
    host.run_until("the end", |host| {
        host.conn(key).closed.is_some() || host.conn(key).ended
    });
}

#[test]
fn a_peer_that_vanishes_is_given_up() {
    let mut host = Host::new(28);
    let peer = Peer::run(|socket| async move {
        let mut stream = socket.accept().await.unwrap();
        let mut some = vec![0; 1000];
        stream.read_exact(&mut some).await.unwrap();
        // Its thread, and all it had to say, end with this.
        std::mem::forget(stream);
        timeout(Duration::from_millis(1), std::future::pending::<()>()).await
    });
    let key = host.dial(peer.port);
    host.send(key, pattern(1000, 0));
    let _timed_out = peer.finish(&mut host);
    host.step(GRACE * 2);
    host.send(key, pattern(5_000_000, 0));
    host.run_until("the end", |host| host.conn(key).closed.is_some());
    assert_ne!(host.conn(key).closed, Some(CloseReason::PeerClosed));
}
