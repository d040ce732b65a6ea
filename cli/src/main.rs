//! `revelation`: Flock Revelation from a shell.
//!
//! Data goes to stdout, everything else to stderr.

mod args;
mod nc;

use args::{Args, Command};
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Nc(args) => nc::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("revelation: {error}");
            ExitCode::FAILURE
        }
    }
}
