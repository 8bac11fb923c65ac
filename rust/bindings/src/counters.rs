//! Counters as Python dicts, each under the name it has in core or its public name, where that is another.

use pxbridge_core::codec::stream::StreamStats;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// Copies fields of a struct into a dict; `field as "name"` where the public name is not the field's.
macro_rules! counters {
    (@name $field:ident) => { stringify!($field) };
    (@name $field:ident $name:literal) => { $name };
    ($dict:expr, $stats:expr, $($field:ident $(as $name:literal)?),+ $(,)?) => {{
        let (py, stats) = ($dict.py(), $stats);
        // Interned: a live call is asked every second.
        $($dict.set_item(pyo3::intern!(py, counters!(@name $field $($name)?)), stats.$field)?;)+
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
