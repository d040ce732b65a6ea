//! Where the shards' events meet their reader.

use crate::api::waiters::{block_until, deadline};
use crate::event::Event;
use crate::io::{CappedBuffer, Waker as ShardWaker};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Takes events from all shards. Without a subscriber they are only counted.
///
/// A subscriber loses nothing. What bounds the buffer is that shards start nothing new, and no
/// peers are taken in, while it is [`congested`](Self::congested): only the events of what has
/// started still come, and those of what the application bans.
pub(crate) struct Hub {
    queue: Mutex<Queue>,
    subscribed: AtomicBool,
    /// Events unread, as a hint that costs no lock.
    unread: AtomicUsize,
    congested: AtomicBool,
    limit: usize,
    emitted: AtomicU64,
    running: AtomicUsize,
    shards: Vec<ShardWaker>,
    /// Settings of the system that are known to cap buffers: at most two.
    capped: Mutex<Vec<&'static str>>,
}

#[derive(Default)]
struct Queue {
    events: VecDeque<Event>,
    waker: Option<Waker>,
    over: bool,
}

impl Hub {
    /// `limit`: unread events beyond which nothing new is started. `shards` are woken when the
    /// reader has caught up.
    pub(crate) fn new(limit: usize, shards: Vec<ShardWaker>) -> Self {
        Self {
            queue: Mutex::default(),
            subscribed: AtomicBool::new(false),
            unread: AtomicUsize::new(0),
            congested: AtomicBool::new(false),
            limit: limit.max(1),
            emitted: AtomicU64::new(0),
            running: AtomicUsize::new(shards.len()),
            shards,
            capped: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, event: Event) {
        self.emitted.fetch_add(1, Ordering::Relaxed);
        crate::trace::trace(&event);
        if !self.subscribed.load(Ordering::Acquire) {
            return;
        }
        let mut queue = self.lock();
        // The subscriber may have gone since; what it left behind is cleared under this lock.
        if !self.subscribed.load(Ordering::Acquire) {
            return;
        }
        queue.events.push_back(event);
        let unread = queue.events.len();
        self.unread.store(unread, Ordering::Relaxed);
        if unread >= self.limit {
            self.congested.store(true, Ordering::Release);
        }
        let waker = queue.waker.take();
        drop(queue);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The system cut a buffer of a datagram socket. Said once for each setting, whichever shard's
    /// socket was the first.
    pub(crate) fn buffer_capped(&self, buffer: CappedBuffer) {
        let CappedBuffer {
            wanted,
            got,
            sysctl,
        } = buffer;
        let mut said = self.capped.lock().unwrap_or_else(PoisonError::into_inner);
        if said.contains(&sysctl) {
            return;
        }
        said.push(sysctl);
        drop(said);
        self.push(Event::BuffersCapped {
            wanted,
            got,
            sysctl,
        });
    }

    /// Whether the reader is so far behind that nothing new should start.
    pub(crate) fn congested(&self) -> bool {
        self.congested.load(Ordering::Acquire)
    }

    /// Events since the start, read or not.
    pub(crate) fn emitted(&self) -> u64 {
        self.emitted.load(Ordering::Relaxed)
    }

    /// A shard has ended. After the last one readers get what is left and then the end.
    pub(crate) fn shard_ended(&self) {
        if self.running.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        let mut queue = self.lock();
        queue.over = true;
        let waker = queue.waker.take();
        drop(queue);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Starts delivery; `None` while there is another subscriber.
    pub(crate) fn subscribe(hub: &Arc<Self>) -> Option<Events> {
        let first = !hub.subscribed.swap(true, Ordering::AcqRel);
        first.then(|| Events { hub: hub.clone() })
    }

    fn pop(&self, queue: &mut Queue) -> Option<Event> {
        let event = queue.events.pop_front()?;
        let unread = queue.events.len();
        self.unread.store(unread, Ordering::Relaxed);
        if unread <= self.limit / 2 && self.congested.swap(false, Ordering::AcqRel) {
            for shard in &self.shards {
                shard.wake();
            }
        }
        Some(event)
    }
}

/// The events of an engine, for its one subscriber. Dropping it ends the subscription.
pub struct Events {
    hub: Arc<Hub>,
}

impl Events {
    /// The next event if there is one now.
    pub fn try_next(&mut self) -> Option<Event> {
        let mut queue = self.hub.lock();
        self.hub.pop(&mut queue)
    }

    /// The next event, blocking this thread at most for `timeout`. `None` means that time ran
    /// out or that the engine has ended.
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<Event> {
        block_until(deadline(timeout), |waker| self.poll(waker)).flatten()
    }

    /// The next event, or `None` once the engine has ended. Cancellation-safe, for any runtime.
    pub async fn next(&mut self) -> Option<Event> {
        poll_fn(|cx| self.poll(cx.waker())).await
    }

    /// The events one after the other, each blocking this thread until it comes; the end is that
    /// of the engine.
    pub fn blocking(&mut self) -> BlockingEvents<'_> {
        BlockingEvents(self)
    }

    fn poll(&mut self, waker: &Waker) -> Poll<Option<Event>> {
        let mut queue = self.hub.lock();
        match self.hub.pop(&mut queue) {
            Some(event) => Poll::Ready(Some(event)),
            None if queue.over => Poll::Ready(None),
            None => {
                // The one before is dropped outside the lock: it may run anything.
                let before = match &queue.waker {
                    Some(known) if known.will_wake(waker) => None,
                    _ => queue.waker.replace(waker.clone()),
                };
                drop(queue);
                drop(before);
                Poll::Pending
            }
        }
    }

    /// Events waiting to be read.
    #[must_use]
    pub fn unread(&self) -> usize {
        self.hub.unread.load(Ordering::Relaxed)
    }
}

/// The events as they come; it ends with the engine. Cancellation-safe: an event is either returned
/// or still there.
impl futures_core::Stream for Events {
    type Item = Event;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.get_mut().poll(cx.waker())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.unread(), None)
    }
}

/// The events of an engine for a thread that may block; made by [`Events::blocking`].
#[derive(Debug)]
pub struct BlockingEvents<'a>(&'a mut Events);

impl Iterator for BlockingEvents<'_> {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.0.next_timeout(Duration::MAX)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let mut queue = self.hub.lock();
        self.hub.subscribed.store(false, Ordering::Release);
        while self.hub.pop(&mut queue).is_some() {}
        queue.waker = None;
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events")
            .field("unread", &self.unread())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Peer, RejectReason};
    use crate::io::Wake;

    #[derive(Default)]
    struct CountingWake(AtomicUsize);

    impl Wake for CountingWake {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn event(retries: u32) -> Event {
        let addr = "127.0.0.1:1".parse().unwrap();
        let peer = Peer {
            channel: "c".into(),
            addr,
            retries,
        };
        Event::PeerRejected {
            peer,
            reason: RejectReason::Duplicate,
        }
    }

    #[test]
    fn a_slow_reader_holds_starts_back_and_catching_up_wakes_the_shards() {
        let wake = Arc::new(CountingWake::default());
        let hub = Arc::new(Hub::new(4, vec![ShardWaker::new(wake.clone())]));
        hub.push(event(0));
        let mut events = Hub::subscribe(&hub).unwrap();
        assert!(Hub::subscribe(&hub).is_none());
        assert!(
            events.try_next().is_none(),
            "events before the subscription are only counted"
        );
        for n in 1..=6 {
            hub.push(event(n));
        }
        assert!(hub.congested());
        for n in 1..=6 {
            assert_eq!(
                events.try_next(),
                Some(event(n)),
                "nothing is lost above the limit"
            );
            assert_eq!(hub.congested(), n < 4);
        }
        assert_eq!(wake.0.load(Ordering::Relaxed), 1);
        assert_eq!(hub.emitted(), 7);
    }

    #[test]
    fn a_reader_that_goes_frees_the_engine() {
        let hub = Arc::new(Hub::new(1, Vec::new()));
        let events = Hub::subscribe(&hub).unwrap();
        hub.push(event(0));
        assert!(hub.congested());
        drop(events);
        assert!(!hub.congested());
        hub.push(event(1));
        assert!(Hub::subscribe(&hub).unwrap().try_next().is_none());
    }

    #[test]
    fn the_end_is_told_after_what_is_left() {
        let wake = ShardWaker::new(Arc::new(CountingWake::default()));
        let hub = Arc::new(Hub::new(8, vec![wake]));
        let mut events = Hub::subscribe(&hub).unwrap();
        hub.push(event(0));
        hub.shard_ended();
        assert!(events.next_timeout(Duration::from_secs(10)).is_some());
        assert!(events.next_timeout(Duration::from_secs(10)).is_none());
    }
}
