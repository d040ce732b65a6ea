//! The arguments of `revelation join`.

use super::BackendArg;
use flock_engine::{ChannelKey, IdChoice, PeerId};
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

pub(super) const EXAMPLES: &str = "\
Examples:
  revelation join news --peer 192.0.2.7:3282       a peer of one channel, events on stderr
  revelation join news --echo --json               echo what peers send; events as JSON on stdout
  revelation join news --send book.pdf             send a file to every peer
  revelation join news --pipe < in > out           the first peer, joined to stdin and stdout
  revelation join news --exec 'gzip -c'            a command for every connection, on its bytes
  revelation join --control --json                 driven by a program: commands in, events out

A channel is text, or bytes as `hex:00ff`. Without --echo, --send, --pipe, --exec or --control what
peers send is dropped. The first interrupt ends connections in order, a second one ends at once.

Sockets that a service manager passes (LISTEN_FDS, sd_listen_fds(3)) are listened on instead of a
port of its own.

Commands of --control, one JSON object a line; the end of stdin is `shutdown`:
  {\"cmd\":\"join\",\"channel\":\"news\",\"announce\":true}     leave, with `channel`
  {\"cmd\":\"add_peer\",\"channel\":\"news\",\"host\":\"::1\",\"port\":1}     remove_peer, unban alike
  {\"cmd\":\"send\",\"conn\":17,\"hex\":\"6869\"}     pause, resume, end, close, with `conn`
  {\"cmd\":\"stats\"}     shutdown

Exit status: 0 ended as asked, 1 failed, 2 usage error, 130 interrupted twice.
";

#[derive(Debug, clap::Args)]
pub(crate) struct JoinArgs {
    /// Channels to join: text, or bytes as `hex:…`.
    #[arg(value_name = "CHANNEL", value_parser = parse_channel, required_unless_present = "control")]
    pub(crate) channels: Vec<ChannelKey>,

    /// The id to state: `stable` (starts with zeros, which keeps connections), `random`, or hex.
    #[arg(long, default_value = "stable", value_parser = parse_id)]
    pub(crate) id: IdChoice,

    /// Port to listen at; 0 picks a free one.
    #[arg(long, default_value_t = 0)]
    pub(crate) port: u16,

    /// Address to listen at [default: all of this host, IPv4 and IPv6]
    #[arg(long, value_name = "ADDR")]
    pub(crate) host: Option<IpAddr>,

    /// Look for peers, and do not tell of ourselves.
    #[arg(long)]
    pub(crate) no_announce: bool,

    /// Do not use TCP.
    #[arg(long)]
    pub(crate) no_tcp: bool,

    /// Do not use uTP.
    #[arg(long, conflicts_with = "no_tcp")]
    pub(crate) no_utp: bool,

    /// Connections at a time, in both directions; 0 is no limit.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) max_connections: u32,

    /// Only have connections with addresses of this network; may be given several times.
    #[arg(long, value_name = "CIDR", value_parser = parse_net)]
    pub(crate) allow: Vec<IpNet>,

    /// Have no connections with addresses of this network; may be given several times.
    #[arg(long, value_name = "CIDR", value_parser = parse_net)]
    pub(crate) deny: Vec<IpNet>,

    /// A peer of the channels; may be given several times.
    #[arg(long = "peer", value_name = "HOST:PORT", value_parser = parse_peer, requires = "channels")]
    pub(crate) peers: Vec<HostPort>,

    /// Do not look for peers: only know those given.
    #[arg(long)]
    pub(crate) no_discovery: bool,

    /// Shards, each with a thread of its own [default: one per core]
    #[arg(long, value_name = "N")]
    pub(crate) shards: Option<usize>,

    /// Cores to pin shards to, such as 0,2.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) cpus: Vec<usize>,

    /// System interface.
    #[arg(long, value_enum, default_value_t = BackendArg::Auto)]
    pub(crate) backend: BackendArg,

    /// Of two connections to the same peer keep the first, always.
    #[arg(long)]
    pub(crate) keep_existing: bool,

    /// Serve counters to Prometheus, at http://ADDR:PORT/metrics.
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) metrics: Option<SocketAddr>,

    #[command(flatten)]
    pub(crate) what: What,

    /// One JSON object per event, on stdout.
    #[arg(long, conflicts_with = "pipe")]
    pub(crate) json: bool,

    /// Read JSON commands from stdin, and report what peers send; with --json.
    #[arg(long, requires = "json")]
    pub(crate) control: bool,
}

/// What becomes of connections.
#[derive(Debug, clap::Args)]
#[group(multiple = false, conflicts_with = "control")]
pub(crate) struct What {
    /// Send back what comes.
    #[arg(long)]
    pub(crate) echo: bool,

    /// Drop what comes, which is the default.
    #[arg(long)]
    pub(crate) sink: bool,

    /// Send this file to every peer, and then end our direction.
    #[arg(long, value_name = "FILE")]
    pub(crate) send: Option<PathBuf>,

    /// Join the first connection to stdin and stdout, and end with it.
    #[arg(long)]
    pub(crate) pipe: bool,

    /// Run this shell command for every connection, on its bytes; 256 at a time. It finds
    /// REVELATION_HOST, REVELATION_PORT and REVELATION_ID in its environment.
    #[arg(long, value_name = "CMD")]
    pub(crate) exec: Option<String>,
}

/// Where a peer is, by name or by address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPort {
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// An address of IPv6 may stand in brackets.
fn parse_peer(text: &str) -> Result<HostPort, String> {
    let (host, port) = text.rsplit_once(':').ok_or("not HOST:PORT")?;
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').ok_or("not HOST:PORT")?,
        None => host,
    };
    let port = port.parse().ok().filter(|port| *port > 0);
    match port {
        Some(port) if !host.is_empty() => Ok(HostPort {
            host: host.to_owned(),
            port,
        }),
        _ => Err("not HOST:PORT".to_owned()),
    }
}

/// A channel as people write it.
pub(crate) fn parse_channel(text: &str) -> Result<ChannelKey, String> {
    if text.is_empty() {
        return Err("a channel needs a name".to_owned());
    }
    match text.strip_prefix("hex:") {
        None => Ok(text.into()),
        Some(digits) => match parse_hex(digits) {
            Some(bytes) if !bytes.is_empty() => Ok(bytes.into()),
            _ => Err("`hex:` needs an even number of hex digits behind it".to_owned()),
        },
    }
}

/// Bytes from pairs of hex digits.
pub(crate) fn parse_hex(digits: &str) -> Option<Vec<u8>> {
    hex::decode(digits).ok()
}

fn parse_id(text: &str) -> Result<IdChoice, String> {
    Ok(match text {
        "stable" => IdChoice::Stable,
        "random" => IdChoice::Random,
        digits => {
            let id = parse_hex(digits).and_then(|bytes| PeerId::new(&bytes));
            IdChoice::Fixed(id.ok_or("neither `stable`, `random` nor 1 to 1,024 bytes in hex")?)
        }
    })
}

/// A network; a bare address is one of its own.
fn parse_net(text: &str) -> Result<IpNet, String> {
    let net = match text.parse::<IpAddr>() {
        Ok(addr) => IpNet::from(addr),
        Err(_) => text
            .parse()
            .map_err(|_| "not an address or a CIDR network")?,
    };
    Ok(net.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_text_or_bytes() {
        assert_eq!(parse_channel("a b").unwrap(), ChannelKey::from("a b"));
        assert_eq!(
            parse_channel("hex:00ff").unwrap(),
            ChannelKey::from(&[0, 255])
        );
        for wrong in ["", "hex:", "hex:0", "hex:zz"] {
            assert!(parse_channel(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_bare_address_is_a_network_of_one() {
        let nets =
            ["10.0.0.1", "::1", "10.1.2.3/8"].map(|text| parse_net(text).unwrap().to_string());
        assert_eq!(nets, ["10.0.0.1/32", "::1/128", "10.0.0.0/8"]);
        assert!(parse_net("10.0.0.0/33").is_err() && parse_net("host").is_err());
    }

    #[test]
    fn peers_are_hosts_with_ports() {
        for (text, host) in [
            ("a.example:1", "a.example"),
            ("[::1]:1", "::1"),
            ("::1:1", "::1"),
        ] {
            let (host, port) = (host.to_owned(), 1);
            assert_eq!(parse_peer(text), Ok(HostPort { host, port }));
        }
        for wrong in [
            "",
            "host",
            "host:",
            ":1",
            "host:0",
            "host:65536",
            "[::1:1",
            "[]:1",
        ] {
            assert!(parse_peer(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ids_are_words_or_hex() {
        assert_eq!(parse_id("random").unwrap(), IdChoice::Random);
        assert_eq!(
            parse_id("0a").unwrap(),
            IdChoice::Fixed(PeerId::new(&[10]).unwrap())
        );
        assert!(parse_id("").is_err() && parse_id("0").is_err());
    }
}
