//! The shard-local level: an echo on the engine's own threads, on borrowed bytes, that says goodbye to
//! peers which are silent, and passes on to all of them what is typed.
//!
//!     cargo run --release -p flock-engine --example handler -- PORT [SILENCE_SECONDS]
//!
//! It ends at the end of its input.

use bytes::Bytes;
use flock_engine::{
    CloseReason, ConnCx, ConnId, ConnectionInfo, Flock, Handler, JoinOptions, Queued, ShardCx,
};
use std::error::Error;
use std::io::BufRead;
use std::time::Duration;

struct Echo {
    /// How long a peer may say nothing.
    silence: Duration,
}

/// What is kept beside a connection.
#[derive(Default)]
struct Heard {
    bytes: u64,
    /// Something came since the timer was set.
    recently: bool,
}

impl Handler for Echo {
    type Conn = Heard;
    type Msg = Bytes;

    fn on_connection(&mut self, cx: &mut ConnCx<'_>, _: &ConnectionInfo) -> Heard {
        cx.set_timer(self.silence);
        Heard::default()
    }

    fn on_data(&mut self, cx: &mut ConnCx<'_>, heard: &mut Heard, data: &[u8]) {
        heard.bytes += data.len() as u64;
        heard.recently = true;
        match cx.send(Bytes::copy_from_slice(data)) {
            Ok(Queued::Ok) => {}
            // A peer that does not read what comes back is not listened to for a while.
            Ok(Queued::AboveHigh) => cx.pause(),
            Err(_) => cx.abort(),
        }
    }

    fn on_writable(&mut self, cx: &mut ConnCx<'_>, _: &mut Heard) {
        cx.resume();
    }

    /// A timer set anew with every byte would cost more than one that looks again.
    fn on_timer(&mut self, cx: &mut ConnCx<'_>, heard: &mut Heard) {
        if std::mem::take(&mut heard.recently) {
            cx.set_timer(self.silence);
        } else {
            cx.close();
        }
    }

    fn on_closed(&mut self, _: &mut ShardCx<'_>, id: ConnId, heard: Heard, reason: CloseReason) {
        println!("{id}: {} bytes, {reason}", heard.bytes);
    }

    /// One message a shard, whatever the number of its connections: they share the bytes.
    fn on_message(&mut self, cx: &mut ShardCx<'_>, text: Bytes) {
        let taken = cx.broadcast(&text);
        println!("shard {}: sent to {taken}", cx.shard());
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let port = args.next().map_or(Ok(0), |text| text.parse())?;
    let silence = args.next().map_or(Ok(60), |text| text.parse())?;
    let silence = Duration::from_secs(silence);
    let flock = Flock::builder().start_with(move |_shard| Echo { silence })?;
    println!("listening on {}", flock.listen(port)?);
    flock.join("echo", JoinOptions::default())?;
    for line in std::io::stdin().lock().lines() {
        let text = Bytes::from(line? + "\n");
        for shard in 0..flock.shards() {
            flock.send_message(shard, text.clone())?;
        }
    }
    flock.shutdown(Duration::from_secs(3));
    Ok(())
}
