//! Encryption and authentication below everything else of a connection: a connector that does the
//! Noise handshake XX (revision 34 of the Noise Protocol Framework), in which both sides prove a
//! static key, and then encrypts the exchange of ids and what the application sends.
//!
//!     cargo run --release -p flock-engine --example noise [-- SECONDS]
//!
//! A peer's id is its key, and the connector refuses whoever states another: bans, limits and the
//! choice between two connections then go by what was proved. An end that is not encrypted, which
//! anybody could have sent, is refused, too.
//!
//! Two engines of this process meet. It prints how long a handshake takes and how much passes in so
//! many seconds.

use bytes::{Buf, Bytes, BytesMut};
use flock_engine::session::{Connector, ConnectorError, ToLocal, ToPeer, frame};
use flock_engine::{Connection, Flock, IdChoice, JoinOptions, PeerId};
use rustix::time::{ClockId, clock_gettime};
use snow::{HandshakeState, TransportState};
use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

type Failure = Box<dyn Error + Send + Sync>;

const PATTERN: &str = "Noise_XX_25519_ChaChaPoly_BLAKE2s";
/// Bytes of the length in front of every message.
const LENGTH: usize = 2;
/// Bytes of the tag behind every encrypted message.
const TAG: usize = 16;
/// Plain bytes of a message: below the limit of Noise, so that 64 KiB are two.
const PLAIN_MAX: usize = 32 << 10;
/// No message of the handshake is longer.
const HANDSHAKE_MAX: usize = 256;
const PATIENCE: Duration = Duration::from_secs(10);
/// Handshakes that are timed.
const HANDSHAKES: u32 = 200;

enum State {
    Handshake(Box<HandshakeState>),
    Secure(Box<TransportState>),
    /// Something went wrong.
    Failed,
}

/// One connection.
struct Noise {
    state: State,
    /// The peer's bytes that are no whole message yet.
    received: BytesMut,
    /// Ours that wait for the handshake: the statement of our id.
    waiting: Vec<Bytes>,
    /// The peer has stated the id that its key is.
    stated: bool,
    /// The peer has ended its direction, and signed that.
    over: bool,
}

impl Noise {
    /// The initiator is the one that dialled. A key that is none fails at the start.
    fn new(key: &[u8], initiator: bool) -> Self {
        let state = handshake(key, initiator).map_or(State::Failed, |handshake| {
            State::Handshake(Box::new(handshake))
        });
        Self {
            state,
            received: BytesMut::new(),
            waiting: Vec::new(),
            stated: false,
            over: false,
        }
    }

    /// Says what is ours to say in the handshake, and what waited for its end.
    fn shake(&mut self, peer: &mut ToPeer<'_>) -> Result<(), ConnectorError> {
        let State::Handshake(handshake) = &mut self.state else {
            return Err(ConnectorError::Refused);
        };
        while !handshake.is_handshake_finished() && handshake.is_my_turn() {
            let mut message = BytesMut::zeroed(LENGTH + HANDSHAKE_MAX);
            let len = handshake.write_message(&[], &mut message[LENGTH..]);
            put_frame(message, len.map_err(refuse)?, peer)?;
        }
        if !handshake.is_handshake_finished() {
            return Ok(());
        }
        if let State::Handshake(handshake) = std::mem::replace(&mut self.state, State::Failed) {
            let secure = handshake.into_transport_mode().map_err(refuse)?;
            self.state = State::Secure(Box::new(secure));
        }
        let waiting = std::mem::take(&mut self.waiting);
        waiting
            .into_iter()
            .try_for_each(|bytes| self.outgoing(bytes, peer))
    }

    /// One message of the peer's.
    fn read(
        &mut self,
        message: &[u8],
        local: &mut ToLocal<'_>,
        peer: &mut ToPeer<'_>,
    ) -> Result<(), ConnectorError> {
        let secure = match &mut self.state {
            State::Failed => return Err(ConnectorError::Refused),
            State::Handshake(handshake) => {
                let mut payload = [0; HANDSHAKE_MAX];
                let read = handshake.read_message(message, &mut payload);
                read.map_err(refuse)?;
                return self.shake(peer);
            }
            State::Secure(secure) => secure,
        };
        let len = message.len().checked_sub(TAG);
        let len = len.filter(|_| !self.over).ok_or(ConnectorError::Refused)?;
        let plain = local.put(&message[..len])?;
        secure.read_message(message, plain).map_err(refuse)?;
        if !self.stated {
            let proved = secure.get_remote_static().and_then(PeerId::new);
            let stated = proved.is_some_and(|key| frame(&key) == *plain);
            self.stated = stated;
            return if stated {
                Ok(())
            } else {
                Err(ConnectorError::Refused)
            };
        }
        self.over = plain.is_empty();
        Ok(())
    }

    /// An encrypted message.
    fn write(&mut self, plain: &[u8], peer: &mut ToPeer<'_>) -> Result<(), ConnectorError> {
        let State::Secure(secure) = &mut self.state else {
            return Err(ConnectorError::Refused);
        };
        let mut message = BytesMut::zeroed(LENGTH + plain.len() + TAG);
        let len = secure.write_message(plain, &mut message[LENGTH..]);
        put_frame(message, len.map_err(refuse)?, peer)
    }
}

/// Puts out a message of `len` bytes, in front of which is room for its length.
fn put_frame(
    mut message: BytesMut,
    len: usize,
    peer: &mut ToPeer<'_>,
) -> Result<(), ConnectorError> {
    let length = u16::try_from(len).map_err(|_| ConnectorError::Overflow)?;
    message[..LENGTH].copy_from_slice(&length.to_be_bytes());
    message.truncate(LENGTH + len);
    peer.put(message)
}

fn refuse(_: snow::Error) -> ConnectorError {
    ConnectorError::Refused
}

impl Connector for Noise {
    fn start(&mut self, peer: &mut ToPeer<'_>) -> Result<(), ConnectorError> {
        self.shake(peer)
    }

    fn outgoing(&mut self, bytes: Bytes, peer: &mut ToPeer<'_>) -> Result<(), ConnectorError> {
        if let State::Handshake(_) = &self.state {
            // Until the peer has stated its id there is nothing but our own to send.
            self.waiting.push(bytes);
            return Ok(());
        }
        let mut messages = bytes.chunks(PLAIN_MAX);
        messages.try_for_each(|plain| self.write(plain, peer))
    }

    fn outgoing_ended(&mut self, peer: &mut ToPeer<'_>) -> Result<(), ConnectorError> {
        match &self.state {
            State::Secure(_) => self.write(&[], peer),
            // There is no way to sign it.
            State::Handshake(_) | State::Failed => Ok(()),
        }
    }

    fn incoming(
        &mut self,
        bytes: &[u8],
        local: &mut ToLocal<'_>,
        peer: &mut ToPeer<'_>,
    ) -> Result<(), ConnectorError> {
        self.received.extend_from_slice(bytes);
        while let [high, low, rest @ ..] = &self.received[..] {
            let len = usize::from(u16::from_be_bytes([*high, *low]));
            if rest.len() < len {
                break;
            }
            self.received.advance(LENGTH);
            let message = self.received.split_to(len);
            self.read(&message, local, peer)?;
        }
        Ok(())
    }

    fn incoming_ended(
        &mut self,
        _: &mut ToLocal<'_>,
        _: &mut ToPeer<'_>,
    ) -> Result<(), ConnectorError> {
        match self.over && self.received.is_empty() {
            true => Ok(()),
            false => Err(ConnectorError::Refused),
        }
    }
}

fn handshake(key: &[u8], initiator: bool) -> Result<HandshakeState, snow::Error> {
    let builder = snow::Builder::new(PATTERN.parse()?).local_private_key(key)?;
    if initiator {
        builder.build_initiator()
    } else {
        builder.build_responder()
    }
}

/// Both sides of a handshake on this thread, without a network.
fn time_handshakes(a: &[u8], b: &[u8]) -> Result<Duration, Failure> {
    let (mut message, mut payload) = ([0; HANDSHAKE_MAX], [0; HANDSHAKE_MAX]);
    let began = cpu_time();
    for _ in 0..HANDSHAKES {
        let (mut from, mut to) = (handshake(a, true)?, handshake(b, false)?);
        while !from.is_handshake_finished() || !to.is_handshake_finished() {
            let len = from.write_message(&[], &mut message)?;
            to.read_message(&message[..len], &mut payload)?;
            std::mem::swap(&mut from, &mut to);
        }
    }
    Ok((cpu_time() - began) / HANDSHAKES)
}

/// What this thread has had of a processor.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// An engine whose id is its key.
fn engine(key: &snow::Keypair) -> Result<Flock, Failure> {
    let id = PeerId::new(&key.public).ok_or("a key is an id")?;
    let key = key.private.clone();
    let builder = Flock::builder().shards(1).id(IdChoice::Fixed(id));
    Ok(builder
        .connector(move |info| Noise::new(&key, info.initiator))
        .start()?)
}

fn main() -> Result<(), Failure> {
    let seconds = std::env::args()
        .nth(1)
        .map_or(Ok(1.0), |text| text.parse())?;
    let time = Duration::try_from_secs_f64(seconds)?;
    let generator = snow::Builder::new(PATTERN.parse()?);
    let (a_key, b_key) = (generator.generate_keypair()?, generator.generate_keypair()?);
    let each = time_handshakes(&a_key.private, &b_key.private)?;
    println!("handshake: {} us of CPU, both sides", each.as_micros());

    let (a, b) = (engine(&a_key)?, engine(&b_key)?);
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, a.listen(0)?.port()));
    b.join("noise", JoinOptions { announce: false })?;
    b.add_peer("noise", at)?;
    let accepted = a.accept_timeout(PATIENCE).ok_or("nobody came")?;
    let dialled = b.accept_timeout(PATIENCE).ok_or("nobody answered")?;
    for (connection, key) in [(&accepted, &b_key), (&dialled, &a_key)] {
        if connection.info().peer_id != PeerId::new(&key.public) {
            return Err("that is not the peer we know".into());
        }
    }
    let receiving = thread::spawn(move || receive(&accepted));
    let (block, mut sent, began) = (Bytes::from(vec![7; 1 << 20]), 0_u64, Instant::now());
    while began.elapsed() < time {
        dialled.send_timeout(block.clone(), PATIENCE)?;
        sent += block.len() as u64;
    }
    dialled.end();
    let received = receiving.join().map_err(|_| "the receiver panicked")??;
    if received != sent {
        return Err(format!("{sent} bytes were sent, {received} received").into());
    }
    #[expect(clippy::cast_precision_loss, reason = "for people to read")]
    let gigabits = sent as f64 * 8.0 / 1e9 / began.elapsed().as_secs_f64();
    println!("both keys proved; {sent} bytes, {gigabits:.2} Gbit/s");
    for flock in [a, b] {
        flock.shutdown(PATIENCE);
    }
    Ok(())
}

/// Counts what the peer sends until its end, which it has signed: any other is an error.
fn receive(connection: &Connection) -> Result<u64, Failure> {
    let mut bytes = 0;
    while let Some(data) = connection.recv_timeout(PATIENCE)? {
        bytes += data.len() as u64;
    }
    Ok(bytes)
}
