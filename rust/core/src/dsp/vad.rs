//! Voice activity: whether somebody speaks on a line, louder than its background for long enough, and louder than an
//! echo.
//!
//! A street is loud but steady. A cough is short. The echo of the agent's voice from the caller's telephone is
//! quieter than that voice. [`Vad`] listens to one direction; [`Echo`] remembers how loud the other one was.

use std::collections::VecDeque;

use crate::dsp::noise::rms;
use crate::rate::LineRate;

/// Audio is judged in frames of this length.
const FRAME_MS: u32 = 20;
/// Speech is looked for in this many frames: the length of an interjection, with the gaps inside a word.
const FRAMES: usize = 20;
/// This many of those frames must be louder than the background: a cough or a slammed door is shorter.
const LOUD_FRAMES: usize = 8;
/// Speech is this much (10 dB) above the background; a street varies by less.
const ABOVE_BACKGROUND: f32 = 3.2;
/// Quieter than this (-50 dBFS) is not speech to the other side.
const LOUD_AT_LEAST: f32 = 3.2e-3;

/// An echo comes back within this: a mobile network's round trip, the phone's chunk and our own network.
const ECHO_WITHIN_US: u64 = 1_000_000;
/// An echo is at least this much (12 dB) quieter than its source, even on a line without echo cancellation. A caller
/// who interrupts is about as loud as the agent.
const ECHO_AT_MOST: f32 = 0.25;

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Vad {
    frame: usize,
    /// RMS of the newest frames, the oldest first; 0 for those that were no louder than the background.
    levels: VecDeque<f32>,
}

impl Vad {
    pub(crate) fn new(rate: LineRate) -> Self {
        Self {
            frame: rate.samples(FRAME_MS),
            levels: VecDeque::with_capacity(FRAMES),
        }
    }

    /// Takes audio from a line whose background has this level (RMS). A rest shorter than a frame is left out.
    pub(crate) fn observe(&mut self, pcm: &[f32], background: f32) {
        let least = (background * ABOVE_BACKGROUND).max(LOUD_AT_LEAST);
        for frame in pcm.chunks_exact(self.frame) {
            let level = rms(frame);
            if self.levels.len() == FRAMES {
                self.levels.pop_front();
            }
            self.levels.push_back(if level > least { level } else { 0.0 });
        }
    }

    /// RMS of the loudest frame while somebody speaks, 0 while nobody does.
    pub(crate) fn speech_level(&self) -> f32 {
        let speaks = self.levels.iter().filter(|&&level| level > 0.0).count() >= LOUD_FRAMES;
        if speaks {
            self.levels.iter().copied().fold(0.0, f32::max)
        } else {
            0.0
        }
    }
}

/// How loud the phone's loudspeaker was lately.
#[derive(Debug, Clone, Default)]
pub(crate) struct Echo {
    /// When a frame begins to be heard, and its RMS.
    heard: VecDeque<(u64, f32)>,
}

impl Echo {
    /// `pcm` will be heard from `at_us` on.
    pub(crate) fn plays(&mut self, pcm: &[f32], at_us: u64, now_us: u64, rate: LineRate) {
        self.forget(now_us);
        let frame_len = rate.samples(FRAME_MS);
        for (frame_us, frame) in (at_us..)
            .step_by(FRAME_MS as usize * 1000)
            .zip(pcm.chunks(frame_len))
        {
            self.heard.push_back((frame_us, rms(frame)));
        }
    }

    /// Audio after `now_us` will not be heard.
    pub(crate) fn cut(&mut self, now_us: u64) {
        while self.heard.back().is_some_and(|&(at_us, _)| at_us > now_us) {
            self.heard.pop_back();
        }
    }

    /// Whether a voice of this level (RMS) is louder than the echo of what was just heard can be.
    pub(crate) fn is_exceeded_by(&mut self, level: f32, now_us: u64) -> bool {
        self.forget(now_us);
        let loudest = self
            .heard
            .iter()
            .take_while(|&&(at_us, _)| at_us <= now_us)
            .fold(0.0, |loudest: f32, &(_, level)| loudest.max(level));
        level > loudest * ECHO_AT_MOST
    }

    /// Forgets what was heard too long ago to have an echo.
    fn forget(&mut self, now_us: u64) {
        let since_us = now_us.saturating_sub(ECHO_WITHIN_US);
        while self.heard.front().is_some_and(|&(at_us, _)| at_us < since_us) {
            self.heard.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKGROUND: f32 = 1e-3;

    fn ms(ms: usize, level: f32) -> Vec<f32> {
        (0..ms * 8)
            .map(|i| if i % 2 == 0 { level } else { -level })
            .collect()
    }

    fn heard(pieces: &[(usize, f32)], background: f32) -> f32 {
        let mut vad = Vad::new(LineRate::KHZ_8);
        for &(length_ms, level) in pieces {
            vad.observe(&ms(length_ms, level), background);
        }
        vad.speech_level()
    }

    #[test]
    fn speech_is_heard_over_its_own_gaps() {
        assert!(heard(&[(80, 0.1), (60, BACKGROUND), (100, 0.05)], BACKGROUND) > 0.09);
    }

    #[test]
    fn a_cough_is_not_speech() {
        assert_eq!(
            heard(&[(400, BACKGROUND), (140, 0.5), (100, BACKGROUND)], BACKGROUND),
            0.0
        );
    }

    #[test]
    fn a_street_is_not_speech_however_loud() {
        assert_eq!(heard(&[(1000, 0.06)], 0.05), 0.0);
    }

    #[test]
    fn speech_that_has_ended_is_soon_silence() {
        assert!(heard(&[(1000, 0.1), (100, BACKGROUND)], BACKGROUND) > 0.0);
        assert_eq!(heard(&[(1000, 0.1), (300, BACKGROUND)], BACKGROUND), 0.0);
    }

    #[test]
    fn an_echo_is_told_from_a_voice_by_its_level_while_the_agent_is_heard() {
        let mut echo = Echo::default();
        echo.plays(&ms(200, 0.2), 1_000_000, 900_000, LineRate::KHZ_8);
        assert!(!echo.is_exceeded_by(0.04, 1_300_000));
        assert!(echo.is_exceeded_by(0.1, 1_300_000));
        assert!(echo.is_exceeded_by(0.04, 2_300_000), "the agent was long silent");
    }

    #[test]
    fn audio_that_is_not_heard_yet_has_no_echo() {
        let mut echo = Echo::default();
        echo.plays(&ms(200, 0.2), 1_000_000, 900_000, LineRate::KHZ_8);
        assert!(echo.is_exceeded_by(0.01, 900_000));
        echo.cut(900_000);
        assert!(echo.is_exceeded_by(0.01, 1_100_000));
    }
}
