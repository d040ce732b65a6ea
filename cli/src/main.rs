//! `revelation`: Flock Revelation from a shell.
//!
//! Data goes to stdout, everything else to stderr.

mod args;
mod doctor;
mod join;
mod manual;
mod nc;

use args::{Args, Command};
use clap::Parser;
use std::error::Error;
use std::process::ExitCode;

/// What a shell makes of SIGINT.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Nc(args) => nc::run(&args).map_err(Box::from),
        Command::Join(args) => join::run(&args).map_err(Box::from),
        Command::Doctor => {
            doctor::run();
            Ok(())
        }
        Command::Completions { shell } => manual::completions(shell).map_err(Box::from),
        Command::Man => manual::page().map_err(Box::from),
    };
    done.map_or_else(
        |error: Box<dyn Error>| complain(&*error),
        |()| ExitCode::SUCCESS,
    )
}

fn complain(error: &(dyn Error + 'static)) -> ExitCode {
    eprintln!("revelation: {error}");
    match error.downcast_ref() {
        Some(join::JoinError::Interrupted) => ExitCode::from(INTERRUPTED),
        _ => ExitCode::FAILURE,
    }
}
