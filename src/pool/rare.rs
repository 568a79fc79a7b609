//! What most keys never get: a value that takes a pointer until it is first changed. Of ten thousand keys many are not
//! used for hours, and memory that nobody writes is neither taken nor waited for at the start.

use std::ops::{Deref, DerefMut};

/// A type with a value to begin with.
pub(super) trait Blank: Clone + 'static {
    const BLANK: &'static Self;
}

/// Reads as [`Blank::BLANK`] until it is changed.
#[derive(Debug)]
pub(super) struct Rare<T>(Option<Box<T>>);

impl<T: Blank> Rare<T> {
    pub(super) const fn new() -> Rare<T> {
        Rare(None)
    }

    /// The value, if it was ever changed.
    pub(super) fn changed(&mut self) -> Option<&mut T> {
        self.0.as_deref_mut()
    }
}

impl<T: Blank> Deref for Rare<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_deref().unwrap_or(T::BLANK)
    }
}

impl<T: Blank> DerefMut for Rare<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.get_or_insert_with(|| Box::new(T::BLANK.clone()))
    }
}
