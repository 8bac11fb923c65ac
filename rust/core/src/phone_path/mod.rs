//! What the phone's side still has to play, and how sure we are.

pub(crate) mod jitter_margin;
pub(crate) mod ping_rtt;
pub(crate) mod remote_playback;
