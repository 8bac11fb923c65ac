//! Audio that waits to be played, and how it is made shorter: pauses first, then speech by WSOLA, then a cut.
//!
//! Each stretch of audio is examined once, when all of it has arrived. So nothing is spliced twice, and the share of
//! speech that may be removed is a speed.
//!
//! If the oldest audio does not continue what was heard last, the seam needs a fade. It is made only when the audio is
//! taken out: the audio may still be cut, and then a fade made earlier would be heard as a blip.

use crate::dsp::noise::Background;
use crate::dsp::timescale::{Change, TimeScaler};
use crate::rate::LineRate;

/// Speech is shortened in blocks of at least this: they have room for several periods of a low voice.
const SPEECH_BLOCK_MS: u32 = 60;
/// Pauses are shortened in blocks of at least this: less is the gap before a consonant.
const PAUSE_BLOCK_MS: u32 = 20;
/// At most this share of speech is removed: people and speech models still understand speech that is 1.4 times as
/// fast.
const FASTER: f32 = 0.29;
/// A cut is cross-faded over this.
const FADE_MS: u32 = 5;

/// Fades `pcm` in from `fade_from`, the expected continuation of what was heard last. The fade is as long as the
/// shorter one.
pub(crate) fn cross_fade(pcm: &mut [f32], fade_from: &[f32]) {
    let length = pcm.len().min(fade_from.len());
    for (i, (sample, old)) in pcm.iter_mut().zip(fade_from).enumerate() {
        let share = (i + 1) as f32 / (length + 1) as f32;
        *sample = *sample * share + old * (1.0 - share);
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct SyncBuffer {
    pcm: Vec<f32>,
    /// The expected continuation of what was heard last, where the oldest sample does not continue it.
    fade_from: Vec<f32>,
    /// How much of the newest audio was not examined yet: for speech, and for pauses.
    unexamined: usize,
    unexamined_pauses: usize,
    speech_block: usize,
    pause_block: usize,
    fade: usize,
    scaler: TimeScaler,
    work: Vec<f32>,
    pub(crate) background: Background,
}

impl SyncBuffer {
    pub(crate) fn new(rate: LineRate) -> Self {
        Self {
            pcm: Vec::new(),
            fade_from: Vec::new(),
            unexamined: 0,
            unexamined_pauses: 0,
            speech_block: rate.samples(SPEECH_BLOCK_MS),
            pause_block: rate.samples(PAUSE_BLOCK_MS),
            fade: rate.samples(FADE_MS),
            scaler: TimeScaler::new(rate),
            work: Vec::new(),
            background: Background::new(rate),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.pcm.len()
    }

    pub(crate) fn push(&mut self, pcm: &[f32]) {
        self.pcm.extend_from_slice(pcm);
        self.unexamined += pcm.len();
        self.unexamined_pauses += pcm.len();
    }

    /// Whether nothing but the line's background waits.
    pub(crate) fn is_pause(&self) -> bool {
        self.background.is_pause(&self.pcm)
    }

    /// The newest samples, to fade their start.
    pub(crate) fn newest(&mut self, samples: usize) -> &mut [f32] {
        let at = self.pcm.len().saturating_sub(samples);
        &mut self.pcm[at..]
    }

    /// The oldest sample, or the next to arrive, does not continue what was heard last. `fade_from` is the expected
    /// continuation; the next audio cross-fades from it.
    pub(crate) fn fade_in_from(&mut self, fade_from: &[f32]) {
        self.fade_from.clear();
        self.fade_from.extend_from_slice(fade_from);
    }

    /// The same after silence: the next audio fades in.
    pub(crate) fn fade_in_from_silence(&mut self) {
        self.fade_from.clear();
        self.fade_from.resize(self.fade, 0.0);
    }

    pub(crate) fn clear(&mut self) {
        self.pcm.clear();
        self.clamp_unexamined();
    }

    /// Removes at most `at_most` samples from the pauses in what arrived since the last time.
    pub(crate) fn shorten_pauses(&mut self, at_most: usize) -> usize {
        if self.unexamined_pauses < self.pause_block {
            return 0;
        }
        let unexamined = std::mem::take(&mut self.unexamined_pauses);
        self.rescale_newest(unexamined, |scaler, background, pcm| {
            scaler.remove_pauses(pcm, at_most, background)
        })
    }

    /// Removes at most `at_most` samples from what arrived since the last time: from pauses, and a share of the
    /// speech.
    pub(crate) fn shorten(&mut self, at_most: usize) -> Change {
        let in_pauses = self.shorten_pauses(at_most);
        if self.unexamined < self.speech_block {
            return Change {
                in_pauses,
                in_speech: 0,
            };
        }
        let unexamined = std::mem::take(&mut self.unexamined);
        let share = (unexamined as f32 * FASTER) as usize;
        let in_speech = self.rescale_newest(unexamined, |scaler, _, pcm| {
            scaler.remove_speech(pcm, share.min(at_most - in_pauses))
        });
        Change { in_pauses, in_speech }
    }

    /// Inserts at most `at_most` samples into what arrived since the last time, if that is a pause.
    pub(crate) fn lengthen_pause(&mut self, at_most: usize) -> usize {
        let unexamined = std::mem::take(&mut self.unexamined_pauses);
        self.rescale_newest(unexamined, |scaler, background, pcm| {
            if background.is_pause(pcm) {
                scaler.insert(pcm, at_most, background).total()
            } else {
                0
            }
        })
    }

    /// The same, into speech if there is no pause.
    pub(crate) fn lengthen(&mut self, at_most: usize) -> usize {
        let unexamined = std::mem::take(&mut self.unexamined);
        self.unexamined_pauses = 0;
        self.rescale_newest(unexamined, |scaler, background, pcm| {
            scaler.insert(pcm, at_most, background).total()
        })
    }

    fn rescale_newest<T>(
        &mut self,
        samples: usize,
        act: impl FnOnce(&mut TimeScaler, &Background, &mut Vec<f32>) -> T,
    ) -> T {
        let at = self.pcm.len() - samples;
        self.work.clear();
        self.work.extend_from_slice(&self.pcm[at..]);
        let done = act(&mut self.scaler, &self.background, &mut self.work);
        self.pcm.truncate(at);
        self.pcm.extend_from_slice(&self.work);
        self.clamp_unexamined();
        done
    }

    /// Samples that are gone need not be examined.
    fn clamp_unexamined(&mut self) {
        self.unexamined = self.unexamined.min(self.pcm.len());
        self.unexamined_pauses = self.unexamined_pauses.min(self.pcm.len());
    }

    /// Drops the oldest samples. If they continued what was heard last, they fade into what comes after them.
    pub(crate) fn cut(&mut self, samples: usize) -> usize {
        let samples = samples.min(self.pcm.len());
        if samples > 0 && self.fade_from.is_empty() {
            // A whole fade even if less is dropped: more may be dropped before anything is heard.
            let known = self.fade.min(self.pcm.len());
            self.fade_from.extend_from_slice(&self.pcm[..known]);
            self.fade_from.resize(self.fade, self.pcm[known - 1]);
        }
        self.pcm.drain(..samples);
        self.clamp_unexamined();
        samples
    }

    /// Takes the oldest samples out, to be heard. Returns how many there were.
    pub(crate) fn take(&mut self, samples: usize, out: &mut Vec<f32>) -> usize {
        let samples = samples.min(self.pcm.len());
        let begin = out.len();
        out.extend(self.pcm.drain(..samples));
        self.fade_in(&mut out[begin..]);
        self.clamp_unexamined();
        samples
    }

    /// `pcm` will be heard next: it fades in from the expected continuation, if there is one.
    pub(crate) fn fade_in(&mut self, pcm: &mut [f32]) {
        if !pcm.is_empty() {
            cross_fade(pcm, &self.fade_from);
            self.fade_from.clear();
        }
    }
}
