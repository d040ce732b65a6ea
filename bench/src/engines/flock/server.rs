//! The server's side: an engine with a handler, as an embedder writes it.

use crate::engine::{Serve, add};
use crate::job::{Job, SERVER_FRAME};
use bytes::Bytes;
use flock_engine::io::Backend;
use flock_engine::{
    Builder, CloseReason, ConnCx, ConnId, ConnectionInfo, Flock, Handler, IdChoice, PeerId, ShardCx,
};
use ipnet::{IpNet, Ipv4Net};
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

/// How long connections may take to end when the server does.
const GRACE: Duration = Duration::from_secs(2);

struct Session {
    cx: Arc<Serve>,
}

impl Handler for Session {
    type Conn = ();
    type Msg = ();

    fn on_connection(&mut self, _: &mut ConnCx<'_>, info: &ConnectionInfo) {
        let id = info.peer_id.as_ref().map_or(&[][..], PeerId::as_bytes);
        self.cx.count_id(id);
    }

    fn on_data(&mut self, conn: &mut ConnCx<'_>, (): &mut (), data: &[u8]) {
        add(&self.cx.served.bytes, data.len() as u64);
        let sent = match self.cx.job {
            Job::Echo(_) => conn.send(Bytes::copy_from_slice(data)).is_ok(),
            Job::Blob(_) => data.iter().all(|_| conn.send(self.cx.blob.clone()).is_ok()),
            Job::Life(_) | Job::Bulk => true,
        };
        if !sent {
            add(&self.cx.served.errors, 1);
        }
    }

    fn on_closed(&mut self, _: &mut ShardCx<'_>, _: ConnId, (): (), _: CloseReason) {
        self.cx.count_end();
    }
}

pub(super) fn serve(cx: &Arc<Serve>, backend: Backend) -> io::Result<()> {
    start(cx, Flock::builder().backend(backend))
}

pub(super) fn serve_utp(cx: &Arc<Serve>, backend: Backend) -> io::Result<()> {
    start(cx, Flock::builder().backend(backend).tcp(false))
}

/// With every kind of admission at work, and none of it in the way.
pub(super) fn serve_guarded(cx: &Arc<Serve>, backend: Backend) -> io::Result<()> {
    const MANY: u32 = 1 << 20;
    let net = |a: u8, b: u8| IpNet::from(Ipv4Net::new_assert(Ipv4Addr::new(a, b, 0, 0), 16));
    let loopback = (0..=255).map(|b| net(127, b));
    let elsewhere = (0..=255).map(|b| net(10, b));
    let options = Flock::builder()
        .backend(backend)
        .max_connections(MANY)
        .reserved(1)
        .max_inbound(MANY)
        .max_outbound(MANY)
        .max_per_ip(MANY)
        .max_per_subnet(MANY)
        .accept_rate(MANY)
        .memory_watermark(1 << 40)
        .whitelist(loopback.collect::<Vec<_>>())
        .denylist(elsewhere.collect::<Vec<_>>())
        .firewall(|_| true)
        .idle_timeout(Some(Duration::from_secs(600)));
    start(cx, options)
}

fn start(cx: &Arc<Serve>, options: Builder) -> io::Result<()> {
    let shared = Arc::clone(cx);
    let id = PeerId::new(&SERVER_FRAME[1..]).expect("32 bytes make an id");
    let mut options = options.id(IdChoice::Fixed(id)).shards(cx.shards);
    if cx.shards > 1 {
        options = options.cpus(0..cx.shards);
    }
    let flock = options
        .start_with(move |_| Session {
            cx: Arc::clone(&shared),
        })
        .map_err(io::Error::other)?;
    cx.report(flock.listen_at(cx.bind()).map_err(io::Error::other)?);
    while !cx.stopped() {
        if cx.shards > 1 {
            let counters = flock.counters().counters;
            cx.served
                .messages
                .store(counters.messages_sent, Ordering::Relaxed);
            thread::park_timeout(super::LOOK);
        } else {
            thread::park();
        }
    }
    flock.shutdown(GRACE);
    Ok(())
}
