//! Extra delay that Exotel's side of the network asks for, and its release.
//!
//! What we send may be late on its way to Exotel, which marks cannot show before it is too late: Exotel has a hole, and
//! from then on holds more, which the marks tell. Taking that out at once would make the same hole again. So it is kept,
//! and the line is watched by pings ([`PingRtt`]): while their round trips vary, it stays; when they agree again, it goes
//! at once. Pings that vary before anything was proved ask for it too, best of all before the agent says its first
//! word. A line whose pings tell nothing (a proxy answers them, nobody does) is probed: a packet is given back at a
//! time, and each time that proves too early it is kept for twice as long.

use crate::phone_path::ping_rtt::PingRtt;

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

/// The fewest round trips that say that a line is steady...
const TRIPS_ENOUGH: usize = 11;
/// ...and that it is not, at first...
const TRIPS_FOR_JITTER: usize = 3;
/// ...and where it was steady before: then Exotel holds more already, which marks tell meanwhile.
const TRIPS_FOR_CHANGE: usize = 14;
/// PingRtt that differ by this much vary: a packet's length, as less costs less than one.
const VARY_US: u64 = 20_000;
/// What trips that vary say holds until the next few have come back.
const VARIED_FOR_US: u64 = 1_000_000;
/// How well it is known by how much Exotel's queue began late: the echoes jitter as well.
const EARLY_SURE_US: i64 = 3_000;
/// The jitter in which a call began is what is seen of it in this time, as there are not many trips at first.
const BEGINNING_US: u64 = 4_000_000;
/// What proves too little sooner than this after trips showed it was late already when they did.
const SAME_US: u64 = 6_000_000;

/// See the module.
#[derive(Debug)]
pub(crate) struct JitterMargin {
    covers_rare_delays: bool,
    extra_us: i64,
    /// Of it, what Exotel's queue gives by itself: its first audio was late, so all that follows is early.
    early_us: i64,
    /// When that was first known...
    began_us: Option<u64>,
    /// ...and by how much round trips varied about then.
    began_in_us: i64,
    /// The most that was needed lately.
    peak_us: i64,
    until_us: u64,
    hold_us: u64,
    first_hold_us: u64,
    longest_hold_us: u64,
    ping_rtt: PingRtt,
    /// Since when they have shown that the line varies, as far as what was proved last is concerned.
    varied_us: Option<u64>,
    /// They showed it before anything was proved.
    foreseen: bool,
    /// PingRtt have shown a steady line.
    steady: bool,
    /// How long they took then.
    known_us: Option<u64>,
}

impl JitterMargin {
    /// What is late about once in a second is waited for, or is not: then all is given back soon.
    pub(crate) fn new(covers_rare_delays: bool) -> Self {
        let (first_hold_us, longest_hold_us) = if covers_rare_delays {
            (FIRST_HOLD_US, LONGEST_HOLD_US)
        } else {
            (SHORT_HOLD_US, SHORT_HOLD_US)
        };
        Self {
            first_hold_us,
            longest_hold_us,
            covers_rare_delays,
            extra_us: 0,
            early_us: 0,
            began_us: None,
            began_in_us: 0,
            peak_us: 0,
            until_us: 0,
            hold_us: first_hold_us,
            ping_rtt: PingRtt::new(),
            varied_us: None,
            foreseen: false,
            steady: false,
            known_us: None,
        }
    }

    /// Exotel's queue proved longer than thought.
    pub(crate) fn proved_longer(&mut self, longer_us: i64, now_us: u64) {
        let least_us = if self.varied_us.is_some() {
            LEAST_WHILE_VARIED_US
        } else {
            LEAST_US
        };
        if longer_us > MOST_US {
            self.ping_rtt.learn(now_us); // or it is a way that became longer, and no queue
        }
        if !(least_us..=MOST_US).contains(&longer_us) {
            return;
        }
        if self
            .varied_us
            .is_some_and(|varied_us| now_us < varied_us + SAME_US)
        {
            self.extra_us = self.extra_us.max(longer_us + self.early_us);
            self.peak_us = self.peak_us.max(self.extra_us);
            return;
        }
        self.ping_rtt.learn(now_us);
        let released_too_early = self.until_us > 0 && now_us < self.until_us + 2 * self.hold_us;
        let needed_us = (self.extra_us(now_us) + longer_us).min(MOST_US) + self.early_us;
        if released_too_early {
            self.hold_us = (2 * self.hold_us).min(self.longest_hold_us);
            self.peak_us = self.peak_us.max(needed_us);
        } else {
            self.hold_us = self.first_hold_us;
            self.peak_us = needed_us;
        }
        self.extra_us = self.peak_us;
        self.varied_us = self.varied_us.filter(|_| released_too_early);
        self.until_us = now_us + self.hold_us;
    }

    /// An agent begins to speak, or the line has changed: what it does is to be learnt.
    pub(crate) fn learn(&mut self, now_us: u64) {
        self.ping_rtt.learn(now_us);
    }

    /// Exotel's queue began so much later than a message takes to get there, and what follows is early by as much.
    pub(crate) fn begins_early(&mut self, early_us: i64, now_us: u64) {
        if now_us < *self.began_us.get_or_insert(now_us) + BEGINNING_US {
            let varied_us = self.ping_rtt.spread(now_us).most_us as i64;
            self.began_in_us = self.began_in_us.max(varied_us);
        }
        self.early_us = (early_us - EARLY_SURE_US).clamp(0, MOST_US);
    }

    /// The shortest of the newest round trips.
    pub(crate) fn least_trip_us(&self) -> Option<u64> {
        self.ping_rtt.least_us()
    }

    /// How long messages take there and back, if that does not vary.
    pub(crate) fn steady_trip_us(&self, now_us: u64) -> Option<u64> {
        self.ping_rtt.steady_us(TRIPS_ENOUGH, VARY_US, now_us)
    }

    /// Whether the line is being learnt.
    pub(crate) fn learns(&self, now_us: u64) -> bool {
        self.ping_rtt.learns(now_us)
    }

    /// Whether a ping shall be sent now.
    pub(crate) fn take_ping(&mut self, now_us: u64) -> bool {
        let watched = self.extra_us(now_us) > 0 || self.began_varied();
        self.ping_rtt.take(watched, now_us)
    }

    /// When to ask for a ping though nothing else happens.
    pub(crate) fn ping_wake_us(&self) -> Option<u64> {
        self.ping_rtt.wake_us()
    }

    /// A ping came back; of its trip the phone's way to us takes up to `return_jitter_us` longer at times.
    pub(crate) fn round_trip(&mut self, trip_us: u64, return_jitter_us: u64, now_us: u64) {
        self.ping_rtt.observe(trip_us, now_us);
        match self.steady_trip_us(now_us) {
            Some(steady_us) => self.known_us = Some(steady_us),
            // Another way, perhaps; whether it stays is soon known.
            None if self.known_us.is_some_and(|us| us.abs_diff(trip_us) > VARY_US) => {
                self.known_us = None;
                if !self.ping_rtt.learns(now_us) {
                    self.ping_rtt.learn(now_us);
                }
            }
            None => {}
        }
        let mut spread = self.ping_rtt.spread(now_us);
        if !self.covers_rare_delays {
            (spread.most_us, spread.usual_us) = (spread.often_us, spread.often_us);
        }
        let needed_us = spread
            .most_us
            .saturating_sub(return_jitter_us)
            .min(MOST_US as u64);
        if self.extra_us(now_us) == 0 && self.varied_us.is_none() {
            // Not proved, so it must be beyond doubt, and not the way back's.
            let doubt_us = VARY_US.max(return_jitter_us);
            let least_us = self.ping_rtt.least_us().unwrap_or(trip_us);
            if trip_us > least_us + doubt_us && !self.ping_rtt.learns(now_us) {
                self.ping_rtt.learn(now_us);
            }
            self.steady |= spread.most_us < VARY_US && spread.trips >= TRIPS_ENOUGH;
            let trips = if self.steady {
                TRIPS_FOR_CHANGE
            } else {
                TRIPS_FOR_JITTER
            };
            if spread.trips < trips || spread.usual_us.saturating_sub(return_jitter_us) < doubt_us {
                return;
            }
            self.peak_us = 0;
            self.foreseen = true;
        }
        if spread.most_us < VARY_US || self.foreseen && spread.most_us < return_jitter_us + VARY_US {
            if self.varied_us.is_some() && spread.trips >= TRIPS_ENOUGH && now_us >= self.until_us {
                self.extra_us = 0;
                self.varied_us = None;
                self.foreseen = false;
                self.ping_rtt.learn(now_us);
            }
            return;
        }
        // The line is seen to be bad, so nothing has to be found out by trying.
        self.varied_us.get_or_insert(now_us);
        self.hold_us = self.first_hold_us;
        self.until_us = self.until_us.max(now_us + VARIED_FOR_US);
        if spread.trips >= TRIPS_ENOUGH || self.foreseen {
            self.peak_us = self.peak_us.max(needed_us as i64);
            self.extra_us = self.peak_us;
        }
    }

    /// By how much Exotel's queue is longer than needed, as it began late on a line that has become steady: as far as
    /// jitter was seen that explains it, for the rest may be Exotel's own.
    pub(crate) fn take_early(&mut self, now_us: u64) -> i64 {
        if !self.began_varied() || self.varied_us.is_some() || self.extra_us(now_us) > 0 {
            return 0;
        }
        let spread = self.ping_rtt.spread(now_us);
        if spread.trips < TRIPS_ENOUGH || spread.most_us >= VARY_US {
            return 0;
        }
        let late_us = self.early_us.min(self.began_in_us);
        self.early_us -= late_us;
        self.began_in_us = 0;
        late_us
    }

    fn began_varied(&self) -> bool {
        self.began_in_us >= VARY_US as i64
    }

    /// What is kept now.
    pub(crate) fn extra_us(&self, now_us: u64) -> i64 {
        let steps = match now_us.checked_sub(self.until_us) {
            Some(over_us) => 1 + (over_us / (self.hold_us / STEPS_IN_HOLD)) as i64,
            None => 0,
        };
        (self.extra_us - self.early_us - steps * STEP_US).max(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_proved_is_kept_for_a_while_and_given_back_in_steps() {
        let mut margin = JitterMargin::new(true);
        margin.proved_longer(60_000, 1_000_000);
        assert_eq!(margin.extra_us(6_900_000), 60_000);
        assert_eq!(margin.extra_us(7_000_000), 40_000);
        assert_eq!(margin.extra_us(9_000_000), 0);
    }

    #[test]
    fn giving_back_too_early_makes_it_hold_twice_as_long() {
        let mut margin = JitterMargin::new(true);
        margin.proved_longer(60_000, 0);
        margin.proved_longer(20_000, 7_000_000);
        assert!(margin.extra_us(18_000_000) > 0);
    }

    /// Sends pings as it is asked to and answers them after `trip_us`; returns when nothing was kept any more.
    fn released_us(margin: &mut JitterMargin, from_us: u64, trip_us: impl Fn(u64) -> u64) -> u64 {
        let mut now_us = from_us;
        while margin.extra_us(now_us) > 0 {
            if margin.take_ping(now_us) {
                margin.round_trip(trip_us(now_us), 0, now_us);
            }
            now_us += 80_000;
        }
        now_us
    }

    #[test]
    fn while_pings_vary_it_is_kept_and_soon_after_they_agree_it_is_gone() {
        let mut margin = JitterMargin::new(true);
        margin.proved_longer(80_000, 1_000_000);
        let jitter = |now_us: u64| {
            30_000
                + if now_us < 90_000_000 {
                    now_us / 80_000 * 7_919 % 80_000
                } else {
                    0
                }
        };
        let released_us = released_us(&mut margin, 1_000_000, jitter);
        assert!((90_000_000..96_500_000).contains(&released_us), "{released_us}");
    }

    #[test]
    fn pings_that_never_vary_do_not_end_it_before_its_time() {
        let mut margin = JitterMargin::new(true);
        margin.proved_longer(80_000, 1_000_000);
        assert!(released_us(&mut margin, 1_000_000, |_| 30_000) >= 7_000_000);
    }

    /// Answers a ping every 50 ms after the trips given, on a way back that does not vary; returns what is kept.
    fn pinged_us(margin: &mut JitterMargin, trips_ms: &[u64]) -> i64 {
        let mut now_us = 1_000_000;
        for trip_ms in trips_ms {
            now_us += 50_000;
            margin.round_trip(trip_ms * 1000, 0, now_us);
        }
        margin.extra_us(now_us)
    }

    #[test]
    fn pings_that_vary_from_the_start_ask_for_delay_before_anybody_had_a_hole() {
        assert_eq!(pinged_us(&mut JitterMargin::new(true), &[90, 30, 70, 50]), 60_000);
    }

    #[test]
    fn one_late_ping_asks_for_nothing() {
        assert_eq!(
            pinged_us(&mut JitterMargin::new(true), &[30, 31, 90, 30, 32, 31, 30, 30]),
            0
        );
    }

    #[test]
    fn pings_that_a_stall_held_up_ask_for_nothing() {
        let trips = [
            30, 31, 30, 32, 1500, 1450, 1400, 400, 200, 150, 100, 50, 30, 31, 30,
        ];
        let mut margin = JitterMargin::new(true);
        for (number, trip_ms) in trips.iter().enumerate() {
            // Held up ones come back together.
            let now_us = 10_000_000 + number as u64 * if *trip_ms > 40 { 1 } else { 50_000 };
            margin.round_trip(trip_ms * 1000, 0, now_us);
        }
        assert_eq!(margin.extra_us(11_000_000), 0);
    }

    #[test]
    fn a_way_back_that_varies_asks_for_nothing() {
        let mut margin = JitterMargin::new(true);
        for number in 0..100 {
            margin.round_trip(
                30_000 + number * 7_919 % 80_000,
                78_000,
                1_000_000 + number * 50_000,
            );
        }
        assert_eq!(margin.extra_us(6_000_000), 0);
    }

    #[test]
    fn a_stall_is_not_kept() {
        let mut margin = JitterMargin::new(true);
        margin.proved_longer(1_500_000, 0);
        assert_eq!(margin.extra_us(1), 0);
    }
}
