use std::time::Duration;

/// Settings of an [`Endpoint`](crate::Endpoint). Every table and buffer of it is bounded by one of
/// these.
#[derive(Clone, Debug)]
pub struct Config {
    /// Connections, dialled and accepted, at the most.
    pub connections_max: u32,
    /// Connections with one address (IPv4) or /64 (IPv6) at which no more are accepted from it.
    /// Counted only if it is below `connections_max`.
    pub connections_per_host: u32,
    /// Whether connections are accepted at all; if not, a SYN is answered by RESET.
    pub accept: bool,
    /// Handshakes that a peer began and has not confirmed, at the most. Beyond three quarters of
    /// it, and beyond the limits of one network, a SYN is answered without remembering it.
    pub half_open_max: u32,
    /// Remembered half-open handshakes of one IPv4 address or IPv6 /64; a network (/24 or /48)
    /// may have four times as many.
    pub half_open_per_host: u32,
    /// How long a half-open handshake is remembered. Initiators may have nothing to say at first:
    /// libutp and others confirm only with their first data.
    pub half_open_life: Duration,
    /// How long a dial may take.
    pub connect_timeout: Duration,
    /// Bytes of one connection that may wait here, out of order or for a paused application: what
    /// is advertised as the receive window.
    pub receive_window: u32,
    /// The same over all connections. When it is used up, what would have to be kept is dropped
    /// and the windows advertised are closed.
    pub receive_total: u64,
    /// A finished connection is remembered so long, to acknowledge a repeated FIN.
    pub tombstone_life: Duration,
    /// Finished connections remembered at the most.
    pub tombstones_max: u32,
    /// After so long without sending anything, or up to an eighth less, a packet keeps middleboxes
    /// from forgetting the path. `None`: never.
    pub keepalive: Option<Duration>,
    /// How long a closing connection waits for the peer's end before it is reset.
    pub linger: Duration,
    /// RESETs a second for packets that belong to no connection; 0: they are ignored.
    pub resets_per_second: u32,
    /// RESETs a second to one network (/24 or /48).
    pub resets_per_network: u32,
    /// Marks of the send queue of a connection.
    pub send: crate::SendLimits,
    /// The congestion controller.
    pub congestion: crate::Congestion,
    /// How much time's worth of its rate a connection may send at once (1 ms), but two segments in any
    /// case, and ten above 50 Mbit/s. Longer bursts cost less and queue more on slow paths.
    pub pacing_quantum: Duration,
    /// The largest UDP payload to try, in bytes; 1,232 is taken for granted.
    pub mtu_max: u16,
    /// Whether a short segment waits while others are in flight (RFC 896), as libutp does.
    pub hold_short: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connections_max: 1 << 20,
            connections_per_host: 1 << 20,
            accept: true,
            half_open_max: 1 << 16,
            half_open_per_host: 256,
            half_open_life: Duration::from_secs(12),
            connect_timeout: Duration::from_secs(18),
            receive_window: 16 << 20,
            receive_total: 256 << 20,
            tombstone_life: Duration::from_secs(45),
            tombstones_max: 1 << 16,
            keepalive: Some(Duration::from_secs(29)),
            linger: Duration::from_secs(30),
            resets_per_second: 200,
            resets_per_network: 10,
            send: crate::SendLimits::default(),
            congestion: crate::Congestion::default(),
            pacing_quantum: Duration::from_millis(1),
            mtu_max: 1472,
            hold_short: false,
        }
    }
}
