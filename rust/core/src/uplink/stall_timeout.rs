//! How long the phone may be late before it counts as stalled: somewhat longer than it ever is.
//!
//! Two memories. What is late often is a spread, known from [`RelativeDelay`](crate::dsp::relative_delay::RelativeDelay) within a second
//! or two. What is late once in a while (a packet lost once, a radio that sleeps) is remembered here, from every
//! arrival: also from those that come when they were given up already, else the first of them would be taken for a
//! stall for ever. A real stall is longer than anything worth waiting for; it and the burst behind it teach nothing.

/// How much later than its usual worst the phone must be to be called stalled.
const MARGIN_US: i64 = 60_000;
/// Below this, the operating system's own hiccups would be stalls.
const LEAST_US: i64 = 70_000;
/// The wait before the line's lateness is known.
const FIRST_US: i64 = 140_000;
/// What is rarely late is waited for no longer: in a real stall, the agent's sound would have a hole of more than
/// 250 ms.
const MOST_FOR_RARE_US: i64 = 180_000;
/// What is often late is waited for up to this: the playout holds as much back by then, and so there is no hole.
const MOST_US: i64 = 310_000;
/// Later than this is a stall.
const STALL_US: i64 = 250_000;
/// What was late once is waited for so long after: a line that is late every few seconds is learnt, one that was late
/// once in a call is not held against it.
const REMEMBERED_US: u64 = 60_000_000;
/// A burst behind a stall is over when the phone has not come closer for so long.
const BURST_US: u64 = 1_000_000;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct StallTimeout {
    /// The latest arrival of late, and when it was.
    latest: Option<(i64, u64)>,
    /// How late the newest arrival of a burst is, and when it last came closer.
    burst: Option<(i64, u64)>,
}

impl StallTimeout {
    /// Audio arrived so much later than the earliest does.
    pub(crate) fn observe(&mut self, late_us: i64, now_us: u64) {
        match self.burst {
            Some((_, closer_us)) if late_us <= LEAST_US || now_us > closer_us + BURST_US => self.burst = None,
            Some((least_us, _)) => {
                if late_us < least_us {
                    self.burst = Some((late_us, now_us));
                }
                return;
            }
            None => {}
        }
        if late_us > STALL_US {
            self.burst = Some((late_us, now_us));
        } else if late_us >= self.latest_us(now_us) {
            self.latest = Some((late_us, now_us));
        }
    }

    /// How late the phone must be to be called stalled; `spread_us` is its usual worst, `None` while not known.
    pub(crate) fn timeout_us(&self, spread_us: Option<i64>, now_us: u64) -> i64 {
        let least_us = if spread_us.is_some() { LEAST_US } else { FIRST_US };
        let often_us = (spread_us.unwrap_or(0) + MARGIN_US).min(MOST_US);
        let rarely_us = (self.latest_us(now_us) + MARGIN_US).min(MOST_FOR_RARE_US);
        often_us.max(rarely_us).max(least_us)
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
    fn what_was_late_once_is_waited_for_the_next_time_but_not_for_ever() {
        let mut stall_timeout = StallTimeout::default();
        assert_eq!(stall_timeout.timeout_us(Some(0), 0), LEAST_US);
        stall_timeout.observe(100_000, 1_000_000);
        assert!(stall_timeout.timeout_us(Some(0), 20_000_000) > 100_000);
        assert_eq!(stall_timeout.timeout_us(Some(0), 62_000_000), LEAST_US);
    }

    #[test]
    fn a_stall_of_seconds_and_the_burst_behind_it_teach_nothing() {
        let mut stall_timeout = StallTimeout::default();
        for chunk in 0..=15 {
            stall_timeout.observe(1_500_000 - 100_000 * chunk, 10_000_000 + chunk as u64);
        }
        assert_eq!(stall_timeout.timeout_us(Some(0), 11_000_000), LEAST_US);
        stall_timeout.observe(100_000, 12_000_000);
        assert!(stall_timeout.timeout_us(Some(0), 12_000_000) > 100_000);
    }

    #[test]
    fn a_wait_makes_no_hole_longer_than_a_caller_accepts_unless_the_playout_holds_as_much() {
        let mut stall_timeout = StallTimeout::default();
        stall_timeout.observe(240_000, 0);
        assert_eq!(stall_timeout.timeout_us(Some(0), 0), MOST_FOR_RARE_US);
        assert_eq!(stall_timeout.timeout_us(Some(200_000), 0), 260_000);
    }
}
