//! The command as a user runs it.

#[cfg(test)]
mod inherited;
#[cfg(test)]
mod join;
#[cfg(test)]
mod manual;
#[cfg(test)]
mod nc;
#[cfg(test)]
mod peer;
