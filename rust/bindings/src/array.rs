//! numpy at the border: arrays in without a copy, arrays out that own Rust's memory.

use numpy::{
    PyArray1, PyArrayDescrMethods, PyArrayMethods, PyReadonlyArray1, PyReadwriteArray1, PyUntypedArray,
    PyUntypedArrayMethods,
};
use pxbridge_core::codec::pcm;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PySlice;

const EXPECTED: &str = "a contiguous 1-D numpy array of int16 or float32 samples";

/// Mono samples lent by Python: read where they lie.
pub enum Pcm<'py> {
    /// 16-bit samples.
    I16(PyReadonlyArray1<'py, i16>),
    /// Samples with full scale at ±1.0.
    F32(PyReadonlyArray1<'py, f32>),
}

/// Which sample type an array has, and so which one an answer to it has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// int16
    I16,
    /// float32
    F32,
}

impl<'py> Pcm<'py> {
    /// Borrows `object`, or says what was expected instead.
    pub fn borrow(object: &Bound<'py, PyAny>) -> PyResult<Self> {
        let array = untyped(object, "pcm")?;
        if is_dtype::<i16>(array) {
            let pcm = object.extract::<PyReadonlyArray1<'py, i16>>()?;
            Ok(Self::I16(pcm))
        } else {
            Ok(Self::F32(object.extract::<PyReadonlyArray1<'py, f32>>()?))
        }
    }

    /// The sample type.
    pub fn dtype(&self) -> Dtype {
        match self {
            Self::I16(_) => Dtype::I16,
            Self::F32(_) => Dtype::F32,
        }
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        match self {
            Self::I16(pcm) => pcm.len(),
            Self::F32(pcm) => pcm.len(),
        }
    }

    /// The samples as core wants them: float32 where it lies, int16 through `scratch`.
    pub fn samples<'a>(&'a self, scratch: &'a mut Vec<f32>) -> PyResult<&'a [f32]> {
        match self {
            Self::F32(pcm) => Ok(pcm.as_slice()?),
            Self::I16(pcm) => {
                scratch.clear();
                pcm::extend_f32(scratch, pcm.as_slice()?);
                Ok(scratch)
            }
        }
    }
}

/// An array lent by Python to be filled.
pub enum Out<'py> {
    /// 16-bit samples.
    I16(PyReadwriteArray1<'py, i16>),
    /// Samples with full scale at ±1.0.
    F32(PyReadwriteArray1<'py, f32>),
}

impl<'py> Out<'py> {
    /// Borrows `object` for writing, or says what was expected instead.
    pub fn borrow(object: &Bound<'py, PyAny>) -> PyResult<Self> {
        let array = untyped(object, "out")?;
        let borrowed = if is_dtype::<i16>(array) {
            object
                .cast::<PyArray1<i16>>()
                .map_err(PyErr::from)?
                .try_readwrite()
                .map(Self::I16)
        } else {
            object
                .cast::<PyArray1<f32>>()
                .map_err(PyErr::from)?
                .try_readwrite()
                .map(Self::F32)
        };
        borrowed.map_err(|problem| {
            PyValueError::new_err(format!(
                "out cannot be written ({problem}): pass an array of your own that is writeable"
            ))
        })
    }

    /// Room, in samples.
    pub fn len(&self) -> usize {
        match self {
            Self::I16(out) => out.len(),
            Self::F32(out) => out.len(),
        }
    }

    /// Refuses an array that is too small, before anything has happened.
    pub fn require(&self, samples: usize) -> PyResult<()> {
        if self.len() < samples {
            return Err(PyValueError::new_err(format!(
                "out has room for {} samples, this call may give {samples}: pass a larger array",
                self.len()
            )));
        }
        Ok(())
    }

    /// Writes `samples` to the front.
    pub fn fill(&mut self, samples: &[f32]) -> PyResult<()> {
        match self {
            Self::F32(out) => out.as_slice_mut()?[..samples.len()].copy_from_slice(samples),
            Self::I16(out) => {
                for (to, &from) in out.as_slice_mut()?.iter_mut().zip(samples) {
                    *to = pcm::to_i16(from);
                }
            }
        }
        Ok(())
    }
}

/// Hands to Python what `make` appends: in the front of `out` where one was given, else as a new array over the
/// very memory that `make` wrote to. `scratch` serves where the samples still have to become 16 bits.
pub fn give<'py>(
    py: Python<'py>,
    dtype: Dtype,
    out: Option<&Bound<'py, PyAny>>,
    scratch: &mut Vec<f32>,
    make: impl FnOnce(&mut Vec<f32>) -> PyResult<()>,
) -> PyResult<Bound<'py, PyAny>> {
    if let (None, Dtype::F32) = (out, dtype) {
        let mut samples = Vec::new();
        make(&mut samples)?;
        return Ok(PyArray1::from_vec(py, samples).into_any());
    }
    scratch.clear();
    make(scratch)?;
    let Some(object) = out else {
        let mut narrow = Vec::with_capacity(scratch.len());
        pcm::extend_i16(&mut narrow, scratch);
        return Ok(PyArray1::from_vec(py, narrow).into_any());
    };
    let mut array = Out::borrow(object)?;
    array.require(scratch.len())?;
    array.fill(scratch)?;
    drop(array);
    object.get_item(PySlice::new(py, 0, scratch.len() as isize, 1))
}

fn untyped<'a, 'py>(object: &'a Bound<'py, PyAny>, name: &str) -> PyResult<&'a Bound<'py, PyUntypedArray>> {
    let array = object.cast::<PyUntypedArray>().map_err(|_| {
        let kind = object
            .get_type()
            .name()
            .map_or_else(|_| "an object".to_owned(), |n| n.to_string());
        PyTypeError::new_err(format!("{name} must be {EXPECTED}, not {kind}"))
    })?;
    if !is_dtype::<i16>(array) && !is_dtype::<f32>(array) {
        return Err(PyTypeError::new_err(format!(
            "{name} must be {EXPECTED}, not of {}",
            array.dtype()
        )));
    }
    if array.ndim() != 1 {
        let shape: Vec<String> = array.shape().iter().map(ToString::to_string).collect();
        return Err(PyValueError::new_err(format!(
            "{name} must be {EXPECTED}, not of shape ({})",
            shape.join(", ")
        )));
    }
    if !array.is_c_contiguous() {
        return Err(PyValueError::new_err(format!(
            "{name} must be {EXPECTED}, not a strided view: pass numpy.ascontiguousarray({name})"
        )));
    }
    Ok(array)
}

fn is_dtype<T: numpy::Element>(array: &Bound<'_, PyUntypedArray>) -> bool {
    array.dtype().is_equiv_to(&numpy::dtype::<T>(array.py()))
}
