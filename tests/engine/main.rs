//! The whole engine over loopback, each case on both backends.

mod connections;
mod forbidden;
mod hostile;
mod peers;
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
