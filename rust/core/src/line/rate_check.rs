//! A check that the phone's samples come at the line's rate. If not, voices sound slow and deep, or fast and high.

use crate::line::Event;
use crate::rate::LineRate;

/// The rate is measured over this long.
const MEASURED_US: u64 = 2_000_000;
/// The same for a line that stalled during the measurement: long enough that no stall looks like another rate.
const MEASURED_AGAIN_US: u64 = 10_000_000;
/// Rates in use differ by a factor of at least 1.5. Chunks and jitter make a difference of far less than this.
const TOLERANCE: f64 = 0.25;

/// See the module.
#[derive(Debug)]
pub(super) enum RateCheck {
    /// Nothing has come yet.
    New,
    /// Samples are counted from `since_us`, when `received` had come, until `until_us`.
    Measuring {
        since_us: u64,
        until_us: u64,
        received: u64,
        again: bool,
    },
    Over,
}

impl RateCheck {
    /// The call starts.
    pub(super) fn start(&mut self, now_us: u64) {
        *self = Self::Measuring {
            since_us: now_us,
            until_us: now_us + MEASURED_US,
            received: 0,
            again: false,
        };
    }

    /// Audio came. Before it, `received` samples had come, and the phone had stalled `stalls` times. The first audio
    /// after the time is over makes the judgement, so no timer is needed.
    pub(super) fn observe(
        &mut self,
        received: u64,
        stalls: u64,
        rate: LineRate,
        now_us: u64,
    ) -> Option<Event> {
        let Self::Measuring {
            since_us,
            until_us,
            received: before,
            again,
        } = *self
        else {
            return None;
        };
        if now_us < until_us {
            return None;
        }
        *self = Self::Over;
        let claimed_hz = rate.hz();
        let measured_hz = (received - before) as f64 * 1e6 / (until_us - since_us) as f64;
        let apart = |rate: &LineRate| (f64::from(rate.hz()) - measured_hz).abs();
        let likely_hz = LineRate::ALL
            .into_iter()
            .min_by(|a, b| apart(a).total_cmp(&apart(b)))?
            .hz();
        let close = (measured_hz / f64::from(claimed_hz) - 1.0).abs() <= TOLERANCE;
        if measured_hz == 0.0 || likely_hz == claimed_hz || close {
            return None;
        }
        if stalls > 0 && !again {
            // Late audio does not mean another rate. But a line whose rate is too high looks stalled, too.
            let again_until_us = until_us + MEASURED_AGAIN_US;
            if now_us < again_until_us {
                *self = Self::Measuring {
                    since_us: until_us,
                    until_us: again_until_us,
                    received,
                    again: true,
                };
            }
            // Else nothing came in all that time, and there is nothing to measure.
            return None;
        }
        Some(Event::RateMismatch {
            claimed_hz,
            measured_hz: measured_hz.round() as u32,
            likely_hz,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: LineRate = LineRate::KHZ_16;
    const CHUNK_US: u64 = 100_000;

    /// Chunks of 100 ms at the line's true rate, but for those in the gap, which are lost or come together at its end.
    fn judged(true_hz: u64, gap_us: std::ops::Range<u64>, burst: bool) -> Option<Event> {
        let mut check = RateCheck::New;
        check.start(0);
        let chunk = true_hz / 10;
        let (mut received, mut late, mut stalls, mut event) = (0, 0, 0, None);
        for number in 1..300 {
            let now_us = number * CHUNK_US;
            if gap_us.contains(&now_us) {
                late += u64::from(burst);
                stalls = 1;
                continue;
            }
            for _ in 0..=std::mem::take(&mut late) {
                event = event.or(check.observe(received, stalls, RATE, now_us));
                received += chunk;
            }
        }
        event
    }

    #[test]
    fn a_line_that_says_16_khz_and_sends_8_is_told() {
        let event = judged(8_000, 0..0, false);
        assert!(
            matches!(event, Some(Event::RateMismatch { likely_hz: 8_000, .. })),
            "{event:?}"
        );
    }

    #[test]
    fn a_stall_of_any_length_is_no_other_rate() {
        for end_s in [3, 5, 12, 13, 20] {
            let event = judged(16_000, CHUNK_US * 8..end_s * 1_000_000, true);
            assert_eq!(event, None, "a stall until {end_s} s");
        }
    }

    #[test]
    fn a_phone_that_was_silent_for_the_whole_time_is_not_judged() {
        for end_s in [12, 13, 20] {
            let event = judged(16_000, CHUNK_US * 8..end_s * 1_000_000, false);
            assert_eq!(event, None, "nothing until {end_s} s");
        }
    }
}
