//! The system's allocator, counting what the current thread asks of it.
#![expect(unsafe_code, reason = "an allocator is unsafe to implement")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static LIVE: Cell<i64> = const { Cell::new(0) };
}

/// How often this thread has allocated or grown memory.
pub(crate) fn allocations() -> u64 {
    ALLOCATIONS.get()
}

/// Bytes this thread has asked for less those it has given back.
pub(crate) fn live() -> i64 {
    LIVE.get()
}

fn count_live(freed: usize, gained: usize) {
    let (freed, gained) = (freed.cast_signed(), gained.cast_signed());
    LIVE.set(LIVE.get() + gained as i64 - freed as i64);
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is passed on to the system's allocator unchanged; counting in a cell without
// a destructor neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        count_live(0, layout.size());
        // SAFETY: the caller keeps the rules, which are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count_live(layout.size(), 0);
        // SAFETY: as above; the memory came from the system allocator.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        count_live(layout.size(), size);
        // SAFETY: as above; the memory came from the system allocator.
        unsafe { System.realloc(ptr, layout, size) }
    }
}
