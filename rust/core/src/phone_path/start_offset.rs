//! The start offset: how much later than the quickest message the first audio began to be played.
//!
//! `start offset = baseline - least round trip` (see [`crate::phone_path`]). All audio after the first is early by as
//! much: the phone's side holds more than it needs. While the line jitters, that is a part of the jitter margin. Once
//! the line is steady, the part that was due to jitter at the start is useless delay, and is removed. The rest may be
//! the time that the player itself takes.

use crate::phone_path::jitter_margin::MOST_US;
use crate::phone_path::ping_rtt::VARY_US;

/// It is known to this accuracy only: echoes jitter as well.
const UNSURE_US: i64 = 3_000;
/// The jitter at the start is what round trips show within this time: at first there are only a few of them.
const BEGINNING_US: u64 = 4_000_000;

/// See the module.
#[derive(Debug)]
pub(super) enum StartOffset {
    Unknown,
    Known {
        since_us: u64,
        /// The part of the offset that is certain.
        us: i64,
        /// How much round trips varied at the start.
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

    /// How much more than needed the phone's side holds because of it.
    pub(super) fn slack_us(&self) -> i64 {
        match self {
            Self::Unknown => 0,
            Self::Known { us, .. } => *us,
        }
    }

    /// Whether the line jittered at the start.
    pub(super) fn is_jittery(&self) -> bool {
        matches!(self, Self::Known { jitter_us, .. } if *jitter_us >= VARY_US as i64)
    }

    /// The line is steady: takes out the part of the offset that was due to jitter, and returns it.
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
