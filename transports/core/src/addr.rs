use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// How a connection's bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// A kernel TCP stream.
    Tcp,
    /// A uTP stream over UDP (BEP 29).
    Utp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Utp => "utp",
        })
    }
}

/// The address as everybody prints and compares it: a v4-mapped IPv6 address becomes plain IPv4
/// (RFC 4291, section 2.5.5.2), and flow information is dropped. The scope id stays: it is part
/// of what a link-local address means.
#[must_use]
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V4(_) => addr,
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(IpAddr::V4(v4), v6.port()),
            None => {
                let mut plain = v6;
                plain.set_flowinfo(0);
                SocketAddr::V6(plain)
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_become_ipv4() {
        let mapped: SocketAddr = "[::ffff:10.1.2.3]:80".parse().unwrap();
        assert_eq!(canonical(mapped), "10.1.2.3:80".parse().unwrap());
        let six: SocketAddr = "[2001:db8::1]:80".parse().unwrap();
        assert_eq!(canonical(six), six);
    }
}
