//! librqbit-utp on tokio, current-thread runtime: one task per connection, beside its own.

use crate::engine::{Drive, Engine, Serve, add, unexpected};
use crate::job::{self, Close, FRAME_LEN, Job};
use flock_transport::Transport;
use librqbit_utp::{UtpSocketUdp, UtpStream};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{sleep, timeout};

/// As an ordinary user writes it, with default options: link MTU 1,500 (datagrams of 1,472 bytes), and
/// a receive buffer of the socket as large as the system allows.
pub const ENGINE: Engine = Engine {
    name: "librqbit-utp",
    about: "librqbit-utp 0.7.0 on tokio current_thread, a task per connection; it cannot reset",
    transport: Transport::Utp,
    plays: |job| matches!(job, Job::Life(Close::Fin) | Job::Bulk),
    lives_max: None,
    sharded: false,
    serve,
    drive,
};

/// How often a server looks whether it is to end.
const LOOK: Duration = Duration::from_millis(20);
/// How long the ends of the last connections may take.
const GRACE: Duration = Duration::from_millis(200);
/// How long one dial may take, and how often it is tried. The library keeps 32 SYNs that nobody has
/// accepted; a SYN beyond that is refused, and its dial hangs.
const DIAL_PATIENCE: Duration = Duration::from_millis(100);
const DIALS: usize = 20;
/// How long one step of a connection may take.
const PATIENCE: Duration = Duration::from_secs(5);

fn block_on<F: Future<Output = io::Result<()>>>(future: F) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, future)
}

fn serve(cx: &Arc<Serve>) -> io::Result<()> {
    block_on(async {
        let socket = UtpSocketUdp::new_udp(cx.bind())
            .await
            .map_err(io::Error::other)?;
        cx.report(socket.bind_addr());
        spawn_local(accept(Arc::clone(cx), Arc::clone(&socket)));
        while !cx.stopped() {
            sleep(LOOK).await;
        }
        Ok(())
    })
}

async fn accept(cx: Arc<Serve>, socket: Arc<UtpSocketUdp>) {
    while let Ok(stream) = socket.accept().await {
        let cx = Arc::clone(&cx);
        spawn_local(async move {
            if session(&cx, stream).await.is_err() {
                add(&cx.served.errors, 1);
            }
            cx.count_end();
        });
    }
}

async fn session(cx: &Serve, mut stream: UtpStream) -> io::Result<()> {
    stream.write_all(&job::SERVER_FRAME).await?;
    let mut frame = [0; FRAME_LEN];
    stream.read_exact(&mut frame).await?;
    cx.count_frame(&frame);
    let mut buffer = vec![0; cx.job.server_buffer()];
    loop {
        match stream.read(&mut buffer).await? {
            // What is dropped is ended in order, in a task of the library's own.
            0 => return Ok(()),
            len => add(&cx.served.bytes, len as u64),
        }
    }
}

fn drive(cx: &Arc<Drive>) -> io::Result<()> {
    block_on(async {
        let mut workers = Vec::with_capacity(cx.in_flight);
        for _ in 0..cx.in_flight {
            let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
            let socket = UtpSocketUdp::new_udp(any).await.map_err(io::Error::other)?;
            let cx = Arc::clone(cx);
            workers.push(spawn_local(async move {
                while cx.next() {
                    if connection(&cx, &socket).await.is_err() {
                        cx.count_error();
                    }
                }
            }));
        }
        for worker in workers {
            worker.await?;
        }
        // What was dropped last is still being ended.
        sleep(GRACE).await;
        Ok(())
    })
}

async fn dial(socket: &Arc<UtpSocketUdp>, addr: SocketAddr) -> io::Result<UtpStream> {
    for _ in 0..DIALS {
        if let Ok(stream) = timeout(DIAL_PATIENCE, socket.connect(addr)).await {
            return stream.map_err(io::Error::other);
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// One connection; the caller holds the right to its first unit.
async fn connection(cx: &Drive, socket: &Arc<UtpSocketUdp>) -> io::Result<()> {
    let (addr, hello) = cx.connection();
    let mut stream = dial(socket, addr).await?;
    stream.write_all(&hello).await?;
    let mut frame = [0; FRAME_LEN];
    timeout(PATIENCE, stream.read_exact(&mut frame)).await??;
    if !job::is_server_frame(&frame) {
        return Err(unexpected("not the server's frame"));
    }
    if let Job::Life(_) = cx.job {
        drop(stream);
        cx.count_done();
        return Ok(());
    }
    loop {
        stream.write_all(&cx.request).await?;
        cx.count_done();
        if !cx.next() {
            // The client's runtime ends with its last connection: all is to be there before.
            return timeout(PATIENCE, stream.shutdown()).await?;
        }
    }
}
