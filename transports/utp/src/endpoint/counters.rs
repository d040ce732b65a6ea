flock_transport::counters! {
    /// What an endpoint counted since it was made.
    pub struct Counters {
        /// Datagrams received.
        datagrams_in,
        /// Datagrams handed out to be sent.
        datagrams_out,
        /// Bytes of them, UDP payload.
        bytes_in,
        /// Bytes of them, UDP payload.
        bytes_out,
        /// Datagrams that are no uTP packet.
        malformed,
        /// Packets of a connection that acknowledged what was never sent or had an impossible number:
        /// dropped, or taken without the selective acknowledgement that did so.
        invalid,
        /// Packets whose payload was outside the window.
        beyond_window,
        /// Packets for no connection.
        stray,
        /// Connections accepted.
        accepted,
        /// Confirmed handshakes refused because of a limit.
        accept_refused,
        /// SYNs ignored because the owner wanted no more connections.
        syns_held_back,
        /// SYNs answered without remembering them.
        cookies,
        /// Repeated SYNs that were answered.
        syn_replayed,
        /// SYNs that were not answered.
        syn_ignored,
        /// Wrong confirmations of a handshake.
        wrong_confirmations,
        /// Handshakes never confirmed.
        half_open_expired,
        /// RESETs for stray packets.
        resets_sent,
        /// RESETs that were due and not sent because of a limit.
        resets_withheld,
        /// RESETs that ended a connection.
        resets_received,
        /// RESETs that ended nothing: for no connection or handshake, or with a number that its peer
        /// would not send (in the manner of RFC 5961, section 3). Where shards share a port, each that
        /// is asked counts.
        resets_ignored,
        /// Replies for which there was no room.
        replies_dropped,
        /// Trains that were not taken.
        trains_refused,
    }
}
