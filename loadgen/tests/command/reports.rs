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
    let unwritable = finish(loadgen(
        "--peers 5 --memory-peers 0 --json /nonexistent/report.json",
    ));
    assert_eq!(unwritable.status.code(), Some(4), "{unwritable:?}");
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
