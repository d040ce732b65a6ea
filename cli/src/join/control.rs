//! Commands of a controlling program, and what they do to connections.

use super::line::Line;
use super::output::Output;
use crate::args::{parse_channel, parse_hex};
use bytes::Bytes;
use flock_engine::{ChannelKey, Connection};
use serde::{Deserialize, Deserializer, de::Error as _};
use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// A line of commands may be this long, in bytes.
pub(super) const LINE_MAX: usize = 16 << 20;
/// Bytes of `send` commands that wait for one peer.
const WAITING_MAX: usize = 16 << 20;
/// `send`, `end` and `close` commands that wait for one peer.
const ORDERS_MAX: usize = 4096;
/// How long a `close` waits for what was sent before it.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// A command: one JSON object on a line.
#[derive(Debug, Deserialize)]
#[serde(tag = "cmd", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Command {
    Join {
        #[serde(deserialize_with = "channel")]
        channel: ChannelKey,
        #[serde(default = "yes")]
        announce: bool,
    },
    Leave {
        #[serde(deserialize_with = "channel")]
        channel: ChannelKey,
    },
    AddPeer(PeerAt),
    RemovePeer(PeerAt),
    Unban(PeerAt),
    Send {
        conn: u64,
        #[serde(deserialize_with = "bytes")]
        hex: Bytes,
    },
    Pause {
        conn: u64,
    },
    Resume {
        conn: u64,
    },
    End {
        conn: u64,
    },
    Close {
        conn: u64,
    },
    Stats {},
    Shutdown {},
}

/// A peer of a channel.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PeerAt {
    #[serde(deserialize_with = "channel")]
    pub(super) channel: ChannelKey,
    pub(super) host: String,
    pub(super) port: u16,
}

fn yes() -> bool {
    true
}

fn channel<'de, D: Deserializer<'de>>(from: D) -> Result<ChannelKey, D::Error> {
    parse_channel(&String::deserialize(from)?).map_err(D::Error::custom)
}

fn bytes<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
    let digits = String::deserialize(from)?;
    let bytes = parse_hex(&digits).ok_or_else(|| D::Error::custom("hex: pairs of hex digits"))?;
    Ok(bytes.into())
}

/// Something to be done in turn on a connection's sending side.
enum Order {
    Send(Bytes),
    End,
    Close,
}

/// The controlling end of a connection.
pub(super) struct Handle {
    connection: Rc<Connection>,
    orders: mpsc::Sender<Order>,
    waiting: Rc<Cell<usize>>,
    paused: watch::Sender<bool>,
}

/// The obeying end.
pub(super) struct Orders {
    orders: mpsc::Receiver<Order>,
    waiting: Rc<Cell<usize>>,
    pub(super) paused: watch::Receiver<bool>,
}

impl Handle {
    pub(super) fn new(connection: Rc<Connection>) -> (Self, Orders) {
        let (orders, to_do) = mpsc::channel(ORDERS_MAX);
        let (paused, is_paused) = watch::channel(false);
        let waiting = Rc::new(Cell::new(0));
        let handle = Self {
            connection,
            orders,
            waiting: waiting.clone(),
            paused,
        };
        let orders = Orders {
            orders: to_do,
            waiting,
            paused: is_paused,
        };
        (handle, orders)
    }

    /// Holds the peer back, or does no longer.
    pub(super) fn pause(&self, paused: bool) -> Result<(), String> {
        self.paused.send_replace(paused);
        Ok(())
    }

    /// Queues bytes. What does not fit is refused whole.
    pub(super) fn send(&self, bytes: Bytes) -> Result<(), String> {
        let waiting = self.waiting.get() + bytes.len();
        if waiting > WAITING_MAX {
            return Err(format!("more than {WAITING_MAX} bytes wait for the peer"));
        }
        self.order(Order::Send(bytes))?;
        self.waiting.set(waiting);
        Ok(())
    }

    /// Ends our direction after what was sent.
    pub(super) fn end(&self) -> Result<(), String> {
        self.order(Order::End)
    }

    /// Closes after what was sent; a peer that does not take it is not waited for much longer.
    pub(super) fn close(&self) -> Result<(), String> {
        self.order(Order::Close)?;
        let connection = Rc::downgrade(&self.connection);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(CLOSE_PATIENCE).await;
            if let Some(connection) = connection.upgrade() {
                connection.abort();
            }
        });
        Ok(())
    }

    fn order(&self, order: Order) -> Result<(), String> {
        match self.orders.try_send(order) {
            Err(mpsc::error::TrySendError::Full(_)) => {
                Err(format!("more than {ORDERS_MAX} commands wait for the peer"))
            }
            // Who is gone needs nothing any more.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        }
    }
}

impl Orders {
    /// Does what is ordered until nobody can order any more.
    pub(super) async fn carry_out(mut self, connection: &Connection, number: u64, output: &Output) {
        while let Some(order) = self.orders.recv().await {
            match order {
                Order::Send(bytes) => {
                    let length = bytes.len();
                    if send(connection, bytes).await {
                        output.put(Line::Writable { conn: number }).await;
                    }
                    self.waiting.set(self.waiting.get() - length);
                }
                Order::End => connection.end(),
                Order::Close => connection.close(),
            }
        }
    }
}

/// Hands `bytes` over, and tells whether that was held back for a while. A connection that ends
/// meanwhile is reported as such, not here.
async fn send(connection: &Connection, bytes: Bytes) -> bool {
    let mut sending = pin!(connection.send(bytes));
    let at_once = poll_fn(|cx| Poll::Ready(sending.as_mut().poll(cx).is_ready())).await;
    !at_once && sending.await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, String> {
        serde_json::from_str(line).map_err(|error| error.to_string())
    }

    #[test]
    fn commands_are_as_documented() {
        assert!(matches!(
            parse(r#"{"cmd":"join","channel":"news"}"#),
            Ok(Command::Join { announce: true, .. })
        ));
        let peer = r#"{"cmd":"add_peer","channel":"hex:00","host":"::1","port":9}"#;
        assert!(matches!(
            parse(peer),
            Ok(Command::AddPeer(PeerAt { port: 9, .. }))
        ));
        let send = r#"{"cmd":"send","conn":17,"hex":"6869"}"#;
        assert!(matches!(parse(send), Ok(Command::Send { conn: 17, hex }) if hex == "hi"));
        assert!(matches!(parse(r#"{"cmd":"stats"}"#), Ok(Command::Stats {})));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (line, says) in [
            ("", "EOF"),
            ("[]", ""),
            (r#"{"cmd":"dance"}"#, "unknown variant"),
            (r#"{"cmd":"send","conn":1}"#, "missing field"),
            (r#"{"cmd":"send","conn":1,"hex":"6"}"#, "hex"),
            (r#"{"cmd":"join","channel":""}"#, "a channel needs a name"),
            (r#"{"cmd":"pause","conn":1,"for":2}"#, "unknown field"),
            (
                r#"{"cmd":"add_peer","channel":"a","host":"h","port":70000}"#,
                "70000",
            ),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(says), "{line}: {error}");
        }
    }
}
