//! The command as a user runs it: bounded runs on loopback, judged by exit status and JSON.

#[cfg(test)]
mod faults;
#[cfg(test)]
mod loads;
#[cfg(test)]
mod process;
#[cfg(test)]
mod reports;
#[cfg(test)]
mod targets;
