//! `pxbridge._native`: thin classes over pxbridge-core, numpy in and out, nothing else.

mod array;
mod audio;
mod bytes;
mod counters;
mod exclusive;
mod line;
mod websocket;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// An error of core means a wrong argument: a ValueError.
fn refuse(error: pxbridge_core::Error) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// A number that Python gave, which may be negative or larger than any that is allowed: a `ValueError` says so.
fn whole<T: TryFrom<i64>>(name: &str, value: i64) -> PyResult<T> {
    T::try_from(value).map_err(|_| PyValueError::new_err(format!("{name} is {value}: it is out of range")))
}

/// An Ogg stream's serial number: random, so that streams on one wire differ (RFC 3533 §4).
fn random_serial() -> u32 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    // The standard library's own randomly keyed hasher: unique, not secret, and no dependency.
    RandomState::new().build_hasher().finish() as u32
}

/// The extension module.
#[pymodule]
mod _native {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::audio::{OggOpusReader, OggOpusWriter, OpusDecoder, OpusEncoder, Resampler};

    #[pymodule_export]
    use crate::line::{AgentHeard, AllPlayed, EngineSilent, Line, LineOutput, OddPayloads, RateMismatch};

    #[pymodule_export]
    use crate::websocket::{lone_frame, unmasked_frames, whole_frame};

    #[pymodule_init]
    fn init(m: &Bound<'_, PyModule>) -> PyResult<()> {
        m.add("__version__", env!("CARGO_PKG_VERSION"))?;
        m.add("OPTIMISED", !cfg!(debug_assertions))
    }
}
