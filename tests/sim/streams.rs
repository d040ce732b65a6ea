//! Connections as byte streams, between simulated engines.

use flock_engine::Transport;
use flock_tests::streams::{self, Simulated};
use flock_tests::world::seeds;

/// Makes a test per transport of each case.
macro_rules! over_both {
    ($($case:ident),* $(,)?) => {
        mod tcp {
            $(#[test] fn $case() { super::play(super::Transport::Tcp, super::streams::$case); })*
        }
        mod utp {
            $(#[test] fn $case() { super::play(super::Transport::Utp, super::streams::$case); })*
        }
    };
}
over_both!(
    halves_echo_in_tasks_of_their_own,
    a_slow_reader_holds_the_sender_back,
    nothing_is_lost_by_dropping_futures,
    a_waker_may_be_replaced,
    a_dropped_connection_is_closed,
    an_engine_that_is_dropped_ends_its_connections,
);

fn play(transport: Transport, case: fn(&mut dyn streams::Stage)) {
    for seed in seeds(2) {
        println!("seed {seed}");
        case(&mut Simulated::new(seed, transport));
    }
}
