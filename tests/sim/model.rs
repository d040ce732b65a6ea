//! Random operations on a whole engine, held against a simple reference model of the swarm.

mod case;
mod engine;
mod events;
mod meetings;
mod plan;
mod reference;
mod rules;
mod town;

use case::{Reached, run, shrink};
use flock_engine::SwarmCounters;
use flock_tests::world::seeds;
use plan::Plan;
use rand::SeedableRng;
use rand::rngs::SmallRng;

/// The plan of a seed. Every other one is for an engine of four shards.
fn plan(seed: u64) -> Plan {
    let shards = [1, 4][usize::from(seed % 2 == 1)];
    Plan::draw(&mut SmallRng::seed_from_u64(seed), seed, shards)
}

fn check(seed: u64) -> Reached {
    let plan = plan(seed);
    run(&plan).unwrap_or_else(|_| {
        let least = shrink(&plan);
        let wrong = run(&least).expect_err("it failed with as much");
        let steps: Vec<String> = least.steps.iter().map(|step| format!("{step:?}")).collect();
        panic!(
            "seed {seed} (replay it alone with FLOCK_SEED={seed}): {wrong}\n\noptions:\n{:#?}\n\
             hosts:\n{:?}\nsteps, of {}:\n{}",
            least.options,
            least.hosts,
            plan.steps.len(),
            steps.join("\n"),
        );
    })
}

/// What five hundred cases must have led to, each of these at least once.
const REACHED: [&str; 26] = [
    "candidates_added",
    "candidates_duplicate",
    "candidates_refused",
    "candidates_banned",
    "candidates_not_whitelisted",
    "candidates_denied",
    "candidates_firewalled",
    "channels_refused",
    "drops",
    "dials_timed_out",
    "dials_given_up",
    "inbound_banned",
    "inbound_not_whitelisted",
    "inbound_full",
    "inbound_half_open",
    "inbound_denied",
    "inbound_firewalled",
    "inbound_over_limit",
    "handshakes_timed_out",
    "handshakes_crowded_out",
    "peers_banned",
    "peers_firewalled",
    "selves_detected",
    "redundant_refused",
    "redundant_replaced",
    "claims_over_limit",
];

#[test]
fn counters_are_the_models_whatever_is_done() {
    let seeds = seeds(500);
    let cases = seeds.end - seeds.start;
    let mut sums = SwarmCounters::default();
    let (mut settled, mut unsettled, mut doubtful) = (0, 0, 0);
    for seed in seeds {
        let reached = check(seed);
        sums.add(&reached.sums);
        settled += reached.settled;
        unsettled += reached.unsettled;
        doubtful += reached.doubtful;
    }
    println!("{cases} cases, {settled} comparisons, {doubtful} with a doubt, {unsettled} not made");
    if cases >= 500 {
        let reached = sums.iter().filter(|counter| counter.value > 0);
        let reached: Vec<_> = reached.map(|counter| counter.name).collect();
        let unreached = REACHED.iter().filter(|name| !reached.contains(name));
        let unreached: Vec<_> = unreached.collect();
        assert!(unreached.is_empty(), "never reached: {unreached:?}");
        assert!(
            50 * (unsettled + doubtful) < settled,
            "too little is certain"
        );
    }
}
