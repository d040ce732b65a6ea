//! What is known about the path: round trips, one-way delay, the largest packet.

mod delay;
mod mtu;
mod rtt;

pub(crate) use delay::Delay;
pub(crate) use mtu::{Mtu, MtuCache, MtuLimits};
pub(crate) use rtt::Rtt;
