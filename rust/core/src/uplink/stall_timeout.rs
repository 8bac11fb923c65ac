//! How late the phone may be before it counts as stalled: somewhat later than it ever is.
//!
//! There are two memories. Frequent lateness is a relative delay, which
//! [`RelativeDelay`](crate::dsp::relative_delay::RelativeDelay) knows within a second or two. Occasional lateness
//! (one lost packet, a radio that sleeps) is remembered here. Arrivals that come after the phone was already called
//! stalled count, too: otherwise each of them would be called a stall again. A real stall is longer than anything
//! worth waiting for, so it is not remembered.

/// The phone is called stalled when it is later than usual by this.
const MARGIN_US: i64 = 60_000;
/// The shortest timeout: less would call hiccups of the operating system stalls.
const LEAST_US: i64 = 70_000;
/// The shortest timeout before the line's relative delay is known.
const FIRST_US: i64 = 140_000;
/// The longest timeout for occasional lateness: with more, a real stall would leave a gap of over 250 ms in the
/// agent's audio.
const MOST_OCCASIONAL_US: i64 = 180_000;
/// The longest timeout for frequent lateness: the playout has as much delay by then, so there is no gap.
const MOST_FREQUENT_US: i64 = 310_000;
/// Later than this is a real stall.
const STALL_US: i64 = 250_000;
/// Occasional lateness is remembered for this long: long enough for a line that is late every few seconds, short
/// enough to forget one that was late once in a call.
const REMEMBERED_US: u64 = 60_000_000;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct StallTimeout {
    /// The latest arrival that is remembered: how late it was, and when.
    latest: Option<(i64, u64)>,
}

impl StallTimeout {
    /// Audio was later than the earliest by `late_us`.
    pub(crate) fn observe(&mut self, late_us: i64, now_us: u64) {
        if late_us <= STALL_US && late_us >= self.latest_us(now_us) {
            self.latest = Some((late_us, now_us));
        }
    }

    /// How late the phone may be. `relative_delay_us`: how late it is frequently; `None` while that is not known.
    pub(crate) fn timeout_us(&self, relative_delay_us: Option<i64>, now_us: u64) -> i64 {
        let least_us = if relative_delay_us.is_some() {
            LEAST_US
        } else {
            FIRST_US
        };
        let frequent_us = (relative_delay_us.unwrap_or(0) + MARGIN_US).min(MOST_FREQUENT_US);
        let occasional_us = (self.latest_us(now_us) + MARGIN_US).min(MOST_OCCASIONAL_US);
        frequent_us.max(occasional_us).max(least_us)
    }

    fn latest_us(&self, now_us: u64) -> i64 {
        self.latest
            .filter(|(_, at_us)| now_us < at_us + REMEMBERED_US)
            .map_or(0, |(late_us, _)| late_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_phone_is_waited_for_the_next_time_but_not_for_ever() {
        let mut stall_timeout = StallTimeout::default();
        assert_eq!(stall_timeout.timeout_us(Some(0), 0), LEAST_US);
        stall_timeout.observe(100_000, 1_000_000);
        assert!(stall_timeout.timeout_us(Some(0), 20_000_000) > 100_000);
        assert_eq!(stall_timeout.timeout_us(Some(0), 62_000_000), LEAST_US);
    }

    #[test]
    fn a_stall_of_seconds_is_not_remembered() {
        let mut stall_timeout = StallTimeout::default();
        stall_timeout.observe(1_500_000, 10_000_000);
        assert_eq!(stall_timeout.timeout_us(Some(0), 11_000_000), LEAST_US);
        stall_timeout.observe(100_000, 12_000_000);
        assert!(stall_timeout.timeout_us(Some(0), 12_000_000) > 100_000);
    }

    #[test]
    fn the_timeout_makes_no_gap_longer_than_a_caller_accepts_unless_the_playout_delays_as_much() {
        let mut stall_timeout = StallTimeout::default();
        stall_timeout.observe(240_000, 0);
        assert_eq!(stall_timeout.timeout_us(Some(0), 0), MOST_OCCASIONAL_US);
        assert_eq!(stall_timeout.timeout_us(Some(200_000), 0), 260_000);
    }
}
