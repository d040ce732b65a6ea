//! What can be asked of a channel.

use super::peers::{Ground, PATIENCE, engine, id, local, wait_for};
use flock_engine::{Channel, ConnectionInfo, Flock, FlockError, IdChoice, JoinOptions};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

super::on_every_ground!(
    a_broadcast_reaches_who_is_known_for_the_channel,
    one_connection_is_known_for_every_channel_of_its_peer,
    a_channel_is_flushed_when_everybody_was_tried,
    a_shutdown_ends_the_wait,
    a_channel_has_a_limit_of_its_own,
    leaving_what_was_not_joined_does_nothing,
);

fn seeder(ground: Ground, n: u8) -> (Flock, SocketAddr) {
    let flock = engine(ground).id(IdChoice::Fixed(id(n))).start().unwrap();
    let addr = local(flock.listen(0).unwrap());
    (flock, addr)
}

fn join(flock: &Flock, name: &str) -> Channel {
    flock.join(name, JoinOptions { announce: false }).unwrap()
}

fn add(channel: &Channel, flock: &Flock, addr: SocketAddr) {
    flock.add_peer(channel.key().clone(), addr).unwrap();
}

fn connected(channel: &Channel) -> u64 {
    channel.status().unwrap().connected
}

/// An address where something listens that never answers, over either transport.
fn silent() -> (TcpListener, UdpSocket, SocketAddr) {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = tcp.local_addr().unwrap();
        if let Ok(udp) = UdpSocket::bind(addr) {
            return (tcp, udp, addr);
        }
    }
}

fn a_broadcast_reaches_who_is_known_for_the_channel(ground: Ground) {
    let hub = engine(ground).start().unwrap();
    let (red, blue) = (join(&hub, "red"), join(&hub, "blue"));
    let peers: Vec<_> = (1..=4).map(|n| seeder(ground, n)).collect();
    for (_, addr) in &peers[..3] {
        add(&red, &hub, *addr);
    }
    for (_, addr) in &peers[2..] {
        add(&blue, &hub, *addr);
    }
    let ends: Vec<_> = peers
        .iter()
        .map(|(peer, _)| peer.accept_timeout(PATIENCE).unwrap())
        .collect();
    wait_for("all", || (connected(&red), connected(&blue)) == (3, 2));
    red.broadcast("to red").unwrap();
    blue.broadcast("to blue").unwrap();
    for (end, text) in ends
        .iter()
        .zip(["to red", "to red", "to redto blue", "to blue"])
    {
        let mut got = Vec::new();
        while got.len() < text.len() {
            got.extend_from_slice(&end.recv_timeout(PATIENCE).unwrap().unwrap());
        }
        assert_eq!(String::from_utf8(got).unwrap(), text);
    }
    assert_eq!(red.connections().unwrap().len(), 3);
    red.leave().unwrap();
    wait_for("it to be left", || !red.status().unwrap().joined);
    assert_eq!((connected(&red), connected(&blue)), (0, 2));
    for (flock, _) in peers {
        flock.shutdown(Duration::ZERO);
    }
    hub.shutdown(PATIENCE);
}

/// The peer dialled us; then its address is found for two channels.
fn one_connection_is_known_for_every_channel_of_its_peer(ground: Ground) {
    let (hub, addr) = seeder(ground, 1);
    // The smaller id keeps the connection it dialled.
    let (peer, there) = seeder(ground, 0);
    add(&join(&peer, "any"), &peer, addr);
    let end = peer.accept_timeout(PATIENCE).unwrap();
    wait_for("it", || hub.stats().connected == 1);
    let (red, blue) = (join(&hub, "red"), join(&hub, "blue"));
    assert_eq!(
        (connected(&red), connected(&blue)),
        (0, 0),
        "it named no channel"
    );
    add(&red, &hub, there);
    add(&blue, &hub, there);
    wait_for("both", || (connected(&red), connected(&blue)) == (1, 1));
    let reports = hub.reports().unwrap();
    let [report] = &reports[..] else {
        panic!("{reports:?}");
    };
    assert!(
        !report.info.initiator,
        "the connection that was there stays"
    );
    let mut channels = report.channels.clone();
    channels.sort();
    assert_eq!(channels, ["blue".into(), "red".into()]);
    blue.broadcast("once").unwrap();
    assert_eq!(end.recv_timeout(PATIENCE).unwrap().unwrap(), "once");
    drop(end);
    peer.shutdown(Duration::ZERO);
    wait_for("nobody", || (connected(&red), connected(&blue)) == (0, 0));
    hub.shutdown(PATIENCE);
}

fn a_channel_is_flushed_when_everybody_was_tried(ground: Ground) {
    let (peer, addr) = seeder(ground, 1);
    let hub = engine(ground)
        .connect_timeout(Duration::from_secs(1))
        .utp_connect_timeout(Duration::from_secs(1))
        .retry([Duration::from_secs(3600); 4])
        .handshake_timeout(Duration::from_secs(2))
        .start()
        .unwrap();
    let channel = join(&hub, "c");
    assert!(
        channel.flushed().wait_timeout(PATIENCE).unwrap().is_ok(),
        "there is nobody"
    );
    let (_tcp, _udp, nobody) = silent();
    add(&channel, &hub, addr);
    add(&channel, &hub, nobody);
    let flushed = channel.flushed();
    assert!(flushed.wait_timeout(PATIENCE).unwrap().is_ok());
    assert!(
        flushed.wait_timeout(PATIENCE).unwrap().is_ok(),
        "it stays so"
    );
    let status = channel.status().unwrap();
    assert_eq!((status.queued, status.connecting), (0, 0), "{status:?}");
    assert_eq!((status.connected, status.waiting), (1, 1), "{status:?}");
    assert!(status.joined);
    for flock in [hub, peer] {
        flock.shutdown(Duration::ZERO);
    }
}

fn a_shutdown_ends_the_wait(ground: Ground) {
    let hub = engine(ground).start().unwrap();
    let channel = join(&hub, "c");
    let (_tcp, _udp, nobody) = silent();
    add(&channel, &hub, nobody);
    wait_for("the dial", || hub.stats().connecting == 1);
    let flushed = channel.flushed();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| flushed.wait_timeout(PATIENCE));
        hub.shutdown(Duration::ZERO);
        let told = waiting.join().unwrap();
        assert!(
            matches!(told, Some(Err(FlockError::ShutDown)) | Some(Ok(()))),
            "{told:?}"
        );
    });
    let late = channel.flushed().wait_timeout(PATIENCE);
    assert!(matches!(late, Some(Err(FlockError::ShutDown))), "{late:?}");
    assert!(matches!(channel.status(), Err(FlockError::ShutDown)));
}

fn a_channel_has_a_limit_of_its_own(ground: Ground) {
    let peers: Vec<_> = (1..=5).map(|n| seeder(ground, n)).collect();
    let retry = [Duration::from_millis(100); 4];
    let hub = engine(ground).retry(retry).start().unwrap();
    let (red, blue) = (join(&hub, "red"), join(&hub, "blue"));
    red.set_max_connections(2).unwrap();
    for (_, addr) in &peers[..4] {
        add(&red, &hub, *addr);
    }
    assert!(red.flushed().wait_timeout(PATIENCE).unwrap().is_ok());
    let status = red.status().unwrap();
    assert_eq!((status.connected, status.connecting), (2, 0), "{status:?}");
    assert_eq!(status.queued + status.waiting, 2, "{status:?}");
    // A channel without a limit has room for those that the other has not, and for its own.
    for (_, addr) in &peers[3..] {
        add(&blue, &hub, *addr);
    }
    wait_for("blue", || connected(&blue) == 2);
    let was = connected(&red);
    assert!((2..=3).contains(&was), "{was}");
    red.set_max_connections(3).unwrap();
    wait_for("one more", || hub.stats().connected == was + 2);
    red.set_max_connections(0).unwrap();
    wait_for("all", || hub.stats().connected == 5);
    // What was connected without a limit counts against a later one.
    red.set_max_connections(1).unwrap();
    let alone = |info: &&ConnectionInfo| info.addr != peers[3].1;
    let gone = red.connections().unwrap().iter().find(alone).unwrap().conn;
    let deferred = || hub.counters().counters.swarm.dials_deferred;
    let before = deferred();
    hub.disconnect(gone).unwrap();
    wait_for("it to be passed over", || deferred() > before);
    assert_eq!(hub.stats().connected, 4);
    for (flock, _) in peers {
        flock.shutdown(Duration::ZERO);
    }
    hub.shutdown(PATIENCE);
}

fn leaving_what_was_not_joined_does_nothing(ground: Ground) {
    let hub = engine(ground).connect_timeout(PATIENCE).start().unwrap();
    let (_tcp, _udp, addr) = silent();
    hub.add_peer("red", addr).unwrap();
    hub.leave("red").unwrap();
    // The shards hear of things in order.
    let red = join(&hub, "red");
    assert_eq!(red.status().unwrap().connecting, 1);
    hub.leave("red").unwrap();
    let status = red.status().unwrap();
    assert_eq!((status.joined, status.connecting), (false, 0), "{status:?}");
    wait_for("the end of the dial", || hub.stats().connecting == 0);
}
