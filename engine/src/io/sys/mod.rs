//! System calls that both real drivers make, as safe functions.

mod limits;
mod socket;
mod timer;

#[cfg(test)]
mod tests;

pub(super) use limits::read_sysctl;
pub use limits::{Limits, OpenFiles, raise_open_files};
pub(crate) use socket::{
    Blocking, dial_socket, listen_socket, peer_address, reset_on_close, shutdown_write,
};
pub(crate) use timer::Timer;
