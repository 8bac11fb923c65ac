//! `pxbridge._native`: thin classes over pxbridge-core, numpy in and out, nothing else.

use pyo3::prelude::*;

/// The extension module.
#[pymodule]
mod _native {
    use super::*;

    #[pymodule_init]
    fn init(m: &Bound<'_, PyModule>) -> PyResult<()> {
        m.add("__version__", env!("CARGO_PKG_VERSION"))?;
        m.add("OPTIMISED", !cfg!(debug_assertions))
    }
}
