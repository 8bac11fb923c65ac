//! By how much later than the quickest message the first audio began to be played.
//!
//! `start offset = baseline - least round trip` (see [`crate::phone_path`]). All that follows is early by as much: the phone's
//! side holds that much more than needed, which serves as jitter margin while the line jitters. When it has become steady, as
//! much of it as its jitter explains is delay for nothing, and is taken out. The rest may be the player's own time.

use crate::phone_path::jitter_margin::MOST_US;
use crate::phone_path::ping_rtt::VARY_US;

/// How exactly it is known: echoes jitter as well.
const UNSURE_US: i64 = 3_000;
/// The jitter in which playback began is what is seen of it in this time: there are not many round trips at first.
const BEGINNING_US: u64 = 4_000_000;

/// See the module.
#[derive(Debug)]
pub(super) enum StartOffset {
    Unknown,
    Known {
        since_us: u64,
        /// The offset, as far as it is certain.
        us: i64,
        /// How much round trips varied at the beginning.
        jitter_us: i64,
    },
}

impl StartOffset {
    /// The offset was found to be `offset_us`; round trips vary by `varied_us` now.
    pub(super) fn observe(&mut self, offset_us: i64, varied_us: i64, now_us: u64) {
        let (since_us, jitter_us) = match *self {
            Self::Unknown => (now_us, 0),
            Self::Known {
                since_us, jitter_us, ..
            } => (since_us, jitter_us),
        };
        *self = Self::Known {
            since_us,
            us: (offset_us - UNSURE_US).clamp(0, MOST_US),
            jitter_us: if now_us < since_us + BEGINNING_US {
                jitter_us.max(varied_us)
            } else {
                jitter_us
            },
        };
    }

    /// What the phone's side holds more than needed for it.
    pub(super) fn slack_us(&self) -> i64 {
        match self {
            Self::Unknown => 0,
            Self::Known { us, .. } => *us,
        }
    }

    /// Whether playback began in jitter.
    pub(super) fn is_jittery(&self) -> bool {
        matches!(self, Self::Known { jitter_us, .. } if *jitter_us >= VARY_US as i64)
    }

    /// The line is steady: takes as much of the offset as its first jitter explains, and returns it.
    pub(super) fn take_jitter(&mut self) -> Option<i64> {
        if !self.is_jittery() {
            return None;
        }
        let Self::Known { us, jitter_us, .. } = self else {
            return None;
        };
        let taken_us = (*us).min(std::mem::take(jitter_us));
        *us -= taken_us;
        (taken_us > 0).then_some(taken_us)
    }
}
