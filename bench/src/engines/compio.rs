//! compio: one task per connection, owned buffers.

use crate::engine::{Drive, Engine, Serve, add, unexpected};
use crate::job::{self, FRAME_LEN, Job};
use compio::buf::{BufResult, IntoInner, IoBuf};
use compio::driver::ProactorBuilder;
use compio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use compio::net::{TcpListener, TcpStream};
use compio::runtime::RuntimeBuilder;
use flock_transport::Transport;
use std::io;
use std::sync::Arc;

/// compio as its defaults make it.
pub const PLAIN: Engine = Engine {
    name: "compio",
    about: "compio, defaults",
    transport: Transport::Tcp,
    plays: |_| true,
    lives_max: None,
    sharded: false,
    serve: |cx| block_on(false, serve(Arc::clone(cx))),
    drive: |cx| block_on(false, drive(Arc::clone(cx))),
};

/// compio with the ring flags for one thread that waits in the ring.
pub const TUNED: Engine = Engine {
    name: "compio-tuned",
    about: "compio, SINGLE_ISSUER | COOP_TASKRUN | DEFER_TASKRUN",
    transport: Transport::Tcp,
    plays: |_| true,
    lives_max: None,
    sharded: false,
    serve: |cx| block_on(true, serve(Arc::clone(cx))),
    drive: |cx| block_on(true, drive(Arc::clone(cx))),
};

fn block_on<F: Future<Output = io::Result<()>>>(tuned: bool, future: F) -> io::Result<()> {
    let mut proactor = ProactorBuilder::new();
    if tuned {
        proactor
            .single_issuer(true)
            .coop_taskrun(true)
            .defer_taskrun(true);
    }
    RuntimeBuilder::new()
        .with_proactor(proactor)
        .build()?
        .block_on(future)
}

async fn serve(cx: Arc<Serve>) -> io::Result<()> {
    let listener = TcpListener::from_std(cx.listen()?)?;
    loop {
        let (stream, _) = listener.accept().await?;
        if cx.stopped() {
            return Ok(());
        }
        let cx = Arc::clone(&cx);
        compio::runtime::spawn(async move {
            // The reset that ends a life is how the client says goodbye, not an error.
            let _ = session(&cx, stream).await;
            cx.count_end();
        })
        .detach();
    }
}

async fn session(cx: &Serve, mut stream: TcpStream) -> io::Result<()> {
    let hello: &'static [u8] = &job::SERVER_FRAME;
    stream.write_all(hello).await.0?;
    let BufResult(read, frame) = stream.read_exact(Vec::with_capacity(FRAME_LEN)).await;
    read?;
    cx.count_frame(&frame);
    let mut buffer = Vec::with_capacity(cx.job.server_buffer());
    loop {
        buffer.clear();
        let BufResult(read, filled) = stream.read(buffer).await;
        buffer = filled;
        let len = read?;
        if len == 0 {
            return Ok(());
        }
        add(&cx.served.bytes, len as u64);
        match cx.job {
            Job::Echo(_) => {
                let BufResult(written, slice) = stream.write_all(buffer.slice(..len)).await;
                written?;
                buffer = slice.into_inner();
            }
            Job::Blob(_) => {
                for _ in 0..len {
                    stream.write_all(cx.blob.clone()).await.0?;
                }
            }
            Job::Life(_) | Job::Bulk => {}
        }
    }
}

async fn drive(cx: Arc<Drive>) -> io::Result<()> {
    let workers: Vec<_> = (0..cx.in_flight)
        .map(|_| {
            let cx = Arc::clone(&cx);
            compio::runtime::spawn(async move {
                while cx.next() {
                    if connection(&cx).await.is_err() {
                        cx.count_error();
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.map_err(|_| unexpected("a task panicked"))?;
    }
    Ok(())
}

/// One connection; the caller holds the right to its first unit.
async fn connection(cx: &Drive) -> io::Result<()> {
    let (addr, hello) = cx.connection();
    let mut stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    if cx.job.resets() {
        stream.set_zero_linger()?;
    }
    stream.write_all(hello).await.0?;
    let BufResult(read, frame) = stream.read_exact(Vec::with_capacity(FRAME_LEN)).await;
    read?;
    if !job::is_server_frame(&frame) {
        return Err(unexpected("not the server's frame"));
    }
    if let Job::Life(_) = cx.job {
        drop(stream);
        cx.count_done();
        return Ok(());
    }
    let mut buffer = Vec::with_capacity(cx.job.client_buffer());
    loop {
        stream.write_all(cx.request.clone()).await.0?;
        let mut left = cx.job.response();
        while left > 0 {
            buffer.clear();
            let BufResult(read, filled) = stream.read(buffer).await;
            buffer = filled;
            match read? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                len => left -= len,
            }
        }
        cx.count_done();
        if !cx.next() {
            return Ok(());
        }
    }
}
