//! Towards the model: the caller's audio, on the wall clock.

pub(crate) mod engine_backlog;
pub mod intake;
pub(crate) mod stall_timeout;
