//! Accepting while descriptors lack. The limit holds for a whole process, so each test runs
//! itself again in a child with a low one.

use crate::backends::{Backend, Poll, Uring};
use flock_engine::io::{Driver, SocketId};
use flock_tests::conformance::Rig;
use std::fs::File;
use std::net::TcpStream;
use std::process::Command;

const MARK: &str = "FLOCK_TEST_FEW_DESCRIPTORS";
const WAITING: usize = 20;

flock_tests::both_backends!(accepting_pauses_and_resumes);

fn accepting_pauses_and_resumes<B: Backend>() {
    if std::env::var_os(MARK).is_some() {
        return with_few_descriptors::<B>();
    }
    let name = format!("descriptors::{}::accepting_pauses_and_resumes", B::NAME);
    let output = Command::new("sh")
        .args(["-c", "ulimit -n 80 && exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().expect("own path"))
        .args(["--exact", &name, "--test-threads=1"])
        .env(MARK, "1")
        .output()
        .expect("sh runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
}

fn with_few_descriptors<B: Backend>() {
    let mut rig = Rig::new::<B>();
    let (listener, addr) = rig.listen::<B>();
    let live = rig.pair(listener, addr);
    let spare = rig.pair(listener, addr);
    rig.recv(live.0);
    rig.recv(live.1);
    echo(&mut rig, live, 1);

    // The kernel completes these; they wait in the backlog because no turn is taken.
    let clients: Vec<_> = (0..WAITING)
        .map(|_| TcpStream::connect(addr).expect("the backlog has room"))
        .collect();
    let mut hoard = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        hoard.push(file);
    }

    rig.until("pause", |rig| rig.driver.counters().accepts_paused > 0);
    assert_eq!(rig.record(listener).accepted.len(), 2);
    echo(&mut rig, live, 2);

    // A closed socket makes room for another, at once.
    rig.finish(&[spare.0]);
    rig.until("one more", |rig| rig.record(listener).accepted.len() == 3);
    echo(&mut rig, live, 3);

    // Descriptors that others gave back are noticed after a while.
    drop(hoard);
    rig.until("all", |rig| {
        rig.record(listener).accepted.len() == 2 + clients.len()
    });
    echo(&mut rig, live, 4);
    assert_eq!(rig.driver.counters().accepts_refused, 0);
}

fn echo<D: Driver>(rig: &mut Rig<D>, (one, other): (SocketId, SocketId), times: usize) {
    for (from, to) in [(one, other), (other, one)] {
        rig.send(from, b"alive");
        rig.until("echo", |rig| {
            rig.record(to).data.len() == 5 * times && rig.record(from).sent() == 5 * times as u64
        });
    }
}
