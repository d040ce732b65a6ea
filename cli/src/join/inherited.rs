//! Sockets that a service manager hands over (sd_listen_fds(3)).

use listenfd::ListenFd;
use std::io;
use std::os::fd::OwnedFd;

/// The sockets meant for this process; none, if none are. To be called before there are threads,
/// since it takes the variables out of the environment, so that no command finds them.
pub(super) fn sockets() -> io::Result<Vec<OwnedFd>> {
    let ours = std::env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
    if !ours {
        return Ok(Vec::new());
    }
    let mut passed = ListenFd::from_env();
    let wrong = |at: usize| {
        let text = format!("the inherited descriptor at {at} is neither a TCP nor a UDP socket");
        io::Error::new(io::ErrorKind::InvalidInput, text)
    };
    (0..passed.len())
        .map(|at| match passed.take_tcp_listener(at) {
            Ok(Some(listener)) => Ok(listener.into()),
            _ => match passed.take_udp_socket(at) {
                Ok(Some(socket)) => Ok(socket.into()),
                _ => Err(wrong(at)),
            },
        })
        .collect()
}
