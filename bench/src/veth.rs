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

    /// Lets the client's side send at no more than `rate` Mbit/s, behind a queue of a second (tbf(8)).
    ///
    /// # Errors
    /// When `tc` is missing or refuses.
    pub fn shape(&self, rate: u32) -> io::Result<()> {
        // Two packets at once at the least, and what a rate brings in a millisecond.
        let burst = (rate * 125).max(3200);
        let rule = format!("root tbf rate {rate}mbit burst {burst} latency 1000ms");
        tc(&self.client, &format!("qdisc replace dev far {rule}")).map(drop)
    }

    /// Bytes that wait in that queue now.
    ///
    /// # Errors
    /// When `tc` does not tell.
    pub fn backlog(&self) -> io::Result<u64> {
        let told = tc(&self.client, "-s -j qdisc show dev far")?;
        let queues: serde_json::Value = serde_json::from_str(&told)?;
        let backlog = queues
            .get(0)
            .and_then(|queue| queue.get("backlog")?.as_u64());
        backlog.ok_or_else(|| io::Error::other("tc tells of no backlog"))
    }

    /// The namespaces as a place for both sides.
    #[must_use]
    pub fn place(&self) -> Place {
        let within = |name: &String| ["ip", "netns", "exec", name].map(str::to_owned).to_vec();
        Place {
            server: within(&self.server),
            client: within(&self.client),
            base: Ipv4Addr::new(10, 77, 1, 0),
            host: Ipv4Addr::new(10, 77, 0, 1),
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

fn ip(arguments: &str) -> io::Result<String> {
    run("ip", arguments)
}

/// Runs tc(8) in a namespace.
fn tc(namespace: &str, arguments: &str) -> io::Result<String> {
    run("ip", &format!("netns exec {namespace} tc {arguments}"))
}

fn run(program: &str, arguments: &str) -> io::Result<String> {
    let output = Command::new(program)
        .args(arguments.split(' '))
        .output()
        .map_err(|error| io::Error::new(error.kind(), format!("cannot run {program}: {error}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(format!("{program} {arguments}: {why}")))
}
