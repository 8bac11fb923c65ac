//! WSOLA: speech made shorter or longer without changing its pitch.

use crate::error::{Error, Result};
use crate::noise::Background;

/// The first and last milliseconds of a buffer are left as they are: the seams to the audio around it stay exact.
const EDGE_MS: usize = 3;
/// Length of a cross-fade.
const FADE_MS: usize = 5;

/// What [`TimeScaler`] did to a buffer, in samples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Change {
    /// Taken out of, or put into, pauses.
    pub in_pauses: usize,
    /// Taken out of, or put into, speech.
    pub in_speech: usize,
}

impl Change {
    /// Samples in all.
    #[must_use]
    pub fn total(self) -> usize {
        self.in_pauses + self.in_speech
    }
}

/// Shortens and lengthens audio in place.
#[derive(Debug, Clone)]
pub struct TimeScaler {
    edge: usize,
    fade: usize,
    spliced: Vec<f32>,
}

impl TimeScaler {
    /// For audio at `rate_hz` (8000, 16000 or 24000).
    ///
    /// # Errors
    /// [`Error::Rate`] for any other rate.
    pub fn new(rate_hz: u32) -> Result<Self> {
        if !matches!(rate_hz, 8000 | 16000 | 24000) {
            return Err(Error::Rate {
                rate_hz,
                expected: "8000, 16000 or 24000",
            });
        }
        let per_ms = (rate_hz / 1000) as usize;
        Ok(Self {
            edge: EDGE_MS * per_ms,
            fade: FADE_MS * per_ms,
            spliced: Vec::new(),
        })
    }

    /// Takes at most `at_most` samples out of `pcm`: pauses first, then speech where it repeats itself.
    pub fn remove(&mut self, pcm: &mut Vec<f32>, at_most: usize, background: &Background) -> Change {
        let in_pauses = self.remove_pauses(pcm, at_most, background);
        let in_speech = self.remove_speech(pcm, at_most - in_pauses);
        Change { in_pauses, in_speech }
    }

    /// Takes at most `at_most` samples out of the pauses in `pcm`, and touches no speech.
    pub fn remove_pauses(&mut self, pcm: &mut Vec<f32>, at_most: usize, background: &Background) -> usize {
        if background.is_pause(pcm) {
            self.remove_speech(pcm, at_most)
        } else {
            0
        }
    }

    /// Takes at most `at_most` samples out of speech: whole pitch periods, where one resembles the next.
    pub fn remove_speech(&mut self, pcm: &mut Vec<f32>, at_most: usize) -> usize {
        let kept = 2 * self.edge + self.fade;
        let removed = at_most.min(pcm.len().saturating_sub(kept));
        if removed == 0 {
            return 0;
        }
        let at = self.edge;
        for i in 0..self.fade {
            let share = (i + 1) as f32 / (self.fade + 1) as f32;
            pcm[at + i] += share * (pcm[at + removed + i] - pcm[at + i]);
        }
        pcm.drain(at + self.fade..at + self.fade + removed);
        removed
    }

    /// Puts at most `at_most` samples into `pcm`: into pauses if there are any, else into speech.
    pub fn insert(&mut self, pcm: &mut Vec<f32>, at_most: usize, background: &Background) -> Change {
        let most = pcm.len().saturating_sub(2 * self.edge + self.fade);
        let inserted = at_most.min(most);
        if inserted == 0 {
            return Change::default();
        }
        let at = self.edge + inserted;
        self.spliced.clear();
        self.spliced.extend_from_slice(&pcm[..at]);
        for i in 0..self.fade {
            let share = (i + 1) as f32 / (self.fade + 1) as f32;
            self.spliced
                .push(pcm[at + i] + share * (pcm[at - inserted + i] - pcm[at + i]));
        }
        self.spliced.extend_from_slice(&pcm[at - inserted + self.fade..]);
        std::mem::swap(pcm, &mut self.spliced);
        if background.is_pause(pcm) {
            Change {
                in_pauses: inserted,
                in_speech: 0,
            }
        } else {
            Change {
                in_pauses: 0,
                in_speech: inserted,
            }
        }
    }
}
