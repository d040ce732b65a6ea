//! Encryption and authentication on top of a connection: the Noise handshake XX (revision 34 of the Noise
//! Protocol Framework), in which both sides prove a static key, then encrypted messages.
//!
//!     cargo run --release -p flock-engine --example noise [-- SECONDS]
//!
//! Two engines of this process meet. It prints the keys they proved, and how long a handshake takes and
//! how much passes in so many seconds. A peer id is a mere claim: what identifies the peer is its key.

use bytes::{Bytes, BytesMut};
use flock_engine::{Connection, Flock, JoinOptions};
use snow::{HandshakeState, TransportState};
use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

type Failure = Box<dyn Error + Send + Sync>;

const PATTERN: &str = "Noise_XX_25519_ChaChaPoly_BLAKE2s";
/// The longest Noise message, and hence what a length of two bytes can say.
const MESSAGE_MAX: usize = 65_535;
/// Bytes of the tag behind every encrypted message.
const TAG: usize = 16;
/// Plain bytes of a message.
const PLAIN_MAX: usize = MESSAGE_MAX - TAG;
const PATIENCE: Duration = Duration::from_secs(10);
/// Handshakes that are timed.
const HANDSHAKES: u32 = 200;

/// Messages of at most [`MESSAGE_MAX`] bytes, each behind its length.
struct Framed {
    connection: Connection,
    received: BytesMut,
}

impl Framed {
    fn send(&self, message: &[u8]) -> Result<(), Failure> {
        let len = u16::try_from(message.len())?;
        let mut frame = BytesMut::with_capacity(2 + message.len());
        frame.extend_from_slice(&len.to_be_bytes());
        frame.extend_from_slice(message);
        Ok(self.connection.send_timeout(frame, PATIENCE)?)
    }

    /// The next message, or `None` after the last. One that is cut off is an error: an attacker can end
    /// the stream anywhere.
    fn recv(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            if let [high, low, ..] = self.received[..] {
                let len = 2 + usize::from(u16::from_be_bytes([high, low]));
                if self.received.len() >= len {
                    return Ok(Some(self.received.split_to(len).split_off(2).freeze()));
                }
            }
            match self.connection.recv_timeout(PATIENCE)? {
                Some(data) => self.received.extend_from_slice(&data),
                None if self.received.is_empty() => return Ok(None),
                None => return Err("the stream ends inside a message".into()),
            }
        }
    }
}

/// A connection whose peer has proved its key.
struct Secure {
    framed: Framed,
    state: TransportState,
    buffer: Vec<u8>,
}

impl Secure {
    /// Shakes hands; the initiator is the one that dialled.
    fn new(connection: Connection, key: &[u8]) -> Result<Self, Failure> {
        let initiator = connection.info().initiator;
        let mut state = handshake(key, initiator)?;
        let mut framed = Framed {
            connection,
            received: BytesMut::new(),
        };
        let mut buffer = vec![0; MESSAGE_MAX];
        let mut ours = initiator;
        while !state.is_handshake_finished() {
            if ours {
                let len = state.write_message(&[], &mut buffer)?;
                framed.send(&buffer[..len])?;
            } else {
                let message = framed.recv()?.ok_or("no handshake")?;
                state.read_message(&message, &mut buffer)?;
            }
            ours = !ours;
        }
        Ok(Self {
            framed,
            state: state.into_transport_mode()?,
            buffer,
        })
    }

    /// The key the peer has proved to have.
    fn peer(&self) -> &[u8] {
        self.state.get_remote_static().unwrap_or_default()
    }

    fn send(&mut self, data: &[u8]) -> Result<(), Failure> {
        for plain in data.chunks(PLAIN_MAX) {
            let len = self.state.write_message(plain, &mut self.buffer)?;
            self.framed.send(&self.buffer[..len])?;
        }
        Ok(())
    }

    fn recv(&mut self) -> Result<Option<&[u8]>, Failure> {
        let Some(message) = self.framed.recv()? else {
            return Ok(None);
        };
        let len = self.state.read_message(&message, &mut self.buffer)?;
        Ok(Some(&self.buffer[..len]))
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
    let (mut message, mut payload) = ([0; 256], [0; 256]);
    let began = Instant::now();
    for _ in 0..HANDSHAKES {
        let (mut from, mut to) = (handshake(a, true)?, handshake(b, false)?);
        while !from.is_handshake_finished() || !to.is_handshake_finished() {
            let len = from.write_message(&[], &mut message)?;
            to.read_message(&message[..len], &mut payload)?;
            std::mem::swap(&mut from, &mut to);
        }
    }
    Ok(began.elapsed() / HANDSHAKES)
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

    let (a, b) = (engine()?, engine()?);
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, a.listen(0)?.port()));
    b.join("noise", JoinOptions { announce: false })?;
    b.add_peer("noise", at)?;
    let receiving = thread::spawn({
        let accepted = a.accept_timeout(PATIENCE).ok_or("nobody came")?;
        let (key, expected) = (a_key.private, b_key.public);
        move || receive(accepted, &key, &expected)
    });
    let dialled = b.accept_timeout(PATIENCE).ok_or("nobody answered")?;
    let mut secure = Secure::new(dialled, &b_key.private)?;
    if secure.peer() != a_key.public {
        return Err("that is not the peer we know".into());
    }
    let (block, mut sent, began) = (vec![7; 1 << 20], 0_u64, Instant::now());
    while began.elapsed() < time {
        secure.send(&block)?;
        sent += block.len() as u64;
    }
    // An encrypted message without content is the end; the end of the stream alone proves nothing.
    let len = secure.state.write_message(&[], &mut secure.buffer)?;
    secure.framed.send(&secure.buffer[..len])?;
    let received = receiving.join().map_err(|_| "the receiver panicked")??;
    if received != sent {
        return Err(format!("{sent} bytes were sent, {received} received").into());
    }
    #[expect(clippy::cast_precision_loss, reason = "for people to read")]
    let gigabits = sent as f64 * 8.0 / 1e9 / began.elapsed().as_secs_f64();
    println!("both keys proved; {sent} bytes, {gigabits:.2} Gbit/s");
    drop(secure);
    for flock in [a, b] {
        flock.shutdown(PATIENCE);
    }
    Ok(())
}

/// Counts what the peer sends until it says that this was all.
fn receive(connection: Connection, key: &[u8], expected: &[u8]) -> Result<u64, Failure> {
    let mut secure = Secure::new(connection, key)?;
    if secure.peer() != expected {
        return Err("a stranger".into());
    }
    let mut bytes = 0;
    loop {
        match secure.recv()? {
            Some([]) => return Ok(bytes),
            Some(data) => bytes += data.len() as u64,
            None => return Err("cut off".into()),
        }
    }
}

fn engine() -> Result<Flock, Failure> {
    Ok(Flock::builder().shards(1).start()?)
}
