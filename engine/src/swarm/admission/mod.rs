//! Who may have a connection before anything is said: how many from one place, how fast, and what
//! the embedder itself thinks of it.
//!
//! The limits hold for the engine, not for a shard: what they count is shared, and looked at only
//! where a limit is set.

mod firewall;
mod rate;

pub use firewall::Approach;
pub(crate) use firewall::Firewall;
pub(crate) use rate::AcceptRate;

/// Limits of an engine; 0 is none.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Quotas {
    /// Admitted peers in both directions together.
    pub(crate) connections: u32,
    /// Those of them that are kept for candidates with a reserved place.
    pub(crate) reserved: u32,
    /// Admitted peers that dialled us.
    pub(crate) inbound: u32,
    /// Admitted peers that we dialled, and dials.
    pub(crate) outbound: u32,
    /// Connections and dials to one IP address.
    pub(crate) per_ip: u32,
    /// Connections and dials to one /24 of IPv4 or /64 of IPv6.
    pub(crate) per_subnet: u32,
    /// Inbound connections a second.
    pub(crate) accept_rate: u32,
    /// Bytes that wait to be sent, beyond which nobody is let in or dialled.
    pub(crate) queued_bytes: u64,
}
