//! How far the engine is behind, and how much of the caller's audio is shed for it.
//!
//! The engine answers sample for sample. Outstanding = samples given to it - samples it has answered. Some of that is always
//! on its way. Backlog = outstanding - the minimum ever outstanding, over many answers. The backlog is delay for the caller:
//! an engine that needs more than 80 ms for 80 ms makes it grow as long as it gets all audio. So it gets less: audio is
//! shortened where that is enough, and otherwise cut until the backlog is worked off.
//!
//! A way to the engine that has become longer looks the same, and so does an engine that lost something, but there what
//! is owed does not grow. So when much has been taken out the engine is given everything again for a while: if it does
//! not fall behind further, what is outstanding is usual from then on. The next such test is longer, and so finds an engine
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
/// Audio is kept from it for at most as long as what is outstanding lasts, plus this: an engine without input says nothing
/// that would tell how far it is.
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

    fn add(&mut self, outstanding: i64, now_us: u64) {
        if now_us >= self.since_us {
            self.least = self.least.min(outstanding);
            self.most = self.most.max(outstanding);
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

/// How much of the caller's audio to keep from the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shed {
    Nothing,
    /// At most so many samples, where that can be done without losing a word.
    AtMost(usize),
    Everything,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct EngineBacklog {
    rate_hz: u32,
    /// A longer backlog is not worth hearing.
    most: usize,
    fed: i64,
    answered: i64,
    /// The least it ever owed, when all was on its way that usually is.
    least_outstanding: Option<i64>,
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

impl EngineBacklog {
    /// A backlog of more than `most` samples is not worth hearing.
    pub(crate) fn new(rate_hz: u32, most: usize) -> Self {
        Self {
            rate_hz,
            most,
            fed: 0,
            answered: 0,
            least_outstanding: None,
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
        let outstanding = self.fed - self.answered;
        if now_us >= self.learns_from_us {
            self.least_outstanding = Some(
                self.least_outstanding
                    .map_or(outstanding, |least| least.min(outstanding)),
            );
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
                first.add(outstanding, now_us);
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
                newest.add(outstanding, now_us);
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
                Mode::Late(Window::new(now_us + self.us(outstanding) + ROUND_US))
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
            self.least_outstanding = Some(newest.least);
            self.untested = self.signed(TEST_AFTER_MS);
            self.ready = false;
            self.test_us = (2 * self.test_us).min(LONGEST_TEST_US);
            Mode::InTime
        } else {
            let newest = Window::new(now_us);
            Mode::Tested { first, newest }
        }
    }

    /// How much of the newest audio to shed.
    pub(crate) fn to_shed(&self) -> Shed {
        if self.may_go_unfed <= 0 {
            return Shed::Nothing;
        }
        match self.mode {
            Mode::InTime | Mode::Late(_) | Mode::Tested { .. } => Shed::Nothing,
            Mode::Shortening => Shed::AtMost(self.behind().saturating_sub(self.samples(CAUGHT_UP_MS))),
            Mode::Cutting { .. } => Shed::Everything,
        }
    }

    /// So many samples were shed.
    pub(crate) fn was_shed(&mut self, samples: usize, now_us: u64) {
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
        let outstanding = self.fed - self.answered;
        (outstanding - self.least_outstanding.unwrap_or(outstanding)).max(0) as usize
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

    /// Feeds in real time what is not shed, and answers each `step_us`, `way_us` later; returns it, and what was shed.
    fn after(frames: u64, step_us: u64, way_us: impl Fn(u64) -> u64) -> (EngineBacklog, usize) {
        let mut backlog = EngineBacklog::new(RATE_HZ, RATE_HZ as usize);
        let (mut free_us, mut shed, mut answers_us) = (0, 0, std::collections::VecDeque::new());
        for frame in 1..=frames {
            let now_us = frame * FRAME_US;
            while let Some(&at_us) = answers_us.front().filter(|at_us| **at_us <= now_us) {
                answers_us.pop_front();
                backlog.answered(FRAME, at_us);
            }
            if backlog.to_shed() == Shed::Nothing {
                backlog.fed(FRAME);
                free_us = now_us.max(free_us) + step_us;
                answers_us.push_back(free_us + way_us(now_us));
            } else {
                shed += FRAME;
                backlog.was_shed(FRAME, now_us);
            }
        }
        (backlog, shed)
    }

    #[test]
    fn an_engine_that_keeps_up_is_spared_nothing_however_far_away_it_is() {
        for way_us in [0, 200_000, 900_000] {
            let (backlog, shed) = after(1000, 60_000, |_| way_us);
            assert_eq!((backlog.times(), shed), (0, 0));
        }
    }

    #[test]
    fn an_engine_that_is_slower_is_spared_what_it_cannot_do() {
        let (backlog, shed) = after(2000, 100_000, |_| 30_000);
        let too_much = 2000 * FRAME / 5;
        assert!(backlog.times() > 0);
        assert!(
            (too_much - 16_000..too_much + 8000).contains(&shed),
            "{shed} of {too_much}"
        );
    }

    #[test]
    fn a_way_that_has_become_longer_is_usual_after_a_test() {
        let longer = |now_us| if now_us < 10_000_000 { 30_000 } else { 530_000 };
        let (_, by_then) = after(600, 30_000, longer);
        let (_, shed) = after(3000, 30_000, longer);
        assert!(by_then > 0 && by_then <= 3 * RATE_HZ as usize, "{by_then}");
        assert_eq!(shed, by_then);
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
        let (_, shed) = after(1000, 30_000, |now_us| {
            if now_us < 10_000_000 { 30_000 } else { gap(now_us) }
        });
        assert!(shed <= 6 * RATE_HZ as usize, "{shed}");
    }
}
