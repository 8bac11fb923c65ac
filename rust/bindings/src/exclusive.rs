//! State that only one thread may touch at a time, and that Python keeps that way.

use std::sync::{Mutex, PoisonError};

/// A value that is `Send` but not `Sync`, inside a class that must be both.
///
/// PyO3 lends a `#[pyclass]` mutably to one call at a time, so the lock is never taken: `&mut self` proves
/// that nobody else holds it.
pub struct Exclusive<T>(Mutex<T>);

impl<T> Exclusive<T> {
    pub fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    pub fn get(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}
