//! The generator's own driver: the same as the engine's, chosen the same way.

use flock_engine::io::{
    Backend, Clock, Driver, DriverConfig, PollDriver, Reason, Selected, UringDriver,
};
use std::io;

/// A driver that works here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chosen {
    Uring,
    Poll,
}

impl Chosen {
    pub(crate) fn of(selected: &Selected) -> Self {
        match selected.backend {
            Backend::Poll => Self::Poll,
            Backend::Uring | Backend::Auto => Self::Uring,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Uring => "io_uring",
            Self::Poll => "epoll",
        }
    }
}

/// Which backend and why, for people.
pub(crate) fn describe(selected: &Selected) -> String {
    let name = Chosen::of(selected).name();
    match selected.reason {
        Reason::Asked => format!("{name} (asked for)"),
        Reason::Works => format!("{name} (preferred, and it works here)"),
        Reason::Fallback(why) => format!("{name} (not io_uring: {why})"),
    }
}

/// Something to do with a driver, whichever it is.
pub(crate) trait Job {
    type Output;
    fn run_on<D: Driver>(self, driver: D) -> Self::Output;
}

/// Makes the driver on this thread and does the job with it.
pub(crate) fn start<J: Job>(
    chosen: Chosen,
    config: &DriverConfig,
    clock: Clock,
    job: J,
) -> io::Result<J::Output> {
    Ok(match chosen {
        Chosen::Uring => job.run_on(UringDriver::new(config, clock)?),
        Chosen::Poll => job.run_on(PollDriver::new(config, clock)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use flock_engine::io::{Unavailable, select};

    #[test]
    fn the_reason_is_told() {
        let asked = select(Backend::Poll).unwrap();
        assert_eq!(describe(&asked), "epoll (asked for)");
        let fallback = Selected {
            backend: Backend::Poll,
            reason: Reason::Fallback(Unavailable::Filtered),
        };
        let why = Unavailable::Filtered.to_string();
        assert_eq!(describe(&fallback), format!("epoll (not io_uring: {why})"));
        assert_eq!(Chosen::of(&fallback), Chosen::Poll);
    }
}
