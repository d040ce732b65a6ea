//! The files of the repository.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders that are made, not written.
const MADE: [&str; 6] = [
    ".git",
    "target",
    "node_modules",
    "corpus",
    "artifacts",
    "book",
];

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests crate lies one folder below the root")
        .to_path_buf()
}

/// Every written file, relative to the root, with `/` between folders, in order.
pub(crate) fn files() -> Vec<String> {
    let root = root();
    let mut found = Vec::new();
    let mut open = vec![root.clone()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).expect("folders can be read") {
            let entry = entry.expect("folders can be read");
            let name = entry.file_name();
            let kind = entry.file_type().expect("entries have a kind");
            if MADE.iter().any(|made| name == *made) {
                continue;
            }
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() {
                let path = entry.path();
                let relative = path.strip_prefix(&root).expect("the walk stays inside");
                found.push(relative.to_str().expect("names are UTF-8").to_owned());
            }
        }
    }
    found.sort();
    assert!(
        found.len() > 20,
        "the walk found hardly anything: {found:?}"
    );
    found
}

/// The files with this ending.
pub(crate) fn files_ending(ending: &str) -> Vec<String> {
    let mut found = files();
    found.retain(|path| path.ends_with(ending));
    found
}

/// The text of a file, or nothing when it is not text.
pub(crate) fn text(path: &str) -> Option<String> {
    String::from_utf8(fs::read(root().join(path)).expect("files can be read")).ok()
}
