//! Fills gaps in the engine's audio.
//!
//! Libopus conceals a short gap by extending the last sound; after that its voice becomes a drone. Comfort noise like
//! the engine's own background fills the rest. The fill goes on for a moment under the audio that follows, and
//! cross-fades into it.

use crate::dsp::noise::{Background, ComfortNoise};
use crate::dsp::sync_buffer::SyncBuffer;
use crate::rate::LineRate;

/// Libopus conceals at most this much of a gap.
const CONCEAL_MS: u32 = 60;
/// Libopus conceals in steps of this. If it were asked for less, the rest of a step would be lost before the audio
/// that follows.
const CONCEAL_STEP_MS: u32 = 10;
/// Length of the cross-fades at both ends of a fill.
const FADE_MS: u32 = 5;

/// Appends a number of samples of libopus' concealment, at the line's rate.
pub(crate) type Conceal<'a> = dyn FnMut(usize, &mut Vec<f32>) + 'a;

/// See the module.
#[derive(Debug)]
pub(crate) struct Concealment {
    rate: LineRate,
    noise: ComfortNoise,
    /// Concealment that was made and not used yet: how the last sound continues.
    continuation: Vec<f32>,
    scratch: Vec<f32>,
}

/// How many samples of a gap were filled, and with what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Filled {
    pub(crate) concealed: usize,
    pub(crate) noise: usize,
}

impl Concealment {
    pub(crate) fn new(rate: LineRate, seed: u64) -> Self {
        Self {
            rate,
            noise: ComfortNoise::new(seed),
            continuation: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// A gap begins. Its noise is to sound like `background`.
    pub(crate) fn begin_gap(&mut self, background: &Background) {
        self.noise.follow(background);
    }

    /// The engine's audio is back, or nothing plays: the last sound does not continue.
    pub(crate) fn forget(&mut self) {
        self.continuation.clear();
    }

    /// Appends `missing` samples after what `queue` gave last. `before`: how many samples of the same gap were filled
    /// already. The next audio from `queue` will fade in from their continuation.
    pub(crate) fn fill(
        &mut self,
        missing: usize,
        before: usize,
        queue: &mut SyncBuffer,
        conceal: &mut Conceal<'_>,
        out: &mut Vec<f32>,
    ) -> Filled {
        let concealed = self.rate.samples(CONCEAL_MS).saturating_sub(before).min(missing);
        let fade = self.fade();
        if concealed > 0 {
            // The concealment itself may not continue what was heard last: what lay between may have been cut.
            self.conceal_to(concealed + fade, conceal);
            let at = out.len();
            out.extend(self.continuation.drain(..concealed));
            queue.fade_in(&mut out[at..]);
            queue.fade_in_from(&self.continuation[..fade]);
        }
        let noise = missing - concealed;
        if noise > 0 {
            let at = out.len();
            self.noise.fill(noise, out);
            queue.fade_in(&mut out[at..]);
            self.continuation.clear();
            self.scratch.clear();
            self.noise.clone().fill(fade, &mut self.scratch);
            queue.fade_in_from(&self.scratch);
        }
        Filled { concealed, noise }
    }

    /// Appends `samples` of the last sound's expected continuation; `in_gap`: the last sound is itself a fill.
    pub(crate) fn extend_speech(
        &mut self,
        samples: usize,
        in_gap: bool,
        queue: &mut SyncBuffer,
        conceal: &mut Conceal<'_>,
        out: &mut Vec<f32>,
    ) {
        let at = out.len();
        if in_gap && self.continuation.is_empty() {
            self.noise.fill(samples, out);
        } else {
            self.conceal_to(samples, conceal);
            out.extend(self.continuation.drain(..samples));
        }
        queue.fade_in(&mut out[at..]);
    }

    /// Samples of a cross-fade.
    pub(crate) fn fade(&self) -> usize {
        self.rate.samples(FADE_MS)
    }

    /// Makes concealment until `samples` of it wait. A decoder that has not decoded anything yet makes none: then
    /// silence is used.
    fn conceal_to(&mut self, samples: usize, conceal: &mut Conceal<'_>) {
        let step = self.rate.samples(CONCEAL_STEP_MS);
        let lacking = samples
            .saturating_sub(self.continuation.len())
            .next_multiple_of(step);
        let end = self.continuation.len() + lacking;
        if lacking > 0 {
            conceal(lacking, &mut self.continuation);
        }
        self.continuation.resize(end, 0.0);
    }
}
