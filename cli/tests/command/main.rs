//! The command as a user runs it.

#[cfg(test)]
mod nc;
