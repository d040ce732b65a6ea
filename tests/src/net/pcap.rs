use flock_transport::Instant;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// Nanosecond pcap, as its magic number says (libpcap's file format, version 2.4).
const MAGIC: u32 = 0xa1b2_3c4d;
/// `LINKTYPE_RAW`: the records begin with an IP header.
const RAW_IP: u32 = 101;
const PACKET_MAX: u32 = 65_535;
const UDP: u8 = 17;

/// Bytes of the UDP header, and of the IP header before it.
pub(super) const fn headers(address: IpAddr) -> usize {
    match address {
        IpAddr::V4(_) => 28,
        IpAddr::V6(_) => 48,
    }
}

/// A pcap file of what one node sent and received, as `tcpdump` on it would write. Checksums are
/// zero: not computed.
#[derive(Debug)]
pub struct Capture {
    file: BufWriter<File>,
    path: PathBuf,
}

impl Capture {
    /// Creates or overwrites the file, and the folders above it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn create(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut file = BufWriter::new(File::create(path)?);
        file.write_all(&MAGIC.to_le_bytes())?;
        file.write_all(&2u16.to_le_bytes())?;
        file.write_all(&4u16.to_le_bytes())?;
        file.write_all(&[0; 8])?;
        file.write_all(&PACKET_MAX.to_le_bytes())?;
        file.write_all(&RAW_IP.to_le_bytes())?;
        Ok(Self {
            file,
            path: path.to_path_buf(),
        })
    }

    /// Where it is written.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a datagram.
    ///
    /// # Errors
    /// What the file system says.
    pub fn datagram(
        &mut self,
        at: Instant,
        from: SocketAddr,
        to: SocketAddr,
        payload: &[u8],
    ) -> io::Result<()> {
        let size = headers(to.ip()) + payload.len();
        let size = u32::try_from(size).unwrap_or(PACKET_MAX).min(PACKET_MAX);
        let nanos = at.as_nanos();
        let seconds = u32::try_from(nanos / 1_000_000_000).unwrap_or(u32::MAX);
        let rest = u32::try_from(nanos % 1_000_000_000).unwrap_or(0);
        for word in [seconds, rest, size, size] {
            self.file.write_all(&word.to_le_bytes())?;
        }
        let udp = u16::try_from(8 + payload.len()).unwrap_or(u16::MAX);
        match (from.ip(), to.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let [high, low] = udp.saturating_add(20).to_be_bytes();
                self.file
                    .write_all(&[0x45, 0, high, low, 0, 0, 0x40, 0, 64, UDP, 0, 0])?;
                self.file.write_all(&source.octets())?;
                self.file.write_all(&destination.octets())?;
            }
            (source, destination) => {
                let [high, low] = udp.to_be_bytes();
                self.file.write_all(&[0x60, 0, 0, 0, high, low, UDP, 64])?;
                for address in [source, destination] {
                    let wide = match address {
                        IpAddr::V4(narrow) => narrow.to_ipv6_mapped(),
                        IpAddr::V6(wide) => wide,
                    };
                    self.file.write_all(&wide.octets())?;
                }
            }
        }
        for field in [from.port(), to.port(), udp, 0] {
            self.file.write_all(&field.to_be_bytes())?;
        }
        self.file.write_all(payload)
    }
}
