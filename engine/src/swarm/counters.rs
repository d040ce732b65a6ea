//! What a swarm counts.

flock_transport::counters! {
    /// What a shard's swarm decided since its start, by kind. Plain sums: nothing here is
    /// reset, and what is under way at the moment is in [`Stats`](super::Stats).
    pub struct SwarmCounters {
        /// Candidates taken in.
        candidates_added,
        /// Finds of a candidate that was known, for a channel it was known for.
        candidates_duplicate,
        /// Finds refused because the candidate table is full.
        candidates_refused,
        /// Finds refused because the address is banned.
        candidates_banned,
        /// Finds refused because the whitelist does not name the address.
        candidates_not_whitelisted,
        /// Finds refused because the address is on the denylist.
        candidates_denied,
        /// Candidates that the firewall refused, when they were found or were to be dialled.
        candidates_firewalled,
        /// Further channels of known candidates that there was no room to note.
        channels_refused,
        /// Candidates given up after too many failed dials.
        drops,
        /// Dials over TCP.
        dials_tcp,
        /// Dials over uTP.
        dials_utp,
        /// Candidates that a dial, over every transport tried, did not reach.
        dials_failed,
        /// Those of `dials_failed` that a deadline ended.
        dials_timed_out,
        /// Dials ended because the candidate was banned or its channels were left.
        dials_given_up,
        /// Times a candidate was passed over because of the limits per address, network and channel.
        dials_deferred,
        /// Inbound connections refused because the address is banned.
        inbound_banned,
        /// Inbound connections refused because the whitelist does not name the address.
        inbound_not_whitelisted,
        /// Inbound connections refused because `max_connections` is reached.
        inbound_full,
        /// Inbound connections refused because too many handshakes are unfinished.
        inbound_half_open,
        /// Inbound connections refused because the engine's connection table is full.
        inbound_table_full,
        /// Inbound connections refused because the address is on the denylist.
        inbound_denied,
        /// Inbound connections that the firewall refused by their address.
        inbound_firewalled,
        /// Inbound connections refused because `max_inbound` is reached.
        inbound_over_limit,
        /// Inbound connections refused because there are `max_per_ip` with the address.
        inbound_over_ip,
        /// Inbound connections refused because there are `max_per_subnet` with the network.
        inbound_over_subnet,
        /// Inbound connections refused because they came faster than `accept_rate`.
        inbound_over_rate,
        /// Inbound connections refused because `memory_watermark` is reached.
        inbound_over_memory,
        /// Handshakes of inbound connections begun.
        handshakes_inbound,
        /// Handshakes of dialled connections begun.
        handshakes_outbound,
        /// Handshakes whose time ran out, admission included.
        handshakes_timed_out,
        /// Inbound handshakes ended to make room for newer ones.
        handshakes_crowded_out,
        /// Connections that ended otherwise before they were admitted or refused.
        handshakes_failed,
        /// Connections closed at admission because peer or address is banned.
        peers_banned,
        /// Connections closed because the firewall refused the peer by its id.
        peers_firewalled,
        /// Connections to ourselves.
        selves_detected,
        /// Questions to a peer's home shard, this one included: may this connection be the peer's?
        claims_sent,
        /// Connections admitted.
        claims_granted,
        /// Connections refused in favour of one that was there.
        redundant_refused,
        /// Admitted connections ended in favour of a new one.
        redundant_replaced,
        /// Connections refused by the home shard because a limit of admitted peers is
        /// reached.
        claims_over_limit,
        /// Bans that the table had no room for.
        bans_refused,
    }
}
