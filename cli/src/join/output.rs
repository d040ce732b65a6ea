//! Lines to stdout or stderr, written by a thread of their own: who does not read must neither
//! stop signals from being heard nor make anything grow.

use super::line::Line;
use std::io::{self, BufWriter, Write};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::sync::oneshot;

/// Lines on their way to the writer; beyond that tasks wait, and in the end peers.
const LINES: usize = 1024;
/// How long a reader that does not read is waited for at the end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where lines go.
#[derive(Clone)]
pub(super) struct Output {
    lines: mpsc::Sender<Line>,
}

/// The thread that writes them.
pub(super) struct Writer {
    thread: JoinHandle<()>,
    /// Becomes ready when the thread has ended, on its own if nobody reads any more.
    ended: oneshot::Receiver<()>,
}

impl Output {
    /// JSON on stdout, or text on stderr.
    pub(super) fn start(json: bool) -> io::Result<(Self, Writer)> {
        let (lines, incoming) = mpsc::channel(LINES);
        let (tell, ended) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("output".to_owned())
            .spawn(move || {
                let _reader_is_gone = if json {
                    write_lines(incoming, BufWriter::new(io::stdout().lock()), to_json)
                } else {
                    write_lines(incoming, BufWriter::new(io::stderr().lock()), |line| {
                        line.text()
                    })
                };
                let _nobody_waits = tell.send(());
            })?;
        Ok((Self { lines }, Writer { thread, ended }))
    }

    /// Writes a line, once there is room; after the reader has gone nothing is written.
    pub(super) async fn put(&self, line: Line) {
        let _reader_is_gone = self.lines.send(line).await;
    }

    /// Waits until nobody reads any more.
    pub(super) async fn reader_gone(&self) {
        self.lines.closed().await;
    }
}

impl Writer {
    /// Waits until everything is written, all [`Output`]s being dropped.
    pub(super) async fn finish(self) {
        if tokio::time::timeout(PATIENCE, self.ended).await.is_ok() {
            let _panic_was_reported = self.thread.join();
        }
    }
}

fn to_json(line: &Line) -> Option<String> {
    serde_json::to_string(line).ok()
}

/// Writes as they come, and flushes when there is none to add.
fn write_lines(
    mut lines: mpsc::Receiver<Line>,
    mut to: impl Write,
    text: impl Fn(&Line) -> Option<String>,
) -> io::Result<()> {
    while let Some(line) = lines.blocking_recv() {
        let mut next = Some(line);
        while let Some(line) = next {
            if let Some(text) = text(&line) {
                writeln!(to, "{text}")?;
            }
            next = lines.try_recv().ok();
        }
        to.flush()?;
    }
    Ok(())
}
