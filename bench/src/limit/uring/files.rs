//! A file through io_uring: the next part is read while the one before is sent.

use io_uring::{IoUring, opcode, squeue, types};
use std::fs::File;
use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

/// What the two operations of a step are told apart by.
const READ: u64 = 0;
const SEND: u64 = 1;

/// Sends the first `len` bytes of `file` in pieces of `piece`.
///
/// # Errors
/// Those of either; a file that is too short.
pub fn send(file: &File, len: u64, piece: usize, stream: &TcpStream) -> io::Result<()> {
    let mut ring: IoUring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(8)?;
    let (from, to) = (types::Fd(file.as_raw_fd()), types::Fd(stream.as_raw_fd()));
    let (mut full, mut next) = (vec![0; piece], vec![0; piece]);
    let mut filled = 0;
    let mut read = 0;
    loop {
        let want = super::length(piece.min(usize::try_from(len - read).unwrap_or(usize::MAX)));
        let reading = opcode::Read::new(from, next.as_mut_ptr(), want).offset(read);
        // The kernel goes on after a short send until all is taken (io_uring_prep_send(3)).
        let sending = opcode::Send::new(to, full.as_ptr(), super::length(filled))
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL);
        let mut entries: Vec<squeue::Entry> = Vec::with_capacity(2);
        if want > 0 {
            entries.push(reading.build().user_data(READ));
        }
        if filled > 0 {
            entries.push(sending.build().user_data(SEND));
        }
        if entries.is_empty() {
            return Ok(());
        }
        // SAFETY: both buffers and both descriptors live, untouched, until the two completions below.
        unsafe { ring.submission().push_multiple(&entries) }.map_err(io::Error::other)?;
        ring.submit_and_wait(entries.len())?;
        let sent = std::mem::take(&mut filled);
        for done in ring.completion() {
            let count = usize::try_from(done.result())
                .map_err(|_| io::Error::from_raw_os_error(-done.result()))?;
            match done.user_data() {
                READ if count == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                READ => filled = count,
                _ if count < sent => return Err(io::ErrorKind::WriteZero.into()),
                _ => {}
            }
        }
        read += filled as u64;
        std::mem::swap(&mut full, &mut next);
    }
}
