//! Two network namespaces and a veth pair between them, with the MTU of an Ethernet.

use crate::roles::Place;
use std::io;
use std::net::Ipv4Addr;
use std::process::Command;

/// The namespaces; removed when dropped.
#[derive(Debug)]
pub struct Veth {
    server: String,
    client: String,
}

impl Veth {
    /// Makes them.
    ///
    /// # Errors
    /// When `ip` is missing or refuses; most often for want of root.
    pub fn new() -> io::Result<Self> {
        let pid = std::process::id();
        let veth = Self {
            server: format!("flock-s-{pid}"),
            client: format!("flock-c-{pid}"),
        };
        let (server, client) = (&veth.server, &veth.client);
        ip(&format!("netns add {server}"))?;
        ip(&format!("netns add {client}"))?;
        ip(&format!(
            "link add far netns {server} mtu 1500 type veth peer name far netns {client} mtu 1500"
        ))?;
        for (name, host) in [(server, 1), (client, 2)] {
            ip(&format!("-n {name} addr add 10.77.0.{host}/24 dev far"))?;
            ip(&format!("-n {name} link set lo up"))?;
            ip(&format!("-n {name} link set far up"))?;
        }
        ip(&format!("-n {server} route add local 10.77.1.0/24 dev lo"))?;
        ip(&format!("-n {client} route add 10.77.1.0/24 via 10.77.0.1"))?;
        Ok(veth)
    }

    /// The namespaces as a place for both sides.
    #[must_use]
    pub fn place(&self) -> Place {
        let within = |name: &String| ["ip", "netns", "exec", name].map(str::to_owned).to_vec();
        Place {
            server: within(&self.server),
            client: within(&self.client),
            base: Ipv4Addr::new(10, 77, 1, 0),
        }
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        for name in [&self.server, &self.client] {
            // It may not have been made; what remains is named after this process.
            let _ = ip(&format!("netns delete {name}"));
        }
    }
}

fn ip(arguments: &str) -> io::Result<()> {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .map_err(|error| io::Error::new(error.kind(), format!("cannot run ip: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(format!("ip {arguments}: {why}")))
}
