use crate::faults::closed_port;
use crate::process::{PATIENCE, check_sums, finish, judge, loadgen, number, run, wait};
use crate::targets::{Behaviour, Fake};
use serde_json::Value;
use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::{Duration, Instant};

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
}

#[test]
fn a_report_that_cannot_be_written_is_no_lost_measurement() {
    let fake = Fake::start(Behaviour::Dribble);
    let target = format!("--peers 5 --target {}", fake.addr());
    let early = finish(loadgen(&format!(
        "{target} --json /nonexistent/report.json"
    )));
    assert_eq!(early.status.code(), Some(4), "{early:?}");
    assert!(early.stdout.is_empty() && fake.ids_seen() == 0);
    // It can be opened, but not written.
    let late = finish(loadgen(&format!("{target} --json /dev/full")));
    assert_eq!(late.status.code(), Some(4), "{late:?}");
    assert!(
        String::from_utf8_lossy(&late.stdout).contains("verdict"),
        "{late:?}"
    );
}

/// The names of all fields, however deep.
fn fields(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            found.extend(map.keys().cloned());
            map.values().for_each(|inner| fields(inner, found));
        }
        Value::Array(list) => list.iter().for_each(|inner| fields(inner, found)),
        _ => {}
    }
}

#[test]
fn every_field_is_documented() {
    let (_, report) = run("--rate 200/s --duration 200ms --memory-peers 0");
    let (_, failed) = run(&format!("--peers 1 --target {}", closed_port()));
    let mut found = BTreeSet::new();
    fields(&report, &mut found);
    fields(&failed, &mut found);
    let readme = include_str!("../../README.md");
    let missing = found
        .iter()
        .filter(|name| !readme.contains(&format!("`{name}`")));
    let missing: Vec<_> = missing.collect();
    assert!(missing.is_empty(), "README.md does not name {missing:?}");
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
fn an_interrupt_while_memory_is_measured_is_one() {
    let child = loadgen("--json - --peers 10 --memory-peers 8000")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    // The engine that is weighed is a process of its own.
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let deadline = Instant::now() + PATIENCE;
    while std::fs::read_to_string(&children).unwrap().is_empty() {
        assert!(Instant::now() < deadline, "no engine to be weighed");
        std::thread::yield_now();
    }
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let (status, report) = judge(&wait(child));
    assert_eq!(status, 130);
    assert_eq!(number(&report, "/counts/handshaken"), 10);
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
