use super::*;
use loom::sync::{Arc, Notify};
use loom::thread;

/// A task's waker, for the model checker. Losing a wake-up would be a deadlock, which it reports.
struct Task(Notify);

impl std::task::Wake for Task {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.notify();
    }
}

fn task() -> (std::sync::Arc<Task>, Waker) {
    let task = std::sync::Arc::new(Task(Notify::new()));
    (task.clone(), Waker::from(task))
}

#[test]
fn loom_a_writer_that_waits_is_woken_and_nothing_it_writes_is_forgotten() {
    loom::model(|| {
        let pipe = Arc::new(Pipe::new(1, std::sync::Arc::default()));
        let told = Arc::new(Notify::new());
        let writer = {
            let (pipe, told) = (pipe.clone(), told.clone());
            thread::spawn(move || {
                let (task, waker) = task();
                let mut data = Bytes::from(vec![0; OUT_LIMIT + PIECE]);
                while !data.is_empty() {
                    let (write, tell) = pipe.write(&mut data, &waker);
                    if tell.0 {
                        told.notify();
                    }
                    if write == Write::Full {
                        task.0.wait();
                    }
                }
            })
        };
        let (mut got, mut woken, mut out) = (0, Vec::new(), Vec::new());
        while got < OUT_LIMIT + PIECE {
            told.wait();
            let _ = pipe.look(&mut out);
            let bytes = out.drain(..).map(|data| data.len()).sum();
            got += bytes;
            // The mark is passed once, and the queue empties at once.
            pipe.queued(bytes, true, &mut woken);
            pipe.writable(&mut woken);
            wake_all(&mut woken);
        }
        writer.join().unwrap();
    });
}

#[test]
fn loom_a_reader_that_waits_is_woken_and_a_peer_held_back_is_let_go() {
    loom::model(|| {
        let pipe = Arc::new(Pipe::new(2, std::sync::Arc::default()));
        let told = Arc::new(Notify::new());
        let reader = {
            let (pipe, told) = (pipe.clone(), told.clone());
            thread::spawn(move || {
                let (task, waker) = task();
                loop {
                    let (read, tell) = pipe.read(9, &waker);
                    if tell.0 {
                        told.notify();
                    }
                    match read {
                        Read::Nothing => task.0.wait(),
                        Read::Data(_) => {}
                        Read::End | Read::Closed(_) => return,
                    }
                }
            })
        };
        let mut woken = Vec::new();
        assert!(pipe.receive(b"ab", &mut woken), "the peer is held back");
        wake_all(&mut woken);
        loop {
            told.wait();
            if pipe.look(&mut Vec::new()).resume {
                break;
            }
        }
        pipe.close(CloseReason::PeerClosed, &mut woken);
        wake_all(&mut woken);
        reader.join().unwrap();
    });
}
