use std::time::Duration;

/// A congestion control algorithm by the name the kernel knows it by (`cubic`, `bbr`, `reno`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Congestion {
    name: [u8; Self::MAX],
    len: u8,
}

impl Congestion {
    /// The longest name Linux takes (`TCP_CA_NAME_MAX` less its terminator).
    pub const MAX: usize = 15;

    /// The algorithm called `name`, or `None` when no kernel could know it: empty, longer than
    /// [`Self::MAX`], or not ASCII letters, digits, `_` and `-`.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let ok = name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if name.is_empty() || name.len() > Self::MAX || !ok {
            return None;
        }
        let mut bytes = [0; Self::MAX];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        Some(Self {
            name: bytes,
            len: u8::try_from(name.len()).ok()?,
        })
    }

    /// The name as the kernel wants it, without a terminator.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.name[..usize::from(self.len)]
    }
}

/// TCP keepalive probes (RFC 9293, section 3.8.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe; whole seconds, at least one.
    pub idle: Duration,
    /// Time between probes; whole seconds, at least one.
    pub interval: Duration,
    /// Unanswered probes before the connection is given up.
    pub probes: u8,
}

/// Options of one stream socket. A listener hands them on to what it accepts, so an accepted
/// connection costs no system call for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamOptions {
    /// Send small segments at once (`TCP_NODELAY`).
    pub nodelay: bool,
    /// Probe silent peers.
    pub keepalive: Option<Keepalive>,
    /// Bytes the kernel takes beyond what it has sent before it reports "not writable"
    /// (`TCP_NOTSENT_LOWAT`); `None` leaves the system's value. It bounds the kernel memory of
    /// a slow receiver.
    pub notsent_lowat: Option<u32>,
    /// Congestion control; `None` leaves the system's.
    pub congestion: Option<Congestion>,
    /// `SO_SNDBUF` in bytes; `None` leaves autotuning on.
    pub send_buffer: Option<u32>,
    /// `SO_RCVBUF` in bytes; `None` leaves autotuning on.
    pub recv_buffer: Option<u32>,
    /// Dialled sockets only: let the ACK of the handshake ride on the first data
    /// (`TCP_QUICKACK` 0 before connect). One packet less where the dialler speaks first, but
    /// later ACKs are delayed too: a peer that writes twice without `TCP_NODELAY`, as
    /// discovery-swarm writes length and id, then waits about 40 ms for the first to be
    /// acknowledged. Off unless said.
    pub lazy_handshake_ack: bool,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self {
            nodelay: true,
            keepalive: None,
            notsent_lowat: Some(128 * 1024),
            congestion: None,
            send_buffer: None,
            recv_buffer: None,
            lazy_handshake_ack: false,
        }
    }
}

/// Options of a listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// What accepted connections inherit.
    pub stream: StreamOptions,
    /// Connections the kernel completes before they are accepted; capped by `somaxconn`.
    pub backlog: u32,
    /// On an IPv6 wildcard address, take IPv4 too.
    pub dual_stack: bool,
    /// Join the other listeners of this engine on the same port (`SO_REUSEPORT`).
    pub shared: bool,
    /// Before binding, make sure that nobody else serves the port: `SO_REUSEPORT` alone would
    /// silently share it with another process of the same user.
    pub exclusive: bool,
    /// Accept only once the peer has sent something, or after this time
    /// (`TCP_DEFER_ACCEPT`, whole seconds). Only where the peer is known to speak first.
    pub defer_accept: Option<Duration>,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self {
            stream: StreamOptions::default(),
            backlog: 4096,
            dual_stack: true,
            shared: false,
            exclusive: true,
            defer_accept: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn congestion_names_are_checked() {
        assert_eq!(Congestion::new("cubic").unwrap().as_bytes(), b"cubic");
        assert!(Congestion::new("").is_none());
        assert!(Congestion::new("a-name-that-is-far-too-long").is_none());
        assert!(Congestion::new("cu bic").is_none());
    }
}
