use crate::process::{backends, check_sums, number, run};

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
fn peers_live_over_utp_and_over_both() {
    for backend in backends() {
        for (transport, close) in [("utp", "fin"), ("utp", "rst"), ("both", "fin")] {
            let (status, report) = run(&format!(
                "--peers 400 --concurrency 64 --memory-peers 0 --backend {backend} \
                 --transport {transport} --close {close}"
            ));
            assert_eq!(status, 0, "{report:#}");
            check_sums(&report);
            assert_eq!(report["run"]["transport"], transport);
            assert_eq!(number(&report, "/counts/handshaken"), 400);
            assert_eq!(number(&report, "/counts/target_admitted"), 400);
            assert_eq!(number(&report, "/counts/bytes_in"), 400 * 33);
        }
    }
}

#[test]
fn held_utp_connections_need_no_descriptors_of_their_own() {
    let (status, report) = run("--transport utp --hold --peers 2k --duration 300ms");
    assert_eq!(status, 0, "{report:#}");
    assert_eq!(number(&report, "/counts/survived"), 2000);
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
