//! Extra delay that Exotel's side of the network asked for, and its slow release.
//!
//! What we send may be late on its way to Exotel, which cannot be seen from here: Exotel has a hole, and from then on
//! holds more, which the marks tell. Taking that out at once would make the same hole again; so it is kept for a
//! while and then given back a packet at a time, and each time that proves too early it is kept for twice as long.

/// Kept at first; short enough that jitter which is over costs no delay 10 s later.
const FIRST_HOLD_US: u64 = 6_000_000;
/// Kept at most: one hole a minute is what a caller may hear.
const LONGEST_HOLD_US: u64 = 60_000_000;
/// Given back in steps of one packet...
const STEP_US: i64 = 20_000;
/// ...so many in the time of a hold: the longer it was kept, the longer a step is watched for a hole.
const STEPS_IN_HOLD: u64 = 6;
/// The most that is kept; a queue longer by more is a stall's, and is taken out at once.
const MOST_US: i64 = 150_000;
/// Less than this is drift or noise.
const LEAST_US: i64 = 15_000;

/// See the module.
#[derive(Debug)]
pub(crate) struct Hold {
    extra_us: i64,
    /// The most that was needed lately.
    peak_us: i64,
    until_us: u64,
    hold_us: u64,
}

impl Hold {
    pub(crate) fn new() -> Self {
        Self {
            extra_us: 0,
            peak_us: 0,
            until_us: 0,
            hold_us: FIRST_HOLD_US,
        }
    }

    /// Exotel's queue proved longer than thought.
    pub(crate) fn proved_longer(&mut self, longer_us: i64, now_us: u64) {
        if !(LEAST_US..=MOST_US).contains(&longer_us) {
            return;
        }
        let released_too_early = self.until_us > 0 && now_us < self.until_us + 2 * self.hold_us;
        let needed_us = (self.extra_us(now_us) + longer_us).min(MOST_US);
        if released_too_early {
            self.hold_us = (2 * self.hold_us).min(LONGEST_HOLD_US);
            self.peak_us = self.peak_us.max(needed_us);
        } else {
            self.hold_us = FIRST_HOLD_US;
            self.peak_us = needed_us;
        }
        self.extra_us = self.peak_us;
        self.until_us = now_us + self.hold_us;
    }

    /// What is kept now.
    pub(crate) fn extra_us(&self, now_us: u64) -> i64 {
        let steps = match now_us.checked_sub(self.until_us) {
            Some(over_us) => 1 + (over_us / (self.hold_us / STEPS_IN_HOLD)) as i64,
            None => 0,
        };
        (self.extra_us - steps * STEP_US).max(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_proved_is_kept_for_a_while_and_given_back_in_steps() {
        let mut hold = Hold::new();
        hold.proved_longer(60_000, 1_000_000);
        assert_eq!(hold.extra_us(6_900_000), 60_000);
        assert_eq!(hold.extra_us(7_000_000), 40_000);
        assert_eq!(hold.extra_us(9_000_000), 0);
    }

    #[test]
    fn giving_back_too_early_makes_it_hold_twice_as_long() {
        let mut hold = Hold::new();
        hold.proved_longer(60_000, 0);
        hold.proved_longer(20_000, 7_000_000);
        assert!(hold.extra_us(18_000_000) > 0);
    }

    #[test]
    fn a_stall_is_not_kept() {
        let mut hold = Hold::new();
        hold.proved_longer(1_500_000, 0);
        assert_eq!(hold.extra_us(1), 0);
    }
}
