//! Tables of figures that only change when somebody means to change them.

use std::path::Path;

/// Compares a table with the committed one of this name, or writes it if `FLOCK_GOLDEN=write`.
pub(crate) fn compare(name: &str, rows: &[String]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("netsim")
        .join(name);
    let mut table = rows.join("\n");
    table.push('\n');
    if std::env::var_os("FLOCK_GOLDEN").is_some_and(|value| value == "write") {
        std::fs::write(&path, table).expect("the golden table can be written");
        return;
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    let diff = diff(&golden, &table);
    assert!(
        diff.is_empty(),
        "{name} differs; if that is meant, FLOCK_GOLDEN=write rewrites it:\n{diff}"
    );
}

/// What is only in one of two tables. Rows are matched by their name, which ends at the bar.
fn diff(old: &str, new: &str) -> String {
    let name = |row: &str| row.split('|').next().map(str::to_owned);
    let mut diff = String::new();
    for row in old.lines() {
        if !new.lines().any(|other| other == row) {
            diff.push_str(&format!("- {row}\n"));
            let same = new.lines().filter(|other| name(other) == name(row));
            same.for_each(|other| diff.push_str(&format!("+ {other}\n")));
        }
    }
    for row in new.lines() {
        if !old.lines().any(|other| name(other) == name(row)) {
            diff.push_str(&format!("+ {row}\n"));
        }
    }
    diff
}

#[test]
fn differences_are_shown_by_row() {
    let old = "a | 1\nb | 2\nc | 3\n";
    assert_eq!(diff(old, old), "");
    assert_eq!(
        diff(old, "a | 1\nb | 5\nd | 3\n"),
        "- b | 2\n+ b | 5\n- c | 3\n+ d | 3\n"
    );
}
