//! A vector that grows by pages.

use std::ops::{Index, IndexMut};

/// Places numbered from zero, in pages of [`PAGE`].
///
/// Growth neither moves nor doubles what is there: with many connections one big vector would
/// cost twice its memory, and a copy of everything, while it grows.
pub(crate) struct Pages<T> {
    pages: Vec<Vec<T>>,
    len: u32,
}

const PAGE: u32 = 256;

impl<T> Pages<T> {
    pub(crate) const fn new() -> Self {
        Self {
            pages: Vec::new(),
            len: 0,
        }
    }

    /// Places opened so far.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// Opens the next place and returns its number.
    ///
    /// # Panics
    /// With 2^32 - 1 places, a limit that callers stay below.
    pub(crate) fn push(&mut self, value: T) -> u32 {
        if self.len.is_multiple_of(PAGE) {
            self.pages.push(Vec::with_capacity(PAGE as usize));
        }
        let page = self.pages.last_mut().expect("opened when it was needed");
        page.push(value);
        let place = self.len;
        self.len = place.checked_add(1).expect("fewer places than 2^32");
        place
    }

    pub(crate) fn get(&self, place: u32) -> Option<&T> {
        self.pages
            .get((place / PAGE) as usize)?
            .get((place % PAGE) as usize)
    }

    pub(crate) fn get_mut(&mut self, place: u32) -> Option<&mut T> {
        self.pages
            .get_mut((place / PAGE) as usize)?
            .get_mut((place % PAGE) as usize)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..).zip(self.pages.iter().flatten())
    }

    /// Bytes of memory held, whatever the entries own besides.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        let entries: usize = self.pages.iter().map(Vec::capacity).sum();
        entries * size_of::<T>() + self.pages.capacity() * size_of::<Vec<T>>()
    }
}

impl<T> Index<u32> for Pages<T> {
    type Output = T;

    fn index(&self, place: u32) -> &T {
        self.get(place).expect("a place that was opened")
    }
}

impl<T> IndexMut<u32> for Pages<T> {
    fn index_mut(&mut self, place: u32) -> &mut T {
        self.get_mut(place).expect("a place that was opened")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_moves_nothing_and_wastes_less_than_a_page() {
        let mut pages = Pages::new();
        pages.push([0_u64; 4]);
        let at = std::ptr::from_ref(pages.get(0).unwrap());
        for n in 1..100_000 {
            assert_eq!(pages.push([n; 4]), u32::try_from(n).unwrap());
        }
        assert_eq!(at, std::ptr::from_ref(pages.get(0).unwrap()));
        let index = 2 * 24 * 100_000 / PAGE as usize;
        assert!(pages.bytes() <= 32 * (100_000 + PAGE as usize) + index);
        *pages.get_mut(99_999).unwrap() = [7; 4];
        assert_eq!(pages.get(99_999), Some(&[7; 4]));
        assert_eq!((pages.len(), pages.get(100_000)), (100_000, None));
        assert!(
            pages
                .iter()
                .take(99_999)
                .all(|(at, n)| n[0] == u64::from(at))
        );
    }
}
