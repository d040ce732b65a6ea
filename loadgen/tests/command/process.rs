//! Runs the command and reads its report.

use serde_json::Value;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// No run here takes longer, even on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn loadgen(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.args(line.split_whitespace());
    command
}

/// Runs a command to its end, or kills it and fails.
pub(crate) fn finish(mut command: Command) -> Output {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait(child)
}

pub(crate) fn wait(mut child: Child) -> Output {
    let deadline = Instant::now() + PATIENCE;
    // Reports are smaller than a pipe, so the child never waits for a reader.
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!(
                "still running after {PATIENCE:?}: {:?}",
                child.wait_with_output()
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

pub(crate) fn run(line: &str) -> (i32, Value) {
    judge(&finish(loadgen(&format!("--json - {line}"))))
}

pub(crate) fn judge(output: &Output) -> (i32, Value) {
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}", String::from_utf8_lossy(&output.stderr));
    });
    (output.status.code().unwrap(), report)
}

pub(crate) fn number(report: &Value, pointer: &str) -> u64 {
    let found = report.pointer(pointer).and_then(Value::as_u64);
    found.unwrap_or_else(|| panic!("no {pointer} in {report:#}"))
}

/// Each peer ended exactly one way, and every count agrees with the others.
pub(crate) fn check_sums(report: &Value) {
    let count = |name: &str| number(report, &format!("/counts/{name}"));
    let failed = |stage: &str| {
        let errors = report["errors"].as_array().unwrap().iter();
        let of_stage = errors.filter(|error| error["stage"] == stage);
        of_stage
            .map(|error| error["count"].as_u64().unwrap())
            .sum::<u64>()
    };
    let all = ["connect", "handshake", "hold", "close"].map(failed);
    assert_eq!(all.iter().sum::<u64>(), count("failed"), "{report:#}");
    assert_eq!(
        count("started"),
        count("closed") + count("failed") + count("abandoned")
    );
    if count("abandoned") == 0 {
        assert_eq!(count("connected"), count("started") - failed("connect"));
        assert_eq!(
            count("handshaken"),
            count("connected") - failed("handshake")
        );
    }
    for (stage, counter) in [
        ("connect", "connected"),
        ("handshake", "handshaken"),
        ("ready", "handshaken"),
        ("close", "closed"),
    ] {
        let latency = &report["latency_ns"][stage];
        assert_eq!(
            latency["count"], report["counts"][counter],
            "{stage} in {report:#}"
        );
        let steps = ["min", "p50", "p90", "p99", "p999", "max"];
        let steps = steps.map(|step| latency[step].as_u64().unwrap());
        assert!(steps.is_sorted(), "{stage}: {steps:?}");
    }
}

/// Backends that work here: io_uring may be forbidden, and then `auto` says why.
pub(crate) fn backends() -> Vec<&'static str> {
    let (_, report) = run("--peers 1 --memory-peers 0");
    if report["backend"]["generator"] == "io_uring" {
        vec!["uring", "poll"]
    } else {
        eprintln!(
            "io_uring not tested: {}",
            report["backend"]["generator_reason"]
        );
        vec!["poll"]
    }
}
