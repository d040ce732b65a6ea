//! The whole engine over loopback, each case on both backends.
//!
//! The modules are marked as tests so that the lints see them as such: cases are functions of a
//! backend, and a case may `unwrap`.

#[cfg(test)]
mod admission;
#[cfg(test)]
mod bandwidth;
#[cfg(test)]
mod bulk;
#[cfg(test)]
mod channels;
#[cfg(test)]
mod connections;
#[cfg(test)]
mod connector;
#[cfg(test)]
mod deploys;
#[cfg(test)]
mod failures;
#[cfg(test)]
mod files;
#[cfg(test)]
mod flood;
#[cfg(test)]
mod forbidden;
#[cfg(test)]
mod handlers;
#[cfg(test)]
mod handles;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod idle;
#[cfg(test)]
mod inherited;
#[cfg(test)]
mod peers;
#[cfg(test)]
mod policy;
#[cfg(test)]
mod protocol;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod transports;
#[cfg(test)]
mod watched;

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

/// Makes one test per backend and transport of each case.
macro_rules! on_every_ground {
    ($($case:ident),* $(,)?) => {
        $crate::on_every_ground! { @grounds $($case),* ;
            uring_tcp: Uring, Tcp; uring_utp: Uring, Utp; poll_tcp: Poll, Tcp; poll_utp: Poll, Utp; }
    };
    (@grounds $($case:ident),* ; $($name:ident: $backend:ident, $transport:ident;)*) => {
        $crate::on_every_ground! { @each [$($case),*] $($name: $backend, $transport;)* }
    };
    (@each $cases:tt $($name:ident: $backend:ident, $transport:ident;)*) => {
        $(mod $name {
            $crate::on_every_ground! { @cases $cases $backend, $transport }
        })*
    };
    (@cases [$($case:ident),*] $backend:ident, $transport:ident) => {
        $(#[test] fn $case() {
            super::$case(crate::peers::Ground {
                backend: flock_engine::io::Backend::$backend,
                transport: flock_engine::Transport::$transport,
            });
        })*
    };
}
pub(crate) use on_every_ground;
