//! Runs the comparison; see `--help`.

fn main() {}
