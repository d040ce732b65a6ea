//! Who was the bottleneck? A generator that was the slower side says so.

use crate::meter::Share;
use serde::Serialize;

/// A thread this busy, or waiting for its processor, had no time left.
const FULL: f64 = 0.90;
/// A thread that waited this much of the time for its processor was disturbed by something else.
const DISTURBED: f64 = 0.05;
/// And when it waited this much, that is what limited the run.
const CROWDED_OUT: f64 = 0.20;
/// An open loop whose starts were later than this at the 99th percentile fell behind its plan.
const LATE_SECONDS: f64 = 0.010;

/// What limited the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum BoundBy {
    /// A generator thread had no time left and the target had: the target's limit was not seen.
    Generator,
    /// A thread of the target had no time left and the generator had.
    Target,
    /// Both had none, or they share one processor.
    Both,
    /// Neither: the plan (rate, number in flight, latency) set the pace.
    Neither,
    /// Programs that are neither side had the processors for a good part of the time.
    OtherPrograms,
    /// The generator had time left and nothing is known about the target's.
    NotTheGenerator,
}

/// What the judgement rests on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Evidence {
    /// Busiest generator thread.
    pub(crate) generator: Share,
    /// Busiest thread of the target, if it could be seen.
    pub(crate) target: Option<Share>,
    /// Threads of the run share processors, so that they wait for each other.
    pub(crate) shared: bool,
    /// Whether arrivals were planned.
    pub(crate) open_loop: bool,
    /// Planned arrivals never started.
    pub(crate) missed: u64,
    /// 99th percentile of how late arrivals were started, seconds.
    pub(crate) lag_p99: f64,
    /// Whether connections were only held.
    pub(crate) held: bool,
    /// Connections at a time.
    pub(crate) concurrency: u32,
    /// Whether any peer shook hands.
    pub(crate) any: bool,
}

/// The judgement.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Verdict {
    pub(crate) bound_by: BoundBy,
    /// Open loop: the plan was not kept.
    pub(crate) fell_behind: bool,
    pub(crate) text: String,
}

pub(crate) fn judge(evidence: &Evidence) -> Verdict {
    let bound_by = bound_by(evidence);
    let fell_behind =
        evidence.open_loop && (evidence.missed > 0 || evidence.lag_p99 > LATE_SECONDS);
    let mut text = format!("{}: {}", headline(bound_by, evidence), shares(evidence));
    if !evidence.any {
        text = format!("no peer shook hands, so nothing is known about the target; {text}");
    }
    match bound_by {
        _ if !evidence.any => {}
        BoundBy::Generator if !evidence.held => {
            text.push_str("; the target could do more: add generator processors with --cpus");
        }
        BoundBy::Both if evidence.shared => {
            text.push_str(
                "; both sides share processors, so this is their sum, not the target's limit",
            );
        }
        BoundBy::Neither | BoundBy::NotTheGenerator if !evidence.open_loop && !evidence.held => {
            text.push_str(&format!(
                "; {} connections at a time set the pace: try a higher --concurrency",
                evidence.concurrency
            ));
        }
        _ => {}
    }
    if !evidence.shared {
        disturbance(&mut text, evidence);
    }
    if fell_behind {
        text.push_str(&format!(
            "; fell behind the plan: 1 % of the peers started {:.0} ms late or more (the wait is in \
             their latencies)",
            evidence.lag_p99 * 1e3
        ));
    }
    if evidence.missed > 0 {
        text.push_str(&format!(
            "; {} never started and are in no latency: read the percentiles as lower bounds",
            evidence.missed
        ));
    }
    Verdict {
        bound_by,
        fell_behind,
        text,
    }
}

fn disturbance(text: &mut String, evidence: &Evidence) {
    let sides = [
        ("generator", Some(evidence.generator)),
        ("target", evidence.target),
    ];
    let lost: Vec<String> = sides
        .into_iter()
        .filter_map(|(side, share)| {
            let share = share.filter(|share| share.waiting >= DISTURBED)?;
            let percent = share.waiting * 100.0 / (share.busy + share.waiting);
            Some(format!(
                "the {side} waited for {percent:.0} % of the time it wanted to run"
            ))
        })
        .collect();
    if !lost.is_empty() {
        text.push_str(&format!(
            "; other programs had the processors ({}): repeat this on a quiet machine",
            lost.join(", ")
        ));
    }
}

fn is_full(share: Share) -> bool {
    share.busy + share.waiting >= FULL
}

fn bound_by(evidence: &Evidence) -> BoundBy {
    let crowded_out = |share: Share| share.waiting >= CROWDED_OUT;
    if !evidence.shared
        && (crowded_out(evidence.generator) || evidence.target.is_some_and(crowded_out))
    {
        return BoundBy::OtherPrograms;
    }
    let generator = is_full(evidence.generator);
    match evidence.target {
        // Whoever waits there waits for the other: there is no telling them apart.
        Some(target)
            if evidence.shared
                && (generator
                    || is_full(target)
                    || evidence.generator.busy + target.busy >= FULL) =>
        {
            BoundBy::Both
        }
        Some(target) => match (generator, is_full(target)) {
            (true, true) => BoundBy::Both,
            (true, false) => BoundBy::Generator,
            (false, true) => BoundBy::Target,
            (false, false) => BoundBy::Neither,
        },
        None if generator => BoundBy::Generator,
        None => BoundBy::NotTheGenerator,
    }
}

fn headline(bound_by: BoundBy, evidence: &Evidence) -> &'static str {
    match bound_by {
        BoundBy::Generator => "generator-bound",
        BoundBy::Target => "target-bound",
        BoundBy::Both => "bound by both sides",
        BoundBy::Neither if evidence.held => "idle connections, neither side busy",
        BoundBy::Neither if evidence.open_loop => "neither side full at this rate",
        BoundBy::Neither => "latency-bound, neither side full",
        BoundBy::OtherPrograms => "bound by other programs on these processors",
        BoundBy::NotTheGenerator => "not generator-bound",
    }
}

fn shares(evidence: &Evidence) -> String {
    let generator = format!("generator core {:.0} %", evidence.generator.busy * 100.0);
    match evidence.target {
        Some(target) => format!("{generator}, target core {:.0} %", target.busy * 100.0),
        None => format!("{generator}, target unseen (--target-pid shows it)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn busy(busy: f64) -> Share {
        Share { busy, waiting: 0.0 }
    }

    const CLOSED: Evidence = Evidence {
        generator: busy(0.99),
        target: Some(busy(0.61)),
        shared: false,
        open_loop: false,
        missed: 0,
        lag_p99: 0.0,
        held: false,
        concurrency: 256,
        any: true,
    };

    #[test]
    fn the_fuller_side_is_named() {
        let verdict = judge(&CLOSED);
        assert_eq!(verdict.bound_by, BoundBy::Generator);
        assert!(
            verdict
                .text
                .starts_with("generator-bound: generator core 99 %, target core 61 %")
        );
        let case = |generator, target: Option<f64>| {
            let (generator, target) = (busy(generator), target.map(busy));
            judge(&Evidence {
                generator,
                target,
                ..CLOSED
            })
            .bound_by
        };
        assert_eq!(case(0.5, Some(0.99)), BoundBy::Target);
        assert_eq!(case(0.95, Some(0.95)), BoundBy::Both);
        assert_eq!(case(0.5, Some(0.5)), BoundBy::Neither);
        assert_eq!(case(0.5, None), BoundBy::NotTheGenerator);
        assert_eq!(case(0.95, None), BoundBy::Generator);
    }

    #[test]
    fn a_target_nobody_got_through_to_could_not_do_more() {
        let verdict = judge(&Evidence {
            any: false,
            ..CLOSED
        });
        assert!(
            verdict.text.starts_with("no peer shook hands"),
            "{verdict:?}"
        );
        assert!(!verdict.text.contains("could do more"), "{verdict:?}");
    }

    #[test]
    fn one_shared_processor_is_no_ones_limit() {
        let shared = Evidence {
            generator: busy(0.55),
            target: Some(busy(0.44)),
            shared: true,
            ..CLOSED
        };
        assert_eq!(judge(&shared).bound_by, BoundBy::Both);
        assert!(judge(&shared).text.contains("share processors"));
        let crowded = Share {
            busy: 0.2,
            waiting: 0.75,
        };
        let alone = Evidence {
            generator: crowded,
            ..shared
        };
        assert_eq!(judge(&alone).bound_by, BoundBy::Both);
    }

    #[test]
    fn an_open_loop_says_when_it_fell_behind() {
        let open = Evidence {
            generator: busy(0.3),
            open_loop: true,
            lag_p99: 0.000_4,
            ..CLOSED
        };
        assert!(!judge(&open).fell_behind);
        assert!(
            judge(&Evidence {
                lag_p99: 0.5,
                ..open
            })
            .fell_behind
        );
        let missed = judge(&Evidence { missed: 7, ..open });
        assert!(
            missed.fell_behind && missed.text.contains("7 never started"),
            "{missed:?}"
        );
        assert!(
            !judge(&Evidence {
                missed: 7,
                ..CLOSED
            })
            .fell_behind
        );
    }

    #[test]
    fn a_side_that_waits_for_its_processor_is_disturbed() {
        let crowded = Share {
            busy: 0.48,
            waiting: 0.48,
        };
        let verdict = judge(&Evidence {
            generator: crowded,
            ..CLOSED
        });
        assert_eq!(verdict.bound_by, BoundBy::OtherPrograms);
        assert!(
            verdict.text.contains("the generator waited for 50 %"),
            "{verdict:?}"
        );
        let nudged = judge(&Evidence {
            generator: Share {
                busy: 0.85,
                waiting: 0.10,
            },
            ..CLOSED
        });
        assert_eq!(nudged.bound_by, BoundBy::Generator);
        assert!(nudged.text.contains("other programs"));
        assert!(!judge(&CLOSED).text.contains("other programs"));
    }
}
