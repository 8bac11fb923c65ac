//! Towards the phone: the agent's audio, as early as it can be heard without gaps.

pub(crate) mod announcement;
pub(crate) mod barge_in;
pub mod playout;
