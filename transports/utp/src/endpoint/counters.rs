/// What an endpoint counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Datagrams received.
    pub datagrams_in: u64,
    /// Datagrams handed out to be sent.
    pub datagrams_out: u64,
    /// Bytes of them, UDP payload.
    pub bytes_in: u64,
    /// Bytes of them, UDP payload.
    pub bytes_out: u64,
    /// Datagrams that are no uTP packet.
    pub malformed: u64,
    /// Packets of a connection that acknowledged what was never sent or had an impossible number:
    /// dropped, or taken without the selective acknowledgement that did so.
    pub invalid: u64,
    /// Packets whose payload was outside the window.
    pub beyond_window: u64,
    /// Packets for no connection.
    pub stray: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Confirmed handshakes refused because of a limit.
    pub accept_refused: u64,
    /// SYNs ignored because the owner wanted no more connections.
    pub syns_held_back: u64,
    /// SYNs answered without remembering them.
    pub cookies: u64,
    /// Repeated SYNs that were answered.
    pub syn_replayed: u64,
    /// SYNs that were not answered.
    pub syn_ignored: u64,
    /// Wrong confirmations of a handshake.
    pub wrong_confirmations: u64,
    /// Handshakes never confirmed.
    pub half_open_expired: u64,
    /// RESETs for stray packets.
    pub resets_sent: u64,
    /// RESETs that were due and not sent because of a limit.
    pub resets_withheld: u64,
    /// RESETs that ended a connection.
    pub resets_received: u64,
    /// RESETs that ended nothing: for no connection or handshake, or with a number that its peer
    /// would not send (in the manner of RFC 5961, section 3).
    pub resets_ignored: u64,
    /// Replies for which there was no room.
    pub replies_dropped: u64,
    /// Trains that were not taken.
    pub trains_refused: u64,
}

impl Counters {
    /// Adds those of another endpoint.
    pub fn add(&mut self, other: &Self) {
        self.datagrams_in += other.datagrams_in;
        self.datagrams_out += other.datagrams_out;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.malformed += other.malformed;
        self.invalid += other.invalid;
        self.beyond_window += other.beyond_window;
        self.stray += other.stray;
        self.accepted += other.accepted;
        self.accept_refused += other.accept_refused;
        self.syns_held_back += other.syns_held_back;
        self.cookies += other.cookies;
        self.syn_replayed += other.syn_replayed;
        self.syn_ignored += other.syn_ignored;
        self.wrong_confirmations += other.wrong_confirmations;
        self.half_open_expired += other.half_open_expired;
        self.resets_sent += other.resets_sent;
        self.resets_withheld += other.resets_withheld;
        self.resets_received += other.resets_received;
        self.resets_ignored += other.resets_ignored;
        self.replies_dropped += other.replies_dropped;
        self.trains_refused += other.trains_refused;
    }
}
