//! Transfers over every path: golden figures on the fixed ones, what must hold on drawn ones.

use crate::run::{Figures, Stack, run, stacks};
use crate::{golden, matrix};
use flock_tests::world::seeds;
use std::panic::{AssertUnwindSafe, catch_unwind};

fn row(name: &str, stack: &Stack, figures: &Figures) -> String {
    let [there, back] = figures.sent;
    let [lost_there, lost_back] = figures.dropped;
    format!(
        "{name:44} {:16}| {:7.2} s {:8.3} Mbit/s, sent {there:5} {back:5}, lost {lost_there:4} \
         {lost_back:4}, waited {:5} ms, {:016x}",
        stack.name,
        figures.took.as_secs_f64(),
        figures.goodput * 8.0 / 1e6,
        figures.waited[0].max(figures.waited[1]).as_millis(),
        figures.trace,
    )
}

#[test]
fn every_path_has_its_golden_figures() {
    let mut rows = Vec::new();
    for case in matrix::fixed() {
        for stack in stacks() {
            let figures = run(&case, &stack, 1);
            rows.push(row(&case.name, &stack, &figures));
        }
    }
    golden::compare("golden.txt", &rows);
}

/// All of the first seeds run twice, and one of so many after them.
const FIRST_REPLAYED: u64 = 20;
const REPLAYED_AFTER: u64 = 10;

#[test]
fn what_must_hold_holds_on_drawn_paths() {
    let violates = |seed: &u64| catch_unwind(AssertUnwindSafe(|| draw_and_run(*seed))).is_err();
    let violated: Vec<u64> = seeds(20).filter(violates).collect();
    assert!(violated.is_empty(), "with the seeds {violated:?}");
}

/// Runs a drawn path, some of them twice: figures and the hash of the trace are then the same.
fn draw_and_run(seed: u64) {
    let case = matrix::drawn(seed);
    let stacks = stacks();
    let stack = &stacks[usize::try_from(seed).unwrap_or(0) % stacks.len()];
    let figures = run(&case, stack, seed);
    if seed < FIRST_REPLAYED || seed.is_multiple_of(REPLAYED_AFTER) {
        assert_eq!(figures, run(&case, stack, seed), "seed {seed} replays");
    }
}
