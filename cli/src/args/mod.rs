//! The command line.

mod join;

pub(crate) use join::{JoinArgs, What, parse_channel, parse_hex};

use clap::{Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use flock_engine::io::Backend;

const NC_EXAMPLES: &str = "\
Examples:
  revelation nc 127.0.0.1 4000               stdin to the peer, what it sends to stdout
  revelation nc -l 127.0.0.1 4000 > file     wait for one connection, keep what it sends
  revelation nc -l --echo -k ::1 0           an echo server on a free port, which it prints
  revelation nc --utp 127.0.0.1 4000         the same as the first, over uTP

The end of stdin ends this side's direction; the peer's end closes stdout. The command is done when
both directions are.

Exit status: 0 both directions ended in order, 1 the connection failed or broke, 2 usage error.
";

/// Flock Revelation from a shell.
#[derive(Debug, Parser)]
#[command(name = "revelation", version, max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Be a peer of channels: connect to others, be connected to, and do something with the bytes.
    #[command(after_help = join::EXAMPLES)]
    Join(Box<JoinArgs>),
    /// Connect stdin and stdout to a peer over a bare transport, without a handshake of ids.
    #[command(after_help = NC_EXAMPLES)]
    Nc(NcArgs),
    /// Tell which system interface this host gives, which limits will be met first, and what to do.
    Doctor,
    /// Print completions for a shell, to be sourced or kept where it looks for them.
    Completions {
        /// The shell.
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Print the manual as a man page: `revelation man | man -l -`.
    Man,
}

#[derive(Debug, clap::Args)]
pub(crate) struct NcArgs {
    /// Wait for a connection at HOST and PORT instead of making one.
    #[arg(short, long)]
    pub(crate) listen: bool,

    /// With --listen --echo: serve one connection after another, and several at a time.
    #[arg(short, long, requires = "listen", requires = "echo")]
    pub(crate) keep_open: bool,

    /// Use TCP, which is the default.
    #[arg(long)]
    pub(crate) tcp: bool,

    /// Use uTP (BEP 29).
    #[arg(long, conflicts_with = "tcp")]
    pub(crate) utp: bool,

    /// Send back what comes instead of using stdin and stdout.
    #[arg(long)]
    pub(crate) echo: bool,

    /// System interface.
    #[arg(long, value_enum, default_value_t = BackendArg::Auto)]
    pub(crate) backend: BackendArg,

    /// Address or name; the addresses of a name are tried in turn.
    #[arg(value_name = "HOST")]
    pub(crate) host: String,

    /// Port; with --listen 0 picks a free one, which is printed.
    #[arg(value_name = "PORT")]
    pub(crate) port: u16,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum BackendArg {
    /// io_uring where it works, else epoll.
    Auto,
    /// io_uring, or an error.
    Uring,
    /// epoll.
    Poll,
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
