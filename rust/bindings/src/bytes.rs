//! Bytes at the border: `bytes` are read where they lie.

use std::ops::Deref;

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

/// Bytes lent by Python.
pub enum Bytes<'a> {
    /// A `bytes` object, which cannot change.
    Lent(&'a [u8]),
    /// A copy of another buffer (`bytearray`, `memoryview`), which Python could change meanwhile.
    Copied(Vec<u8>),
}

impl Deref for Bytes<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Lent(bytes) => bytes,
            Self::Copied(bytes) => bytes,
        }
    }
}

impl<'a, 'py> FromPyObject<'a, 'py> for Bytes<'a> {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(bytes) = object.extract::<&'a [u8]>() {
            return Ok(Self::Lent(bytes));
        }
        let copy = PyBuffer::<u8>::get(&object).and_then(|buffer| buffer.to_vec(object.py()));
        copy.map(Self::Copied).map_err(|_| {
            let kind = object
                .get_type()
                .name()
                .map_or_else(|_| "an object".to_owned(), |name| name.to_string());
            PyTypeError::new_err(format!(
                "expected bytes, a bytearray or a memoryview of bytes, not {kind}"
            ))
        })
    }
}
