//! The command line of `flock-compare`.

use crate::compare::{self, Plan, Scenario};
use crate::engine::Engine;
use crate::engines::{self, utp_native};
use crate::environment::Environment;
use crate::job::{Job, Targets};
use crate::report::{Outcome, Run};
use crate::veth::Veth;
use crate::{files, memory, newcomers, node, roles, shaped, slow};
use clap::{Args, Parser, Subcommand};
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddrV4;
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
    /// Memory of idle connections, and of connections that are sent a shared blob.
    Memory(MemoryArgs),
    /// Server's processor time per handshake against Node's discovery-swarm.
    Node(NodeArgs),
    /// Thousands of flows at 1 Mbit/s each from one core, over uTP and TCP.
    Slow(SlowArgs),
    /// Ways to send a file, hot and cold.
    Files(FilesArgs),
    /// How long newcomers wait while one shard serves others.
    Newcomers(NewcomersArgs),
    /// One flow behind a bottleneck, alone and beside a TCP flow; needs root, ip and tc.
    Shaped(ShapedArgs),
    /// Play one side, for a parent process of this program.
    #[command(hide = true)]
    Side(SideArgs),
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
    /// Run the sides as processes in two network namespaces with a veth pair of MTU 1500
    /// between them; needs root, and says so and ends well without.
    #[arg(long)]
    veth: bool,
}

#[derive(Debug, Args)]
struct MemoryArgs {
    /// Engines, separated by commas.
    #[arg(long, value_delimiter = ',', value_parser = engine, default_value = "flock-uring,flock-poll,uring,epoll,tokio")]
    engines: Vec<Engine>,
    /// Connections at the lower end of the slope.
    #[arg(long, default_value_t = 1_000)]
    few: usize,
    /// Connections at its upper end.
    #[arg(long, default_value_t = 8_000)]
    many: usize,
    /// Peers that share a blob.
    #[arg(long, default_value_t = 1_000)]
    peers: usize,
}

#[derive(Debug, Args)]
struct NodeArgs {
    /// The folder that holds `node_modules` with discovery-swarm 6.1.0.
    #[arg(long, env = "FLOCK_NODE_DIR", default_value = "tests/interop/node")]
    modules: PathBuf,
    /// Our server.
    #[arg(long, value_parser = engine, default_value = "flock-uring")]
    engine: Engine,
    /// Rounds; a verdict needs 15.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Seconds before each window; Node's compiler needs them.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Seconds of each window.
    #[arg(long, default_value_t = 2.0)]
    window: f64,
}

#[derive(Debug, Args)]
struct SlowArgs {
    /// How many flows.
    #[arg(long, value_delimiter = ',', default_value = "1000,10000")]
    flows: Vec<usize>,
    /// Pacing quanta in milliseconds.
    #[arg(long, value_delimiter = ',', default_value = "1,25,50,100,200")]
    quanta: Vec<u64>,
    /// Seconds before each window.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Seconds of each window.
    #[arg(long, default_value_t = 3.0)]
    window: f64,
}

#[derive(Debug, Args)]
struct NewcomersArgs {
    /// Bulk streams that are served meanwhile.
    #[arg(long, default_value_t = 64)]
    bulk: usize,
    /// Peers at 1 Mbit/s each that are served meanwhile, in another run; both ends are files of this process.
    #[arg(long, default_value_t = 9_900)]
    slow: usize,
    /// Windows of each kind.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Seconds of each window.
    #[arg(long, default_value_t = 2.0)]
    window: f64,
}

#[derive(Debug, Args)]
struct FilesArgs {
    /// Length of the file in MiB; it is made in the system's folder for temporary files.
    #[arg(long, default_value_t = 2_048)]
    size: u64,
    /// Transfers of each kind.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only the ways whose name contains this.
    #[arg(long, default_value = "")]
    way: String,
}

#[derive(Debug, Args)]
struct ShapedArgs {
    /// Engines, separated by commas.
    #[arg(long, value_delimiter = ',', value_parser = engine, default_value = "flock-utp-uring,utp-native")]
    engines: Vec<Engine>,
    /// Rates of the bottleneck in Mbit/s.
    #[arg(long, value_delimiter = ',', default_value = "10,100")]
    rates: Vec<u32>,
    /// Seconds before each window: flows have to find the rate.
    #[arg(long, default_value_t = 4.0)]
    warm_up: f64,
    /// The same where two flows meet: CUBIC takes long to fill a queue of a second.
    #[arg(long, default_value_t = 20.0)]
    meet: f64,
    /// Seconds of each window.
    #[arg(long, default_value_t = 10.0)]
    window: f64,
}

#[derive(Debug, Args)]
struct SideArgs {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    Serve {
        #[arg(long, value_parser = engine)]
        engine: Engine,
        #[arg(long)]
        job: Job,
        #[arg(long)]
        core: Option<usize>,
        #[arg(long, default_value_t = 1)]
        shards: usize,
    },
    Drive {
        #[arg(long, value_parser = engine)]
        engine: Engine,
        #[arg(long)]
        job: Job,
        #[arg(long)]
        core: Option<usize>,
        #[arg(long)]
        to: SocketAddrV4,
        #[arg(long)]
        spread: u16,
        #[arg(long)]
        in_flight: usize,
    },
}

impl Role {
    fn play(self) -> io::Result<()> {
        match self {
            Self::Serve {
                engine,
                job,
                core,
                shards,
            } => roles::serve(engine, job, core, shards),
            Self::Drive {
                engine,
                job,
                core,
                to,
                spread,
                in_flight,
            } => {
                let targets = Targets {
                    base: *to.ip(),
                    spread,
                    port: to.port(),
                };
                roles::drive(engine, job, core, targets, in_flight)
            }
        }
    }
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
            Command::Memory(args) => {
                let mut report = memory::run(&args.engines, args.few, args.many)?;
                report.push_str(&memory::blobs(&args.engines, args.peers)?);
                io::stdout().lock().write_all(report.as_bytes())
            }
            Command::Node(args) => args.run(),
            Command::Slow(args) => {
                let plan = plan(1, args.warm_up, args.window);
                let report = slow::run(&args.flows, &args.quanta, plan)?;
                io::stdout().lock().write_all(report.as_bytes())
            }
            Command::Files(args) => {
                let report = files::run(args.size << 20, args.rounds, &args.way)?;
                io::stdout().lock().write_all(report.as_bytes())
            }
            Command::Newcomers(args) => {
                let plan = plan(args.rounds, 0.0, args.window);
                let report = newcomers::run(args.bulk, args.slow, plan.rounds, plan.window)?;
                io::stdout().lock().write_all(report.as_bytes())
            }
            Command::Shaped(mut args) => {
                let plan = plan(1, args.warm_up, args.window);
                let meet = Duration::from_secs_f64(args.meet.clamp(0.0, 600.0));
                skip_missing(&mut args.engines)?;
                let report = shaped::run(&args.engines, &args.rates, plan, meet)?;
                io::stdout().lock().write_all(report.as_bytes())
            }
            Command::Side(args) => args.role.play(),
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

fn plan(rounds: usize, warm_up: f64, window: f64) -> Plan {
    Plan {
        rounds,
        warm_up: Duration::from_secs_f64(warm_up.clamp(0.0, 60.0)),
        window: Duration::from_secs_f64(window.clamp(0.01, 600.0)),
    }
}

impl NodeArgs {
    fn run(self) -> io::Result<()> {
        let plan = plan(self.rounds, self.warm_up, self.window);
        let report = node::run(&self.modules, self.engine, plan)?;
        io::stdout().lock().write_all(report.as_bytes())
    }
}

impl RunArgs {
    fn run(self) -> io::Result<()> {
        let plan = plan(self.rounds, self.warm_up, self.window);
        let veth = match self.veth.then(Veth::new).transpose() {
            Ok(veth) => veth,
            Err(error) => {
                return writeln!(io::stdout(), "skipped: --veth needs root and ip: {error}");
            }
        };
        let place = veth.as_ref().map(Veth::place);
        let mut run = Run {
            environment: Environment::read(),
            network: if self.veth {
                "veth pair between two namespaces, MTU 1500, sides as processes"
            } else {
                "loopback"
            },
            plan,
            outcomes: Vec::new(),
        };
        let scenarios = if self.scenario.is_empty() {
            compare::ALL.to_vec()
        } else {
            self.scenario
        };
        for scenario in &scenarios {
            let mut engines = if self.engines.is_empty() {
                compare::default_engines(scenario)
            } else {
                self.engines.clone()
            };
            skip_missing(&mut engines)?;
            // A burst is timed in this process alone.
            let lasts = |engine: &Engine| engine.lives_max.is_none() || scenario.job == Job::Bulk;
            engines.retain(|engine| place.is_none() || lasts(engine));
            let series =
                compare::run(scenario, &engines, plan, place.as_ref(), |round, engine| {
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

/// Leaves out what this machine has not, and says so.
fn skip_missing(engines: &mut Vec<Engine>) -> io::Result<()> {
    let wanted = engines.len();
    let missing = utp_native::missing();
    engines.retain(|engine| engine.name != utp_native::ENGINE.name || missing.is_none());
    match missing {
        Some(why) if engines.len() < wanted => {
            writeln!(io::stdout(), "skipped: {}: {why}", utp_native::ENGINE.name)
        }
        _ => Ok(()),
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
