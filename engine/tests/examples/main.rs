//! The examples, as programs.

// Marked as tests so that the lints see them as such.
#[cfg(test)]
mod cases;
