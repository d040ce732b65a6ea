//! One suite that holds every driver to the contract written on [`Driver`].
//!
//! A case drives one driver that talks to itself and judges by driver time only, so the same
//! cases run on the real backends and in the simulator. [`Rig`] checks what holds everywhere:
//! each operation ends exactly once, and nothing but `Closed` follows a close.

pub mod accepting;
pub mod bounds;
pub mod closing;
pub mod datagrams;
pub mod dialling;
pub mod receiving;
mod rig;
pub mod script;
pub mod sending;
pub mod soak;
pub mod waiting;

pub use rig::{CANCELED, Record, Rig, pattern, train};

use flock_engine::io::{Driver, DriverConfig};
use std::net::SocketAddr;

/// Makes drivers of one kind.
pub trait Fixture {
    /// The kind.
    type Driver: Driver;

    /// A driver with these limits, alone in its network.
    fn driver(config: &DriverConfig) -> Self::Driver;

    /// An address to listen at, with port 0.
    fn local() -> SocketAddr;

    /// An address that refuses connections.
    fn nobody() -> SocketAddr;
}

/// Names every case of the suite as a test of the fixture `$fixture`.
#[macro_export]
macro_rules! conformance {
    ($fixture:ty) => {
        $crate::conformance_cases! { $fixture,
            accepting: accepts_many, cancelled_accept_ends_once, accept_goes_on_after_a_cancel,
                listener_closes_silently, accepted_sockets_carry_the_listeners_token,
                accepted_peers_are_named;
            bounds: starved_receives_wait_their_turn, batch_is_respected, full_table_refuses,
                stale_names_are_ignored, churn_never_confuses_names, tiny_queues_lose_nothing,
                shutdown_closes_everything, nobody_starves;
            closing: close_ends_with_closed_alone, half_close_works_both_ways,
                reset_reaches_the_peer, fin_reaches_the_peer, data_before_the_end_is_delivered,
                send_then_close_sends, close_twice_is_once, close_swallows_what_is_pending;
            datagrams: arrive_with_their_source, trains_keep_order_and_borders,
                every_train_is_reported_once, too_many_trains_are_refused, floods_park_and_go_on,
                a_cancelled_receive_goes_on_later, closing_forgets_trains,
                unfragmented_datagrams_pass, groups_are_steered, stamps_are_of_arrival;
            dialling: refused, cancelled_at_any_moment, closed_at_once;
            receiving: echo, split_and_coalesced, cancel_loses_no_byte, data_before_recv_waits,
                cancelled_receive_ends_once, once_is_once;
            sending: big_sends_arrive_whole, a_slow_reader_holds_the_sender,
                cancelled_send_ends_once, chunks_keep_their_order, send_to_a_reset_stream_fails;
            soak: random_lives_keep_their_bytes;
            waiting: deadlines_are_kept, deadlines_are_fine_grained, a_past_deadline_does_not_wait, an_early_wake_is_kept,
                time_never_goes_back;
        }
    };
}

/// The list behind [`conformance!`].
#[macro_export]
macro_rules! conformance_cases {
    ($fixture:ty, $($file:ident: $($case:ident),* $(,)?;)*) => {
        $(mod $file {
            use super::*;
            $(#[test]
            fn $case() {
                $crate::conformance::$file::$case::<$fixture>();
            })*
        })*
    };
}

/// Runs generic functions over [`Fixture`] as tests of both real backends: the module that uses
/// it has the fixtures `Poll` and `Uring` in scope.
#[macro_export]
macro_rules! both_backends {
    ($($case:ident),* $(,)?) => {
        mod poll {
            $(#[test]
            fn $case() {
                super::$case::<super::Poll>();
            })*
        }
        mod uring {
            $(#[test]
            fn $case() {
                super::$case::<super::Uring>();
            })*
        }
    };
}
