//! Compares Flock with other engines and with the raw system interfaces; see `--help`.

use clap::Parser;
use flock_bench::cli::Cli;
use std::process::ExitCode;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flock-compare: {error}");
            ExitCode::FAILURE
        }
    }
}
