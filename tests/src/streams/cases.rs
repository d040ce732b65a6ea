//! What must hold on every ground.

use super::{Side, Stage, block, byte, close, is_block, once, read, write};
use bytes::Bytes;
use flock_engine::{CloseReason, RecvError};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

/// What a connection may hold that nobody has read, before the peer is held back.
const RECV_LIMIT: usize = 256 << 10;
/// What it may have on its way to the shard.
const UNQUEUED_MAX: usize = (256 + 64) << 10;
/// The high-water mark of a send queue, with what may be above it.
const QUEUE_MAX: usize = (256 << 10) + UNQUEUED_MAX;

/// Bytes go out through one half and come back through the other, and each direction ends by itself.
pub fn halves_echo_in_tasks_of_their_own(stage: &mut dyn Stage) {
    let [a, b] = stage.meet();
    let much = stage.much();
    let echo = async move {
        while let Some(data) = a.connection.recv().await.expect("nothing breaks") {
            a.connection.send(data).await.expect("nothing breaks");
        }
        a.connection.end();
        drop(a.flock);
    };
    let Side { flock, connection } = b;
    let (mut reader, mut writer) = connection.split();
    let send = async move {
        let mut at = 0;
        while at < much {
            let data = block(at, (much - at).min(100_000));
            at += write(&mut writer, &data).await.expect("nothing breaks");
        }
        close(&mut writer).await.expect("nothing breaks");
        let late = write(&mut writer, b"late").await.expect_err("it is over");
        assert_eq!(late.kind(), std::io::ErrorKind::BrokenPipe);
    };
    let receive = async move {
        let (mut at, mut buf) = (0, vec![0; 50_000]);
        loop {
            let len = read(&mut reader, &mut buf).await.expect("nothing breaks");
            assert!(is_block(at, &buf[..len]), "at {at}");
            at += len;
            if len == 0 {
                break;
            }
        }
        assert_eq!(at, much);
        drop(flock);
    };
    stage.run(vec![Box::pin(echo), Box::pin(send), Box::pin(receive)]);
}

/// However much is sent, what is on its way stays bounded, and all of it arrives.
pub fn a_slow_reader_holds_the_sender_back(stage: &mut dyn Stage) {
    let [a, b] = stage.meet();
    let (much, network) = (stage.much(), stage.network_holds());
    let unread_max = RECV_LIMIT + stage.turn_brings();
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let send = async move {
        while count.load(Ordering::Relaxed) < much {
            let at = count.load(Ordering::Relaxed);
            let mut data = Bytes::from(block(at, (much - at).min(300_000)));
            let whole = data.len();
            a.connection
                .send_all(&mut data)
                .await
                .expect("nothing breaks");
            assert!(a.connection.unqueued() <= UNQUEUED_MAX);
            count.fetch_add(whole, Ordering::Relaxed);
        }
        a.connection.end();
        assert_eq!(a.connection.recv().await.expect("nothing breaks"), None);
        drop(a.flock);
    };
    let receive = async move {
        while b.connection.unread() < RECV_LIMIT {
            yield_now().await;
        }
        let mut at = 0;
        while let Some(data) = b.connection.recv().await.expect("nothing breaks") {
            assert!(is_block(at, &data), "at {at}");
            at += data.len();
            // Everything else goes first, and has gone as far as it may more often than not.
            for _ in 0..20 {
                yield_now().await;
            }
            let unread = b.connection.unread();
            assert!(unread <= unread_max, "{unread} bytes are unread");
            let between = sent.load(Ordering::Relaxed).saturating_sub(at);
            assert!(between <= unread_max + QUEUE_MAX + network, "{between}");
        }
        assert_eq!(at, much);
        assert!(b.flock.counters().counters.peers_held_back > 0);
        drop(b.flock);
    };
    stage.run(vec![Box::pin(send), Box::pin(receive)]);
}

async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        cx.waker().wake_by_ref();
        if std::mem::replace(&mut yielded, true) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

/// Futures are polled once and dropped, in any mixture: each byte is sent once and received once.
pub fn nothing_is_lost_by_dropping_futures(stage: &mut dyn Stage) {
    let [a, b] = stage.meet();
    let much = stage.much() / 4;
    let send = async move {
        let (mut at, mut rng) = (0, SmallRng::seed_from_u64(1));
        let mut connection = &a.connection;
        while at < much {
            let data = block(at, (much - at).min(rng.random_range(1..200_000)));
            let mut rest = Bytes::from(data.clone());
            match rng.random_range(0..4) {
                0 => {
                    let _ = once(connection.send_all(&mut rest)).await;
                    at += data.len() - rest.len();
                }
                1 => {
                    let written = once(write(&mut connection, &data)).await;
                    at += written.map_or(0, |written| written.expect("nothing breaks"));
                }
                2 => {
                    let piece = Bytes::from(data).slice(..rest.len().min(64 << 10));
                    let len = piece.len();
                    if let Some(sent) = once(connection.send(piece)).await {
                        sent.expect("nothing breaks");
                        at += len;
                    }
                }
                _ => {
                    connection.send(rest).await.expect("nothing breaks");
                    at += data.len();
                }
            }
        }
        connection.end();
        assert_eq!(connection.recv().await.expect("nothing breaks"), None);
        drop(a.flock);
    };
    let receive = async move {
        let (mut at, mut rng, mut buf) = (0, SmallRng::seed_from_u64(2), vec![0; 9_000]);
        let mut connection = &b.connection;
        while at < much {
            let got = match rng.random_range(0..3) {
                0 => match once(connection.recv()).await {
                    Some(data) => data.expect("nothing breaks").expect("there is more"),
                    None => continue,
                },
                1 => match once(read(&mut connection, &mut buf)).await {
                    Some(len) => Bytes::copy_from_slice(&buf[..len.expect("nothing breaks")]),
                    None => continue,
                },
                _ => connection
                    .recv()
                    .await
                    .expect("nothing breaks")
                    .expect("there is more"),
            };
            assert!(is_block(at, &got), "at {at}: {:?}", got.first());
            at += got.len();
        }
        assert_eq!(connection.recv().await.expect("nothing breaks"), None);
        drop(b.flock);
    };
    stage.run(vec![Box::pin(send), Box::pin(receive)]);
}

/// A future that one task polled may be finished by another.
pub fn a_waker_may_be_replaced(stage: &mut dyn Stage) {
    let [a, b] = stage.meet();
    let ask = async move {
        b.connection
            .send(&b"now"[..])
            .await
            .expect("nothing breaks");
        let mut answer = pin!(b.connection.recv());
        let early = answer
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        let answer = match early {
            Poll::Ready(answer) => answer,
            Poll::Pending => answer.await,
        };
        assert_eq!(
            answer.expect("nothing breaks").expect("there is more"),
            [byte(0)][..]
        );
        drop(b.flock);
    };
    let answer = async move {
        assert_eq!(
            a.connection
                .recv()
                .await
                .expect("nothing breaks")
                .expect("there is more"),
            &b"now"[..]
        );
        a.connection
            .send(block(0, 1))
            .await
            .expect("nothing breaks");
        assert_eq!(a.connection.recv().await.expect("nothing breaks"), None);
        drop(a.flock);
    };
    stage.run(vec![Box::pin(ask), Box::pin(answer)]);
}

/// What was sent before arrives, then the end.
pub fn a_dropped_connection_is_closed(stage: &mut dyn Stage) {
    let [a, b] = stage.meet();
    let leave = async move {
        b.connection
            .send(block(0, 100_000))
            .await
            .expect("nothing breaks");
        drop(b.connection);
        // The engine lives on for as long as it has something to close.
        drop(b.flock);
    };
    let stay = async move {
        let mut at = 0;
        while let Some(data) = a.connection.recv().await.expect("nothing breaks") {
            assert!(is_block(at, &data));
            at += data.len();
        }
        assert_eq!(at, 100_000);
        a.connection.end();
        while !a.connection.is_closed() {
            yield_now().await;
        }
        assert_eq!(a.connection.closed(), Some(CloseReason::PeerClosed));
        drop(a.flock);
    };
    stage.run(vec![Box::pin(leave), Box::pin(stay)]);
}

/// Tasks that wait for an engine nobody has any more are told so.
pub fn an_engine_that_is_dropped_ends_its_connections(stage: &mut dyn Stage) {
    let [a, b] = stage.meet();
    let orphan = async move {
        drop(a.flock);
        let ended = a.connection.recv().await;
        assert_eq!(ended, Err(RecvError::Closed(CloseReason::Shutdown)));
        let refused = a
            .connection
            .send(&b"late"[..])
            .await
            .expect_err("it is over");
        assert_eq!(refused.reason, Some(CloseReason::Shutdown));
        let error = read(&mut &a.connection, &mut [0])
            .await
            .expect_err("it is over");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted);
    };
    let other = async move {
        assert_eq!(b.connection.recv().await, Ok(None));
        drop(b);
    };
    stage.run(vec![Box::pin(orphan), Box::pin(other)]);
}
