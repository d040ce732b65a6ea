//! Engines with threads of their own, and a thread for each task.

use super::{Side, Stage, Task};
use flock_engine::io::Backend;
use flock_engine::{Flock, JoinOptions, Transport};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// Long enough for a loaded machine; only a failing test waits this long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Real engines over loopback.
#[derive(Clone, Copy, Debug)]
pub struct Threads {
    /// What they run on.
    pub backend: Backend,
    /// The only transport they speak.
    pub transport: Transport,
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a task on this thread.
fn block_on(mut task: Task) {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let deadline = Instant::now() + PATIENCE;
    let cx = &mut Context::from_waker(&waker);
    while task.as_mut().poll(cx).is_pending() {
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "a task waits in vain");
        thread::park_timeout(left);
    }
}

impl Threads {
    fn engine(self) -> Flock {
        Flock::builder()
            .backend(self.backend)
            .tcp(self.transport == Transport::Tcp)
            .utp(self.transport == Transport::Utp)
            .shards(2)
            .linger(Duration::from_millis(300))
            .start()
            .expect("it can be had here")
    }
}

impl Stage for Threads {
    fn meet(&mut self) -> [Side; 2] {
        let (a, b) = (self.engine(), self.engine());
        let port = a.listen(0).expect("it can be had here").port();
        b.join("c", JoinOptions { announce: false })
            .expect("it can be had here");
        b.add_peer("c", SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
            .expect("it can be had here");
        [a, b].map(|flock| Side {
            connection: flock.accept_timeout(PATIENCE).expect("it can be had here"),
            flock,
        })
    }

    fn run(&mut self, tasks: Vec<Task>) {
        thread::scope(|scope| {
            for task in tasks {
                scope.spawn(|| block_on(task));
            }
        });
    }

    fn much(&self) -> usize {
        64 << 20
    }

    /// Socket buffers of both ends, as far as they grow by themselves, or the window of uTP.
    fn network_holds(&self) -> usize {
        20 << 20
    }

    /// The receive buffers in use at a time, or what waited in the window of uTP.
    fn turn_brings(&self) -> usize {
        match self.transport {
            Transport::Tcp => 4 << 20,
            Transport::Utp => 18 << 20,
        }
    }
}
