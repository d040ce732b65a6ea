//! Serves one blob to every peer that connects, without copying it: all connections share the
//! same bytes.
//!
//!     cargo run --release -p flock-engine --example seeder -- 3282 FILE
//!
//! Without arguments it serves 1 MiB of zeros on a free port. It ends at the end of its input.

use bytes::Bytes;
use flock_engine::{
    ConnCx, ConnectionInfo, Flock, FlockError, Handler, JoinOptions, Queued, SendRefused,
};
use std::io::Read;
use std::time::Duration;

/// Bytes of the blob queued at a time; the queue's marks decide how far ahead that runs.
const PIECE: usize = 256 * 1024;

struct Seeder {
    blob: Bytes,
}

/// How much of the blob a peer has been given.
struct Upload {
    next: usize,
}

impl Seeder {
    fn feed(&self, cx: &mut ConnCx<'_>, upload: &mut Upload) {
        while upload.next < self.blob.len() {
            let end = self.blob.len().min(upload.next + PIECE);
            match cx.send(self.blob.slice(upload.next..end)) {
                Ok(queued) => {
                    upload.next = end;
                    if queued == Queued::AboveHigh {
                        return;
                    }
                }
                // `on_writable` comes, or the connection is closing.
                Err(SendRefused::Full(_) | SendRefused::Closed(_)) => return,
            }
        }
        cx.end();
    }
}

impl Handler for Seeder {
    type Conn = Upload;
    type Msg = ();

    fn on_connection(&mut self, cx: &mut ConnCx<'_>, _: &ConnectionInfo) -> Upload {
        let mut upload = Upload { next: 0 };
        self.feed(cx, &mut upload);
        upload
    }

    fn on_data(&mut self, _: &mut ConnCx<'_>, _: &mut Upload, _: &[u8]) {}

    /// A peer that has nothing more to say gets the rest of the blob all the same.
    fn on_end(&mut self, _: &mut ConnCx<'_>, _: &mut Upload) {}

    fn on_writable(&mut self, cx: &mut ConnCx<'_>, upload: &mut Upload) {
        self.feed(cx, upload);
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let port = args.next().map_or(Ok(0), |text| text.parse())?;
    let blob = match args.next() {
        Some(file) => Bytes::from(std::fs::read(file)?),
        None => Bytes::from(vec![0; 1 << 20]),
    };
    let flock = serve(port, blob)?;
    println!(
        "serving on {}, driver: {:?}",
        flock.listening()[0],
        flock.backend()
    );
    std::io::stdin().read_to_end(&mut Vec::new())?;
    flock.shutdown(Duration::from_secs(3));
    Ok(())
}

fn serve(port: u16, blob: Bytes) -> Result<Flock<()>, FlockError> {
    let flock = Flock::builder().start_with(move |_shard| Seeder { blob: blob.clone() })?;
    flock.listen(port)?;
    flock.join("ubuntu-16.04", JoinOptions::default())?;
    Ok(flock)
}
