//! `revelation`: Flock Revelation from a shell.
//!
//! Data goes to stdout, everything else to stderr.

mod args;
mod join;
mod nc;

use args::{Args, Command};
use clap::Parser;
use std::process::ExitCode;

/// What a shell makes of SIGINT.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let (said, status) = match Args::parse().command {
        Command::Nc(args) => (nc::run(&args).map_err(|error| error.to_string()), 1),
        Command::Join(args) => {
            let result = join::run(&args);
            let interrupted = matches!(result, Err(join::JoinError::Interrupted));
            let status = if interrupted { INTERRUPTED } else { 1 };
            (result.map_err(|error| error.to_string()), status)
        }
    };
    match said {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("revelation: {error}");
            ExitCode::from(status)
        }
    }
}
