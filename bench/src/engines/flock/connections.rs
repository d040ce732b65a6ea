//! The server's side with the [`Connection`] level: one task per connection on a current-thread
//! runtime, as for tokio, beside the engine's own thread.

use crate::engine::{Serve, add};
use crate::job::{Job, SERVER_FRAME};
use flock_engine::io::Backend;
use flock_engine::{Connection, Flock, IdChoice, PeerId};
use std::io;
use std::sync::Arc;
use tokio::task::{LocalSet, spawn_local};

pub(super) fn serve(cx: &Arc<Serve>, backend: Backend) -> io::Result<()> {
    let id = PeerId::new(&SERVER_FRAME[1..]).expect("32 bytes make an id");
    let flock = Flock::builder()
        .backend(backend)
        .id(IdChoice::Fixed(id))
        .shards(cx.shards)
        .start()
        .map_err(io::Error::other)?;
    cx.report(flock.listen_at(cx.bind()).map_err(io::Error::other)?);
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    LocalSet::new().block_on(&runtime, accept(Arc::clone(cx), flock.clone()));
    flock.shutdown(super::GRACE);
    Ok(())
}

/// Takes connections until the engine ends, which a thread sees to: the knock of whoever stops the
/// server is no peer, so that no task hears of it.
async fn accept(cx: Arc<Serve>, flock: Flock) {
    let watch = {
        let (cx, flock) = (Arc::clone(&cx), flock.clone());
        std::thread::spawn(move || {
            while !cx.stopped() {
                std::thread::park_timeout(super::LOOK);
            }
            flock.begin_shutdown(super::GRACE);
        })
    };
    while let Some(connection) = flock.accept().await {
        let cx = Arc::clone(&cx);
        spawn_local(async move {
            session(&cx, connection).await;
            cx.count_end();
        });
    }
    watch.join().expect("it only waits");
}

async fn session(cx: &Serve, connection: Connection) {
    let id = connection.info().peer_id.as_ref();
    cx.count_id(id.map_or(&[][..], PeerId::as_bytes));
    while let Ok(Some(data)) = connection.recv().await {
        add(&cx.served.bytes, data.len() as u64);
        let sent = match cx.job {
            Job::Echo(_) => connection.send(data).await,
            Job::Blob(_) => blobs(cx, &connection, data.len()).await,
            Job::Life(_) | Job::Bulk => Ok(()),
        };
        if sent.is_err() {
            return;
        }
    }
}

async fn blobs(
    cx: &Serve,
    connection: &Connection,
    count: usize,
) -> Result<(), flock_engine::SendError> {
    for _ in 0..count {
        connection.send(cx.blob.clone()).await?;
    }
    Ok(())
}
