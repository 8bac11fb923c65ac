//! The rate of a line, and the few durations that everything on it is counted in.

use crate::error::{Error, Result};

/// One step of the model (12.5 Hz).
pub const FRAME_MS: u32 = 80;
/// The same in microseconds.
pub const FRAME_US: i64 = FRAME_MS as i64 * 1000;
/// A telephone's packet, and one Opus frame towards the engine. Carriers play whole packets, and four make a frame.
pub const PACKET_MS: u32 = 20;
/// The same in microseconds.
pub(crate) const PACKET_US: i64 = PACKET_MS as i64 * 1000;
/// The length of a backlog that is allowed falls to nothing in this time: 3 s after a stall the call is as it was.
pub const CATCH_UP_US: u64 = 2_300_000;

const US_PER_S: u64 = 1_000_000;

/// The number of samples of a line per second: 8000, 16000 or 24000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineRate(u32);

impl LineRate {
    /// 8000 samples per second: a telephone's.
    pub const KHZ_8: Self = Self(8_000);
    /// 16000 samples per second.
    pub const KHZ_16: Self = Self(16_000);
    /// 24000 samples per second: the engine's.
    pub const KHZ_24: Self = Self(24_000);
    /// All rates that a line may have.
    pub const ALL: [Self; 3] = [Self::KHZ_8, Self::KHZ_16, Self::KHZ_24];

    /// The rate of `rate_hz` samples per second.
    ///
    /// # Errors
    /// [`Error::Rate`] unless it is 8000, 16000 or 24000.
    pub fn new(rate_hz: u32) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|rate| rate.0 == rate_hz);
        known.ok_or(Error::Rate {
            rate_hz,
            expected: "8000, 16000 or 24000",
        })
    }

    /// In hertz.
    #[must_use]
    pub fn hz(self) -> u32 {
        self.0
    }

    /// The number of samples in `ms` milliseconds.
    #[must_use]
    pub fn samples(self, ms: u32) -> usize {
        (self.0 / 1000 * ms) as usize
    }

    /// The number of whole samples in `us` microseconds; zero for a negative time.
    #[must_use]
    pub fn samples_in_us(self, us: i64) -> usize {
        (us.max(0) as u64 * u64::from(self.0) / US_PER_S) as usize
    }

    /// The duration of `samples` in microseconds, rounded down.
    #[must_use]
    pub fn us(self, samples: usize) -> i64 {
        (samples as u64 * US_PER_S / u64::from(self.0)) as i64
    }

    /// The duration of `samples` in microseconds, rounded up: then the last one is over.
    #[must_use]
    pub fn us_until_over(self, samples: usize) -> u64 {
        (samples as u64 * US_PER_S).div_ceil(u64::from(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_that_no_line_has_is_refused() {
        assert!(LineRate::new(44_100).is_err_and(|error| error.to_string().contains("44100")));
    }

    #[test]
    fn milliseconds_microseconds_and_samples_agree() {
        for rate in LineRate::ALL {
            let frame = rate.samples(FRAME_MS);
            assert_eq!(rate.us(frame), FRAME_US);
            assert_eq!(rate.samples_in_us(FRAME_US), frame);
            assert_eq!(rate.us_until_over(frame) as i64, FRAME_US);
            assert_eq!(rate.samples_in_us(-1), 0);
            assert_eq!(rate.samples_in_us(rate.us_until_over(7) as i64), 7);
        }
    }
}
