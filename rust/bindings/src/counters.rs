//! Counters as Python dicts, each under the name it has in core or its public name, where that is another.

use pxbridge_core::codec::stream::StreamStats;
use pxbridge_core::downlink::playout::PlayoutStats;
use pxbridge_core::line::MediaStats;
use pxbridge_core::uplink::intake::IntakeStats;
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
/// Counters of a reader of Ogg Opus.
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
        broken_packets,
        other_pages
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

/// Counters of the direction from the phone to the engine.
pub fn uplink(dict: &Bound<'_, PyDict>, media: MediaStats, intake: IntakeStats) -> PyResult<()> {
    counters!(dict, media, messages, malformed, other_track);
    counters!(
        dict,
        intake,
        received,
        emitted,
        buffered,
        dropped,
        withheld,
        holds,
        slow,
        gated,
        inserted,
        removed_in_pauses,
        removed_in_speech,
        cut,
        stalls,
        longest_stall_us,
        relative_delay_us as "lateness_us",
        wait_us,
        delay_us,
        chunk_us,
        drift_ppm
    );
    Ok(())
}

/// Counters of the playout towards the phone.
pub fn playout(dict: &Bound<'_, PyDict>, playout: PlayoutStats) -> PyResult<()> {
    counters!(
        dict,
        playout,
        received,
        sent,
        buffered,
        padded,
        stretched,
        concealed,
        noise,
        removed_in_pauses,
        removed_in_speech,
        cut,
        flushed,
        flushes,
        holes,
        longest_hole_us,
        target_us,
        relative_delay_us as "lateness_us",
        queued_us,
        remote_us as "exotel_us"
    );
    Ok(())
}
