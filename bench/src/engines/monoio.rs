//! monoio: one task per connection, owned buffers, one operation per call.

use crate::engine::{Drive, Engine, Serve, add, unexpected};
use crate::job::{self, FRAME_LEN, Job};
use crate::limit::sys;
use flock_transport::Transport;
use monoio::buf::{IoBuf, Slice};
use monoio::io::{AsyncReadRent, AsyncReadRentExt, AsyncWriteRentExt};
use monoio::net::{TcpListener, TcpStream};
use monoio::{IoUringDriver, RuntimeBuilder};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

/// monoio as its defaults make it.
pub const PLAIN: Engine = Engine {
    name: "monoio",
    about: "monoio, defaults",
    transport: Transport::Tcp,
    plays: |_| true,
    lives_max: None,
    sharded: false,
    serve: |cx| block_on(plain(), serve(Arc::clone(cx))),
    drive: |cx| block_on(plain(), drive(Arc::clone(cx))),
};

/// monoio with the ring flags for one thread that waits in the ring.
pub const TUNED: Engine = Engine {
    name: "monoio-tuned",
    about: "monoio, SINGLE_ISSUER | COOP_TASKRUN | DEFER_TASKRUN",
    transport: Transport::Tcp,
    plays: |_| true,
    lives_max: None,
    sharded: false,
    serve: |cx| block_on(tuned(), serve(Arc::clone(cx))),
    drive: |cx| block_on(tuned(), drive(Arc::clone(cx))),
};

fn plain() -> monoio_ring::Builder {
    monoio_ring::IoUring::builder()
}

fn tuned() -> monoio_ring::Builder {
    let mut builder = monoio_ring::IoUring::builder();
    builder
        .setup_single_issuer()
        .setup_coop_taskrun()
        .setup_defer_taskrun();
    builder
}

fn block_on<F: Future<Output = io::Result<()>>>(
    ring: monoio_ring::Builder,
    future: F,
) -> io::Result<()> {
    RuntimeBuilder::<IoUringDriver>::new()
        .uring_builder(ring)
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
        monoio::spawn(async move {
            // The reset that ends a life is how the client says goodbye, not an error.
            let _ = session(&cx, stream).await;
            cx.count_end();
        });
    }
}

async fn session(cx: &Serve, mut stream: TcpStream) -> io::Result<()> {
    let hello: &'static [u8] = &job::SERVER_FRAME;
    stream.write_all(hello).await.0?;
    let (read, frame) = stream.read_exact(vec![0; FRAME_LEN]).await;
    read?;
    cx.count_frame(&frame);
    let mut buffer = vec![0; cx.job.server_buffer()];
    loop {
        let (read, filled) = stream.read(buffer).await;
        buffer = filled;
        let len = read?;
        if len == 0 {
            return Ok(());
        }
        add(&cx.served.bytes, len as u64);
        match cx.job {
            Job::Echo(_) => {
                let (written, slice): (_, Slice<Vec<u8>>) =
                    stream.write_all(buffer.slice(..len)).await;
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
            monoio::spawn(async move {
                while cx.next() {
                    if connection(&cx).await.is_err() {
                        cx.count_error();
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await;
    }
    Ok(())
}

/// One connection; the caller holds the right to its first unit.
async fn connection(cx: &Drive) -> io::Result<()> {
    let (addr, hello) = cx.connection();
    let mut stream = TcpStream::connect_addr(addr).await?;
    sys::client_options(stream.as_raw_fd(), cx.job)?;
    stream.write_all(hello.to_vec()).await.0?;
    let (read, frame) = stream.read_exact(vec![0; FRAME_LEN]).await;
    read?;
    if !job::is_server_frame(&frame) {
        return Err(unexpected("not the server's frame"));
    }
    if let Job::Life(_) = cx.job {
        drop(stream);
        cx.count_done();
        return Ok(());
    }
    let mut buffer = vec![0; cx.job.client_buffer()];
    loop {
        stream.write_all(cx.request.clone()).await.0?;
        let mut left = cx.job.response();
        while left > 0 {
            let (read, filled) = stream.read(buffer).await;
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
