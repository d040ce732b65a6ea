//! tokio-uring: one task per connection, owned buffers; it sleeps in epoll on the ring.

use crate::engine::{Drive, Engine, Serve, add, unexpected};
use crate::job::{self, FRAME_LEN, Frame, Job};
use crate::limit::sys;
use flock_transport::Transport;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use tokio_uring::buf::BoundedBuf;
use tokio_uring::net::{TcpListener, TcpStream};

/// tokio-uring as its defaults make it.
pub const PLAIN: Engine = Engine {
    name: "tokio-uring",
    about: "tokio-uring, defaults",
    transport: Transport::Tcp,
    plays: |_| true,
    lives_max: None,
    sharded: false,
    serve: |cx| tokio_uring::builder().start(serve(Arc::clone(cx))),
    drive: |cx| tokio_uring::builder().start(drive(Arc::clone(cx))),
};

/// tokio-uring with the flags that go with sleeping in epoll (`DEFER_TASKRUN` does not).
pub const TUNED: Engine = Engine {
    name: "tokio-uring-tuned",
    about: "tokio-uring, COOP_TASKRUN | TASKRUN_FLAG",
    transport: Transport::Tcp,
    plays: |_| true,
    lives_max: None,
    sharded: false,
    serve: |cx| tuned().start(serve(Arc::clone(cx))),
    drive: |cx| tuned().start(drive(Arc::clone(cx))),
};

fn tuned() -> tokio_uring::Builder {
    let mut ring = tokio_uring::uring_builder();
    ring.setup_coop_taskrun().setup_taskrun_flag();
    let mut builder = tokio_uring::builder();
    builder.uring_builder(&ring);
    builder
}

async fn serve(cx: Arc<Serve>) -> io::Result<()> {
    let listener = TcpListener::from_std(cx.listen()?);
    loop {
        let (stream, _) = listener.accept().await?;
        if cx.stopped() {
            return Ok(());
        }
        let cx = Arc::clone(&cx);
        tokio_uring::spawn(async move {
            // The reset that ends a life is how the client says goodbye, not an error.
            let _ = session(&cx, stream).await;
            cx.count_end();
        });
    }
}

/// Reads a whole frame; the library has no `read_exact`.
async fn read_frame(stream: &TcpStream) -> io::Result<Frame> {
    let mut buffer = vec![0; FRAME_LEN];
    let mut have = 0;
    while have < FRAME_LEN {
        let (read, slice) = stream.read(buffer.slice(have..)).await;
        buffer = slice.into_inner();
        match read? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            len => have += len,
        }
    }
    let mut frame = [0; FRAME_LEN];
    frame.copy_from_slice(&buffer);
    Ok(frame)
}

async fn session(cx: &Serve, stream: TcpStream) -> io::Result<()> {
    let hello: &'static [u8] = &job::SERVER_FRAME;
    stream.write_all(hello).await.0?;
    cx.count_frame(&read_frame(&stream).await?);
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
                let (written, slice) = stream.write_all(buffer.slice(..len)).await;
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
            tokio_uring::spawn(async move {
                while cx.next() {
                    if connection(&cx).await.is_err() {
                        cx.count_error();
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await?;
    }
    Ok(())
}

/// One connection; the caller holds the right to its first unit.
async fn connection(cx: &Drive) -> io::Result<()> {
    let (addr, hello) = cx.connection();
    let stream = TcpStream::connect(addr).await?;
    sys::client_options(stream.as_raw_fd(), cx.job)?;
    stream.write_all(hello.to_vec()).await.0?;
    if !job::is_server_frame(&read_frame(&stream).await?) {
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
