//! The jitter margin: how much earlier than needed audio must be sent, because the forward path jitters.
//!
//! Marks show jitter of the forward path too late: the caller has an underrun, and from then on the phone holds more,
//! which its echoes tell. To remove that at once would cause the same underrun again. So it is kept as a margin:
//! - An underrun proves a margin ([`State::Proved`]). It is kept for a while and then released, a packet at a time.
//!   If that was too early, the next one is kept for twice as long.
//! - Round trips that vary show that the line jitters ([`State::Jittery`]). The margin stays while they vary, and is
//!   released at once when they agree again ([`State::Released`]). They can ask for a margin before any underrun,
//!   even before the agent's first word.
//!
//! *Slack* is what the phone's side holds anyway, because of its start offset. It counts as a part of the margin.

use crate::phone_path::ping_rtt::{ENOUGH, PingRtt, VARY_US};
use crate::rate::PACKET_US;

/// An underrun's margin is kept for this long at first: jitter which is over costs no delay 10 s later.
const FIRST_HOLD_US: u64 = 6_000_000;
/// And for this long at most: one underrun a minute is what a caller may hear.
const LONGEST_HOLD_US: u64 = 60_000_000;
/// Both, where the smallest delay is wanted.
const SHORT_HOLD_US: u64 = 600_000;
/// A margin is released in steps of one packet...
const STEP_US: i64 = PACKET_US;
/// ...and this many steps take as long as a hold: the longer a margin was kept, the longer each step is watched for an
/// underrun.
const STEPS_IN_HOLD: u64 = 6;
/// The largest margin. A playback that has become longer by more was lengthened by a stall, and is shortened at once.
pub(super) const MOST_US: i64 = 150_000;
/// A lengthening of less than this is drift or noise...
const LEAST_US: i64 = 15_000;
/// ...unless pings have shown that the line jitters.
const LEAST_IN_JITTER_US: i64 = 1_000;
/// This many round trips show that a line jitters, if nothing is known about it yet...
const RTTS_FOR_JITTER: usize = 3;
/// ...and this many, if it was steady before: by then the phone holds more, and marks show underruns in the meantime.
const RTTS_FOR_CHANGE: usize = 14;
/// A round trip that varies asks for a margin for this long: until the next few have come back.
const JITTERY_FOR_US: u64 = 1_000_000;
/// An underrun sooner than this after round trips began to vary has the same cause, and proves no second one.
const SAME_CAUSE_US: u64 = 6_000_000;

/// A margin, and the time after which it is released.
#[derive(Debug, Clone, Copy)]
struct Held {
    us: i64,
    until_us: u64,
    hold_us: u64,
}

impl Held {
    /// The part that is not released yet.
    fn left_us(&self, now_us: u64) -> i64 {
        let steps = match now_us.checked_sub(self.until_us) {
            Some(over_us) => 1 + (over_us / (self.hold_us / STEPS_IN_HOLD)) as i64,
            None => 0,
        };
        self.us - steps * STEP_US
    }

    /// Whether an underrun at `now_us` shows that the margin was released too early.
    fn was_short(&self, now_us: u64) -> bool {
        now_us < self.until_us + 2 * self.hold_us
    }
}

#[derive(Debug)]
enum State {
    /// The line has given no reason for a margin.
    Unneeded,
    /// An underrun proved it: released step by step.
    Proved(Held),
    /// Round trips vary since `since_us`: kept as long as they do. `foreseen`: they asked for it, and no underrun
    /// did.
    Jittery {
        held: Held,
        since_us: u64,
        foreseen: bool,
    },
    /// Round trips agree again, so the margin is zero. It is remembered in case an underrun comes soon.
    Released(Held),
}

/// See the module.
#[derive(Debug)]
pub(super) struct JitterMargin {
    covers_rare_delays: bool,
    /// Whether round trips were ever steady.
    was_steady: bool,
    state: State,
}

impl JitterMargin {
    /// Without `covers_rare_delays` the margin is released soon, and delays that are rare do not ask for one.
    pub(super) fn new(covers_rare_delays: bool) -> Self {
        Self {
            covers_rare_delays,
            was_steady: false,
            state: State::Unneeded,
        }
    }

    /// The margin, beyond the slack.
    pub(super) fn us(&self, slack_us: i64, now_us: u64) -> i64 {
        match &self.state {
            State::Unneeded | State::Released(_) => 0,
            State::Proved(held) | State::Jittery { held, .. } => (held.left_us(now_us) - slack_us).max(0),
        }
    }

    /// Whether nothing is kept, and round trips do not vary.
    pub(super) fn is_idle(&self, slack_us: i64, now_us: u64) -> bool {
        !matches!(self.state, State::Jittery { .. }) && self.us(slack_us, now_us) == 0
    }

    /// The playback proved longer than thought, by `by_us`: there was an underrun.
    pub(super) fn lengthened(&mut self, by_us: i64, slack_us: i64, pings: &mut PingRtt, now_us: u64) {
        let least_us = if let State::Jittery { .. } = self.state {
            LEAST_IN_JITTER_US
        } else {
            LEAST_US
        };
        if by_us > MOST_US {
            pings.learn(now_us); // it may be the path that became longer
        }
        if !(least_us..=MOST_US).contains(&by_us) {
            return;
        }
        if let State::Jittery { held, since_us, .. } = &mut self.state
            && now_us < *since_us + SAME_CAUSE_US
        {
            held.us = held.us.max(by_us + slack_us);
            return;
        }
        pings.learn(now_us);
        let needed_us = (self.us(slack_us, now_us) + by_us).min(MOST_US) + slack_us;
        let longest_hold_us = self.hold_us(LONGEST_HOLD_US);
        match &mut self.state {
            State::Proved(held) | State::Jittery { held, .. } | State::Released(held)
                if held.was_short(now_us) =>
            {
                held.us = held.us.max(needed_us);
                held.hold_us = (2 * held.hold_us).min(longest_hold_us);
                held.until_us = now_us + held.hold_us;
                if let State::Released(held) = self.state {
                    self.state = State::Proved(held);
                }
            }
            _ => {
                let hold_us = self.hold_us(FIRST_HOLD_US);
                self.state = State::Proved(Held {
                    us: needed_us,
                    until_us: now_us + hold_us,
                    hold_us,
                });
            }
        }
    }

    /// A ping came back after `rtt_us`, of which the return path takes up to `return_jitter_us` longer at times.
    pub(super) fn pong(
        &mut self,
        rtt_us: u64,
        return_jitter_us: u64,
        slack_us: i64,
        pings: &mut PingRtt,
        now_us: u64,
    ) {
        let mut spread = pings.spread(now_us);
        if !self.covers_rare_delays {
            (spread.most_us, spread.usual_us) = (spread.often_us, spread.often_us);
        }
        let needed_us = spread
            .most_us
            .saturating_sub(return_jitter_us)
            .min(MOST_US as u64) as i64;
        let hold_us = self.hold_us(FIRST_HOLD_US);
        let jittery_until_us = now_us + JITTERY_FOR_US;
        if self.is_idle(slack_us, now_us) {
            // No underrun has proved it yet, so it must be certain, and not caused by the return path.
            let doubt_us = VARY_US.max(return_jitter_us);
            if rtt_us > pings.least_us().unwrap_or(rtt_us) + doubt_us && !pings.is_learning(now_us) {
                pings.learn(now_us);
            }
            self.was_steady |= spread.is_steady();
            let rtts = if self.was_steady {
                RTTS_FOR_CHANGE
            } else {
                RTTS_FOR_JITTER
            };
            if spread.rtts >= rtts && spread.usual_us.saturating_sub(return_jitter_us) >= doubt_us {
                let until_us = match &self.state {
                    State::Proved(held) | State::Released(held) => held.until_us.max(jittery_until_us),
                    State::Unneeded | State::Jittery { .. } => jittery_until_us,
                };
                self.state = State::Jittery {
                    held: Held {
                        us: needed_us,
                        until_us,
                        hold_us,
                    },
                    since_us: now_us,
                    foreseen: true,
                };
            }
            return;
        }
        let (mut held, since_us, foreseen) = match self.state {
            State::Unneeded | State::Released(_) => return,
            State::Proved(held) => (held, now_us, false),
            State::Jittery {
                held,
                since_us,
                foreseen,
            } => (held, since_us, foreseen),
        };
        let agree = spread.most_us < VARY_US || foreseen && spread.most_us < return_jitter_us + VARY_US;
        if !agree {
            // Pings show the line, so it need not be tried out by releasing the margin.
            if spread.rtts >= ENOUGH || foreseen {
                held.us = held.us.max(needed_us);
            }
            held.hold_us = hold_us;
            held.until_us = held.until_us.max(jittery_until_us);
            self.state = State::Jittery {
                held,
                since_us,
                foreseen,
            };
        } else if let State::Jittery { held, .. } = self.state
            && spread.rtts >= ENOUGH
            && now_us >= held.until_us
        {
            self.state = State::Released(held);
            pings.learn(now_us);
        }
    }

    /// For how long a margin is kept: `usual_us`, or less where the smallest delay is wanted.
    fn hold_us(&self, usual_us: u64) -> u64 {
        if self.covers_rare_delays {
            usual_us
        } else {
            SHORT_HOLD_US
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A margin and the pings that it is judged by, where the phone holds no slack.
    struct Line {
        margin: JitterMargin,
        pings: PingRtt,
    }

    impl Line {
        fn new() -> Self {
            Self {
                margin: JitterMargin::new(true),
                pings: PingRtt::new(),
            }
        }

        fn lengthened(&mut self, by_us: i64, now_us: u64) {
            self.margin.lengthened(by_us, 0, &mut self.pings, now_us);
        }

        fn pong(&mut self, rtt_us: u64, return_jitter_us: u64, now_us: u64) {
            self.pings.observe(rtt_us, now_us);
            self.margin
                .pong(rtt_us, return_jitter_us, 0, &mut self.pings, now_us);
        }

        fn margin_us(&self, now_us: u64) -> i64 {
            self.margin.us(0, now_us)
        }
    }

    #[test]
    fn a_proved_margin_is_kept_for_a_while_and_released_in_steps() {
        let mut line = Line::new();
        line.lengthened(60_000, 1_000_000);
        assert_eq!(line.margin_us(6_900_000), 60_000);
        assert_eq!(line.margin_us(7_000_000), 40_000);
        assert_eq!(line.margin_us(9_000_000), 0);
    }

    #[test]
    fn a_margin_released_too_early_is_kept_twice_as_long_the_next_time() {
        let mut line = Line::new();
        line.lengthened(60_000, 0);
        line.lengthened(20_000, 7_000_000);
        assert!(line.margin_us(18_000_000) > 0);
    }

    /// Sends pings when they are due and answers them after `rtt_us`. Returns when the margin was gone.
    fn released_us(line: &mut Line, from_us: u64, rtt_us: impl Fn(u64) -> u64) -> u64 {
        let mut now_us = from_us;
        while line.margin_us(now_us) > 0 {
            if line.pings.ping_due(true, now_us) {
                line.pong(rtt_us(now_us), 0, now_us);
            }
            now_us += 80_000;
        }
        now_us
    }

    #[test]
    fn a_margin_is_kept_while_pings_vary_and_goes_soon_after_they_agree() {
        let mut line = Line::new();
        line.lengthened(80_000, 1_000_000);
        let jitter = |now_us: u64| {
            30_000
                + if now_us < 90_000_000 {
                    now_us / 80_000 * 7_919 % 80_000
                } else {
                    0
                }
        };
        let released_us = released_us(&mut line, 1_000_000, jitter);
        assert!((90_000_000..96_500_000).contains(&released_us), "{released_us}");
    }

    #[test]
    fn pings_that_never_vary_do_not_release_a_proved_margin_early() {
        let mut line = Line::new();
        line.lengthened(80_000, 1_000_000);
        assert!(released_us(&mut line, 1_000_000, |_| 30_000) >= 7_000_000);
    }

    /// Answers a ping every 50 ms, with these round trips over a steady return path. Returns the margin.
    fn pinged_us(line: &mut Line, rtts_ms: &[u64]) -> i64 {
        let mut now_us = 1_000_000;
        for rtt_ms in rtts_ms {
            now_us += 50_000;
            line.pong(rtt_ms * 1000, 0, now_us);
        }
        line.margin_us(now_us)
    }

    #[test]
    fn pings_that_vary_from_the_start_ask_for_a_margin_before_any_underrun() {
        assert_eq!(pinged_us(&mut Line::new(), &[90, 30, 70, 50]), 60_000);
    }

    #[test]
    fn one_late_ping_asks_for_nothing() {
        assert_eq!(pinged_us(&mut Line::new(), &[30, 31, 90, 30, 32, 31, 30, 30]), 0);
    }

    #[test]
    fn pings_held_up_by_a_stall_ask_for_nothing() {
        let rtts = [
            30, 31, 30, 32, 1500, 1450, 1400, 400, 200, 150, 100, 50, 30, 31, 30,
        ];
        let mut line = Line::new();
        for (number, rtt_ms) in rtts.iter().enumerate() {
            // Those held up come back together.
            let now_us = 10_000_000 + number as u64 * if *rtt_ms > 40 { 1 } else { 50_000 };
            line.pong(rtt_ms * 1000, 0, now_us);
        }
        assert_eq!(line.margin_us(11_000_000), 0);
    }

    #[test]
    fn return_jitter_asks_for_nothing() {
        let mut line = Line::new();
        for number in 0..100 {
            line.pong(
                30_000 + number * 7_919 % 80_000,
                78_000,
                1_000_000 + number * 50_000,
            );
        }
        assert_eq!(line.margin_us(6_000_000), 0);
    }

    #[test]
    fn a_stall_asks_for_no_margin() {
        let mut line = Line::new();
        line.lengthened(1_500_000, 0);
        assert_eq!(line.margin_us(1), 0);
    }
}
