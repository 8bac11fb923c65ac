//! Counters as Python dicts, each under the name it has in core.

use pxbridge_core::codec::stream::StreamStats;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// Copies fields of a struct into a dict.
macro_rules! counters {
    ($dict:expr, $stats:expr, $($name:ident),+ $(,)?) => {{
        let (py, stats) = ($dict.py(), $stats);
        // Interned: a live call is asked every second.
        $($dict.set_item(pyo3::intern!(py, stringify!($name)), stats.$name)?;)+
    }};
}
pub(crate) use counters;

/// What a reader of Ogg Opus met.
pub fn stream(dict: &Bound<'_, PyDict>, stats: StreamStats) -> PyResult<()> {
    counters!(
        dict,
        stats.ogg,
        pages,
        streams,
        lost_pages,
        backward_pages,
        crc_errors,
        junk_bytes,
        broken_packets
    );
    counters!(
        dict,
        stats,
        headers,
        packets,
        samples,
        concealed_samples,
        malformed_packets,
        unsupported_packets,
        surplus_packets
    );
    Ok(())
}
