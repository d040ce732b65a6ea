//! Stdin and stdout, as the wire's loop wants them.

use bytes::Bytes;
use flock_engine::io::Waker;
use rustix::stdio::dup2_stdout;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};

/// Bytes of stdin read at a time.
const BLOCK: usize = 64 * 1024;
/// Blocks read ahead, and written behind.
const AHEAD: usize = 4;

/// Stdin, read by a thread of its own, because nothing else can wait for a terminal, a pipe and a
/// file alike.
pub(super) struct Stdin {
    blocks: Option<Receiver<io::Result<Bytes>>>,
}

/// What stdin has to offer.
pub(super) enum Input {
    Block(Bytes),
    /// Nothing yet; the waker is used when there is.
    Later,
    End,
}

impl Stdin {
    /// Begins to read; `waker` is used after each block and at the end.
    pub(super) fn open(waker: Waker) -> io::Result<Self> {
        let (sender, blocks) = sync_channel(AHEAD);
        thread::Builder::new().name("stdin".into()).spawn(move || {
            let mut stdin = io::stdin().lock();
            loop {
                let mut block = vec![0; BLOCK];
                let result = match stdin.read(&mut block) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Ok(0) => break,
                    Ok(len) => {
                        block.truncate(len);
                        Ok(Bytes::from(block))
                    }
                    Err(error) => Err(error),
                };
                let failed = result.is_err();
                if sender.send(result).is_err() || failed {
                    break;
                }
                waker.wake();
            }
            drop(sender);
            waker.wake();
        })?;
        Ok(Self {
            blocks: Some(blocks),
        })
    }

    /// A stdin that never offers anything.
    pub(super) fn none() -> Self {
        Self { blocks: None }
    }

    /// The next block, without waiting. Errors are those of read(2) on stdin.
    pub(super) fn next(&mut self) -> io::Result<Input> {
        let Some(blocks) = &self.blocks else {
            return Ok(Input::Later);
        };
        match blocks.try_recv() {
            Ok(block) => Ok(Input::Block(block?)),
            Err(TryRecvError::Empty) => Ok(Input::Later),
            Err(TryRecvError::Disconnected) => {
                self.blocks = None;
                Ok(Input::End)
            }
        }
    }
}

/// Stdout, written by a thread of its own, so that a slow reader of it holds up its own direction
/// only.
pub(super) struct Stdout {
    blocks: Option<SyncSender<Bytes>>,
    /// What the thread has no room for yet.
    waiting: VecDeque<Bytes>,
    /// Nothing more comes.
    ended: bool,
    writer: Option<JoinHandle<io::Result<()>>>,
}

impl Stdout {
    /// Begins; `waker` is used when there is room again, and when writing fails.
    pub(super) fn open(waker: Waker) -> io::Result<Self> {
        let (sender, blocks) = sync_channel::<Bytes>(AHEAD);
        let writer = thread::Builder::new()
            .name("stdout".into())
            .spawn(move || {
                let mut stdout = io::stdout().lock();
                for block in blocks {
                    if let Err(error) = stdout.write_all(&block).and_then(|()| stdout.flush()) {
                        waker.wake();
                        return Err(error);
                    }
                    waker.wake();
                }
                // Whoever reads stdout sees its end now, not when the process ends.
                dup2_stdout(File::options().write(true).open("/dev/null")?)?;
                Ok(())
            })?;
        Ok(Self {
            blocks: Some(sender),
            waiting: VecDeque::new(),
            ended: false,
            writer: Some(writer),
        })
    }

    /// Queues `data`; to be held back by the caller while [`full`](Self::full).
    pub(super) fn write(&mut self, data: Bytes) {
        self.waiting.push_back(data);
    }

    /// Hands over what there is room for. False once writing has failed: [`end`](Self::end) says
    /// why.
    pub(super) fn push(&mut self) -> bool {
        let Some(blocks) = &self.blocks else {
            return true;
        };
        while let Some(block) = self.waiting.pop_front() {
            match blocks.try_send(block) {
                Ok(()) => {}
                Err(TrySendError::Full(block)) => {
                    self.waiting.push_front(block);
                    break;
                }
                Err(TrySendError::Disconnected(_)) => return false,
            }
        }
        if self.ended && self.waiting.is_empty() {
            self.blocks = None;
        }
        true
    }

    /// Closes stdout once all is written.
    pub(super) fn finish(&mut self) {
        self.ended = true;
    }

    /// Whether more waits than should.
    pub(super) fn full(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Writes the rest and waits until that is done. Errors are those of write(2) on stdout.
    pub(super) fn end(mut self) -> io::Result<()> {
        if let Some(blocks) = self.blocks.take() {
            for block in self.waiting.drain(..) {
                if blocks.send(block).is_err() {
                    break;
                }
            }
        }
        match self.writer.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) | None => Ok(()),
        }
    }
}
