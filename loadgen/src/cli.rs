//! The command line.

use crate::generator::Transport;
use crate::units::{self, Cpus, Rate, Sources};
use clap::{Parser, ValueEnum};
use flock_engine::io::{Backend, CloseHow};
use std::path::PathBuf;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  loadgen                                    an engine and 4,096 peers on loopback, ten seconds
  loadgen --target 127.0.0.1:3282 --peers 1000
                                             a thousand peers, once each, against anything that
                                             speaks the protocol
  loadgen --rate 5k/s --duration 30s         open loop: 5,000 peers a second come, whatever the
                                             target does; latency counts from when they should
  loadgen --hold --peers 8k --duration 20s   connect 8,000 and keep them for 20 s
  loadgen --backend poll --json -            epoll on both sides; the result as JSON on stdout

Counts take k and m (10k), rates /s and /m (500/s), durations ms, s, m, h (1m30s).

Exit status: 0 all peers succeeded, 1 some peers failed, 2 usage error, 3 refused before the start
(the limits of this machine allow none of it, or less than asked for with --strict), 4 the run broke
off (no backend, no listener, the report could not be written), 130 interrupted.
";

/// Simulated peers that connect, exchange ids and close, against an engine in this process or any
/// target.
#[derive(Clone, Debug, Parser)]
#[command(name = "loadgen", version, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Args {
    /// What to load; several are dialled in turn. Without it an engine is started in this process.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    pub(crate) target: Vec<String>,

    /// Process of the target, to report its CPU and memory too.
    #[arg(long, value_name = "PID", requires = "target")]
    pub(crate) target_pid: Option<u32>,

    /// Simulated peers, each with its own id. Given without --duration, each lives once
    /// [default: 4096].
    #[arg(long, value_name = "N", value_parser = units::count)]
    pub(crate) peers: Option<u32>,

    /// Connections open at a time (with --hold: dials under way at a time)
    /// [default: 256; with --rate 4096].
    #[arg(long, value_name = "N", value_parser = units::count)]
    pub(crate) concurrency: Option<u32>,

    /// How long peers are started; with --hold, how long they are kept [default: 7s, if --peers is
    /// not given; with --hold 5s].
    #[arg(long, value_name = "DUR", value_parser = units::duration)]
    pub(crate) duration: Option<Duration>,

    /// Open loop: start this many peers a second, on a plan that does not wait for the target.
    #[arg(long, value_name = "N/s")]
    pub(crate) rate: Option<Rate>,

    /// How the bytes travel.
    #[arg(long, value_enum, default_value_t = TransportArg::Tcp)]
    pub(crate) transport: TransportArg,

    /// How a peer ends its connection: FIN (and TIME_WAIT here), or RST.
    #[arg(long, value_enum, default_value_t = CloseArg::Fin)]
    pub(crate) close: CloseArg,

    /// Connect all peers and keep them; says at the end how many still live.
    #[arg(long)]
    pub(crate) hold: bool,

    /// System interface of both sides.
    #[arg(long, value_enum, default_value_t = BackendArg::Auto)]
    pub(crate) backend: BackendArg,

    /// Write the result as JSON; `-` writes it to stdout instead of the text.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Seed of the peers' ids [default: a new one each run, shown in the report].
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,

    /// Shards of the engine in this process [default: 1].
    #[arg(long, value_name = "N", value_parser = units::count, conflicts_with = "target")]
    pub(crate) shards: Option<u32>,

    /// Processors of the generator, one thread each [default: the first allowed one].
    #[arg(long, value_name = "LIST")]
    pub(crate) cpus: Option<Cpus>,

    /// Processors of the engine in this process [default: the last allowed ones, if there are two].
    #[arg(long, value_name = "LIST", conflicts_with = "target")]
    pub(crate) engine_cpus: Option<Cpus>,

    /// Addresses the peers dial from: a network, a count of loopback addresses, or `none`
    /// [default: 127.1.0.0/16 towards 127.0.0.0/8, else none].
    #[arg(long, value_name = "CIDR|COUNT")]
    pub(crate) sources: Option<Sources>,

    /// Give a dial up after this time.
    #[arg(long, value_name = "DUR", value_parser = units::duration, default_value = "3s")]
    pub(crate) connect_timeout: Duration,

    /// Give a handshake up after this time.
    #[arg(long, value_name = "DUR", value_parser = units::duration, default_value = "5s")]
    pub(crate) handshake_timeout: Duration,

    /// Idle connections to open after the load, to see what one costs in memory; 0 for none
    /// (without --target only) [default: 8000].
    #[arg(long, value_name = "N", value_parser = units::count_or_zero, conflicts_with_all = ["target", "hold"])]
    pub(crate) memory_peers: Option<u32>,

    /// Refuse to start, instead of doing less, when the limits do not allow what was asked for.
    #[arg(long)]
    pub(crate) strict: bool,

    /// Be the engine's process of another loadgen: print the address, serve until stdin ends.
    #[arg(long, hide = true)]
    pub(crate) serve: bool,

    /// No progress line and no notes on stderr.
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// Transports the generator speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TransportArg {
    /// TCP.
    Tcp,
    /// uTP (BEP 29): peers share up to 256 sockets a generator.
    Utp,
    /// Every other peer uses uTP.
    Both,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CloseArg {
    Fin,
    Rst,
}

impl CloseArg {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fin => "fin",
            Self::Rst => "rst",
        }
    }
}

impl From<TransportArg> for Transport {
    fn from(arg: TransportArg) -> Self {
        match arg {
            TransportArg::Tcp => Self::Tcp,
            TransportArg::Utp => Self::Utp,
            TransportArg::Both => Self::Both,
        }
    }
}

impl From<CloseArg> for CloseHow {
    fn from(how: CloseArg) -> Self {
        match how {
            CloseArg::Fin => Self::Fin,
            CloseArg::Rst => Self::Rst,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendArg {
    /// io_uring where it works, else epoll, saying why
    Auto,
    /// io_uring or fail
    Uring,
    /// epoll
    Poll,
}

impl BackendArg {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Uring => "uring",
            Self::Poll => "poll",
        }
    }
}

impl From<BackendArg> for Backend {
    fn from(arg: BackendArg) -> Self {
        match arg {
            BackendArg::Auto => Self::Auto,
            BackendArg::Uring => Self::Uring,
            BackendArg::Poll => Self::Poll,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn units_are_understood() {
        let args = Args::try_parse_from([
            "loadgen",
            "--peers",
            "10k",
            "--rate",
            "500/s",
            "--duration",
            "3s",
            "--target",
            "127.0.0.1:1,[::1]:2",
        ])
        .unwrap();
        assert_eq!(args.peers, Some(10_000));
        assert_eq!(args.rate, Some("500/s".parse().unwrap()));
        assert_eq!(args.duration, Some(Duration::from_secs(3)));
        assert_eq!(args.target, ["127.0.0.1:1", "[::1]:2"]);
    }

    #[test]
    fn contradictions_are_usage_errors() {
        for bad in [
            &["--peers", "0"][..],
            &["--duration", "3"],
            &["--transport", "sctp"],
            &["--close", "maybe"],
            &["--target-pid", "1"],
            &["--target", "127.0.0.1:1", "--shards", "2"],
            &["--rate", "fast"],
            &["--sources", "everywhere"],
            &["peers"],
        ] {
            let all = std::iter::once("loadgen").chain(bad.iter().copied());
            assert_eq!(
                Args::try_parse_from(all).unwrap_err().exit_code(),
                2,
                "{bad:?}"
            );
        }
    }
}
