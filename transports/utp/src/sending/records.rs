use crate::wire::Seq;
use flock_transport::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// Microseconds, modulo 2^32: good for telling times apart that are less than 35 minutes apart,
/// which the life of a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Micros(u32);

impl Micros {
    #[expect(clippy::cast_possible_truncation, reason = "modulo 2^32 is meant")]
    pub(super) const fn of(now: Instant) -> Self {
        Self((now.as_nanos() / 1_000) as u32)
    }

    /// The time since `earlier`; zero if that is later.
    pub(super) fn since(self, earlier: Self) -> Duration {
        let micros = self.0.wrapping_sub(earlier.0).cast_signed();
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    }

    pub(super) fn is_after(self, other: Self) -> bool {
        self.0.wrapping_sub(other.0).cast_signed() > 0
    }
}

/// Where a packet that was numbered stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// On its way, as far as is known.
    InFlight,
    /// Taken for lost: to be sent again.
    Lost,
    /// The peer has it, but not all before it.
    Sacked,
    /// The system refused it: as if never sent.
    Unsent,
}

/// One numbered packet, until everything up to it is acknowledged. Its size never changes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    pub(super) sent: Micros,
    /// The low half of its place in the stream.
    pub(super) place: u32,
    /// Payload bytes; 0 for the FIN.
    pub(super) size: u16,
    pub(super) fate: Fate,
    /// Whether it was sent more than once.
    pub(super) repeated: bool,
    /// A probe of the path's MTU, sent with DF.
    pub(super) probe: bool,
    pub(super) fin: bool,
}

/// The numbered packets from the oldest unacknowledged one on, with what they add up to.
#[derive(Debug)]
pub(super) struct Records {
    list: VecDeque<Record>,
    first: Seq,
    /// Payload bytes in flight.
    pub(super) in_flight: u64,
    /// Packets in flight, the FIN among them.
    pub(super) flying: u32,
    /// Packets to send again or for the first time that were numbered.
    pub(super) waiting: u32,
    pub(super) sacked: u32,
    /// No packet before this index waits.
    hint: usize,
}

impl Records {
    pub(super) fn new(first: Seq) -> Self {
        Self {
            list: VecDeque::new(),
            first,
            in_flight: 0,
            flying: 0,
            waiting: 0,
            sacked: 0,
            hint: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The oldest unacknowledged number; the next to be given when there is none.
    pub(super) fn first(&self) -> Seq {
        self.first
    }

    pub(super) fn seq(&self, index: usize) -> Seq {
        let offset = u16::try_from(index).unwrap_or(u16::MAX);
        Seq::new(self.first.get().wrapping_add(offset))
    }

    pub(super) fn index(&self, seq: Seq) -> Option<usize> {
        let index = usize::try_from(self.first.distance_to(seq)).ok()?;
        (index < self.list.len()).then_some(index)
    }

    pub(super) fn get(&self, index: usize) -> Record {
        self.list[index]
    }

    pub(super) fn push(&mut self, record: Record) {
        self.count(record, 1);
        self.list.push_back(record);
    }

    /// Changes a record and what they add up to with it.
    pub(super) fn change(&mut self, index: usize, change: impl FnOnce(&mut Record)) {
        let mut record = self.list[index];
        self.count(record, -1);
        change(&mut record);
        self.count(record, 1);
        self.list[index] = record;
        if matches!(record.fate, Fate::Lost | Fate::Unsent) {
            self.hint = self.hint.min(index);
        }
    }

    pub(super) fn pop(&mut self) -> Option<Record> {
        let record = self.list.pop_front()?;
        self.count(record, -1);
        self.first = self.first.next();
        self.hint = self.hint.saturating_sub(1);
        Some(record)
    }

    /// The first packet that waits to be sent again.
    pub(super) fn first_waiting(&self) -> Option<usize> {
        if self.waiting == 0 {
            return None;
        }
        let waits = |record: &Record| matches!(record.fate, Fate::Lost | Fate::Unsent);
        let from = self.hint.min(self.list.len());
        let found = self.list.range(from..).position(waits)?;
        Some(from + found)
    }

    /// The first packet that waited was sent.
    pub(super) fn first_was_sent(&mut self, index: usize) {
        self.hint = index + 1;
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (usize, &Record)> {
        self.list.iter().enumerate()
    }

    fn count(&mut self, record: Record, by: i32) {
        let one = |value: &mut u32| *value = value.wrapping_add_signed(by);
        match record.fate {
            Fate::InFlight => {
                one(&mut self.flying);
                let bytes = i64::from(record.size) * i64::from(by);
                self.in_flight = self.in_flight.wrapping_add_signed(bytes);
            }
            Fate::Lost | Fate::Unsent => one(&mut self.waiting),
            Fate::Sacked => one(&mut self.sacked),
        }
    }
}
