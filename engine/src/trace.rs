//! Events for whoever listens with `tracing`: target `flock`, level debug, capped buffers at
//! warn, failures of shards at error; nothing for a packet or a piece of data. Without a listener an event costs one load.

use crate::event::{ConnectionInfo, Event, Peer};
use flock_transport::Transport;
use std::fmt::Display;

const TARGET: &str = "flock";

pub(crate) fn trace(event: &Event) {
    if !tracing::enabled!(target: TARGET, tracing::Level::DEBUG) {
        return;
    }
    let name = event.name();
    match event {
        Event::Peer(peer) | Event::PeerDropped(peer) | Event::Connecting(peer) => {
            about_peer(name, peer, &"");
        }
        Event::PeerBanned { peer, reason } => about_peer(name, peer, reason),
        Event::PeerRejected { peer, reason } => about_peer(name, peer, reason),
        Event::ConnectFailed { peer, timed_out } => {
            about_peer(
                name,
                peer,
                if *timed_out { &"timed-out" } else { &"failed" },
            );
        }
        Event::Handshaking(info)
        | Event::HandshakeTimeout(info)
        | Event::Connection(info)
        | Event::RedundantConnection(info) => about_connection(name, info, &""),
        Event::ConnectionClosed { info, reason, .. } => about_connection(name, info, reason),
        Event::ConnectionRefused {
            addr,
            transport,
            reason,
        } => {
            let over = transport_name(*transport);
            tracing::debug!(target: TARGET, peer = %addr, transport = over, %reason, "{name}");
        }
        Event::BuffersCapped {
            wanted,
            got,
            sysctl,
        } => tracing::warn!(target: TARGET, wanted, got, sysctl, "{name}"),
        Event::ShardFailed { shard, reason } => {
            tracing::error!(target: TARGET, shard, %reason, "{name}");
        }
    }
}

fn about_peer(name: &str, peer: &Peer, reason: &dyn Display) {
    let Peer {
        channel,
        addr,
        retries,
    } = peer;
    tracing::debug!(target: TARGET, peer = %addr, %channel, retries, %reason, "{name}");
}

fn about_connection(name: &str, info: &ConnectionInfo, reason: &dyn Display) {
    tracing::debug!(
        target: TARGET,
        conn = %info.conn,
        peer = %info.addr,
        transport = transport_name(info.transport),
        initiator = info.initiator,
        id = info.peer_id.as_ref().map(tracing::field::display),
        %reason,
        "{name}"
    );
}

fn transport_name(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "tcp",
        Transport::Utp => "utp",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::RejectReason;
    use std::io;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::fmt::MakeWriter;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn an_event_is_a_line_with_its_name_and_reason() {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_writer(lines.clone())
            .with_ansi(false)
            .finish();
        let peer = Peer {
            channel: "c".into(),
            addr: "127.0.0.1:7".parse().unwrap(),
            retries: 2,
        };
        let reason = RejectReason::Duplicate;
        tracing::subscriber::with_default(subscriber, || {
            trace(&Event::PeerRejected { peer, reason });
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        for part in [
            "DEBUG flock: peer-rejected",
            "peer=127.0.0.1:7",
            "channel=63",
            "retries=2",
            "reason=duplicate",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
