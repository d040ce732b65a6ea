//! tokio, current-thread runtime: one task per connection.

use crate::engine::{Drive, Engine, Serve, add, unexpected};
use crate::job::{self, FRAME_LEN, Job};
use flock_transport::Transport;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};

/// tokio as an ordinary user writes it; it has no ring flags to tune.
pub const ENGINE: Engine = Engine {
    name: "tokio",
    about: "tokio current_thread, a task per connection",
    transport: Transport::Tcp,
    plays: |_| true,
    lives_max: None,
    sharded: false,
    serve,
    drive,
};

fn block_on<F: Future<Output = io::Result<()>>>(future: F) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    LocalSet::new().block_on(&runtime, future)
}

fn serve(cx: &Arc<Serve>) -> io::Result<()> {
    block_on(async {
        let listener = TcpListener::from_std(cx.listen()?)?;
        loop {
            let (stream, _) = listener.accept().await?;
            if cx.stopped() {
                return Ok(());
            }
            let cx = Arc::clone(cx);
            spawn_local(async move {
                // The reset that ends a life is how the client says goodbye, not an error.
                let _ = session(&cx, stream).await;
                cx.count_end();
            });
        }
    })
}

async fn session(cx: &Serve, mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(&job::SERVER_FRAME).await?;
    let mut frame = [0; FRAME_LEN];
    stream.read_exact(&mut frame).await?;
    cx.count_frame(&frame);
    let mut buffer = vec![0; cx.job.server_buffer()];
    loop {
        let len = stream.read(&mut buffer).await?;
        if len == 0 {
            return Ok(());
        }
        add(&cx.served.bytes, len as u64);
        match cx.job {
            Job::Echo(_) => stream.write_all(&buffer[..len]).await?,
            Job::Blob(_) => {
                for _ in 0..len {
                    stream.write_all(&cx.blob).await?;
                }
            }
            Job::Life(_) | Job::Bulk => {}
        }
    }
}

fn drive(cx: &Arc<Drive>) -> io::Result<()> {
    block_on(async {
        let buffer = cx.job.client_buffer();
        let workers: Vec<_> = (0..cx.in_flight)
            .map(|_| {
                let cx = Arc::clone(cx);
                spawn_local(async move {
                    let mut buffer = vec![0; buffer];
                    while cx.next() {
                        if connection(&cx, &mut buffer).await.is_err() {
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
    })
}

/// One connection; the caller holds the right to its first unit.
async fn connection(cx: &Drive, buffer: &mut [u8]) -> io::Result<()> {
    let (addr, hello) = cx.connection();
    let mut stream = TcpStream::connect(addr).await?;
    job::client_options(&socket2::SockRef::from(&stream), cx.job)?;
    stream.write_all(&hello).await?;
    let mut frame = [0; FRAME_LEN];
    stream.read_exact(&mut frame).await?;
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
        let mut left = cx.job.response();
        while left > 0 {
            match stream.read(buffer).await? {
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
