//! Signal processing on blocks of samples, and statistics of arrival times.

pub(crate) mod concealment;
pub(crate) mod drift;
pub mod noise;
pub(crate) mod relative_delay;
pub(crate) mod sync_buffer;
pub mod timescale;
pub(crate) mod vad;
pub(crate) mod windowed_range;
