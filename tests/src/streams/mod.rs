//! The level of connections and futures, over any two engines that can meet: real ones on any
//! driver, or simulated ones. The cases are futures; a [`Stage`] runs them.

mod cases;
mod simulated;
mod threads;

pub use cases::{
    a_dropped_connection_is_closed, a_slow_reader_holds_the_sender_back, a_waker_may_be_replaced,
    an_engine_that_is_dropped_ends_its_connections, halves_echo_in_tasks_of_their_own,
    nothing_is_lost_by_dropping_futures,
};
pub use simulated::Simulated;
pub use threads::Threads;

use flock_engine::{Connection, Flock};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::Poll;

/// What a case does on one of its sides.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An engine and its connection to the other's.
#[derive(Debug)]
pub struct Side {
    /// The engine.
    pub flock: Flock,
    /// Its end of the connection.
    pub connection: Connection,
}

/// Where a case plays.
pub trait Stage {
    /// Two new engines with a connection between them; the first one accepted it.
    fn meet(&mut self) -> [Side; 2];

    /// Runs all tasks to their ends, each woken on its own.
    fn run(&mut self, tasks: Vec<Task>);

    /// Bytes that are much here.
    fn much(&self) -> usize;

    /// What the network between two engines holds at the most.
    fn network_holds(&self) -> usize;

    /// What one turn may bring of one connection at the most.
    fn turn_brings(&self) -> usize;
}

/// Byte `at` of the stream every case sends.
fn byte(at: usize) -> u8 {
    u8::try_from(at % 251).expect("below 256")
}

fn block(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(byte).collect()
}

/// Whether `data` is what the stream has at `at`.
fn is_block(at: usize, data: &[u8]) -> bool {
    data.iter().zip(at..).all(|(got, at)| *got == byte(at))
}

/// Polls `future` once, and drops it.
async fn once<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

async fn read<R: futures_io::AsyncRead + Unpin>(from: &mut R, buf: &mut [u8]) -> io::Result<usize> {
    poll_fn(|cx| Pin::new(&mut *from).poll_read(cx, buf)).await
}

async fn write<W: futures_io::AsyncWrite + Unpin>(to: &mut W, data: &[u8]) -> io::Result<usize> {
    poll_fn(|cx| Pin::new(&mut *to).poll_write(cx, data)).await
}

async fn close<W: futures_io::AsyncWrite + Unpin>(to: &mut W) -> io::Result<()> {
    poll_fn(|cx| Pin::new(&mut *to).poll_close(cx)).await
}
