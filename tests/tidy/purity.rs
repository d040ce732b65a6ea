//! Protocol and policy are pure machines: time and chance come in as arguments, and only the
//! drivers touch sockets. This is what lets the whole engine replay from a seed.

use crate::report;
use crate::source::{self, Named};

/// The sans-IO parts.
const PURE: [&str; 6] = [
    "transports/core/src",
    "transports/tcp/src",
    "transports/utp/src",
    "discovery/src",
    "engine/src/session",
    "engine/src/swarm",
];

/// What runs them in production and in the simulation alike: locks there are, but no clock, no
/// thread and no chance of its own.
const REPLAYED: [&str; 4] = [
    "engine/src/shard",
    "engine/src/io/sim",
    "engine/src/table",
    "engine/src/wheel",
];

/// What must not be named there.
const UNREPEATABLE: [&str; 7] = [
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "rand::rng",
    "rand::random",
    "rand::rngs::OsRng",
    "getrandom",
];

/// What a pure machine must not name, and what to do instead.
const IMPURE: [(&str, &str); 22] = [
    ("std::net::TcpStream", "sockets belong to engine/src/io"),
    ("std::net::TcpListener", "sockets belong to engine/src/io"),
    ("std::net::UdpSocket", "sockets belong to engine/src/io"),
    ("std::net::ToSocketAddrs", "resolving names blocks"),
    ("std::os", "descriptors belong to engine/src/io"),
    ("std::fs", "files belong to the programs"),
    ("std::env", "settings come in as values"),
    ("std::process", "processes belong to the programs"),
    ("std::thread", "threads belong to engine/src/api and shard"),
    ("std::sync::mpsc", "inputs come in, actions go out"),
    ("std::sync::Mutex", "one shard owns a machine alone"),
    (
        "std::time::Instant",
        "take flock_transport::Instant as an argument",
    ),
    ("std::time::SystemTime", "take the time as an argument"),
    ("rand::rng", "take a seeded generator as an argument"),
    ("rand::random", "take a seeded generator as an argument"),
    (
        "rand::rngs::OsRng",
        "take a seeded generator as an argument",
    ),
    ("getrandom", "take a seeded generator as an argument"),
    ("socket2", "sockets belong to engine/src/io"),
    ("mio", "sockets belong to engine/src/io"),
    ("io_uring", "sockets belong to engine/src/io"),
    ("libc", "system calls belong to engine/src/io/sys"),
    ("tokio", "no runtime below the public API"),
];

/// Importing one of these whole would hide what is used of it.
const NAME_THE_ITEM: [&str; 5] = ["std::net", "std::time", "std::sync", "rand::rngs", "std"];

/// Hash tables that draw their keys from the operating system.
const RANDOM_STATE: [&str; 5] = [
    "std::collections::HashMap",
    "std::collections::HashSet",
    "std::collections",
    "std::hash::RandomState",
    "std::collections::hash_map",
];

fn is_within(named: &str, prefix: &str) -> bool {
    named
        .strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn in_folder(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder)
        .is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
}

fn impure(named: &Named) -> Option<String> {
    let path = named.path.as_str();
    if let Some((_, instead)) = IMPURE.iter().find(|(name, _)| is_within(path, name)) {
        return Some((*instead).to_owned());
    }
    if path.ends_with("from_os_rng") || path.ends_with("from_rng_os") {
        return Some("take a seeded generator as an argument".to_owned());
    }
    NAME_THE_ITEM
        .contains(&path)
        .then(|| "import the items by name".to_owned())
}

#[test]
fn protocol_and_policy_do_no_io_and_read_no_clock() {
    let mut found = Vec::new();
    for source in source::shipped() {
        if !PURE.iter().any(|folder| in_folder(&source.path, folder)) {
            continue;
        }
        for named in source::paths(&source.shipped) {
            if let Some(instead) = impure(&named) {
                found.push(format!(
                    "{}:{}: {}: {instead}",
                    source.path, named.line, named.path
                ));
            }
        }
    }
    report("I/O, clock, thread or chance in a sans-IO part", &found);
}

#[test]
fn shards_replay_from_a_seed() {
    let mut found = Vec::new();
    for source in source::shipped() {
        if !REPLAYED.iter().any(|part| in_folder(&source.path, part)) {
            continue;
        }
        for named in source::paths(&source.shipped) {
            let path = named.path.as_str();
            if UNREPEATABLE.iter().any(|name| is_within(path, name))
                || path.ends_with("from_os_rng")
            {
                found.push(format!("{}:{}: {path}", source.path, named.line));
            }
        }
    }
    report(
        "clock, thread or chance where a seed decides: time comes from `turn`, chance from the seed",
        &found,
    );
}

#[test]
fn swarm_and_session_know_neither_drivers_nor_shards() {
    const ABOVE: [&str; 3] = ["crate::io", "crate::shard", "crate::api"];
    let mut found = Vec::new();
    for source in source::shipped() {
        let pure = ["engine/src/session", "engine/src/swarm"];
        if !pure.iter().any(|folder| in_folder(&source.path, folder)) {
            continue;
        }
        for named in source::paths(&source.shipped) {
            if ABOVE.iter().any(|part| is_within(&named.path, part)) {
                found.push(format!("{}:{}: {}", source.path, named.line, named.path));
            }
        }
    }
    report(
        "swarm or session names the layer that runs it: hand the value in",
        &found,
    );
}

#[test]
fn engine_tables_hash_with_keys_from_the_seed() {
    let mut found = Vec::new();
    for source in source::shipped() {
        let engine = in_folder(&source.path, "engine/src");
        if !engine && !PURE.iter().any(|folder| in_folder(&source.path, folder)) {
            continue;
        }
        for named in source::paths(&source.shipped) {
            let path = named.path.as_str();
            if RANDOM_STATE
                .iter()
                .any(|name| path == *name || (*name != "std::collections" && is_within(path, name)))
            {
                found.push(format!("{}:{}: {path}", source.path, named.line));
            }
        }
    }
    report(
        "hash table keyed by the operating system: use hashbrown with ahash::RandomState::with_seeds",
        &found,
    );
}
