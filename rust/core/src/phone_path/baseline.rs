//! The baseline: how much later than planned a mark comes back where nothing was ever late.
//!
//! `baseline = start offset + forward delay + return delay` (see [`crate::phone_path`]). It is measured as the least
//! offset of the first few echoes. Three things can make that wrong, and each has a correction:
//! - The return path jittered during the measurement, so all of those echoes were late. The baseline is too high by
//!   up to that jitter ([`Excess`]). Correct it once the return path is steady.
//! - The first audio arrived late, so the phone holds that much more than the model says ([`LateStart`]). Pings or
//!   marks of silence show it. If later echoes contradict it, the correction is taken back.
//! - The path became longer or shorter, and stays so ([`PathRtt`]). Pings show it.

use crate::phone_path::{GRID_US, LARGE_US};

/// Number of echoes that calibrate the baseline.
const CALIBRATION_ECHOES: u32 = 5;
/// A late start is on trial for this long. By then the playout has shortened the backlog, and echoes have shown
/// whether the start was late.
const TRIAL_US: u64 = 6_000_000;
/// Round trips that are longer by less than this, or shorter by less than [`GRID_US`], belong to the same path.
const SAME_RTT_US: i64 = 10_000;

/// See the module.
#[derive(Debug)]
pub(super) enum Baseline {
    /// No echo yet.
    Unknown,
    /// The least offset of the first echoes, and the most return jitter meanwhile.
    Calibrating {
        us: i64,
        echoes: u32,
        return_jitter_us: i64,
    },
    Known(Known),
}

/// A calibrated baseline.
#[derive(Debug)]
pub(super) struct Known {
    us: i64,
    excess: Excess,
    late_start: LateStart,
    path: PathRtt,
}

/// How much too high the baseline may be, because the return path jittered during calibration.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Excess {
    None,
    UpTo(i64),
    /// The playback lengthened before the excess was known, and that was measured against the wrong baseline. Later
    /// differences correct that measurement, not the baseline.
    Masked,
}

/// How much was moved from the baseline to the length of the playback, because the first audio arrived late.
#[derive(Debug, Clone, Copy, PartialEq)]
enum LateStart {
    /// Nothing was moved, or no echo contradicted it for [`TRIAL_US`].
    Settled,
    OnTrial {
        us: i64,
        until_us: u64,
    },
}

/// The round trip that belongs to the baseline.
#[derive(Debug, Clone, Copy, PartialEq)]
enum PathRtt {
    Unknown,
    /// `added_us`: how much of the baseline is due to a path that has become longer since.
    Known {
        rtt_us: i64,
        added_us: i64,
    },
}

impl Baseline {
    /// The baseline as far as it is known.
    pub(super) fn us(&self) -> Option<i64> {
        match self {
            Self::Unknown => None,
            Self::Calibrating { us, .. } | Self::Known(Known { us, .. }) => Some(*us),
        }
    }

    pub(super) fn known(&mut self) -> Option<&mut Known> {
        match self {
            Self::Known(known) => Some(known),
            Self::Unknown | Self::Calibrating { .. } => None,
        }
    }

    /// An echo came with this offset. `silence_us`: what marks behind silence said, before the first words. Returns
    /// whether that completed the calibration.
    pub(super) fn observe(&mut self, offset_us: i64, silence_us: Option<i64>, return_jitter_us: i64) -> bool {
        let (us, echoes, return_jitter_us) = match self {
            Self::Unknown => (offset_us, 1, return_jitter_us),
            Self::Calibrating {
                us,
                echoes,
                return_jitter_us: before_us,
            } => (offset_us.min(*us), *echoes + 1, return_jitter_us.max(*before_us)),
            Self::Known(_) => return false,
        };
        let us = match silence_us {
            // A stall held up the first words.
            Some(silence_us) if us > silence_us + LARGE_US => silence_us,
            _ => us,
        };
        if echoes < CALIBRATION_ECHOES {
            *self = Self::Calibrating {
                us,
                echoes,
                return_jitter_us,
            };
            return false;
        }
        *self = Self::Known(Known {
            us,
            excess: match return_jitter_us {
                0 => Excess::None,
                up_to_us => Excess::UpTo(up_to_us),
            },
            late_start: LateStart::Settled,
            path: PathRtt::Unknown,
        });
        true
    }
}

impl Known {
    pub(super) fn us(&self) -> i64 {
        self.us
    }

    /// Whether nothing of it is left to be corrected for return jitter.
    pub(super) fn is_exact(&self) -> bool {
        self.excess == Excess::None
    }

    /// Whether a late start is on trial.
    pub(super) fn is_on_trial(&self, now_us: u64) -> bool {
        matches!(self.late_start, LateStart::OnTrial { until_us, .. } if now_us < until_us)
    }

    /// The first audio was later than was known, by `late_us`: the phone holds that much more.
    pub(super) fn started_late(&mut self, late_us: i64, now_us: u64) {
        self.us -= late_us;
        self.late_start = LateStart::OnTrial {
            us: self.on_trial_us(now_us) + late_us,
            until_us: now_us + TRIAL_US,
        };
    }

    /// The playback seems longer by `change_us`. Takes back up to that much of a late start that is on trial, and
    /// returns how much it took back.
    pub(super) fn take_back(&mut self, change_us: i64, now_us: u64) -> i64 {
        let back_us = change_us.clamp(0, self.on_trial_us(now_us));
        if let LateStart::OnTrial { us, .. } = &mut self.late_start {
            *us -= back_us;
        }
        self.us += back_us;
        back_us
    }

    /// The playback seems longer by `change_us`, over a return path that is steady. Corrects the baseline by its
    /// share of that, and returns the share.
    pub(super) fn correct(&mut self, change_us: i64, now_us: u64) -> i64 {
        let excess_us = match std::mem::replace(&mut self.excess, Excess::None) {
            Excess::UpTo(us) => us,
            // If in doubt leave it too high: that is a little delay. Too low would be an underrun.
            Excess::None | Excess::Masked => 0,
        };
        if change_us > 0 {
            return self.take_back(change_us, now_us);
        }
        let correction_us = change_us.max(-excess_us);
        self.us += correction_us;
        correction_us
    }

    /// A lengthening was measured while the return path jittered.
    pub(super) fn measured_in_jitter(&mut self) {
        if self.excess != Excess::None {
            self.excess = Excess::Masked;
        }
    }

    /// Round trips are steady at `rtt_us`. If the path has changed, returns the change of the baseline. Until now
    /// this change was taken for a change of the playback.
    pub(super) fn observe_steady_rtt(&mut self, rtt_us: i64) -> Option<i64> {
        let PathRtt::Known {
            rtt_us: before_us,
            added_us,
        } = self.path
        else {
            self.path = PathRtt::Known { rtt_us, added_us: 0 };
            return None;
        };
        let longer_us = rtt_us - before_us;
        if (-GRID_US..=SAME_RTT_US).contains(&longer_us) {
            return None;
        }
        // At first the path may have looked longer than it was. So the baseline falls at most to where it was before
        // the path became longer, or to the least that is possible.
        let fall_at_most_us = added_us.max(self.us - GRID_US - rtt_us);
        let longer_us = longer_us.max(-fall_at_most_us);
        self.us += longer_us;
        self.path = PathRtt::Known {
            rtt_us,
            added_us: (added_us + longer_us).max(0),
        };
        Some(longer_us)
    }

    fn on_trial_us(&self, now_us: u64) -> i64 {
        match self.late_start {
            LateStart::OnTrial { us, until_us } if now_us < until_us => us,
            LateStart::OnTrial { .. } | LateStart::Settled => 0,
        }
    }
}
