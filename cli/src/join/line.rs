//! Events as JSON: one object a line, a stable interface.

use flock_engine::event::{ConnectionInfo, Event, Peer};
use flock_engine::io::CappedBuffer;
use flock_engine::{ConnId, Stats, Transport};
use serde::Serialize;
use std::net::{IpAddr, SocketAddr};

/// A line of output.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(super) enum Line {
    Listening(At),
    Joined {
        channel: String,
        ok: bool,
    },
    Peer(PeerFields),
    PeerBanned {
        #[serde(flatten)]
        peer: PeerFields,
        reason: String,
    },
    PeerRejected {
        #[serde(flatten)]
        peer: PeerFields,
        reason: String,
    },
    Drop(PeerFields),
    Connecting(PeerFields),
    ConnectFailed {
        #[serde(flatten)]
        peer: PeerFields,
        timedout: bool,
    },
    Handshaking(ConnFields),
    HandshakeTimeout(ConnFields),
    Connection(ConnFields),
    ConnectionClosed {
        #[serde(flatten)]
        conn: ConnFields,
        reason: String,
        bytes_in: u64,
        bytes_out: u64,
    },
    RedundantConnection(ConnFields),
    ConnectionRefused {
        #[serde(flatten)]
        at: At,
        r#type: &'static str,
        reason: String,
    },
    BuffersCapped {
        wanted: u32,
        got: u32,
        sysctl: &'static str,
    },
    ShardFailed {
        shard: usize,
        reason: String,
    },
    Data {
        conn: u64,
        hex: String,
    },
    End {
        conn: u64,
    },
    Writable {
        conn: u64,
    },
    Stats {
        connecting: u64,
        queued: u64,
        connected: u64,
    },
    Error {
        message: String,
    },
    Closed {},
}

#[derive(Debug, Serialize)]
pub(super) struct At {
    host: String,
    port: u16,
}

#[derive(Debug, Serialize)]
pub(super) struct PeerFields {
    channel: String,
    #[serde(flatten)]
    at: At,
    id: String,
    retries: u32,
}

#[derive(Debug, Serialize)]
pub(super) struct ConnFields {
    conn: u64,
    r#type: &'static str,
    initiator: bool,
    channel: Option<String>,
    #[serde(flatten)]
    at: At,
    id: Option<String>,
}

impl From<SocketAddr> for At {
    fn from(addr: SocketAddr) -> Self {
        let ip = match addr.ip() {
            IpAddr::V6(six) => six.to_ipv4_mapped().map_or(IpAddr::V6(six), IpAddr::V4),
            four => four,
        };
        Self {
            host: ip.to_string(),
            port: addr.port(),
        }
    }
}

impl From<&Peer> for PeerFields {
    fn from(peer: &Peer) -> Self {
        Self {
            channel: peer.channel.to_string(),
            at: peer.addr.into(),
            id: peer.id(),
            retries: peer.retries,
        }
    }
}

impl ConnFields {
    fn new(info: &ConnectionInfo, conn: u64) -> Self {
        Self {
            conn,
            r#type: transport(info.transport),
            initiator: info.initiator,
            channel: info.channel.as_ref().map(ToString::to_string),
            at: info.addr.into(),
            id: info.peer_id.as_ref().map(ToString::to_string),
        }
    }
}

fn transport(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "tcp",
        Transport::Utp => "utp",
    }
}

impl Line {
    pub(super) fn stats(stats: Stats) -> Self {
        Self::Stats {
            connecting: stats.connecting,
            queued: stats.queued,
            connected: stats.connected,
        }
    }

    pub(super) fn error(message: impl Into<String>) -> Self {
        Self::Error {
            message: message.into(),
        }
    }

    /// The line of an event; `number` gives a connection the number it goes by. None for events
    /// of a later engine.
    pub(super) fn of(event: &Event, mut number: impl FnMut(ConnId) -> u64) -> Option<Self> {
        let mut conn = |info: &ConnectionInfo| ConnFields::new(info, number(info.conn));
        Some(match event {
            Event::Peer(peer) => Self::Peer(peer.into()),
            Event::PeerBanned { peer, reason } => Self::PeerBanned {
                peer: peer.into(),
                reason: reason.to_string(),
            },
            Event::PeerRejected { peer, reason } => Self::PeerRejected {
                peer: peer.into(),
                reason: reason.to_string(),
            },
            Event::PeerDropped(peer) => Self::Drop(peer.into()),
            Event::Connecting(peer) => Self::Connecting(peer.into()),
            Event::ConnectFailed { peer, timed_out } => Self::ConnectFailed {
                peer: peer.into(),
                timedout: *timed_out,
            },
            Event::Handshaking(info) => Self::Handshaking(conn(info)),
            Event::HandshakeTimeout(info) => Self::HandshakeTimeout(conn(info)),
            Event::Connection(info) => Self::Connection(conn(info)),
            Event::RedundantConnection(info) => Self::RedundantConnection(conn(info)),
            Event::ConnectionClosed {
                info,
                reason,
                bytes_in,
                bytes_out,
            } => Self::ConnectionClosed {
                conn: conn(info),
                reason: reason.to_string(),
                bytes_in: *bytes_in,
                bytes_out: *bytes_out,
            },
            Event::ConnectionRefused {
                addr,
                transport: over,
                reason,
            } => Self::ConnectionRefused {
                at: (*addr).into(),
                r#type: transport(*over),
                reason: reason.to_string(),
            },
            Event::BuffersCapped {
                wanted,
                got,
                sysctl,
            } => Self::BuffersCapped {
                wanted: *wanted,
                got: *got,
                sysctl,
            },
            Event::ShardFailed { shard, reason } => Self::ShardFailed {
                shard: *shard,
                reason: reason.to_string(),
            },
            _ => return None,
        })
    }

    /// The same for people: what a user wants to know while it runs, the rest not at all.
    pub(super) fn text(&self) -> Option<String> {
        let address = |at: &At| match at.host.contains(':') {
            true => format!("[{}]:{}", at.host, at.port),
            false => format!("{}:{}", at.host, at.port),
        };
        let peer = |conn: &ConnFields| {
            let id = conn.id.as_deref().unwrap_or("no id yet");
            format!("{} {} ({id})", conn.r#type, address(&conn.at))
        };
        Some(match self {
            Self::Listening(at) => format!("listening on {}", address(at)),
            Self::PeerBanned { peer, reason } => format!("banned {}: {reason}", address(&peer.at)),
            Self::PeerRejected { peer, reason } => {
                format!("rejected {}: {reason}", address(&peer.at))
            }
            Self::Drop(peer) => format!("given up {}", address(&peer.at)),
            Self::ConnectFailed { peer, timedout } => {
                let why = if *timedout { "timed out" } else { "failed" };
                format!("no connection to {}: {why}", address(&peer.at))
            }
            Self::HandshakeTimeout(conn) => format!("handshake timed out: {}", peer(conn)),
            Self::Connection(conn) => format!("connected: {}", peer(conn)),
            Self::ConnectionClosed {
                conn,
                reason,
                bytes_in,
                bytes_out,
            } => format!(
                "closed: {}, {bytes_in} bytes in, {bytes_out} out: {reason}",
                peer(conn)
            ),
            Self::ConnectionRefused { at, reason, .. } => {
                format!("turned away {}: {reason}", address(at))
            }
            Self::BuffersCapped {
                wanted,
                got,
                sysctl,
            } => CappedBuffer {
                wanted: *wanted,
                got: *got,
                sysctl,
            }
            .to_string(),
            Self::ShardFailed { shard, reason } => format!("shard {shard} failed: {reason}"),
            Self::Error { message } => message.clone(),
            _ => return None,
        })
    }
}
