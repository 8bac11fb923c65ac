//! Extra delay that Exotel's side of the network asked for, and its release.
//!
//! What we send may be late on its way to Exotel, which marks cannot show before it is too late: Exotel has a hole, and
//! from then on holds more, which the marks tell. Taking that out at once would make the same hole again. So it is kept,
//! and the line is watched by pings: while their round trips vary, it stays; when they agree again, it goes at once.
//! A line whose pings tell nothing (a proxy answers them, nobody does) is probed: a packet is given back at a time, and
//! each time that proves too early it is kept for twice as long.

use std::collections::VecDeque;

/// Kept at first; short enough that jitter which is over costs no delay 10 s later.
const FIRST_HOLD_US: u64 = 6_000_000;
/// Kept at most: one hole a minute is what a caller may hear.
const LONGEST_HOLD_US: u64 = 60_000_000;
/// For whoever wants the smallest delay, at first and at most.
const SHORT_HOLD_US: u64 = 600_000;
/// Given back in steps of one packet...
const STEP_US: i64 = 20_000;
/// ...so many in the time of a hold: the longer it was kept, the longer a step is watched for a hole.
const STEPS_IN_HOLD: u64 = 6;
/// The most that is kept; a queue longer by more is a stall's, and is taken out at once.
const MOST_US: i64 = 150_000;
/// Less than this is drift or noise.
const LEAST_US: i64 = 15_000;
/// Unless pings have shown that the line jitters.
const LEAST_WHILE_VARIED_US: i64 = 1_000;

/// While something is kept, a ping is sent this often.
const PING_EVERY_US: u64 = 400_000;
/// Round trips are compared over this long: with ten of them in it, jitter of 80 ms looks steady once in an hour.
const TRIPS_US: u64 = 4_000_000;
/// The fewest that say that a line is steady.
const TRIPS_ENOUGH: usize = 8;
const TRIPS_KEPT: usize = (TRIPS_US / PING_EVERY_US) as usize + 2;
/// Trips that differ by this much vary: a packet's length, as less costs less than one.
const VARY_US: u64 = 20_000;
/// What trips that vary say holds until the next few have come back.
const VARIED_FOR_US: u64 = 1_000_000;

/// See the module.
#[derive(Debug)]
pub(crate) struct Hold {
    extra_us: i64,
    /// The most that was needed lately.
    peak_us: i64,
    until_us: u64,
    hold_us: u64,
    first_hold_us: u64,
    longest_hold_us: u64,
    ping_due_us: u64,
    /// When each newest ping came back, and how long it took.
    trips: VecDeque<(u64, u64)>,
    /// Whether they showed what was proved last.
    varied: bool,
}

impl Hold {
    /// What is late about once in a second is waited for, or is not: then all is given back soon.
    pub(crate) fn new(waits_for_rare: bool) -> Self {
        let (first_hold_us, longest_hold_us) = if waits_for_rare {
            (FIRST_HOLD_US, LONGEST_HOLD_US)
        } else {
            (SHORT_HOLD_US, SHORT_HOLD_US)
        };
        Self {
            first_hold_us,
            longest_hold_us,
            extra_us: 0,
            peak_us: 0,
            until_us: 0,
            hold_us: first_hold_us,
            ping_due_us: 0,
            trips: VecDeque::with_capacity(TRIPS_KEPT),
            varied: false,
        }
    }

    /// Exotel's queue proved longer than thought.
    pub(crate) fn proved_longer(&mut self, longer_us: i64, now_us: u64) {
        let least_us = if self.varied {
            LEAST_WHILE_VARIED_US
        } else {
            LEAST_US
        };
        if !(least_us..=MOST_US).contains(&longer_us) {
            return;
        }
        let released_too_early = self.until_us > 0 && now_us < self.until_us + 2 * self.hold_us;
        let needed_us = (self.extra_us(now_us) + longer_us).min(MOST_US);
        if released_too_early {
            self.hold_us = (2 * self.hold_us).min(self.longest_hold_us);
            self.peak_us = self.peak_us.max(needed_us);
        } else {
            self.hold_us = self.first_hold_us;
            self.peak_us = needed_us;
        }
        self.extra_us = self.peak_us;
        self.varied &= released_too_early;
        self.until_us = now_us + self.hold_us;
    }

    /// Whether a ping shall be sent now.
    pub(crate) fn take_ping(&mut self, now_us: u64) -> bool {
        let due = now_us >= self.ping_due_us && self.extra_us(now_us) > 0;
        if due {
            self.ping_due_us = now_us + PING_EVERY_US;
        }
        due
    }

    /// A ping came back; of its trip the phone's way to us takes up to `return_us` longer at times.
    pub(crate) fn round_trip(&mut self, trip_us: u64, return_us: u64, now_us: u64) {
        if self.trips.len() == TRIPS_KEPT {
            self.trips.pop_front();
        }
        self.trips.push_back((now_us, trip_us));
        let recent = self.trips.iter().filter(|(at_us, _)| at_us + TRIPS_US >= now_us);
        let (mut least_us, mut most_us, mut trips) = (u64::MAX, 0, 0);
        for &(_, trip_us) in recent {
            (least_us, most_us, trips) = (least_us.min(trip_us), most_us.max(trip_us), trips + 1);
        }
        if self.extra_us(now_us) == 0 {
            return;
        }
        if most_us - least_us >= VARY_US {
            // The line is seen to be bad, so nothing has to be found out by trying.
            self.varied = true;
            self.hold_us = self.first_hold_us;
            self.until_us = self.until_us.max(now_us + VARIED_FOR_US);
            if trips >= TRIPS_ENOUGH {
                let needed_us = (most_us - least_us).saturating_sub(return_us) as i64;
                self.peak_us = self.peak_us.max(needed_us.min(MOST_US));
                self.extra_us = self.peak_us;
            }
        } else if self.varied && trips >= TRIPS_ENOUGH && now_us >= self.until_us {
            self.extra_us = 0;
        }
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
        let mut hold = Hold::new(true);
        hold.proved_longer(60_000, 1_000_000);
        assert_eq!(hold.extra_us(6_900_000), 60_000);
        assert_eq!(hold.extra_us(7_000_000), 40_000);
        assert_eq!(hold.extra_us(9_000_000), 0);
    }

    #[test]
    fn giving_back_too_early_makes_it_hold_twice_as_long() {
        let mut hold = Hold::new(true);
        hold.proved_longer(60_000, 0);
        hold.proved_longer(20_000, 7_000_000);
        assert!(hold.extra_us(18_000_000) > 0);
    }

    /// Sends pings as it is asked to and answers them after `trip_us`; returns when nothing was kept any more.
    fn released_us(hold: &mut Hold, from_us: u64, trip_us: impl Fn(u64) -> u64) -> u64 {
        let mut now_us = from_us;
        while hold.extra_us(now_us) > 0 {
            if hold.take_ping(now_us) {
                hold.round_trip(trip_us(now_us), 0, now_us);
            }
            now_us += 80_000;
        }
        now_us
    }

    #[test]
    fn while_pings_vary_it_is_kept_and_soon_after_they_agree_it_is_gone() {
        let mut hold = Hold::new(true);
        hold.proved_longer(80_000, 1_000_000);
        let jitter = |now_us: u64| {
            30_000
                + if now_us < 90_000_000 {
                    now_us / 80_000 * 7_919 % 80_000
                } else {
                    0
                }
        };
        let released_us = released_us(&mut hold, 1_000_000, jitter);
        assert!((90_000_000..96_500_000).contains(&released_us), "{released_us}");
    }

    #[test]
    fn pings_that_never_vary_do_not_end_it_before_its_time() {
        let mut hold = Hold::new(true);
        hold.proved_longer(80_000, 1_000_000);
        assert!(released_us(&mut hold, 1_000_000, |_| 30_000) >= 7_000_000);
    }

    #[test]
    fn a_line_on_which_nothing_is_kept_is_not_pinged() {
        assert!(!Hold::new(true).take_ping(5_000_000));
    }

    #[test]
    fn a_stall_is_not_kept() {
        let mut hold = Hold::new(true);
        hold.proved_longer(1_500_000, 0);
        assert_eq!(hold.extra_us(1), 0);
    }
}
