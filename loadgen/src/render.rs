//! The report as text.

use crate::report::{Cost, LatencyReport, Report};
use crate::text::{bytes, grouped, latency, one_decimal, per_second};
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::Duration;

/// Whether to use bold and colour: on a terminal that can, unless `NO_COLOR` is set
/// (no-color.org).
pub(crate) fn colour_wanted() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    std::io::stdout().is_terminal() && !set("NO_COLOR") && !dumb
}

/// The text a person reads.
pub(crate) fn render(report: &Report, colour: bool) -> String {
    let mut page = Page {
        text: String::new(),
        colour,
    };
    head(&mut page, report);
    results(&mut page, report);
    stages(&mut page, report);
    costs(&mut page, report);
    page.row("verdict", &report.verdict.text);
    page.text
}

struct Page {
    text: String,
    colour: bool,
}

impl Page {
    fn row(&mut self, label: &str, value: &str) {
        let label = self.paint("1", &format!("{label:<11}"));
        self.line(&format!("{label} {value}"));
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

fn head(page: &mut Page, report: &Report) {
    let run = &report.run;
    let mut plan = format!("{} peers over {}", grouped(run.peers.into()), run.transport);
    match (run.hold_s, run.rate_per_s) {
        (Some(hold), _) => _ = write!(plan, ", all held for {hold} s"),
        (None, Some(rate)) => _ = write!(plan, ", open loop {rate}/s"),
        (None, None) => _ = write!(plan, ", closed loop, {} at a time", run.concurrency),
    }
    match (run.duration_s, run.hold_s) {
        (Some(duration), _) => _ = write!(plan, ", for {duration} s"),
        (None, None) => plan.push_str(", each once"),
        (None, Some(_)) => {}
    }
    _ = write!(
        plan,
        ", close by {}, seed {}",
        run.close.to_uppercase(),
        run.seed
    );
    page.row("load", &plan);
    let engine = match (&report.backend.engine_reason, run.shards) {
        (Some(reason), Some(shards)) => format!(
            "engine in this process, {}, {shards} shard{}{}, {reason}",
            run.addrs.join(" "),
            if shards == 1 { "" } else { "s" },
            on_cpus(run.engine_cpus.as_deref()),
        ),
        _ => run.addrs.join(" "),
    };
    page.row("target", &engine);
    let threads = run.generator_threads;
    let generator = format!(
        "{threads} thread{}{}, {}; source addresses {}",
        if threads == 1 { "" } else { "s" },
        on_cpus(run.generator_cpus.as_deref()),
        report.backend.generator_reason,
        run.sources,
    );
    page.row("generator", &generator);
    page.row("limits", &report.preflight.summary);
    let machine = &report.machine;
    page.row(
        "machine",
        &format!(
            "{}, {} cores for us, Linux {}, {}",
            machine.processor, machine.allowed_cpus, machine.kernel, machine.congestion_control
        ),
    );
    page.line("");
}

fn on_cpus(cpus: Option<&[usize]>) -> String {
    cpus.map_or_else(String::new, |cpus| {
        format!(" on cpu {}", crate::units::Cpus(cpus.to_vec()))
    })
}

fn results(page: &mut Page, report: &Report) {
    let (counts, rates) = (&report.counts, &report.rates);
    let rate =
        |count: u64, rate: f64| format!("{:>11}   {:>9}/s", grouped(count), per_second(rate));
    page.row("connects", &rate(counts.connected, rates.connects_per_s));
    page.row(
        "handshakes",
        &rate(counts.handshaken, rates.handshakes_per_s),
    );
    if let Some(admitted) = counts.target_admitted {
        let agrees = if admitted == counts.handshaken {
            ""
        } else {
            "; it refuses an id that is back before its last connection is gone (more --peers avoid that)"
        };
        page.row(
            "admitted",
            &format!(
                "{:>11}   by the engine's own count{agrees}",
                grouped(admitted)
            ),
        );
    }
    if let Some(messages) = counts
        .engine_messages
        .filter(|_| report.run.shards > Some(1))
    {
        let each = messages as f64 / counts.handshaken.max(1) as f64;
        page.row(
            "messages",
            &format!(
                "{:>11}   between shards, {each:.2} a connection",
                grouped(messages)
            ),
        );
    }
    if let Some(survived) = counts.survived {
        page.row(
            "held",
            &format!("{:>11}   still alive at the end", grouped(survived)),
        );
    }
    if counts.missed > 0 {
        page.row(
            "missed",
            &format!("{:>11}   due, never started", grouped(counts.missed)),
        );
    }
    if counts.abandoned > 0 {
        page.row(
            "abandoned",
            &format!("{:>11}   when interrupted", grouped(counts.abandoned)),
        );
    }
    let failed = format!("{:>11}", grouped(counts.failed));
    let code = if counts.failed == 0 { "32" } else { "31" };
    let failed = page.paint(code, &failed);
    page.row("failed", &failed);
    for error in &report.errors {
        page.line(&format!(
            "            {:>11}   {}: {}",
            grouped(error.count),
            error.stage,
            error.text
        ));
    }
    page.line("");
}

fn stages(page: &mut Page, report: &Report) {
    let head = format!(
        "{:<11} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "latency", "p50", "p90", "p99", "p99.9", "max"
    );
    let head = page.paint("1", &head);
    page.line(&head);
    let all = &report.latency_ns;
    let from = if report.run.loop_kind == "open" {
        "the intended start"
    } else {
        "the dial"
    };
    stage(page, "connect", &all.connect, &format!("from {from}"));
    stage(
        page,
        "handshake",
        &all.handshake,
        "from connected to both ids exchanged",
    );
    stage(page, "close", &all.close, "from asking to done");
    stage(
        page,
        "ready",
        &all.ready,
        &format!("from {from} to both ids exchanged"),
    );
    if let Some(lag) = &all.lag {
        stage(page, "late", lag, "from the intended to the real start");
    }
    page.line("");
}

fn stage(page: &mut Page, name: &str, stage: &LatencyReport, what: &str) {
    let mut line = format!("{name:<11}");
    for nanos in [stage.p50, stage.p90, stage.p99, stage.p999, stage.max] {
        let text = if stage.count == 0 {
            "-".into()
        } else {
            latency(Duration::from_nanos(nanos))
        };
        _ = write!(line, " {text:>9}");
    }
    page.line(&format!("{line}   {what}"));
}

fn costs(page: &mut Page, report: &Report) {
    let cost = |name: &str, cost: &Cost| {
        let each = cost
            .us_per_connection
            .map_or_else(|| "-".into(), |us| format!("{} us", one_decimal(us)));
        format!(
            "{name} {each} a connection, busiest thread {:.0} %",
            cost.busiest_thread * 100.0
        )
    };
    let mut cpu = cost("generator", &report.cpu.generator);
    match &report.cpu.target {
        Some(target) => _ = write!(cpu, "; {}", cost("target", target)),
        None => cpu.push_str("; target unseen"),
    }
    page.row("cpu", &cpu);
    let memory = &report.memory;
    let parts: Vec<String> = [
        ("target", memory.target_per_connection),
        ("generator", memory.generator_per_connection),
        ("both ends in this process", memory.both_per_connection),
        ("kernel, both ends", memory.kernel_per_connection),
    ]
    .into_iter()
    .filter_map(|(name, size)| Some(format!("{name} {}", bytes(size?))))
    .collect();
    let text = if parts.is_empty() {
        "not measured (--hold measures it)".into()
    } else {
        format!(
            "{} per idle connection, slope up to {} connections",
            parts.join(", "),
            grouped(memory.connections)
        )
    };
    page.row("memory", &text);
}
