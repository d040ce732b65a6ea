//! A ring of provided buffers.

use io_uring::{IoUring, types::BufRingEntry};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

/// The group all receives of a ring take their buffers from.
pub(super) const GROUP: u16 = 0;

/// Buffers the kernel receives into, and the ring that hands them to it.
///
/// Must outlive the operations of the ring it is registered with.
pub(super) struct Buffers {
    /// One mapping: the ring's entries, then the buffers.
    base: NonNull<u8>,
    mapped: usize,
    count: u16,
    size: usize,
    tail: u16,
}

impl Buffers {
    /// Maps `count` (a power of two) buffers of `size` bytes and registers them with `ring`.
    pub(super) fn register(ring: &IoUring, count: u16, size: usize) -> io::Result<Self> {
        let entries = usize::from(count) * size_of::<BufRingEntry>();
        let mapped = entries.next_multiple_of(4096) + usize::from(count) * size;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new anonymous mapping touches no memory of ours.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), mapped, protection, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let mut buffers = Self {
            base,
            mapped,
            count,
            size,
            tail: 0,
        };
        for id in 0..count {
            buffers.give_back(id);
        }
        let address = base.as_ptr() as u64;
        // SAFETY: the mapping is page-aligned, large enough, and outlives the ring's operations.
        unsafe {
            ring.submitter()
                .register_buf_ring_with_flags(address, count, GROUP, 0)?;
        }
        Ok(buffers)
    }

    fn start(&self, id: u16) -> *mut u8 {
        let entries = usize::from(self.count) * size_of::<BufRingEntry>();
        let offset = entries.next_multiple_of(4096) + usize::from(id) * self.size;
        assert!(
            id < self.count,
            "the kernel names only buffers it was given"
        );
        // SAFETY: the offset is within the mapping, as the assertion makes sure.
        unsafe { self.base.as_ptr().add(offset) }
    }

    /// The first `len` bytes of a buffer the kernel has filled and not been given back.
    pub(super) fn bytes(&self, id: u16, len: usize) -> &[u8] {
        let start = self.start(id);
        // SAFETY: the buffer is ours until it is given back, and `len` is at most its size.
        unsafe { std::slice::from_raw_parts(start, len.min(self.size)) }
    }

    /// Lends a buffer to the kernel again.
    pub(super) fn give_back(&mut self, id: u16) {
        let start = self.start(id) as u64;
        let index = usize::from(self.tail & (self.count - 1));
        let ring: *mut BufRingEntry = self.base.as_ptr().cast();
        // SAFETY: the index is below the count of entries.
        let entry = unsafe { ring.add(index) };
        // SAFETY: the kernel does not read entries beyond the published tail.
        let entry = unsafe { &mut *entry };
        entry.set_addr(start);
        entry.set_len(u32::try_from(self.size).unwrap_or(u32::MAX));
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: `ring` is the first entry of a buffer ring.
        let tail = unsafe { BufRingEntry::tail(ring) };
        // SAFETY: the tail is aligned, within the mapping, and otherwise only read by the kernel.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and the owner has ended what used it.
        let result = unsafe { libc::munmap(self.base.as_ptr().cast(), self.mapped) };
        assert_eq!(result, 0, "a mapping of ours can be unmapped");
    }
}
