//! How far behind the engine is, and how much of the caller's audio is shed so that it catches up.
//!
//! The engine answers sample for sample, so:
//! ```text
//! outstanding = given - answered
//! backlog     = outstanding - the minimum ever outstanding
//! ```
//! The minimum is the audio that is always on its way. The backlog is delay for the caller. It grows if the engine
//! needs more than 80 ms for a step and is given all audio. So the engine is given less: audio is shortened where
//! that is enough, and otherwise cut until the engine has caught up.
//!
//! If the engine lost audio, or the path to it became longer, that looks like a backlog but does not grow. So after
//! much audio was shed, a test follows: the engine is given everything for a while. With minima over windows of
//! [`WINDOW_US`]:
//! ```text
//! growth = minimum outstanding in the newest window - minimum outstanding in the first
//! ```
//! If there is growth, the backlog is real. If not, what is outstanding becomes the new minimum, and the next test is
//! longer: a longer test finds an engine that is only a little slower than real time.

use crate::rate::LineRate;

/// Only a larger backlog counts: variations of networks, chunks and steps stay below this.
const BEHIND_MS: u32 = 250;
/// The engine has caught up when its backlog is no larger than this.
const CAUGHT_UP_MS: u32 = 120;
/// Every answer must be late for this long before anything is shed: a stalled network has brought everything by then.
const WINDOW_US: u64 = 1_500_000;
/// This much may be shed before the first test, and after a test that found no backlog...
const TEST_AFTER_MS: u32 = 1500;
/// ...and this much after a test that found one.
const TEST_AGAIN_AFTER_MS: u32 = 15_000;
/// The length of the first test. Each test that finds no backlog makes the next one twice as long.
const FIRST_TEST_US: u64 = 3 * WINDOW_US;
const LONGEST_TEST_US: u64 = 16 * FIRST_TEST_US;
/// A backlog grows by more than this during a test...
const GROWTH_MS: u32 = 40;
/// ...plus one part in this many of the range of what was outstanding in the first window.
const RANGE_SHARE: i64 = 4;
/// Growth by this much ends a test early.
const PROOF_MS: u32 = 200;
/// After audio was shed, this much time passes until the usual amount is on its way again.
const SETTLE_US: u64 = 2_000_000;
/// Outstanding audio has been answered after its own duration plus this.
const ROUND_TRIP_US: u64 = 300_000;
/// Audio is shed for at most the duration of what is outstanding plus this. An engine without input gives no answers,
/// and only its answers show how far it is.
const UNFED_MS: u32 = 300;

/// How much was outstanding over a while.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Window {
    /// May be in the future.
    since_us: u64,
    least: i64,
    most: i64,
}

impl Window {
    fn new(since_us: u64) -> Self {
        Self {
            since_us,
            least: i64::MAX,
            most: i64::MIN,
        }
    }

    fn add(&mut self, outstanding: i64) {
        self.least = self.least.min(outstanding);
        self.most = self.most.max(outstanding);
    }

    fn is_over(&self, now_us: u64) -> bool {
        now_us >= self.since_us + WINDOW_US
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    InTime,
    /// All answers in the window were late.
    Late(Window),
    /// The engine is given everything though it is behind.
    Testing {
        first: Window,
        newest: Window,
    },
    /// Audio is made shorter.
    Shortening,
    /// Audio is dropped until `left` samples have been.
    Cutting {
        left: usize,
    },
}

/// How much may be shed before a test must show whether the backlog is real.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Allowance {
    Left(i64),
    Spent,
    /// Before the test a large backlog was cut: the test makes it larger again.
    SpentAndCut,
}

/// How much of the caller's audio to keep from the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shed {
    Nothing,
    /// At most this many samples, where that can be done without losing a word.
    AtMost(usize),
    Everything,
}

/// See the module. Amounts of audio are samples at the line's rate.
#[derive(Debug)]
pub(crate) struct EngineBacklog {
    rate: LineRate,
    most_worth_hearing: usize,
    given: i64,
    answered: i64,
    /// The minimum ever outstanding, while the usual amount was on its way.
    least_outstanding: Option<i64>,
    /// From then on `least_outstanding` is learnt.
    settled_us: u64,
    state: State,
    allowance: Allowance,
    /// How much may still be shed before the engine must be given something.
    unfed_at_most: i64,
    test_us: u64,
    times: u64,
}

impl EngineBacklog {
    /// A backlog of more than `most_worth_hearing` samples is cut.
    pub(crate) fn new(rate: LineRate, most_worth_hearing: usize) -> Self {
        Self {
            rate,
            most_worth_hearing,
            given: 0,
            answered: 0,
            least_outstanding: None,
            settled_us: 0,
            state: State::InTime,
            allowance: Allowance::Left(rate.samples(TEST_AFTER_MS) as i64),
            unfed_at_most: 0,
            test_us: FIRST_TEST_US,
            times: 0,
        }
    }

    /// Another engine.
    pub(crate) fn begin(&mut self) {
        *self = Self {
            times: self.times,
            ..Self::new(self.rate, self.most_worth_hearing)
        };
    }

    /// The engine is given audio again, after nothing for long. It may have lost what it had, so a test comes before
    /// anything is shed.
    pub(crate) fn resume(&mut self, now_us: u64) {
        self.settled_us = now_us + SETTLE_US;
        self.state = State::InTime;
        self.allowance = Allowance::Spent;
    }

    /// How often the engine was given less.
    pub(crate) fn times(&self) -> u64 {
        self.times
    }

    /// The engine was given `samples`.
    pub(crate) fn given(&mut self, samples: usize) {
        if samples > 0 {
            self.given += samples as i64;
            self.unfed_at_most = self.outstanding() + self.rate.samples(UNFED_MS) as i64;
        }
    }

    /// The engine answered with `samples`.
    pub(crate) fn answered(&mut self, samples: usize, now_us: u64) {
        self.answered += samples as i64;
        let outstanding = self.outstanding();
        if now_us >= self.settled_us {
            let least = self.least_outstanding.unwrap_or(outstanding);
            self.least_outstanding = Some(outstanding.min(least));
        }
        let backlog = self.backlog();
        let late = backlog > self.rate.samples(BEHIND_MS);
        let caught_up = backlog <= self.rate.samples(CAUGHT_UP_MS);
        self.state = match self.state {
            State::InTime if late => State::Late(Window::new(now_us.max(self.settled_us))),
            State::InTime => State::InTime,
            State::Late(Window { since_us, .. }) if now_us < since_us => self.state,
            State::Late(_) | State::Testing { .. } if !late => State::InTime,
            State::Late(mut window) => {
                window.add(outstanding);
                match self.allowance {
                    _ if !window.is_over(now_us) => State::Late(window),
                    Allowance::Left(_) => {
                        self.times += 1;
                        State::Shortening
                    }
                    Allowance::Spent | Allowance::SpentAndCut => State::Testing {
                        first: window,
                        newest: Window::new(now_us),
                    },
                }
            }
            State::Testing { first, mut newest } => {
                newest.add(outstanding);
                if newest.is_over(now_us) {
                    self.test(first, newest, now_us)
                } else {
                    State::Testing { first, newest }
                }
            }
            State::Shortening | State::Cutting { .. } if caught_up => State::InTime,
            State::Cutting { .. } => self.state,
            State::Shortening => match self.allowance {
                Allowance::Left(_)
                    if backlog > self.most_worth_hearing.max(self.rate.samples(2 * BEHIND_MS)) =>
                {
                    State::Cutting { left: backlog }
                }
                Allowance::Left(_) => State::Shortening,
                Allowance::Spent if backlog > self.rate.samples(2 * BEHIND_MS) => {
                    self.allowance = Allowance::SpentAndCut;
                    State::Cutting { left: backlog }
                }
                // Start the test at a small backlog, because the test itself adds to it. Never skip it: cutting
                // cannot help if there is no backlog.
                Allowance::Spent | Allowance::SpentAndCut => State::Late(Window::new(
                    now_us + self.rate.us(outstanding.max(0) as usize) as u64 + ROUND_TRIP_US,
                )),
            },
        };
    }

    /// A window of a test is over: decides whether the backlog is real, or goes on testing.
    fn test(&mut self, first: Window, newest: Window, now_us: u64) -> State {
        let growth = newest.least - first.least;
        let doubt = (first.most - first.least) / RANGE_SHARE;
        let is_over = newest.since_us >= first.since_us + self.test_us;
        if growth > self.rate.samples(PROOF_MS) as i64 + doubt
            || is_over && growth > self.rate.samples(GROWTH_MS) as i64 + doubt
        {
            self.allowance = Allowance::Left(self.rate.samples(TEST_AGAIN_AFTER_MS) as i64);
            State::Shortening
        } else if is_over {
            self.least_outstanding = Some(newest.least);
            self.allowance = Allowance::Left(self.rate.samples(TEST_AFTER_MS) as i64);
            self.test_us = (2 * self.test_us).min(LONGEST_TEST_US);
            State::InTime
        } else {
            let newest = Window::new(now_us);
            State::Testing { first, newest }
        }
    }

    /// How much of the newest audio to shed.
    pub(crate) fn to_shed(&self) -> Shed {
        if self.unfed_at_most <= 0 {
            return Shed::Nothing;
        }
        match self.state {
            State::InTime | State::Late(_) | State::Testing { .. } => Shed::Nothing,
            State::Shortening => Shed::AtMost(self.backlog().saturating_sub(self.rate.samples(CAUGHT_UP_MS))),
            State::Cutting { .. } => Shed::Everything,
        }
    }

    /// `samples` were shed.
    pub(crate) fn was_shed(&mut self, samples: usize, now_us: u64) {
        self.settled_us = now_us + SETTLE_US;
        self.unfed_at_most -= samples as i64;
        if let Allowance::Left(left) = self.allowance {
            let left = left - samples as i64;
            self.allowance = if left > 0 {
                Allowance::Left(left)
            } else {
                Allowance::Spent
            };
        }
        if let State::Cutting { left } = self.state {
            let left = left.saturating_sub(samples);
            self.state = if left > 0 {
                State::Cutting { left }
            } else {
                State::Shortening
            };
        }
    }

    fn outstanding(&self) -> i64 {
        self.given - self.answered
    }

    fn backlog(&self) -> usize {
        let outstanding = self.outstanding();
        (outstanding - self.least_outstanding.unwrap_or(outstanding)).max(0) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE_HZ: u32 = 8000;
    const FRAME: usize = 640;
    const FRAME_US: u64 = 80_000;

    /// An engine that is given in real time what is not shed, steps in `step_us`, and whose answers come `path_us`
    /// later. Returns its backlog, and how much was shed.
    fn after(frames: u64, step_us: u64, path_us: impl Fn(u64) -> u64) -> (EngineBacklog, usize) {
        let mut backlog = EngineBacklog::new(LineRate::KHZ_8, 8000);
        let (mut free_us, mut shed, mut answers_us) = (0, 0, std::collections::VecDeque::new());
        for frame in 1..=frames {
            let now_us = frame * FRAME_US;
            while let Some(&at_us) = answers_us.front().filter(|at_us| **at_us <= now_us) {
                answers_us.pop_front();
                backlog.answered(FRAME, at_us);
            }
            if backlog.to_shed() == Shed::Nothing {
                backlog.given(FRAME);
                free_us = now_us.max(free_us) + step_us;
                answers_us.push_back(free_us + path_us(now_us));
            } else {
                shed += FRAME;
                backlog.was_shed(FRAME, now_us);
            }
        }
        (backlog, shed)
    }

    #[test]
    fn nothing_is_shed_for_an_engine_that_keeps_up_however_far_away_it_is() {
        for path_us in [0, 200_000, 900_000] {
            let (backlog, shed) = after(1000, 60_000, |_| path_us);
            assert_eq!((backlog.times(), shed), (0, 0));
        }
    }

    #[test]
    fn what_a_slow_engine_cannot_do_is_shed() {
        let (backlog, shed) = after(2000, 100_000, |_| 30_000);
        let too_much = 2000 * FRAME / 5;
        assert!(backlog.times() > 0);
        assert!(
            (too_much - 16_000..too_much + 8000).contains(&shed),
            "{shed} of {too_much}"
        );
    }

    #[test]
    fn a_path_that_has_become_longer_is_usual_after_a_test() {
        let longer = |now_us| if now_us < 10_000_000 { 30_000 } else { 530_000 };
        let (_, by_then) = after(600, 30_000, longer);
        let (_, shed) = after(3000, 30_000, longer);
        assert!(by_then > 0 && by_then <= 3 * RATE_HZ as usize, "{by_then}");
        assert_eq!(shed, by_then);
    }

    #[test]
    fn an_engine_that_is_silent_during_a_test_breaks_nothing() {
        let gap = |now_us: u64| {
            430_000
                + if (20_000_000..24_000_000).contains(&now_us) {
                    24_000_000 - now_us
                } else {
                    0
                }
        };
        let (_, shed) = after(1000, 30_000, |now_us| {
            if now_us < 10_000_000 { 30_000 } else { gap(now_us) }
        });
        assert!(shed <= 6 * RATE_HZ as usize, "{shed}");
    }
}
