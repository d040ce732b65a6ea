//! The whole engine over loopback, each case on both backends.
//!
//! The modules are marked as tests so that the lints see them as such: cases are functions of a
//! backend, and a case may `unwrap`.

#[cfg(test)]
mod connections;
#[cfg(test)]
mod failures;
#[cfg(test)]
mod forbidden;
#[cfg(test)]
mod handlers;
#[cfg(test)]
mod handles;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod peers;
#[cfg(test)]
mod policy;

/// Makes one test per backend of each case.
macro_rules! on_both_backends {
    ($($case:ident),* $(,)?) => {
        mod uring {
            $(#[test] fn $case() { super::$case(flock_engine::io::Backend::Uring); })*
        }
        mod poll {
            $(#[test] fn $case() { super::$case(flock_engine::io::Backend::Poll); })*
        }
    };
}
pub(crate) use on_both_backends;
