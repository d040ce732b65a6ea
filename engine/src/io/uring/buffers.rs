use super::pages::Pages;
use crate::io::LoanId;
use std::io;
use std::sync::atomic::Ordering;

/// The group of buffers that streams are received into, and that of datagrams.
pub(super) const STREAMS: u16 = 0;
pub(super) const DATAGRAMS: u16 = 1;

/// An entry is `{ addr: u64, len: u32, bid: u16, resv: u16 }`; `resv` of the first one is the
/// tail of the ring (`struct io_uring_buf_ring`, io_uring_register(2)).
const ENTRY: usize = 16;
const LENGTH_AT: usize = 8;
const BUFFER_AT: usize = 12;
const TAIL_AT: usize = 14;

/// A loan is named by its group (1 bit), the low 16 bits of the epoch, so that using one of an
/// earlier turn is noticed, and its index (15 bits: there are at most 32,768 buffers).
const INDEX_BITS: u32 = 15;
const GROUP_AT: u32 = 31;
const EPOCH_MASK: u32 = (1 << (GROUP_AT - INDEX_BITS)) - 1;

/// How many bytes the buffers in the ring are meant to be filled with, all together: half of a
/// usual second-level cache. The kernel takes buffers in the order they were given back, so every
/// buffer of the ring is written before the first is written again; when they hold more than the
/// cache, each copy goes to memory and back.
const HOT_BYTES: usize = 512 * 1024;
/// Never fewer buffers than this are offered.
const OFFERED_MIN: usize = 16;

/// Receive buffers that the kernel picks from (`IORING_REGISTER_PBUF_RING`), and those of them
/// that are lent to the caller until the next turn.
///
/// Only some are in the ring at a time: many when messages are short, few when they fill their
/// buffers ([`HOT_BYTES`]). The others are in reserve.
pub(super) struct Buffers {
    group: u16,
    ring: Pages,
    memory: Pages,
    entries: u16,
    size: u32,
    tail: u16,
    published: u16,
    loans: Vec<Loan>,
    epoch: u32,
    /// In the ring, for the kernel to fill.
    offered: usize,
    /// Held back, the one last used on top.
    reserve: Vec<u16>,
    /// Moving mean of what a buffer was filled with, in bytes.
    fill: usize,
}

#[derive(Clone, Copy)]
struct Loan {
    buffer: u16,
    start: u32,
    length: u32,
}

impl Buffers {
    /// `entries` buffers of `size` bytes for `group`, all ready to be filled; `entries` is rounded
    /// up to a power of two.
    pub(super) fn new(group: u16, entries: u16, size: u32) -> io::Result<Self> {
        let entries = entries.clamp(1, 1 << INDEX_BITS).next_power_of_two();
        let size = size.max(1);
        let bytes = usize::from(entries)
            .checked_mul(size as usize)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        let mut buffers = Self {
            group,
            ring: Pages::new(usize::from(entries) * ENTRY)?,
            memory: Pages::new(bytes)?,
            entries,
            size,
            tail: 0,
            published: 0,
            loans: Vec::with_capacity(entries.into()),
            epoch: 0,
            offered: 0,
            reserve: (0..entries).rev().collect(),
            // As if messages were short, so that the first ones find every buffer.
            fill: HOT_BYTES / usize::from(entries),
        };
        buffers.offer();
        buffers.publish();
        Ok(buffers)
    }

    /// Where the ring is and how many entries it has, as the kernel wants them.
    pub(super) fn registration(&self) -> (u64, u16) {
        (self.ring.address(0), self.entries)
    }

    /// The group of the loan.
    pub(super) fn group(loan: LoanId) -> u16 {
        u16::from(loan.0 >> GROUP_AT != 0)
    }

    /// Lends `length` bytes from `start` of `buffer`, which the kernel has just filled.
    pub(super) fn lend(&mut self, buffer: u16, start: u32, length: u32) -> LoanId {
        assert!(buffer < self.entries, "the kernel names our buffers only");
        assert!(
            start + length <= self.size,
            "the kernel fills one buffer at most"
        );
        assert!(
            self.loans.len() < self.entries.into(),
            "a buffer lent twice"
        );
        let index = u32::try_from(self.loans.len()).expect("at most 32,768 buffers");
        self.offered -= 1;
        self.loans.push(Loan {
            buffer,
            start,
            length,
        });
        let group = u32::from(self.group) << GROUP_AT;
        LoanId(group | (self.epoch & EPOCH_MASK) << INDEX_BITS | index)
    }

    /// The lent bytes. Panics for a loan of an earlier turn.
    pub(super) fn bytes(&self, loan: LoanId) -> &[u8] {
        assert_eq!(
            loan.0 >> INDEX_BITS & EPOCH_MASK,
            self.epoch & EPOCH_MASK,
            "a loan ends with its turn"
        );
        let index = loan.0 & ((1 << INDEX_BITS) - 1);
        let loan = self.loans[index as usize];
        self.slice(loan.buffer, loan.start, loan.length)
    }

    /// The first `length` bytes of `buffer`, which the kernel has just filled and that is neither
    /// lent nor given back.
    pub(super) fn filled(&self, buffer: u16, length: u32) -> &[u8] {
        assert!(buffer < self.entries, "the kernel names our buffers only");
        self.slice(buffer, 0, length)
    }

    fn slice(&self, buffer: u16, start: u32, length: u32) -> &[u8] {
        let offset = usize::from(buffer) * self.size as usize + start as usize;
        // SAFETY: the kernel writes to a buffer only while its id is in the ring. One that it has
        // filled returns there in `give_back` or `recycle`, which need `&mut self`.
        unsafe { self.memory.bytes(offset, length as usize) }
    }

    /// Ends all loans; the kernel may fill buffers again. Returns how many more it was offered.
    pub(super) fn recycle(&mut self) -> usize {
        if self.loans.is_empty() {
            return 0;
        }
        let lent: usize = self.loans.iter().map(|loan| loan.length as usize).sum();
        self.fill = (self.fill * 7 + lent / self.loans.len()) / 8;
        while let Some(loan) = self.loans.pop() {
            self.reserve.push(loan.buffer);
        }
        self.epoch = self.epoch.wrapping_add(1);
        self.offer()
    }

    /// Takes back `buffer`, which the kernel returned without anything to lend.
    pub(super) fn give_back(&mut self, buffer: u16) {
        self.put(buffer);
    }

    /// Puts buffers of the reserve into the ring, as many as should be there.
    fn offer(&mut self) -> usize {
        let wanted = (HOT_BYTES / self.fill.max(1)).max(OFFERED_MIN);
        let room = wanted.saturating_sub(self.offered);
        let more = room.min(self.reserve.len());
        for _ in 0..more {
            if let Some(buffer) = self.reserve.pop() {
                self.put(buffer);
            }
        }
        self.offered += more;
        more
    }

    /// Writes an entry of the ring; the kernel sees it after [`publish`](Self::publish).
    fn put(&mut self, buffer: u16) {
        let slot = usize::from(self.tail & (self.entries - 1)) * ENTRY;
        let offset = usize::from(buffer) * self.size as usize;
        let address = self.memory.address(offset);
        // Field by field: the last two bytes of the first entry are the tail.
        self.ring.write(slot, address);
        self.ring.write(slot + LENGTH_AT, self.size);
        self.ring.write(slot + BUFFER_AT, buffer);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Tells the kernel about what was given back.
    pub(super) fn publish(&mut self) {
        if self.tail != self.published {
            let tail = self.ring.counter(TAIL_AT);
            tail.store(self.tail, Ordering::Release);
            self.published = self.tail;
        }
    }
}
