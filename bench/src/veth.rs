//! Two network namespaces and a veth pair between them, or a router, with the MTU of an Ethernet.

use crate::roles::Place;
use std::io;
use std::net::Ipv4Addr;
use std::process::Command;

/// The namespaces; removed when dropped.
#[derive(Debug)]
pub struct Veth {
    server: String,
    client: String,
    /// What forwards between the two, if there is such a thing.
    router: Option<String>,
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
            router: None,
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

    /// Makes them with a third between them, which forwards. A queue in the client's own namespace
    /// would not do for a bottleneck: there the kernel lets a TCP stream queue no more than a
    /// millisecond or two (TCP small queues), whatever its window, and others as much as they like.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn routed() -> io::Result<Self> {
        let pid = std::process::id();
        let (server, client) = (format!("flock-s-{pid}"), format!("flock-c-{pid}"));
        let router = format!("flock-r-{pid}");
        let veth = Self {
            server: server.clone(),
            client: client.clone(),
            router: Some(router.clone()),
        };
        for name in [&server, &client, &router] {
            ip(&format!("netns add {name}"))?;
            ip(&format!("-n {name} link set lo up"))?;
        }
        // The far end and its address, and the router's beside it.
        for (name, port, net) in [(&server, "out", 0), (&client, "in", 2)] {
            ip(&format!(
                "link add far netns {name} mtu 1500 type veth peer name {port} netns {router} mtu 1500"
            ))?;
            ip(&format!("-n {name} addr add 10.77.{net}.1/24 dev far"))?;
            ip(&format!(
                "-n {router} addr add 10.77.{net}.254/24 dev {port}"
            ))?;
            ip(&format!("-n {name} link set far up"))?;
            ip(&format!("-n {router} link set {port} up"))?;
            ip(&format!("-n {name} route add default via 10.77.{net}.254"))?;
        }
        ip(&format!("-n {server} route add local 10.77.1.0/24 dev lo"))?;
        ip(&format!("-n {router} route add 10.77.1.0/24 via 10.77.0.1"))?;
        let forward = "sysctl -q -w net.ipv4.ip_forward=1";
        ip(&format!("netns exec {router} {forward}"))?;
        Ok(veth)
    }

    fn bottleneck(&self) -> io::Result<&str> {
        let none = || io::Error::other("only a router has a bottleneck");
        self.router.as_deref().ok_or_else(none)
    }

    /// Lets the router send to the server at no more than `rate` Mbit/s, behind a queue of a second
    /// (tbf(8)).
    ///
    /// # Errors
    /// When there is no router, or `tc` is missing or refuses.
    pub fn shape(&self, rate: u32) -> io::Result<()> {
        // Two packets at once at the least, and what a rate brings in a millisecond.
        let burst = (rate * 125).max(3200);
        let rule = format!("root tbf rate {rate}mbit burst {burst} latency 1000ms");
        let router = self.bottleneck()?;
        tc(router, &format!("qdisc replace dev out {rule}")).map(drop)
    }

    /// Bytes that wait in that queue now.
    ///
    /// # Errors
    /// When `tc` does not tell.
    pub fn backlog(&self) -> io::Result<u64> {
        let told = tc(self.bottleneck()?, "-s -j qdisc show dev out")?;
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
        for name in [&self.server, &self.client].into_iter().chain(&self.router) {
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
