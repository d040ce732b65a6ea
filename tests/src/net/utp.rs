use super::content::Content;
use super::digest::Digest;
use super::meter::Meter;
use super::node::Node;
use flock_transport::{CloseReason, Instant, Queued, SendRefused, Train};
use flock_utp::{Config, Endpoint, Event, Key};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::net::SocketAddr;

/// What one end of a connection does: it sends so many bytes of one stream, expects so many of
/// another, and ends.
#[derive(Clone, Debug)]
pub struct Job {
    send: u64,
    outgoing: Content,
    expect: u64,
    incoming: Content,
}

impl Job {
    /// The jobs of initiator and acceptor that send so many bytes.
    #[must_use]
    pub fn pair(seed: u64, bytes: [u64; 2]) -> (Self, Self) {
        let streams = [Content::new(seed), Content::new(!seed)];
        let job = |end: usize| Self {
            send: bytes[end],
            outgoing: streams[end].clone(),
            expect: bytes[1 - end],
            incoming: streams[1 - end].clone(),
        };
        (job(0), job(1))
    }
}

/// One connection of a node.
#[derive(Debug)]
pub struct Flow {
    key: Key,
    job: Job,
    given: u64,
    received: Meter,
    ended: bool,
    peer_ended: bool,
    closed: Option<CloseReason>,
    wrong: Option<String>,
}

/// Bytes given to a connection at once.
const CHUNK: usize = 64 << 10;

impl Flow {
    fn new(key: Key, job: Job) -> Self {
        Self {
            key,
            job,
            given: 0,
            received: Meter::default(),
            ended: false,
            peer_ended: false,
            closed: None,
            wrong: None,
        }
    }

    /// Bytes given to the connection so far.
    #[must_use]
    pub fn given(&self) -> u64 {
        self.given
    }

    /// What came, in order and as it must be.
    #[must_use]
    pub fn received(&self) -> &Meter {
        &self.received
    }

    /// Everything is given and ended, and everything of the peer came.
    #[must_use]
    pub fn done(&self) -> bool {
        self.ended && self.peer_ended && self.received.total() == self.job.expect
    }

    /// The state of the transfer in words, for messages.
    #[must_use]
    pub fn summary(&self) -> String {
        format!(
            "gave {} of {} bytes, received {} of {}, ended {}, peer ended {}, closed {:?}",
            self.given,
            self.job.send,
            self.received.total(),
            self.job.expect,
            self.ended,
            self.peer_ended,
            self.closed,
        )
    }

    /// Why it is over.
    #[must_use]
    pub fn closed(&self) -> Option<CloseReason> {
        self.closed
    }

    /// The first thing that was not as it must be.
    #[must_use]
    pub fn wrong(&self) -> Option<&str> {
        self.wrong.as_deref()
    }

    fn complain(&mut self, what: String) {
        self.wrong.get_or_insert(what);
    }

    fn on_data(&mut self, now: Instant, data: &[u8]) {
        let offset = self.received.total();
        if !self.job.incoming.agrees(offset, data) {
            self.complain(format!(
                "{} bytes at {offset} are not those sent",
                data.len()
            ));
        }
        if self.peer_ended {
            self.complain(format!("{} bytes after the end", data.len()));
        }
        self.received.add(now, data.len() as u64);
    }

    fn on_end(&mut self) {
        if self.peer_ended {
            self.complain("two ends".to_owned());
        }
        let (came, expected) = (self.received.total(), self.job.expect);
        if came != expected {
            self.complain(format!("the end after {came} bytes of {expected}"));
        }
        self.peer_ended = true;
    }
}

/// A uTP endpoint and the application on top of it.
pub struct UtpNode {
    endpoint: Endpoint,
    job: Job,
    flows: Vec<Flow>,
}

impl UtpNode {
    /// An endpoint of which every connection, dialled or accepted, does this job.
    #[must_use]
    pub fn new(config: Config, seed: u64, job: Job) -> Self {
        let secret = StdRng::seed_from_u64(Digest::fork(seed, "endpoint", 0)).random();
        Self {
            endpoint: Endpoint::new(config, 0, 1, secret),
            job,
            flows: Vec::new(),
        }
    }

    /// Dials.
    ///
    /// # Panics
    /// If the endpoint has no room for another connection.
    pub fn connect(&mut self, now: Instant, to: SocketAddr) {
        let dialled = self.endpoint.connect(now, to);
        let key = dialled.expect("there is room for a connection");
        self.flows.push(Flow::new(key, self.job.clone()));
    }

    /// Its connections, in the order in which they began.
    #[must_use]
    pub fn flows(&self) -> &[Flow] {
        &self.flows
    }

    /// What came over its first connection.
    #[must_use]
    pub fn received(&self) -> Meter {
        let first = self.flows.first();
        first.map_or_else(Meter::default, |flow| flow.received.clone())
    }

    /// The endpoint.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Handles the events; `datagrams` is what they may refer to.
    fn serve(&mut self, now: Instant, datagrams: &[u8]) {
        while let Some(event) = self.endpoint.poll_event() {
            self.on_event(now, event, datagrams);
        }
    }

    fn on_event(&mut self, now: Instant, event: Event, datagrams: &[u8]) {
        match event {
            Event::Accepted { key, .. } => {
                self.flows.push(Flow::new(key, self.job.clone()));
                self.give(key);
            }
            Event::Connected { key } | Event::Writable { key } => self.give(key),
            Event::Data { key, range } => {
                self.with(key, |flow| flow.on_data(now, &datagrams[range]));
            }
            Event::Buffered { key, bytes } => self.with(key, |flow| flow.on_data(now, &bytes)),
            Event::Eof { key } => self.with(key, Flow::on_end),
            Event::Closed { key, reason, .. } => self.with(key, |flow| flow.closed = Some(reason)),
            _ => {}
        }
    }

    fn with(&mut self, key: Key, act: impl FnOnce(&mut Flow)) {
        let flow = self.flows.iter_mut().find(|flow| flow.key == key);
        act(flow.expect("events come only of connections that were reported"));
    }

    /// Gives the connection what it takes, and ends it after the last byte.
    fn give(&mut self, key: Key) {
        let endpoint = &mut self.endpoint;
        let flow = self.flows.iter_mut().find(|flow| flow.key == key);
        let Some(flow) = flow.filter(|flow| !flow.ended) else {
            return;
        };
        while flow.given < flow.job.send {
            let left = usize::try_from(flow.job.send - flow.given).unwrap_or(usize::MAX);
            let piece = flow.job.outgoing.slice(flow.given, left.min(CHUNK));
            let size = piece.len() as u64;
            match endpoint.send(key, piece) {
                Ok(Queued::Ok) => flow.given += size,
                Ok(Queued::AboveHigh) => {
                    flow.given += size;
                    return;
                }
                Err(SendRefused::Full(_)) => return,
                Err(SendRefused::Closed(_)) => return flow.complain("nothing may be sent".into()),
            }
        }
        flow.ended = true;
        endpoint.end(key);
    }
}

impl Node for UtpNode {
    fn handle(
        &mut self,
        now: Instant,
        from: SocketAddr,
        received_at: Instant,
        segment: usize,
        datagrams: &[u8],
    ) {
        self.endpoint
            .handle(now, from, received_at, segment, datagrams);
        self.serve(now, datagrams);
    }

    fn end_batch(&mut self, now: Instant) {
        self.endpoint.end_batch(now);
        self.serve(now, &[]);
    }

    fn poll_transmit(&mut self, now: Instant, train: &mut Train) -> bool {
        self.endpoint.poll_transmit(now, train)
    }

    fn sent(&mut self, now: Instant, tag: u64) {
        self.endpoint.sent(tag, now);
    }

    fn refused(&mut self, now: Instant, tag: u64) {
        self.endpoint.refused(tag, now);
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.endpoint.next_deadline()
    }

    fn on_deadline(&mut self, now: Instant) {
        self.endpoint.on_deadline(now);
        self.serve(now, &[]);
    }
}
