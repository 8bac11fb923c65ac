//! How far the engine is behind, and what it is spared for it.
//!
//! It answers sample for sample, so it owes what it was given and has not said. Some of that is always on its way. What it
//! owes beyond the least that it ever owed, answer after answer, is its backlog, and the caller's delay: an engine that
//! needs more than 80 ms for 80 ms makes it grow for as long as it is fed all there is. So it is given less: what is
//! said is made shorter where that is enough, and else cut until the backlog is worked off.
//!
//! A way to the engine that has become longer looks the same, and so does an engine that lost something, but there what
//! is owed does not grow. So when much has been taken out the engine is given everything again for a while: if it does
//! not fall behind further, what it owes is usual from then on. The next such test is longer, and so finds an engine
//! that is slower than real time by less.

/// Behind by this is behind: networks, chunks and steps that vary make less of it.
const BEHIND_MS: usize = 250;
/// It is caught up with when it is behind by no more than this.
const CAUGHT_UP_MS: usize = 120;
/// So long every answer is late before anything is done: a network that stalled has brought all by then. What is owed is
/// told by the least in as long.
const SURE_US: u64 = 1_500_000;
/// When so much was taken out it is tested whether that is for a backlog...
const TEST_AFTER_MS: i64 = 1500;
/// ...and if it is, not so soon again.
const TEST_AGAIN_AFTER_MS: i64 = 15_000;
/// The first test is so long, and the longest.
const TEST_US: u64 = 3 * SURE_US;
const LONGEST_TEST_US: u64 = 16 * TEST_US;
/// What is owed grows by more than this in a test if there is a backlog...
const GROWS_MS: i64 = 40;
/// ...and by more than this share of how much it varies.
const OF_SPREAD: i64 = 4;
/// If it has grown by this before the end, no more need be known.
const PROOF_MS: i64 = 200;
/// What is usually on its way is on its way again so long after less was given...
const LEARN_AFTER_US: u64 = 2_000_000;
/// ...and what is on its way has come round when what is owed was answered in real time, and this.
const ROUND_US: u64 = 300_000;
/// It is kept from going on for no longer than what it owes lasts, and this: it says nothing that would tell otherwise.
const UNFED_MS: i64 = 300;

/// What was owed over a while.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Window {
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

    fn add(&mut self, owes: i64, now_us: u64) {
        if now_us >= self.since_us {
            self.least = self.least.min(owes);
            self.most = self.most.max(owes);
        }
    }

    fn is_over(&self, now_us: u64) -> bool {
        now_us >= self.since_us + SURE_US
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    InTime,
    /// All answers of the window were late.
    Late(Window),
    /// It gets everything though it is behind: what it owed when that began, and in the newest window.
    Tested {
        first: Window,
        newest: Window,
    },
    Shortening,
    Cutting {
        left: usize,
    },
}

/// What of the caller's sound the engine shall be spared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spare {
    Nothing,
    /// At most so many samples, where that can be done without losing a word.
    Some(usize),
    All,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Arrears {
    rate_hz: u32,
    /// A longer backlog is not worth hearing.
    most: usize,
    fed: i64,
    answered: i64,
    /// The least it ever owed, when all was on its way that usually is.
    least: Option<i64>,
    learns_from_us: u64,
    mode: Mode,
    /// So much may be taken out until it is tested for what.
    untested: i64,
    /// What was worth cutting before the test that is due has been.
    ready: bool,
    /// So much may still be kept from it until it is given something: longer than it needs for all that it has.
    may_go_unfed: i64,
    test_us: u64,
    times: u64,
}

impl Arrears {
    /// A backlog of more than `most` samples is not worth hearing.
    pub(crate) fn new(rate_hz: u32, most: usize) -> Self {
        Self {
            rate_hz,
            most,
            fed: 0,
            answered: 0,
            least: None,
            learns_from_us: 0,
            mode: Mode::InTime,
            untested: i64::from(rate_hz / 1000) * TEST_AFTER_MS,
            ready: false,
            may_go_unfed: 0,
            test_us: TEST_US,
            times: 0,
        }
    }

    /// Another engine.
    pub(crate) fn begin(&mut self) {
        *self = Self {
            times: self.times,
            ..Self::new(self.rate_hz, self.most)
        };
    }

    /// It was given nothing for long, and is again: what is owed tells something when that has come round. It may have
    /// lost what it had, so that is tested before anything is taken out.
    pub(crate) fn resume(&mut self, now_us: u64) {
        self.learns_from_us = now_us + LEARN_AFTER_US;
        self.mode = Mode::InTime;
        self.untested = 0;
    }

    /// How often it was given less.
    pub(crate) fn times(&self) -> u64 {
        self.times
    }

    pub(crate) fn fed(&mut self, samples: usize) {
        if samples > 0 {
            self.fed += samples as i64;
            self.may_go_unfed = self.fed - self.answered + self.signed(UNFED_MS);
        }
    }

    /// The engine said so many samples.
    pub(crate) fn answered(&mut self, samples: usize, now_us: u64) {
        self.answered += samples as i64;
        let owes = self.fed - self.answered;
        if now_us >= self.learns_from_us {
            self.least = Some(self.least.map_or(owes, |least| least.min(owes)));
        }
        let behind = self.behind();
        let late = behind > self.samples(BEHIND_MS);
        let caught_up = behind <= self.samples(CAUGHT_UP_MS);
        self.mode = match self.mode {
            Mode::InTime if late => Mode::Late(Window::new(now_us.max(self.learns_from_us))),
            Mode::InTime => Mode::InTime,
            Mode::Late(Window { since_us, .. }) if now_us < since_us => self.mode,
            Mode::Late(_) | Mode::Tested { .. } if !late => Mode::InTime,
            Mode::Late(mut first) => {
                first.add(owes, now_us);
                if !first.is_over(now_us) {
                    Mode::Late(first)
                } else if self.untested > 0 {
                    self.times += 1;
                    Mode::Shortening
                } else {
                    let newest = Window::new(now_us);
                    Mode::Tested { first, newest }
                }
            }
            Mode::Tested { first, mut newest } => {
                newest.add(owes, now_us);
                if newest.is_over(now_us) {
                    self.test(first, newest, now_us)
                } else {
                    Mode::Tested { first, newest }
                }
            }
            Mode::Shortening | Mode::Cutting { .. } if caught_up => Mode::InTime,
            Mode::Shortening if behind > self.worth_cutting() => {
                self.ready = self.untested <= 0;
                Mode::Cutting { left: behind }
            }
            Mode::Shortening if self.untested <= 0 => {
                Mode::Late(Window::new(now_us + self.us(owes) + ROUND_US))
            }
            Mode::Shortening | Mode::Cutting { .. } => self.mode,
        };
    }

    /// Whether there is a backlog: as far as a window tells that is over.
    fn test(&mut self, first: Window, newest: Window, now_us: u64) -> Mode {
        let grown = newest.least - first.least;
        let doubt = (first.most - first.least) / OF_SPREAD;
        let is_over = newest.since_us >= first.since_us + self.test_us;
        if grown > self.signed(PROOF_MS) + doubt || is_over && grown > self.signed(GROWS_MS) + doubt {
            self.untested = self.signed(TEST_AGAIN_AFTER_MS);
            self.ready = false;
            Mode::Shortening
        } else if is_over {
            self.least = Some(newest.least);
            self.untested = self.signed(TEST_AFTER_MS);
            self.ready = false;
            self.test_us = (2 * self.test_us).min(LONGEST_TEST_US);
            Mode::InTime
        } else {
            let newest = Window::new(now_us);
            Mode::Tested { first, newest }
        }
    }

    /// What it shall be spared of what has just been said.
    pub(crate) fn spare(&self) -> Spare {
        if self.may_go_unfed <= 0 {
            return Spare::Nothing;
        }
        match self.mode {
            Mode::InTime | Mode::Late(_) | Mode::Tested { .. } => Spare::Nothing,
            Mode::Shortening => Spare::Some(self.behind().saturating_sub(self.samples(CAUGHT_UP_MS))),
            Mode::Cutting { .. } => Spare::All,
        }
    }

    /// It was spared so many samples.
    pub(crate) fn spared(&mut self, samples: usize, now_us: u64) {
        self.learns_from_us = now_us + LEARN_AFTER_US;
        self.untested -= samples as i64;
        self.may_go_unfed -= samples as i64;
        if let Mode::Cutting { left } = self.mode {
            let left = left.saturating_sub(samples);
            self.mode = if left > 0 {
                Mode::Cutting { left }
            } else {
                Mode::Shortening
            };
        }
    }

    /// A test begins with little, as it makes more of it; but it begins, as what is no backlog cannot be cut.
    fn worth_cutting(&self) -> usize {
        let least = self.samples(2 * BEHIND_MS);
        match self.untested {
            1.. => self.most.max(least),
            _ if self.ready => usize::MAX,
            _ => least,
        }
    }

    fn behind(&self) -> usize {
        let owes = self.fed - self.answered;
        (owes - self.least.unwrap_or(owes)).max(0) as usize
    }

    fn us(&self, samples: i64) -> u64 {
        samples.max(0) as u64 * 1_000_000 / u64::from(self.rate_hz)
    }

    fn samples(&self, ms: usize) -> usize {
        self.rate_hz as usize / 1000 * ms
    }

    fn signed(&self, ms: i64) -> i64 {
        i64::from(self.rate_hz / 1000) * ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE_HZ: u32 = 8000;
    const FRAME: usize = 640;
    const FRAME_US: u64 = 80_000;

    /// Feeds in real time what is not spared, and answers each `step_us`, `way_us` later; returns it, and what was spared.
    fn after(frames: u64, step_us: u64, way_us: impl Fn(u64) -> u64) -> (Arrears, usize) {
        let mut arrears = Arrears::new(RATE_HZ, RATE_HZ as usize);
        let (mut free_us, mut spared, mut answers_us) = (0, 0, std::collections::VecDeque::new());
        for frame in 1..=frames {
            let now_us = frame * FRAME_US;
            while let Some(&at_us) = answers_us.front().filter(|at_us| **at_us <= now_us) {
                answers_us.pop_front();
                arrears.answered(FRAME, at_us);
            }
            if arrears.spare() == Spare::Nothing {
                arrears.fed(FRAME);
                free_us = now_us.max(free_us) + step_us;
                answers_us.push_back(free_us + way_us(now_us));
            } else {
                spared += FRAME;
                arrears.spared(FRAME, now_us);
            }
        }
        (arrears, spared)
    }

    #[test]
    fn an_engine_that_keeps_up_is_spared_nothing_however_far_away_it_is() {
        for way_us in [0, 200_000, 900_000] {
            let (arrears, spared) = after(1000, 60_000, |_| way_us);
            assert_eq!((arrears.times(), spared), (0, 0));
        }
    }

    #[test]
    fn an_engine_that_is_slower_is_spared_what_it_cannot_do() {
        let (arrears, spared) = after(2000, 100_000, |_| 30_000);
        let too_much = 2000 * FRAME / 5;
        assert!(arrears.times() > 0);
        assert!(
            (too_much - 16_000..too_much + 8000).contains(&spared),
            "{spared} of {too_much}"
        );
    }

    #[test]
    fn a_way_that_has_become_longer_is_usual_after_a_test() {
        let longer = |now_us| if now_us < 10_000_000 { 30_000 } else { 530_000 };
        let (_, by_then) = after(600, 30_000, longer);
        let (_, spared) = after(3000, 30_000, longer);
        assert!(by_then > 0 && by_then <= 3 * RATE_HZ as usize, "{by_then}");
        assert_eq!(spared, by_then);
    }

    #[test]
    fn an_engine_that_says_nothing_for_a_while_in_a_test_breaks_nothing() {
        let gap = |now_us: u64| {
            430_000
                + if (20_000_000..24_000_000).contains(&now_us) {
                    24_000_000 - now_us
                } else {
                    0
                }
        };
        let (_, spared) = after(1000, 30_000, |now_us| {
            if now_us < 10_000_000 { 30_000 } else { gap(now_us) }
        });
        assert!(spared <= 6 * RATE_HZ as usize, "{spared}");
    }
}
