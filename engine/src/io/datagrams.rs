/// Options of a datagram socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatagramOptions {
    /// Whether several sockets of this engine share the address (`SO_REUSEPORT`), each with a part
    /// of what arrives: see [`Driver::steer`](super::Driver::steer).
    pub shared: bool,
    /// Whether an address that anybody else's socket has is `AddrInUse` although both would share.
    /// The later sockets of one group come without it.
    pub exclusive: bool,
    /// Whether `[::]` takes IPv4 too.
    pub dual_stack: bool,
    /// Bytes that the kernel keeps for us (`SO_RCVBUF`). A burst beyond it is lost, which costs
    /// every connection on the socket. The system caps it (`net.core.rmem_max`).
    pub recv_buffer: u32,
    /// Bytes that the kernel takes from us ahead of the device (`SO_SNDBUF`). The system caps it
    /// (`net.core.wmem_max`).
    pub send_buffer: u32,
}

impl Default for DatagramOptions {
    fn default() -> Self {
        Self {
            shared: false,
            exclusive: true,
            dual_stack: true,
            recv_buffer: 4 << 20,
            send_buffer: 1 << 20,
        }
    }
}

/// A buffer that the system made smaller than was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CappedBuffer {
    /// Bytes asked for.
    pub wanted: u32,
    /// Bytes given.
    pub got: u32,
    /// The setting that caps it (socket(7)).
    pub sysctl: &'static str,
}

impl std::fmt::Display for CappedBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            wanted,
            got,
            sysctl,
        } = self;
        write!(
            f,
            "a UDP buffer has {got} bytes, not {wanted}, and bursts will be lost: sysctl -w \
             {sysctl}={wanted}"
        )
    }
}

impl BoundDatagrams {
    /// The buffers, receiving and sending, that are smaller than what `options` asked for.
    pub fn capped(&self, options: &DatagramOptions) -> impl Iterator<Item = CappedBuffer> + use<> {
        let receiving = (options.recv_buffer, self.recv_buffer, "net.core.rmem_max");
        let sending = (options.send_buffer, self.send_buffer, "net.core.wmem_max");
        [receiving, sending]
            .into_iter()
            .filter(|(wanted, got, _)| got < wanted)
            .map(|(wanted, got, sysctl)| CappedBuffer {
                wanted,
                got,
                sysctl,
            })
    }
}

/// A datagram socket that was bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundDatagrams {
    /// The socket.
    pub socket: super::SocketId,
    /// The address really bound.
    pub addr: std::net::SocketAddr,
    /// Whether IPv4 can be reached from it: its address is of IPv4, or it is the unspecified one of IPv6 and
    /// takes both (`IPV6_V6ONLY`, ipv6(7)).
    pub reaches_v4: bool,
    /// Bytes the kernel keeps for us. Less than was asked for where the system caps it.
    pub recv_buffer: u32,
    /// Bytes the kernel takes ahead of the device. Less than was asked for where the system caps
    /// it.
    pub send_buffer: u32,
}
