//! Dependency arrows between the crates only go down, and programs use only the public API.

use crate::{report, source, tree};
use std::collections::BTreeMap;

/// The layer of each crate; a crate may depend on lower layers only.
const LAYERS: [(&str, u8); 9] = [
    ("flock-transport", 0),
    ("flock-tcp", 1),
    ("flock-utp", 1),
    ("flock-discovery", 1),
    ("flock-engine", 2),
    ("flock-cli", 3),
    ("loadgen", 3),
    ("flock-bench", 4),
    ("flock-tests", 4),
];

/// Programs that are ordinary users of the engine.
const USERS: [&str; 2] = ["flock-cli", "loadgen"];

fn layer(name: &str) -> Option<u8> {
    LAYERS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, layer)| *layer)
}

/// The manifests of the workspace's packages, by package name.
fn manifests() -> BTreeMap<String, toml::Table> {
    let manifests = tree::files_ending("Cargo.toml")
        .into_iter()
        .filter_map(|path| {
            let table: toml::Table = tree::text(&path)?.parse().expect("manifests are TOML");
            let detached = table.contains_key("workspace");
            let name = table.get("package")?.get("name")?.as_str()?.to_owned();
            (!detached).then_some((name, table))
        });
    manifests.collect()
}

fn dependencies(manifest: &toml::Table, kinds: &[&str]) -> Vec<String> {
    kinds
        .iter()
        .filter_map(|kind| manifest.get(*kind)?.as_table())
        .flat_map(|table| table.keys().cloned())
        .collect()
}

#[test]
fn arrows_between_crates_only_go_down() {
    let mut found = Vec::new();
    for (name, manifest) in manifests() {
        let Some(own) = layer(&name) else {
            found.push(format!("{name}: give it a layer in tests/tidy/layers.rs"));
            continue;
        };
        for dependency in dependencies(&manifest, &["dependencies", "build-dependencies"]) {
            if layer(&dependency).is_some_and(|below| below >= own) {
                found.push(format!("{name} depends on {dependency}"));
            }
        }
    }
    report("dependency that does not point down", &found);
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    let without: Vec<String> = manifests()
        .into_iter()
        .filter(|(_, manifest)| {
            let lints = manifest.get("lints").and_then(|l| l.get("workspace"));
            lints.and_then(toml::Value::as_bool) != Some(true)
        })
        .map(|(name, _)| name)
        .collect();
    report(
        "crate without `[lints] workspace = true` in its manifest",
        &without,
    );
}

/// Modules of the engine that are reachable but not part of its API.
fn hidden_modules() -> Vec<String> {
    let engine = source::all()
        .into_iter()
        .find(|source| source.path == "engine/src/lib.rs")
        .expect("the engine has a root");
    let hidden = engine.whole.items.iter().filter_map(|item| match item {
        syn::Item::Mod(module) => {
            let hidden = module.attrs.iter().any(|attr| {
                attr.path().is_ident("doc")
                    && attr
                        .meta
                        .require_list()
                        .is_ok_and(|list| list.tokens.to_string() == "hidden")
            });
            hidden.then(|| format!("flock_engine::{}", module.ident))
        }
        _ => None,
    });
    hidden.collect()
}

#[test]
fn programs_use_only_the_public_api() {
    let hidden = hidden_modules();
    let mut found = Vec::new();
    for (name, manifest) in manifests() {
        if !USERS.contains(&name.as_str()) {
            continue;
        }
        for dependency in dependencies(&manifest, &["dependencies", "dev-dependencies"]) {
            if layer(&dependency).is_some() && dependency != "flock-engine" {
                found.push(format!(
                    "{name} depends on {dependency}: use flock-engine's re-exports"
                ));
            }
        }
        let engine = manifest
            .get("dependencies")
            .and_then(|d| d.get("flock-engine"));
        if engine.is_some_and(|table| table.to_string().contains("internals")) {
            found.push(format!("{name} turns on flock-engine's `internals`"));
        }
    }
    for source in source::all() {
        if !source.path.starts_with("cli/") && !source.path.starts_with("loadgen/") {
            continue;
        }
        for named in source::paths(&source.whole) {
            let inside = hidden.iter().any(|module| {
                named.path == *module || named.path.starts_with(&format!("{module}::"))
            });
            if inside || named.path == "include" {
                found.push(format!("{}:{}: {}", source.path, named.line, named.path));
            }
        }
    }
    report("program that reaches behind the public API", &found);
}
