use super::limits::parse_ports;
use super::*;
use crate::io::ConnectOptions;
use flock_tcp::{Congestion, Keepalive, ListenOptions, StreamOptions};
use socket2::SockRef;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn listen(addr: SocketAddr, options: &ListenOptions) -> io::Result<(OwnedFd, SocketAddr)> {
    listen_socket(addr, options, Blocking::Yes)
}

#[test]
fn accepted_sockets_inherit_the_stream_options() {
    let stream = StreamOptions {
        keepalive: Some(Keepalive {
            idle: Duration::from_secs(77),
            interval: Duration::from_secs(5),
            probes: 3,
        }),
        notsent_lowat: Some(54_321),
        congestion: Congestion::new("reno"),
        ..StreamOptions::default()
    };
    let options = ListenOptions {
        stream,
        ..ListenOptions::default()
    };
    let (fd, bound) = listen(loopback(), &options).unwrap();
    let listener = TcpListener::from(fd);
    let _client = TcpStream::connect(bound).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    let accepted = SockRef::from(&accepted);
    assert!(accepted.tcp_nodelay().unwrap());
    assert!(accepted.keepalive().unwrap());
    assert_eq!(
        accepted.tcp_keepalive_time().unwrap(),
        Duration::from_secs(77)
    );
    assert_eq!(accepted.tcp_notsent_lowat().unwrap(), 54_321);
    assert!(accepted.tcp_congestion().unwrap().starts_with(b"reno\0"));
}

#[test]
fn a_group_shares_a_port_but_not_with_strangers() {
    let first = ListenOptions {
        shared: true,
        exclusive: true,
        ..ListenOptions::default()
    };
    let later = ListenOptions {
        exclusive: false,
        ..first
    };
    let (_one, bound) = listen(loopback(), &first).unwrap();
    let (_two, again) = listen(bound, &later).unwrap();
    assert_eq!(bound, again);
    // Without the probe the kernel would let this one in: same user, both with SO_REUSEPORT.
    let stranger = listen(bound, &first).unwrap_err();
    assert_eq!(stranger.kind(), io::ErrorKind::AddrInUse);
}

#[test]
fn a_fixed_port_can_be_probed_and_then_bound() {
    let options = ListenOptions {
        shared: true,
        ..ListenOptions::default()
    };
    let (fd, bound) = listen(loopback(), &options).unwrap();
    drop(fd);
    let (_again, same) = listen(bound, &options).unwrap();
    assert_eq!(bound, same);
}

#[test]
fn a_plain_listener_is_exclusive_by_nature() {
    let (_held, bound) = listen(loopback(), &ListenOptions::default()).unwrap();
    let error = listen(bound, &ListenOptions::default()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}

#[test]
fn dual_stack_takes_ipv4_and_names_it_plainly() {
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    let Ok((fd, bound)) = listen(any, &ListenOptions::default()) else {
        return; // a host without IPv6
    };
    let listener = TcpListener::from(fd);
    let client = TcpStream::connect(("127.0.0.1", bound.port())).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    let peer = peer_address(accepted.as_fd()).unwrap();
    assert_eq!(peer, client.local_addr().unwrap());
    assert!(peer.is_ipv4());
}

#[test]
fn a_dial_starts_from_the_wanted_source() {
    let (fd, bound) = listen(loopback(), &ListenOptions::default()).unwrap();
    let listener = TcpListener::from(fd);
    let options = ConnectOptions {
        source: Some("127.9.8.7".parse().unwrap()),
        ..ConnectOptions::default()
    };
    let mut soft_errors = 0;
    let socket = dial_socket(bound, &options, Blocking::Yes, &mut soft_errors).unwrap();
    SockRef::from(&socket).connect(&bound.into()).unwrap();
    let (_accepted, peer) = listener.accept().unwrap();
    assert_eq!(peer.ip(), options.source.unwrap());
    assert_eq!(soft_errors, 0);
}

#[test]
fn a_reset_reaches_the_peer() {
    let (fd, bound) = listen(loopback(), &ListenOptions::default()).unwrap();
    let listener = TcpListener::from(fd);
    let mut client = TcpStream::connect(bound).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    reset_on_close(accepted.as_fd()).unwrap();
    drop(accepted);
    let error = io::Read::read(&mut client, &mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn limits_are_read() {
    let limits = Limits::read();
    assert!(limits.backlog.is_some_and(|backlog| backlog > 0));
    assert!(limits.source_ports.is_some());
    assert!(limits.open_files.is_some());
    assert_eq!(parse_ports("32768\t60999\n"), Some(32768..=60999));
    assert_eq!(parse_ports("9 8"), None);
    assert_eq!(parse_ports(""), None);
}
