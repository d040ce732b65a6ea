//! A few slow flows keep their rate over every sender.

use flock_bench::compare::Plan;
use flock_bench::slow;
use std::time::Duration;

#[test]
fn every_sender_keeps_its_flows_at_their_rate() {
    let plan = Plan {
        rounds: 1,
        warm_up: Duration::from_millis(500),
        window: Duration::from_secs(1),
    };
    let text = slow::run(&[16], &[20], plan).unwrap();
    let rows: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("| 16 |"))
        .collect();
    assert_eq!(rows.len(), 3, "{text}");
    for row in rows {
        let mut cells = row.rsplit('|').map(str::trim);
        let (least, median) = (cells.nth(1).unwrap(), cells.next().unwrap());
        let (least, median): (f64, f64) = (least.parse().unwrap(), median.parse().unwrap());
        assert!(least > 0.3 && (0.6..1.5).contains(&median), "{text}");
    }
}
