use std::io;
use std::mem::size_of;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU16;

/// Zeroed, page-aligned memory of its own mapping: what the kernel writes into must neither move
/// nor share a page with anything the allocator hands out.
pub(super) struct Pages {
    base: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping belongs to this value alone and no thread-bound state hangs on it.
unsafe impl Send for Pages {}

impl Pages {
    /// At least `length` bytes; the kernel backs them when they are first touched.
    pub(super) fn new(length: usize) -> io::Result<Self> {
        let length = length.max(1);
        // SAFETY: a fresh anonymous mapping touches no existing memory.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).expect("no mapping starts at zero");
        Ok(Self { base, length })
    }

    /// The address of the byte at `offset`.
    pub(super) fn address(&self, offset: usize) -> u64 {
        assert!(offset < self.length, "inside the mapping");
        self.base.as_ptr().wrapping_add(offset).expose_provenance() as u64
    }

    /// Stores `value` at `offset`.
    pub(super) fn write<T: Copy>(&mut self, offset: usize, value: T) {
        assert!(offset.is_multiple_of(size_of::<T>()), "aligned");
        assert!(offset + size_of::<T>() <= self.length, "inside the mapping");
        let place = self.base.as_ptr().wrapping_add(offset).cast::<T>();
        // SAFETY: in bounds and aligned, checked above; nobody in this process reads meanwhile,
        // because `self` is borrowed mutably.
        unsafe { place.write_volatile(value) }
    }

    /// A counter that the kernel reads.
    pub(super) fn counter(&self, offset: usize) -> &AtomicU16 {
        assert!(offset.is_multiple_of(2), "aligned");
        assert!(offset + 2 <= self.length, "inside the mapping");
        let place = self.base.as_ptr().wrapping_add(offset).cast::<u16>();
        // SAFETY: in bounds and aligned, checked above; every access to these bytes while the
        // reference lives is atomic, and it lives no longer than the mapping.
        unsafe { AtomicU16::from_ptr(place) }
    }

    /// The bytes at `offset`.
    ///
    /// # Safety
    ///
    /// Nobody, the kernel included, writes to them while the slice lives.
    pub(super) unsafe fn bytes(&self, offset: usize, length: usize) -> &[u8] {
        assert!(
            length <= self.length && offset <= self.length - length,
            "inside the mapping"
        );
        let place = self.base.as_ptr().wrapping_add(offset);
        // SAFETY: in bounds, initialised (zeroed pages), and unchanged by the caller's promise.
        unsafe { std::slice::from_raw_parts(place, length) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `new`, unmapped once. Whoever drops it has made
        // sure that the kernel is done with it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.length) };
    }
}
