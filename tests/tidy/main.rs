//! Reads the repository and enforces what the compiler does not: layers, purity, sizes, names and
//! the claims of the documentation. `ARCHITECTURE.md` lists the invariants; each rule here is one
//! test, and its message says what to do.

mod docs;
mod layers;
mod purity;
mod shape;
mod source;
mod tree;

/// Fails with every finding at once, and with what to do about them.
fn report(rule: &str, findings: &[String]) {
    assert!(
        findings.is_empty(),
        "\n{} x {rule}\n  {}\n",
        findings.len(),
        findings.join("\n  ")
    );
}
