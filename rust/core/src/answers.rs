//! What the engine owes: how long its answers take, and how far it is behind.
//!
//! It answers frame by frame, so as many as it has sent, so many it must have got before. A frame or two that it keeps
//! to itself, and what is always on its way, are a constant: only what it owes more than at the least is a backlog.

/// So many frames are remembered until they are answered: 5 s of them.
const KEPT: usize = 64;
/// Answers that take so much longer than the quickest did are behind: more than networks and chunks make of it.
const BEHIND_US: u64 = 300_000;

/// Given nothing for so long after it last spoke, it is silent only since it was given something again.
const STARVED_US: u64 = 250_000;

/// See the module.
#[derive(Debug)]
pub(crate) struct Answers {
    frame: u64,
    fed: u64,
    heard: u64,
    /// When frame `n` was complete, at `n % KEPT`.
    complete_us: [u64; KEPT],
    heard_us: Option<u64>,
    round_trip_us: Option<u64>,
    least_trip_us: u64,
    /// The fewest frames that it owed after an answer.
    least_owed: u64,
    behind_since_us: Option<u64>,
}

impl Answers {
    /// Frames of so many samples.
    pub(crate) fn new(frame: usize) -> Self {
        Self {
            frame: frame as u64,
            fed: 0,
            heard: 0,
            complete_us: [0; KEPT],
            heard_us: None,
            round_trip_us: None,
            least_trip_us: u64::MAX,
            least_owed: u64::MAX,
            behind_since_us: None,
        }
    }

    /// Another engine.
    pub(crate) fn begin(&mut self) {
        *self = Self {
            round_trip_us: self.round_trip_us,
            ..Self::new(self.frame as usize)
        };
    }

    /// The engine was given so many samples.
    pub(crate) fn feed(&mut self, samples: usize, now_us: u64) {
        let before = self.complete();
        self.fed += samples as u64;
        for frame in before..self.complete() {
            self.complete_us[frame as usize % KEPT] = now_us;
        }
    }

    /// The engine said so many samples.
    pub(crate) fn hear(&mut self, samples: usize, now_us: u64) {
        // What it cannot have been given yet is no answer.
        self.heard = (self.heard + samples as u64).min(self.complete() * self.frame);
        self.heard_us = Some(now_us);
        let Some(last) = self.answered().checked_sub(1) else {
            return;
        };
        self.least_owed = self.least_owed.min(self.complete() - self.answered());
        let trip_us = now_us.saturating_sub(self.complete_at_us(last));
        self.round_trip_us = Some(trip_us);
        self.least_trip_us = self.least_trip_us.min(trip_us);
        if trip_us - self.least_trip_us <= BEHIND_US {
            self.behind_since_us = None;
        } else if self.behind_since_us.is_none() {
            self.behind_since_us = Some(now_us);
        }
    }

    /// How long after a frame's last sample was given its answer came, the last time; at least so long, if that was
    /// more than can be remembered.
    pub(crate) fn round_trip_us(&self) -> Option<u64> {
        self.round_trip_us
    }

    /// For how long all its answers were late, up to the newest.
    pub(crate) fn behind_us(&self) -> Option<u64> {
        Some(self.heard_us? - self.behind_since_us?)
    }

    /// Whether its newest answer was late.
    pub(crate) fn is_behind(&self) -> bool {
        self.behind_since_us.is_some()
    }

    /// For how long it has said nothing though it had something to answer; `None` if it has not, or never spoke.
    pub(crate) fn silent_us(&self, now_us: u64) -> Option<u64> {
        let heard_us = self.heard_us?;
        let next = self.answered() + self.usually_owed();
        let given_us = (next < self.complete()).then(|| self.complete_at_us(next))?;
        let starved = given_us > heard_us + STARVED_US;
        Some(now_us.saturating_sub(if starved { given_us } else { heard_us }))
    }

    /// How many samples it was given beyond what it has answered and usually owes.
    pub(crate) fn owed(&self) -> usize {
        let usual = self.usually_owed() * self.frame;
        self.fed.saturating_sub(self.heard + usual) as usize
    }

    /// It has lost what it seems to owe, or the way to it has become longer: what is usual is learnt anew.
    pub(crate) fn write_off(&mut self) {
        self.heard = self.complete().saturating_sub(self.usually_owed()) * self.frame;
        self.least_trip_us = u64::MAX;
        self.behind_since_us = None;
    }

    fn usually_owed(&self) -> u64 {
        if self.least_owed == u64::MAX {
            0
        } else {
            self.least_owed
        }
    }

    fn complete(&self) -> u64 {
        self.fed / self.frame
    }

    /// Whole frames, though a decoder keeps some of the first to itself.
    fn answered(&self) -> u64 {
        ((self.heard + self.frame / 2) / self.frame).min(self.complete())
    }

    fn complete_at_us(&self, frame: u64) -> u64 {
        let oldest = self.complete().saturating_sub(KEPT as u64);
        self.complete_us[frame.max(oldest) as usize % KEPT]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: usize = 640;
    const FRAME_US: u64 = 80_000;

    /// Feeds in real time, and hears an answer every `step_us` as long as there is something to answer.
    fn after(frames: u64, step_us: u64) -> Answers {
        let mut answers = Answers::new(FRAME);
        let mut free_us = 0;
        for frame in 0..frames {
            let now_us = frame * FRAME_US;
            while free_us + step_us <= now_us && answers.heard < answers.fed {
                free_us += step_us;
                answers.hear(FRAME, free_us);
            }
            if answers.heard == answers.fed {
                free_us = now_us;
            }
            answers.feed(FRAME, now_us);
        }
        answers
    }

    #[test]
    fn an_engine_that_keeps_up_is_not_behind_and_its_round_trip_is_its_step() {
        let answers = after(100, 30_000);
        assert_eq!(answers.round_trip_us(), Some(30_000));
        assert_eq!(answers.behind_us(), None);
        assert!(answers.owed() <= FRAME);
    }

    #[test]
    fn an_engine_slower_than_real_time_is_behind_and_the_round_trip_says_by_how_much() {
        let answers = after(100, 100_000);
        let owed_us = answers.owed() as u64 * 125;
        assert!((1_400_000..=1_700_000).contains(&owed_us), "{owed_us}");
        let trip_us = answers.round_trip_us().expect("it answered");
        assert!((1_500_000..=1_800_000).contains(&trip_us), "{trip_us}");
        assert!(answers.behind_us().is_some_and(|us| us > 5_000_000));
    }

    #[test]
    fn what_is_too_long_ago_is_told_as_at_least() {
        let mut answers = Answers::new(FRAME);
        for frame in 0..200 {
            answers.feed(FRAME, frame * FRAME_US);
        }
        answers.hear(FRAME, 200 * FRAME_US);
        assert_eq!(answers.round_trip_us(), Some(KEPT as u64 * FRAME_US));
    }

    #[test]
    fn frames_that_an_engine_keeps_to_itself_are_no_backlog() {
        let mut answers = Answers::new(FRAME);
        for frame in 0..100 {
            answers.feed(FRAME, frame * FRAME_US);
            if frame >= 2 {
                answers.hear(FRAME, frame * FRAME_US + 30_000);
            }
        }
        assert_eq!(answers.owed(), 0);
        assert_eq!(answers.silent_us(99 * FRAME_US + 5_000_000), None);
    }

    #[test]
    fn an_engine_that_owes_nothing_is_not_silent() {
        let mut answers = Answers::new(FRAME);
        answers.feed(FRAME, 0);
        answers.hear(FRAME, 30_000);
        assert_eq!(answers.silent_us(5_000_000), None);
        answers.feed(FRAME, 5_000_000);
        assert_eq!(answers.silent_us(5_100_000), Some(100_000));
    }

    #[test]
    fn what_was_lost_can_be_written_off() {
        let mut answers = Answers::new(FRAME);
        for frame in 0..100 {
            answers.feed(FRAME, frame * FRAME_US);
            if !(50..60).contains(&frame) {
                answers.hear(FRAME, frame * FRAME_US + 30_000);
            }
        }
        assert_eq!(answers.owed(), 10 * FRAME);
        answers.write_off();
        assert_eq!(answers.owed(), 0);
        answers.feed(FRAME, 100 * FRAME_US);
        answers.hear(FRAME, 100 * FRAME_US + 30_000);
        assert_eq!(answers.round_trip_us(), Some(30_000));
    }
}
