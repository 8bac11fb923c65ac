//! WebSocket frames that are whole messages.

use pxbridge_core::websocket;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// The payload of `data` if it is exactly one frame: a message below 64 KiB, or a pong. Else None.
#[pyfunction]
#[pyo3(signature = (data, *, masked))]
pub fn lone_frame<'py>(py: Python<'py>, data: &[u8], masked: bool) -> PyResult<Option<Bound<'py, PyBytes>>> {
    let Some(payload) = websocket::lone(data, masked) else {
        return Ok(None);
    };
    match payload.key {
        None => Ok(Some(PyBytes::new(py, payload.bytes))),
        Some(key) => PyBytes::new_with(py, payload.bytes.len(), |to| {
            websocket::mask(to, payload.bytes, key);
            Ok(())
        })
        .map(Some),
    }
}

/// The bytes of one frame that is a whole message.
#[pyfunction]
#[pyo3(signature = (first_byte, payload, key = None))]
pub fn whole_frame<'py>(
    py: Python<'py>,
    first_byte: u8,
    payload: &[u8],
    key: Option<&[u8]>,
) -> PyResult<Bound<'py, PyBytes>> {
    let key = key.map(<[u8; 4]>::try_from).transpose();
    let key = key.map_err(|_| PyValueError::new_err("a key has four bytes"))?;
    PyBytes::new_with(py, websocket::size(payload.len(), key.is_some()), |to| {
        websocket::write(to, first_byte, payload, key);
        Ok(())
    })
}

/// The bytes of frames that are whole messages, one behind the other.
#[pyfunction]
pub fn unmasked_frames<'py>(
    py: Python<'py>,
    messages: Vec<(Bound<'py, PyBytes>, bool)>,
) -> PyResult<Bound<'py, PyBytes>> {
    let size = messages
        .iter()
        .map(|(payload, _)| websocket::size(payload.as_bytes().len(), false))
        .sum();
    PyBytes::new_with(py, size, |mut to| {
        for (payload, is_text) in &messages {
            let payload = payload.as_bytes();
            let (frame, rest) = to.split_at_mut(websocket::size(payload.len(), false));
            websocket::write(
                frame,
                if *is_text {
                    websocket::TEXT
                } else {
                    websocket::BINARY
                },
                payload,
                None,
            );
            to = rest;
        }
        Ok(())
    })
}
