//! The documentation names only what exists, and no file names the machine it was written on.

use crate::{report, tree};
use std::path::Path;

#[test]
fn documents_name_only_paths_that_exist() {
    let tops: Vec<String> = tree::files()
        .iter()
        .filter_map(|path| path.split_once('/').map(|(top, _)| format!("{top}/")))
        .collect();
    let mut found = Vec::new();
    for path in tree::files_ending(".md") {
        let text = tree::text(&path).expect("documents are text");
        for (number, line) in text.lines().enumerate() {
            for name in quoted(line) {
                let named = tops.iter().any(|top| name.starts_with(top));
                let pattern = name.contains(['*', '{', '<', ' ', '$']);
                if named && !pattern && !tree::root().join(name).exists() {
                    found.push(format!("{path}:{}: {name}", number + 1));
                }
            }
            for target in links(line) {
                let target = target.split('#').next().unwrap_or("");
                let folder = Path::new(&path).parent().unwrap_or(Path::new(""));
                if !target.is_empty()
                    && !target.contains("://")
                    && !tree::root().join(folder).join(target).exists()
                {
                    found.push(format!("{path}:{}: link to {target}", number + 1));
                }
            }
        }
    }
    report("document that names a path that does not exist", &found);
}

/// What stands between backticks.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// The targets of `[text](target)`.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
}

#[test]
fn the_book_lists_every_page() {
    let summary = tree::text("docs/src/SUMMARY.md").expect("the summary is text");
    let unlisted: Vec<String> = tree::files_ending(".md")
        .into_iter()
        .filter_map(|path| path.strip_prefix("docs/src/").map(str::to_owned))
        .filter(|page| page != "SUMMARY.md" && !summary.contains(&format!("({page})")))
        .collect();
    report("page that docs/src/SUMMARY.md does not list", &unlisted);
}

#[test]
fn no_file_names_the_machine_it_was_written_on() {
    // Written in two parts, or this file would find itself.
    let machine = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
        concat!("/tm", "p/"),
        concat!("registry.npm", "js.org"),
        concat!("\"resol", "ved\":"),
    ];
    let mut found = Vec::new();
    for path in tree::files() {
        let Some(text) = tree::text(&path) else {
            continue;
        };
        for (number, line) in text.lines().enumerate() {
            if let Some(name) = machine.iter().find(|name| line.contains(*name)) {
                found.push(format!("{path}:{}: {name}", number + 1));
            }
        }
    }
    report(
        "path or host of one machine: take it from the environment",
        &found,
    );
}

#[test]
fn crates_come_from_one_registry() {
    let lock = tree::text("Cargo.lock").expect("the lock file is text");
    let foreign: Vec<String> = lock
        .lines()
        .filter(|line| line.starts_with("source = "))
        .filter(|line| !line.contains("registry+https://github.com/rust-lang/crates.io-index"))
        .map(str::to_owned)
        .collect();
    report("crate from elsewhere than crates.io", &foreign);
}

#[test]
fn quotes_and_links_are_found() {
    let line = "see `engine/src/lib.rs` and [the map](ARCHITECTURE.md#map), `x`";
    assert_eq!(quoted(line).collect::<Vec<_>>(), ["engine/src/lib.rs", "x"]);
    assert_eq!(links(line).collect::<Vec<_>>(), ["ARCHITECTURE.md#map"]);
}

/// The tables that say which test holds a feature name tests that there are.
#[test]
fn the_swarms_page_names_tests_that_exist() {
    let page = tree::text("docs/src/swarm.md").expect("the page is text");
    let sources: Vec<String> = tree::files_ending(".rs")
        .iter()
        .filter_map(|path| tree::text(path))
        .collect();
    let tests = page
        .lines()
        .filter(|line| line.starts_with('|'))
        .filter_map(|line| line.trim_end_matches('|').rsplit_once('|'))
        .flat_map(|(_, last)| quoted(last));
    let missing: Vec<String> = tests
        .filter(|test| {
            let head = format!("fn {test}(");
            !sources.iter().any(|source| source.contains(&head))
        })
        .map(str::to_owned)
        .collect();
    report(
        "test that docs/src/swarm.md names and nobody wrote",
        &missing,
    );
}
