use crate::process::{check_sums, finish, judge, loadgen, number, run};
use crate::targets::{Behaviour, Fake};
use std::net::SocketAddr;
use std::process::{Command, Output};

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

/// With little address space, lest the machine runs out of memory when this fails.
#[test]
fn more_ids_than_memory_are_refused() {
    let mut shell = Command::new("sh");
    let script = "ulimit -v 8000000; exec \"$0\" --peers 4000m --memory-peers 0";
    shell.args(["-c", script, env!("CARGO_BIN_EXE_loadgen")]);
    let output = finish(shell);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("refused: memory"));
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
pub(crate) fn closed_port() -> SocketAddr {
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
