//! The engine under test: its shards as actors, its events and its handler's calls as notes.

use super::cast::Actor;
use super::check::{Checker, Note};
use bytes::Bytes;
use flock_engine::io::Driver;
use flock_engine::io::sim::SimDriver;
use flock_engine::{
    CloseReason, ConnCx, ConnId, ConnectionInfo, Events, Handler, Instant, Queued, Shard, ShardCx,
    Step,
};
use std::cell::{OnceCell, RefCell};
use std::rc::Rc;

/// Where the notes of all shards go, in the order in which things happened.
#[derive(Clone)]
pub struct Feed(Rc<RefCell<Inner>>);

struct Inner {
    events: Events,
    checker: Checker<ConnId>,
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Feed")
    }
}

impl Feed {
    /// A feed from an engine's events to `checker`.
    #[must_use]
    pub fn new(events: Events, checker: Checker<ConnId>) -> Self {
        Self(Rc::new(RefCell::new(Inner { events, checker })))
    }

    /// Passes on the events that came since.
    pub fn drain(&self, now: Instant) {
        let mut inner = self.0.borrow_mut();
        while let Some(event) = inner.events.try_next() {
            if let Some(note) = Note::of(&event) {
                inner.checker.note(now, note);
            }
        }
    }

    fn note(&self, now: Instant, note: Note<ConnId>) {
        // What was emitted before this call comes before it.
        self.drain(now);
        self.0.borrow_mut().checker.note(now, note);
    }

    /// Looks at, or adds to, what the checker knows.
    pub fn check<T>(&self, look: impl FnOnce(&mut Checker<ConnId>) -> T) -> T {
        look(&mut self.0.borrow_mut().checker)
    }
}

/// A handler that sends back what comes and notes every call.
#[derive(Clone, Debug)]
pub struct Echo {
    feed: Rc<OnceCell<Feed>>,
}

impl Echo {
    /// A handler that feeds `feed`, which is filled before the first turn: it needs the events of
    /// the engine that the handler is made for.
    #[must_use]
    pub fn new(feed: Rc<OnceCell<Feed>>) -> Self {
        Self { feed }
    }

    fn note(&self, now: Instant, note: Note<ConnId>) {
        if let Some(feed) = self.feed.get() {
            feed.note(now, note);
        }
    }

    fn violation(&self, text: String) {
        if let Some(feed) = self.feed.get() {
            feed.check(|checker| checker.violation(text));
        }
    }
}

impl Handler for Echo {
    type Conn = ConnId;
    type Msg = ();

    fn on_connection(&mut self, cx: &mut ConnCx<'_>, info: &ConnectionInfo) -> ConnId {
        match info.peer_id.clone() {
            Some(peer) => {
                let opened = Note::UserOpened(info.conn, peer);
                self.note(cx.now(), opened);
            }
            None => {
                let text = format!("{:?} was admitted without an id", info.conn);
                self.violation(text);
            }
        }
        info.conn
    }

    fn on_data(&mut self, cx: &mut ConnCx<'_>, conn: &mut ConnId, data: &[u8]) {
        self.note(cx.now(), Note::UserData(*conn, data.len()));
        match cx.send(Bytes::copy_from_slice(data)) {
            Ok(Queued::Ok) => {}
            Ok(Queued::AboveHigh) => cx.pause(),
            Err(_) => {
                let text = format!("{conn:?}: an echo was refused below the high-water mark");
                self.violation(text);
            }
        }
    }

    fn on_writable(&mut self, cx: &mut ConnCx<'_>, _: &mut ConnId) {
        cx.resume();
    }

    fn on_closed(&mut self, cx: &mut ShardCx<'_>, id: ConnId, conn: ConnId, _: CloseReason) {
        if id != conn {
            let text = format!("the handler lost {id:?}, but got the state of {conn:?}");
            self.violation(text);
        }
        self.note(cx.now(), Note::UserClosed(id));
    }
}

/// A shard of the engine under test.
pub struct EngineShard {
    shard: Shard<SimDriver, Echo>,
    feed: Feed,
}

impl std::fmt::Debug for EngineShard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("EngineShard").field(&self.driver()).finish()
    }
}

impl EngineShard {
    /// A shard that feeds `feed`.
    #[must_use]
    pub fn new(shard: Shard<SimDriver, Echo>, feed: Feed) -> Self {
        Self { shard, feed }
    }

    /// The shard's driver.
    #[must_use]
    pub fn sim(&self) -> &SimDriver {
        self.shard.driver()
    }
}

impl Actor for EngineShard {
    fn driver(&self) -> usize {
        self.sim().id()
    }

    fn step(&mut self) -> bool {
        let step = self.shard.step();
        self.feed.drain(self.sim().now());
        step == Step::Running
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
