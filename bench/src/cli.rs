//! The command line of `flock-compare`.

use crate::compare::{self, Plan, Scenario};
use crate::engine::Engine;
use crate::engines;
use crate::environment::Environment;
use crate::report::{Outcome, Run};
use clap::{Args, Parser, Subcommand};
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// Compares Flock with other engines and with the raw system interfaces, interleaved.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run scenarios and print their tables and the verdicts.
    Run(RunArgs),
    /// Say which scenarios and engines there are.
    List,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Scenarios, separated by commas; all when none is named.
    #[arg(long, value_delimiter = ',', value_parser = scenario)]
    scenario: Vec<Scenario>,
    /// Engines, separated by commas; all that make sense when none is named.
    #[arg(long, value_delimiter = ',', value_parser = engine)]
    engines: Vec<Engine>,
    /// What ratios in the tables are to.
    #[arg(long, default_value = "uring")]
    reference: String,
    /// Rounds; a verdict needs 15.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Seconds before each window.
    #[arg(long, default_value_t = 0.4)]
    warm_up: f64,
    /// Seconds of each window.
    #[arg(long, default_value_t = 1.0)]
    window: f64,
    /// Folder for the dated record, markdown and JSON; nothing is written without it.
    #[arg(long)]
    out: Option<PathBuf>,
}

fn scenario(name: &str) -> Result<Scenario, String> {
    compare::find(name).ok_or_else(|| "no such scenario; see `flock-compare list`".to_owned())
}

fn engine(name: &str) -> Result<Engine, String> {
    engines::find(name).ok_or_else(|| "no such engine; see `flock-compare list`".to_owned())
}

impl Cli {
    /// Does what was asked.
    ///
    /// # Errors
    /// Those of the runs, and of writing the record.
    pub fn run(self) -> io::Result<()> {
        match self.command {
            Command::Run(args) => args.run(),
            Command::List => list(),
        }
    }
}

fn list() -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "scenarios")?;
    for scenario in compare::ALL {
        writeln!(out, "  {:<18} {}", scenario.name, scenario.about)?;
    }
    writeln!(out, "engines")?;
    for engine in engines::ALL {
        writeln!(out, "  {:<18} {}", engine.name, engine.about)?;
    }
    Ok(())
}

impl RunArgs {
    fn run(self) -> io::Result<()> {
        let plan = Plan {
            rounds: self.rounds,
            warm_up: Duration::from_secs_f64(self.warm_up.clamp(0.0, 60.0)),
            window: Duration::from_secs_f64(self.window.clamp(0.01, 600.0)),
        };
        let mut run = Run {
            environment: Environment::read(),
            plan,
            outcomes: Vec::new(),
        };
        let scenarios = if self.scenario.is_empty() {
            compare::ALL.to_vec()
        } else {
            self.scenario
        };
        for scenario in &scenarios {
            let engines = if self.engines.is_empty() {
                compare::default_engines(scenario)
            } else {
                self.engines.clone()
            };
            let series = compare::run(scenario, &engines, plan, |round, engine| {
                progress(scenario.name, round + 1, plan.rounds, engine);
            })?;
            run.outcomes
                .push(Outcome::new(scenario, series, &self.reference));
        }
        progress_done();
        let markdown = run.markdown();
        io::stdout().lock().write_all(markdown.as_bytes())?;
        if let Some(folder) = self.out {
            let name = file_name(SystemTime::now());
            fs::create_dir_all(&folder)?;
            fs::write(folder.join(format!("{name}.md")), &markdown)?;
            let json = serde_json::to_vec_pretty(&run)?;
            fs::write(folder.join(format!("{name}.json")), json)?;
        }
        Ok(())
    }
}

fn progress(scenario: &str, round: usize, rounds: usize, engine: &str) {
    let mut err = io::stderr().lock();
    if err.is_terminal() {
        // Progress that cannot be shown is no reason to stop.
        let _ = write!(
            err,
            "\r\x1b[K{scenario}: round {round} of {rounds}, {engine}"
        );
        let _ = err.flush();
    }
}

fn progress_done() {
    let mut err = io::stderr().lock();
    if err.is_terminal() {
        let _ = write!(err, "\r\x1b[K");
    }
}

/// A name made of the date and time in UTC, `2026-11-23-0312`.
fn file_name(now: SystemTime) -> String {
    let seconds = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!("{year:04}-{month:02}-{day:02}-{hour:02}{minute:02}")
}

/// Year, month and day of a day since 1970-01-01.
fn date(mut day: u64) -> (u64, u64, u64) {
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in months {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    (year, month, day + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), (1970, 1, 1));
        assert_eq!(date(19_782), (2024, 2, 29));
        assert_eq!(date(20_780), (2026, 11, 23));
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(20_780 * 86_400 + 3 * 3600 + 60);
        assert_eq!(file_name(then), "2026-11-23-0301");
    }

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
