//! Where io_uring is forbidden, the engine runs on epoll and says why.

use super::peers::{PATIENCE, RawPeer, id, local, wait_for};
use flock_engine::io::{Backend, Reason, Unavailable};
use flock_engine::{Flock, FlockError, Ignore};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter_all_threads};
use std::process::Command;

/// Set in the child process, which forbids itself io_uring for good.
const CHILD: &str = "FLOCK_TEST_FORBID_IO_URING";

fn forbid_io_uring() {
    let rules = [(libc::SYS_io_uring_setup, Vec::new())].into();
    let refuse = SeccompAction::Errno(u32::try_from(libc::EPERM).unwrap());
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch).unwrap();
    apply_filter_all_threads(&BpfProgram::try_from(filter).unwrap()).unwrap();
}

#[test]
fn the_engine_falls_back_and_says_why() {
    if std::env::var_os(CHILD).is_none() {
        let test = "forbidden::the_engine_falls_back_and_says_why";
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&child.stderr);
        assert!(child.status.success(), "{text}");
        let ran = String::from_utf8_lossy(&child.stdout);
        assert!(ran.contains("1 passed"), "the child ran this test: {ran}");
        return;
    }
    forbid_io_uring();
    let flock = Flock::builder().shards(2).start_with(|_| Ignore).unwrap();
    let selected = *flock.backend().unwrap();
    assert_eq!(selected.backend, Backend::Poll);
    assert_eq!(selected.reason, Reason::Fallback(Unavailable::Filtered));
    assert!(
        selected.reason.to_string().contains("seccomp"),
        "{}",
        selected.reason
    );
    let peer = RawPeer::handshake(local(flock.listen(0).unwrap()), &id(1));
    wait_for("the peer", || flock.stats().connected == 1);
    let error = Flock::builder()
        .backend(Backend::Uring)
        .start()
        .unwrap_err();
    assert!(
        matches!(error, FlockError::Backend(Unavailable::Filtered)),
        "{error}"
    );
    drop(peer);
    flock.shutdown(PATIENCE);
}
