//! How far the engine is behind, and what it is spared for it.
//!
//! It answers sample for sample, so it owes what it was given and has not said. Some of that is always on its way. What it
//! owes beyond the least that it ever owed, answer after answer, is its backlog, and the caller's delay: an engine that
//! needs more than 80 ms for 80 ms makes it grow for as long as it is fed all there is. So it is given less: what is
//! said is made shorter where that is enough, and else withheld until the backlog is worked off.
//!
//! A way to the engine that has become longer looks the same, and so does an engine that lost something, but there what
//! is owed does not grow. So when much has been taken out the engine is given everything again for a while: if it does
//! not fall behind further, what it owes is usual from then on. Nothing is kept from it for good, whatever it does.

/// Behind by this is behind: networks, chunks and steps that vary make less of it.
const BEHIND_MS: usize = 250;
/// It is caught up with when it is behind by no more than this.
const CAUGHT_UP_MS: usize = 120;
/// So long every answer is late before anything is done: a network that stalled has brought all by then.
const SURE_US: u64 = 1_500_000;
/// When so much was taken out it is tested whether that is for a backlog...
const TEST_AFTER_MS: i64 = 1500;
/// ...and if it is, not so soon again.
const TEST_AGAIN_AFTER_MS: i64 = 15_000;
/// What is owed at least at the beginning of a test and at its end, this far apart and for as long as `SURE_US` each...
const TEST_US: u64 = 4_500_000;
/// ...grows by more than this if there is a backlog: by a hundredth of the time.
const GROWS_MS: usize = 40;
/// What is usually on its way is on its way again so long after less was given...
const LEARN_AFTER_US: u64 = 2_000_000;
/// ...and what is on its way has come round when what is owed was answered in real time, and this.
const ROUND_US: u64 = 300_000;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    InTime,
    /// All answers have been late since then; the least that it owed meanwhile.
    Late {
        since_us: u64,
        least: i64,
    },
    /// It gets everything though it is behind: what it owed when that began, and at least at the end.
    Tested {
        since_us: u64,
        first: i64,
        last: i64,
    },
    Shortening,
    Withholding {
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
    /// The least it ever owed, from when all was on its way that usually is.
    least: Option<i64>,
    learns_from_us: u64,
    mode: Mode,
    /// So much may be taken out until it is tested for what.
    untested: i64,
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

    /// It was given nothing for long: what is usual is to be learnt anew.
    pub(crate) fn forget(&mut self, now_us: u64) {
        self.least = None;
        self.learns_from_us = now_us + LEARN_AFTER_US;
        self.mode = Mode::InTime;
        self.untested = self.samples_of(TEST_AFTER_MS);
    }

    /// How often it was behind.
    pub(crate) fn times(&self) -> u64 {
        self.times
    }

    pub(crate) fn fed(&mut self, samples: usize) {
        self.fed += samples as i64;
    }

    /// The engine said so many samples.
    pub(crate) fn answered(&mut self, samples: usize, now_us: u64) {
        self.answered += samples as i64;
        let owes = self.fed - self.answered;
        if now_us >= self.learns_from_us {
            self.least = Some(self.least.map_or(owes, |least| least.min(owes)));
        }
        let behind = self.behind();
        self.mode = match self.mode {
            Mode::InTime if behind > self.samples(BEHIND_MS) => Mode::Late {
                since_us: now_us,
                least: owes,
            },
            Mode::Late { since_us, .. } if now_us < since_us => self.mode,
            Mode::Late { .. } | Mode::Tested { .. } if behind <= self.samples(BEHIND_MS) => Mode::InTime,
            Mode::Late { since_us, least } if now_us >= since_us + SURE_US => {
                self.times += 1;
                if self.untested > 0 {
                    Mode::Shortening
                } else {
                    Mode::Tested {
                        since_us,
                        first: least,
                        last: i64::MAX,
                    }
                }
            }
            Mode::Late { since_us, least } => Mode::Late {
                since_us,
                least: least.min(owes),
            },
            Mode::Tested {
                since_us,
                first,
                last,
            } => self.test(since_us, first, last.min(owes), now_us),
            Mode::Shortening | Mode::Withholding { .. } if behind <= self.samples(CAUGHT_UP_MS) => {
                Mode::InTime
            }
            Mode::Shortening if self.untested <= 0 => Mode::Late {
                since_us: now_us + self.us(owes) + ROUND_US,
                least: i64::MAX,
            },
            Mode::Shortening if behind > self.most.max(self.samples(2 * BEHIND_MS)) => {
                Mode::Withholding { left: behind }
            }
            Mode::Shortening | Mode::InTime | Mode::Withholding { .. } => self.mode,
        };
    }

    /// Whether there is a backlog: what it owed at first and what it owes since are told apart, or not yet.
    fn test(&mut self, since_us: u64, first: i64, last: i64, now_us: u64) -> Mode {
        let owes = self.fed - self.answered;
        if now_us < since_us + TEST_US {
            if owes > first + self.samples(BEHIND_MS) as i64 {
                return self.proved();
            }
            return Mode::Tested {
                since_us,
                first,
                last: i64::MAX,
            };
        }
        if now_us < since_us + TEST_US + SURE_US {
            return Mode::Tested {
                since_us,
                first,
                last,
            };
        }
        if last > first + self.samples(GROWS_MS) as i64 {
            return self.proved();
        }
        self.least = Some(last);
        self.untested = self.samples_of(TEST_AFTER_MS);
        Mode::InTime
    }

    fn proved(&mut self) -> Mode {
        self.untested = self.samples_of(TEST_AGAIN_AFTER_MS);
        Mode::Shortening
    }

    /// What it shall be spared of what has just been said.
    pub(crate) fn spare(&self) -> Spare {
        match self.mode {
            Mode::InTime | Mode::Late { .. } | Mode::Tested { .. } => Spare::Nothing,
            Mode::Shortening => Spare::Some(self.behind().saturating_sub(self.samples(CAUGHT_UP_MS))),
            Mode::Withholding { .. } => Spare::All,
        }
    }

    /// It was spared so many samples.
    pub(crate) fn spared(&mut self, samples: usize, now_us: u64) {
        self.learns_from_us = now_us + LEARN_AFTER_US;
        self.untested -= samples as i64;
        if let Mode::Withholding { left } = self.mode {
            let left = left.saturating_sub(samples);
            self.mode = if left > 0 {
                Mode::Withholding { left }
            } else {
                Mode::Shortening
            };
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

    fn samples_of(&self, ms: i64) -> i64 {
        i64::from(self.rate_hz / 1000) * ms
    }
}
