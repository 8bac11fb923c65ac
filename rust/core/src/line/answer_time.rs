//! The engine's answer time. It answers frame by frame, so its frame `n` answers the caller's frame `n`.

use crate::rate::{FRAME_MS, LineRate};

/// The number of the caller's frames that are remembered until they are answered: 2.5 s.
const KEPT: usize = 32;

/// See the module. Samples are those of the present engine, at the line's rate.
#[derive(Debug)]
pub(super) struct AnswerTime {
    frame: u64,
    fed: u64,
    answered: u64,
    /// When the caller's frame `n` was complete, at `n % KEPT`.
    complete_us: [u64; KEPT],
    newest_us: Option<u64>,
}

impl AnswerTime {
    pub(super) fn new(rate: LineRate) -> Self {
        Self {
            frame: rate.samples(FRAME_MS) as u64,
            fed: 0,
            answered: 0,
            complete_us: [0; KEPT],
            newest_us: None,
        }
    }

    /// An engine begins.
    pub(super) fn begin(&mut self) {
        (self.fed, self.answered) = (0, 0);
    }

    /// The engine was sent samples.
    pub(super) fn fed(&mut self, samples: usize, now_us: u64) {
        let before = self.fed / self.frame;
        self.fed += samples as u64;
        for frame in before..self.fed / self.frame {
            self.complete_us[frame as usize % KEPT] = now_us;
        }
    }

    /// Samples came from the engine.
    pub(super) fn answered(&mut self, samples: usize, now_us: u64) {
        self.answered += samples as u64;
        let complete = self.fed / self.frame;
        let Some(last) = (self.answered / self.frame).checked_sub(1) else {
            return;
        };
        // An engine that says more than it was given answers no frame. The frames that a slow engine answers may be
        // forgotten.
        if last < complete && last + KEPT as u64 >= complete {
            self.newest_us = Some(now_us.saturating_sub(self.complete_us[last as usize % KEPT]));
        }
    }

    /// The newest answer time: from a frame's last sample to its answer. `None` before the first answer.
    pub(super) fn us(&self) -> Option<u64> {
        self.newest_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_takes_from_the_last_sample_of_its_frame() {
        let mut time = AnswerTime::new(LineRate::ALL[0]);
        time.fed(800, 100_000);
        time.answered(640, 150_000);
        assert_eq!(time.us(), Some(50_000));
        time.answered(640, 230_000);
        assert_eq!(time.us(), Some(50_000), "the second frame is not complete");
        time.fed(480, 240_000);
        time.answered(640, 250_000);
        assert_eq!(time.us(), Some(50_000), "a third frame answers nothing");
    }

    #[test]
    fn what_was_forgotten_or_another_engines_tells_nothing() {
        let mut time = AnswerTime::new(LineRate::ALL[0]);
        time.fed(640 * 40, 1_000_000);
        time.answered(640, 9_000_000);
        assert_eq!(time.us(), None);
        time.begin();
        time.answered(640, 9_000_000);
        assert_eq!(time.us(), None);
        time.fed(640, 9_100_000);
        time.answered(1, 9_120_000);
        assert_eq!(time.us(), Some(20_000));
    }
}
