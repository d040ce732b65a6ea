//! The command as a user runs it: bounded runs on loopback, judged by exit status and JSON.

mod targets;

use serde_json::Value;
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use targets::{Behaviour, Fake};

/// No run here takes longer, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn loadgen(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.args(line.split_whitespace());
    command
}

/// Runs a command to its end, or kills it and fails.
fn finish(mut command: Command) -> Output {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait(child)
}

fn wait(mut child: Child) -> Output {
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

fn run(line: &str) -> (i32, Value) {
    judge(&finish(loadgen(&format!("--json - {line}"))))
}

fn judge(output: &Output) -> (i32, Value) {
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}", String::from_utf8_lossy(&output.stderr));
    });
    (output.status.code().unwrap(), report)
}

fn number(report: &Value, pointer: &str) -> u64 {
    let found = report.pointer(pointer).and_then(Value::as_u64);
    found.unwrap_or_else(|| panic!("no {pointer} in {report:#}"))
}

/// Each peer ended exactly one way, and every count agrees with the others.
fn check_sums(report: &Value) {
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
fn backends() -> Vec<&'static str> {
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

#[test]
fn peers_live_once_each_on_both_backends() {
    for backend in backends() {
        let (status, report) = run(&format!(
            "--peers 500 --concurrency 64 --memory-peers 0 --backend {backend}"
        ));
        assert_eq!(status, 0, "{report:#}");
        check_sums(&report);
        assert_eq!(number(&report, "/counts/handshaken"), 500);
        assert_eq!(number(&report, "/counts/target_admitted"), 500);
        assert!(number(&report, "/counts/peak_open") <= 64);
        assert_eq!(number(&report, "/counts/bytes_in"), 500 * 33);
        assert_eq!(report["schema"], 1);
        let name = if backend == "uring" {
            "io_uring"
        } else {
            "epoll"
        };
        assert_eq!(report["backend"]["generator"], name);
    }
}

#[test]
fn a_closed_loop_runs_for_its_duration_with_either_close() {
    for (backend, close) in [("auto", "fin"), ("poll", "rst")] {
        let line = format!(
            "--duration 400ms --peers 2k --concurrency 32 --memory-peers 0 --backend {backend} --close {close}"
        );
        let (status, report) = run(&line);
        assert_eq!(status, 0, "{report:#}");
        check_sums(&report);
        assert!(number(&report, "/counts/handshaken") > 32);
        let window = report["rates"]["window_s"].as_f64().unwrap();
        assert!((0.4..2.0).contains(&window), "{window}");
        assert!(
            report["cpu"]["generator"]["us_per_connection"]
                .as_f64()
                .unwrap()
                > 0.0
        );
        assert!(
            report["cpu"]["target"]["us_per_connection"]
                .as_f64()
                .unwrap()
                > 0.0
        );
    }
}

#[test]
fn an_open_loop_starts_what_the_plan_says() {
    let (status, report) = run("--rate 500/s --duration 1s --memory-peers 0");
    assert_eq!(status, 0, "{report:#}");
    check_sums(&report);
    let (started, missed) = (
        number(&report, "/counts/started"),
        number(&report, "/counts/missed"),
    );
    assert_eq!(started + missed, 500, "{report:#}");
    assert_eq!(number(&report, "/latency_ns/lag/count"), started);
}

#[test]
fn held_connections_are_counted_when_the_hold_ends() {
    for backend in backends() {
        let (status, report) = run(&format!(
            "--hold --peers 300 --duration 300ms --backend {backend}"
        ));
        assert_eq!(status, 0, "{report:#}");
        check_sums(&report);
        assert_eq!(number(&report, "/counts/survived"), 300);
        assert_eq!(number(&report, "/counts/peak_open"), 300);
        assert_eq!(number(&report, "/memory/connections"), 300);
    }
}

#[test]
fn idle_connections_are_weighed_on_both_sides_apart() {
    let (status, report) = run("--peers 200 --memory-peers 400");
    assert_eq!(status, 0, "{report:#}");
    assert_eq!(number(&report, "/memory/connections"), 400);
    assert!(
        report["memory"]["target_per_connection"].is_number(),
        "{report:#}"
    );
    assert!(report["memory"]["generator_per_connection"].is_number());
    assert!(report["memory"]["both_per_connection"].is_null());
}

/// Runs under a soft and hard limit of `files` descriptors.
fn limited(files: u32, line: &str) -> Output {
    let mut shell = Command::new("sh");
    let script = format!("ulimit -n {files}; exec \"$0\" {line}");
    shell.args(["-c", &script, env!("CARGO_BIN_EXE_loadgen")]);
    finish(shell)
}

#[test]
fn the_file_limit_is_told_before_the_start_and_used_up() {
    let output = limited(400, "--json - --hold --peers 1000 --duration 200ms");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let (status, report) = judge(&output);
    assert_eq!(status, 0, "{report:#}");
    let allowed = number(&report, "/preflight/allowed");
    assert!((100..200).contains(&allowed), "{allowed}");
    assert!(
        told.contains(&format!("the limit of 400 allows {allowed} connections")),
        "{told}"
    );
    assert_eq!(number(&report, "/counts/survived"), allowed);
    assert_eq!(number(&report, "/preflight/asked"), 1000);
}

#[test]
fn what_the_limits_cannot_carry_is_refused() {
    for (files, more) in [(400, "--strict"), (60, "")] {
        let output = limited(files, &format!("--hold --peers 1000 --duration 1s {more}"));
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert!(output.stdout.is_empty());
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("refused: files"),
            "{output:?}"
        );
    }
}

#[test]
fn usage_errors_exit_with_2() {
    for line in [
        "--peers none",
        "--duration 5",
        "--transport carrier-pigeon",
        "--target 127.0.0.1",
        "--cpus 999",
        "--target [::1]:9 --sources 127.1.0.0/16",
        "--hold --memory-peers 5",
    ] {
        let output = finish(loadgen(line));
        assert_eq!(output.status.code(), Some(2), "{line}: {output:?}");
        assert!(
            output.stdout.is_empty() && !output.stderr.is_empty(),
            "{line}: {output:?}"
        );
    }
}

/// A loopback port nobody listens on.
fn closed_port() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

#[test]
fn a_refusing_target_fails_every_peer() {
    let (status, report) = run(&format!("--peers 40 --target {}", closed_port()));
    assert_eq!(status, 1);
    check_sums(&report);
    let error = &report["errors"][0];
    assert_eq!(error["stage"], "connect");
    assert_eq!(error["errno"], 111);
    assert_eq!(error["count"], 40);
}

#[test]
fn a_target_may_cut_its_frame_anywhere_and_say_more() {
    let fake = Fake::start(Behaviour::Dribble);
    let (status, report) = run(&format!("--peers 20 --target {}", fake.addr()));
    assert_eq!(status, 0, "{report:#}");
    check_sums(&report);
    assert_eq!(number(&report, "/counts/handshaken"), 20);
    assert_eq!(fake.ids_seen(), 20, "each peer sends an id of its own");
}

#[test]
fn misbehaving_targets_are_told_apart() {
    for (behaviour, kind) in [
        (Behaviour::Garbage, "bad-handshake"),
        (Behaviour::HangUp, "closed-early"),
        (Behaviour::Silence, "timeout"),
    ] {
        let fake = Fake::start(behaviour);
        let line = format!(
            "--peers 10 --handshake-timeout 300ms --target {}",
            fake.addr()
        );
        let (status, report) = run(&line);
        assert_eq!(status, 1, "{report:#}");
        check_sums(&report);
        let error = &report["errors"][0];
        assert_eq!(
            (error["stage"].as_str(), error["kind"].as_str()),
            (Some("handshake"), Some(kind))
        );
        assert_eq!(error["count"], 10, "{report:#}");
    }
}

#[test]
fn the_report_goes_to_a_file_and_the_text_to_stdout() {
    let path = std::env::temp_dir().join(format!("loadgen-report-{}.json", std::process::id()));
    let mut command = loadgen("--peers 50 --memory-peers 0 --json");
    command.arg(&path);
    let output = finish(command);
    let report: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(number(&report, "/counts/handshaken"), 50);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("handshakes") && text.contains("verdict"),
        "{text}"
    );
    // Neither is a terminal: no colour, no progress line.
    assert!(!text.contains('\x1b') && !output.stderr.contains(&0x1b));
    let unwritable = finish(loadgen(
        "--peers 5 --memory-peers 0 --json /nonexistent/report.json",
    ));
    assert_eq!(unwritable.status.code(), Some(4), "{unwritable:?}");
}

#[test]
fn an_interrupt_ends_the_run_with_a_report() {
    let fake = Fake::start(Behaviour::Dribble);
    let line = format!(
        "--json - --hold --peers 20 --duration 1h --target {}",
        fake.addr()
    );
    let child = loadgen(&line)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    while fake.ids_seen() < 20 {
        assert!(
            Instant::now() < deadline,
            "only {} peers came",
            fake.ids_seen()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let (status, report) = judge(&wait(child));
    assert_eq!(status, 130);
    assert_eq!(report["run"]["interrupted"], true);
    check_sums(&report);
}

#[test]
fn another_process_can_be_watched() {
    let fake = Fake::start(Behaviour::Dribble);
    let line = format!(
        "--peers 20 --target-pid {} --target {}",
        std::process::id(),
        fake.addr()
    );
    let (status, report) = run(&line);
    assert_eq!(status, 0, "{report:#}");
    assert!(report["cpu"]["target"]["total_s"].is_number(), "{report:#}");
}
