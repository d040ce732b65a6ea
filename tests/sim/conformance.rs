//! The driver suite on the simulated driver, with several seeds and networks.

use flock_engine::io::DriverConfig;
use flock_engine::io::sim::{Faults, SimDriver, SimWorld};
use flock_tests::conformance::Fixture;
use std::net::SocketAddr;
use std::time::Duration;

/// A self-driving world of one node for each driver.
struct Sim<const SEED: u64>;

impl<const SEED: u64> Fixture for Sim<SEED> {
    type Driver = SimDriver;

    fn driver(config: &DriverConfig) -> SimDriver {
        let faults = match SEED % 3 {
            0 => Faults::default(),
            // Large segments, few buffers of the kernel, slow closes.
            1 => Faults {
                segment: 1..=30_000,
                send_buffer: 9_000,
                receive_buffer: 20_000,
                close_delay: Duration::from_millis(5),
                early_end: 0.3,
                ..Faults::default()
            },
            // Cancellations never win against what was faster, turns deliver all there is.
            _ => Faults {
                segment: 1_000..=20_000,
                natural_wins: 1.0,
                early_end: 0.0,
                ..Faults::default()
            },
        };
        let world = SimWorld::new(SEED, faults).self_driving();
        world.driver(world.node(&[]), *config)
    }

    fn local() -> SocketAddr {
        "127.0.0.1:0".parse().expect("an address")
    }

    fn nobody() -> SocketAddr {
        "127.0.0.1:9".parse().expect("an address")
    }
}

macro_rules! seeds {
    ($($name:ident: $seed:literal),*) => {
        $(mod $name {
            use super::Sim;
            flock_tests::conformance!(Sim<$seed>);
        })*
    };
}

seeds!(seed_0: 0, seed_1: 1, seed_2: 2, seed_3: 3);
