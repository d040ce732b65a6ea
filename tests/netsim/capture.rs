use flock_tests::net::{Capture, Echo, Host, LinkConfig, Network, Pair, Steady};
use flock_transport::Instant;
use std::path::Path;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);

#[test]
fn a_capture_holds_what_one_node_saw() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("net-capture.pcap");
    let mut network = Network::new(1);
    let sender = Steady::new(Pair::right_address(), 100, MS * 1_500, 1, 2);
    let (left, right) = (
        (Host::default(), sender),
        (Host::default(), Echo::default()),
    );
    let wire = LinkConfig::default;
    let pair = Pair::build(&mut network, left, right, wire(), wire());
    network.capture(pair.left, Capture::create(&path).unwrap());
    network.act(pair.left, |_: &mut Steady, _| ());
    network.run_until(Instant::ZERO + MS * 5_000);
    drop(network);
    let file = std::fs::read(&path).unwrap();
    assert_eq!(file[..4], 0xa1b2_3c4d_u32.to_le_bytes());
    let record = 16 + 28 + 100;
    assert_eq!(file.len(), 24 + 4 * record, "two there, two back");
    let third = &file[24 + 2 * record..][..record];
    assert_eq!(third[..4], 1_u32.to_le_bytes(), "second");
    assert_eq!(
        third[4..8],
        500_000_000_u32.to_le_bytes(),
        "and nanoseconds"
    );
    assert_eq!(third[8..12], 128_u32.to_le_bytes());
    let packet = &third[16..];
    assert_eq!(packet[..4], [0x45, 0, 0, 128], "IPv4 and its length");
    assert_eq!(packet[12..20], [10, 0, 0, 1, 10, 0, 0, 2]);
    assert_eq!(packet[24..26], 108_u16.to_be_bytes(), "the length of UDP");
    assert_eq!(
        packet[28..36],
        1_u64.to_be_bytes(),
        "the number of the second"
    );
}
