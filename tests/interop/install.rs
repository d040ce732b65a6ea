//! Installs the npm packages the Node peers need, once per lock file.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::sync::OnceLock;
use std::{env, fs};

const PACKAGE: &str = include_str!("node/package.json");
const LOCK: &str = include_str!("node/package-lock.json");

/// The folder of the installed packages, or nothing where Node is missing.
pub(crate) fn node_modules() -> Option<&'static Path> {
    static MODULES: OnceLock<Option<PathBuf>> = OnceLock::new();
    MODULES.get_or_init(install).as_deref()
}

fn install() -> Option<PathBuf> {
    if !(runs("node") && runs("npm")) {
        assert!(
            env::var_os("CI").is_none(),
            "node and npm are missing, and CI must not skip the interop tests"
        );
        eprintln!("skipped: the interop tests need node and npm");
        return None;
    }
    let mut hasher = DefaultHasher::new();
    (PACKAGE, LOCK).hash(&mut hasher);
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let done = parent.join(format!("interop-{:016x}", hasher.finish()));
    if !done.exists() {
        // Into a folder of our own and then renamed: two test runs may install at once, and the
        // first to finish wins.
        let own = parent.join(format!("interop-{}", process::id()));
        fs::create_dir_all(&own).expect("the target folder can be written");
        fs::write(own.join("package.json"), PACKAGE).expect("the target folder can be written");
        fs::write(own.join("package-lock.json"), LOCK).expect("the target folder can be written");
        npm_ci(&own);
        if fs::rename(&own, &done).is_err() {
            fs::remove_dir_all(&own).expect("our own folder can be removed");
        }
    }
    Some(done.join("node_modules"))
}

fn npm_ci(folder: &Path) {
    let output = Command::new("npm")
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .expect("npm was found a moment ago");
    assert!(
        output.status.success(),
        "npm ci failed:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn runs(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .is_ok_and(|output| output.status.success())
}
