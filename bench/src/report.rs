//! Tables, and the archived run.

use crate::compare::{Plan, Scenario, Series};
use crate::environment::Environment;
use crate::job::Job;
use crate::stats::Summary;
use crate::targets::{self, Limit, Metric, Ratio, Target, Verdict};
use serde::Serialize;
use std::fmt::Write;

/// One scenario's outcome.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The scenario's name.
    pub scenario: &'static str,
    /// What it shows.
    pub about: &'static str,
    /// Connections at a time.
    pub in_flight: usize,
    /// What ratios in the table are to.
    pub reference: String,
    /// All windows.
    pub series: Vec<Series>,
    /// The promises about it.
    pub judgements: Vec<Judgement>,
    #[serde(skip)]
    job: Job,
    #[serde(skip)]
    metric: Metric,
}

/// One promise and what came of it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Judgement {
    /// The promise.
    pub target: Target,
    /// What was measured.
    pub ratio: Ratio,
    /// The verdict.
    pub verdict: Verdict,
}

/// A whole run.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// Where.
    pub environment: Environment,
    /// Over what.
    pub network: &'static str,
    /// How.
    pub plan: Plan,
    /// What came of it.
    pub outcomes: Vec<Outcome>,
}

impl Outcome {
    /// Judges the series of `scenario`; ratios in its table are to `reference`.
    #[must_use]
    pub fn new(scenario: &Scenario, series: Vec<Series>, reference: &str) -> Self {
        let judgements = targets::ALL
            .iter()
            .filter(|target| target.scenario == scenario.name)
            .filter_map(|target| judge(*target, &series))
            .collect();
        Self {
            scenario: scenario.name,
            about: scenario.about,
            in_flight: scenario.in_flight,
            reference: reference.to_owned(),
            series,
            judgements,
            job: scenario.job,
            metric: scenario.metric,
        }
    }

    /// The table of this scenario, in markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let unit = match self.job {
            Job::Life(_) => "connections",
            Job::Echo(_) => "round trips",
            Job::Blob(_) => "blobs",
            Job::Bulk => "writes",
        };
        let figure = self.metric.name();
        let mut text = format!(
            "### {}\n\n{}; {} at a time.\n\n",
            self.scenario, self.about, self.in_flight
        );
        let bulk = self.job.payload() > 4096;
        let _ = write!(
            text,
            "| engine | {unit}/s | {}CPU us each, both | client / server | {figure}: ratio to {} [95 % bounds] |\n\
             | --- | --- | {}--- | --- | --- |\n",
            if bulk { "GB/s | " } else { "" },
            self.reference,
            if bulk { "--- | " } else { "" },
        );
        for series in &self.series {
            self.row(&mut text, series, bulk);
        }
        self.datagrams(&mut text);
        for series in &self.series {
            let messages: Vec<f64> = series.samples.iter().map(|s| s.messages).collect();
            let messages = Summary::of(&messages).median;
            if messages > 0.0 {
                let name = series.engine;
                let _ = writeln!(
                    text,
                    "\n{name}: {messages:.2} messages between shards each."
                );
            }
        }
        text
    }

    /// Says how many datagrams a unit took.
    fn datagrams(&self, text: &mut String) {
        let medians = self.series.iter().map(|series| {
            let each: Vec<f64> = series.samples.iter().map(|s| s.datagrams).collect();
            (series.engine, Summary::of(&each).median)
        });
        let told: Vec<String> = medians
            .filter(|(_, median)| *median > 0.0)
            .map(|(engine, median)| format!("{engine} {median:.1}"))
            .collect();
        if !told.is_empty() {
            let told = told.join(", ");
            let _ = writeln!(
                text,
                "\nDatagrams and trains of them sent each, both sides: {told}."
            );
        }
    }

    fn row(&self, text: &mut String, series: &Series, bulk: bool) {
        let rate = Summary::of(&series.figures(Metric::Rate));
        let cpu = Summary::of(&series.figures(Metric::Cpu));
        let server = Summary::of(&series.figures(Metric::ServerCpu)).median;
        let client: Vec<f64> = series.samples.iter().map(|s| s.client_cpu).collect();
        let client = Summary::of(&client).median;
        let failed: u64 = series.samples.iter().map(|sample| sample.errors).sum();
        let note = if failed > 0 {
            format!(" ({failed} failed!)")
        } else {
            String::new()
        };
        let _ = write!(
            text,
            "| {}{note} | {:.0} [{:.0}..{:.0}] | ",
            series.engine, rate.median, rate.min, rate.max
        );
        if bulk {
            let payload = u32::try_from(self.job.payload()).unwrap_or(u32::MAX);
            let _ = write!(text, "{:.2} | ", rate.median * f64::from(payload) / 1e9);
        }
        let ratio = self.ratio(series).map_or_else(String::new, |ratio| {
            let bounds = ratio.bounds;
            let median = ratio.ratio.median;
            format!("{median:.3} [{:.3}..{:.3}]", bounds.lower, bounds.upper)
        });
        let _ = writeln!(
            text,
            "{:.1} [{:.1}..{:.1}] | {client:.1} / {server:.1} | {ratio} |",
            cpu.median, cpu.min, cpu.max
        );
    }

    fn ratio(&self, series: &Series) -> Option<Ratio> {
        let reference = self.series.iter().find(|s| s.engine == self.reference)?;
        let (subject, reference) = (series.figures(self.metric), reference.figures(self.metric));
        Some(Ratio::paired(&subject, &reference))
    }
}

fn judge(target: Target, series: &[Series]) -> Option<Judgement> {
    let find = |name| series.iter().find(|series| series.engine == name);
    let (subject, reference) = (find(target.subject)?, find(target.reference)?);
    let ratio = Ratio::paired(
        &subject.figures(target.metric),
        &reference.figures(target.metric),
    );
    let clean = subject.clean() && reference.clean();
    Some(Judgement {
        target,
        ratio,
        verdict: ratio.judge(target.limit, clean),
    })
}

impl Run {
    /// The whole run in markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "{}.\n\n{} rounds, {:.1} s warm-up and {:.1} s window each, interleaved; {}.\n\n",
            self.environment,
            self.plan.rounds,
            self.plan.warm_up.as_secs_f64(),
            self.plan.window.as_secs_f64(),
            self.network,
        );
        for outcome in &self.outcomes {
            text.push_str(&outcome.markdown());
            text.push('\n');
        }
        let judgements: Vec<_> = self.outcomes.iter().flat_map(|o| &o.judgements).collect();
        if !judgements.is_empty() {
            text.push_str(
                "### Targets\n\n\
                 | scenario | figure | engine / reference | target | median [min..max] | 95 % bound | verdict |\n\
                 | --- | --- | --- | --- | --- | --- | --- |\n",
            );
            for judgement in judgements {
                judgement.row(&mut text);
            }
        }
        text
    }
}

impl Judgement {
    fn row(&self, text: &mut String) {
        let (sign, limit, bound) = match self.target.limit {
            Limit::AtMost(most) => ("<=", most, self.ratio.bounds.upper),
            Limit::AtLeast(least) => (">=", least, self.ratio.bounds.lower),
        };
        let ratio = self.ratio.ratio;
        let _ = writeln!(
            text,
            "| {} | {} | {} / {} | {sign} {limit:.2} | {:.3} [{:.3}..{:.3}] | {bound:.3} | {} |",
            self.target.scenario,
            self.target.metric.name(),
            self.target.subject,
            self.target.reference,
            ratio.median,
            ratio.min,
            ratio.max,
            self.verdict.name(),
        );
    }
}
