//! System calls that both real drivers make, as safe functions.

mod batch;
mod datagrams;
mod inherited;
mod limits;
mod socket;
mod steer;
mod timer;

#[cfg(test)]
mod tests;

pub(crate) use batch::{Inbox, Outbox};
pub(crate) use datagrams::{
    CONTROL_BYTES, DatagramSocket, Moment, NAME_BYTES, PAYLOAD_BYTES, SEGMENT_CONTROL_BYTES,
    beside, datagram_socket, destination, may_split, segment_control, send_split,
    send_unfragmented, source,
};
pub(crate) use inherited::{Inherited, InheritedKind, adopt_datagrams, adopt_listener};
pub(super) use limits::read_sysctl;
pub use limits::{Limits, OpenFiles, raise_open_files};
pub(crate) use socket::{
    Blocking, dial_socket, listen_socket, peer_address, reset_on_close, shutdown_write,
};
pub(crate) use steer::steer;
pub(crate) use timer::Timer;
