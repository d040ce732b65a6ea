//! uTP (BEP 29): reliable, ordered streams over UDP that give way to other traffic.
//!
//! Everything here is a pure machine. Datagrams, the time and a seed come in; datagrams to send,
//! events and the next deadline come out. Nothing opens a socket, starts a thread or reads a
//! clock, so a whole transfer replays from a seed in virtual time.

mod config;
mod congestion;
mod connection;
mod endpoint;
mod path;
mod receiving;
mod sending;
mod steer;
mod wire;

pub use config::Config;
pub use congestion::Congestion;
pub use endpoint::{ConnectRefused, Counters, Endpoint, Event, Key};
pub use flock_transport::{Queued, SendLimits, SendRefused};
pub use steer::{reset_owners, steer};
#[cfg(fuzzing)]
pub use wire::recode;
