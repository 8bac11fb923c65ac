//! What is heard where the engine's sound is missing.
//!
//! Libopus goes on with the last sound for a short hole, as beyond that its voice becomes a drone; comfort noise like the
//! engine's own background fills the rest. Whatever follows is faded into: what is made goes on under it for a moment.

use crate::dsp::noise::{Background, ComfortNoise};
use crate::dsp::sync_buffer::SyncBuffer;

/// The longest hole that libopus bridges.
const CONCEAL_MS: u32 = 60;
/// Concealment is made in steps of this, which is what libopus itself works in: what it makes and does not give would
/// be missing before the sound that follows.
const CONCEAL_STEP_MS: u32 = 10;
/// Seams to and from what bridges a hole are faded over this.
const FADE_MS: u32 = 5;

/// Appends so many samples of libopus' concealment, at the line's rate.
pub(crate) type Conceal<'a> = dyn FnMut(usize, &mut Vec<f32>) + 'a;

/// See the module.
#[derive(Debug)]
pub(crate) struct Concealment {
    rate_hz: u32,
    noise: ComfortNoise,
    /// Concealment that was made and not given: how the last sound would go on.
    continuation: Vec<f32>,
    scratch: Vec<f32>,
}

/// How many samples were made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Filled {
    pub(crate) concealed: usize,
    pub(crate) noise: usize,
}

impl Concealment {
    pub(crate) fn new(rate_hz: u32, seed: u64) -> Self {
        Self {
            rate_hz,
            noise: ComfortNoise::new(seed),
            continuation: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// A hole begins, behind which this lies.
    pub(crate) fn begin_gap(&mut self, background: &Background) {
        self.noise.follow(background);
    }

    /// The engine's sound is back, or nothing plays: the last sound does not go on.
    pub(crate) fn forget(&mut self) {
        self.continuation.clear();
    }

    /// Appends so many samples after what `queue` gave last, where `before` were made of the same hole, and leaves in
    /// `queue` what its next sound fades in over.
    pub(crate) fn fill(
        &mut self,
        missing: usize,
        before: usize,
        queue: &mut SyncBuffer,
        conceal: &mut Conceal<'_>,
        out: &mut Vec<f32>,
    ) -> Filled {
        let concealed = self.samples(CONCEAL_MS).saturating_sub(before).min(missing);
        let fade = self.fade();
        if concealed > 0 {
            // It may not follow what was heard last itself: all that lay between can have been cut.
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

    /// Appends so many samples of how the last sound would go on; in a hole that is what fills it.
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

    /// Samples of a seam.
    pub(crate) fn fade(&self) -> usize {
        self.samples(FADE_MS)
    }

    /// Makes concealment until there are so many samples of it, whatever `conceal` gives: a decoder that never decoded
    /// gives none.
    fn conceal_to(&mut self, samples: usize, conceal: &mut Conceal<'_>) {
        let step = self.samples(CONCEAL_STEP_MS);
        let lacking = samples
            .saturating_sub(self.continuation.len())
            .next_multiple_of(step);
        let end = self.continuation.len() + lacking;
        if lacking > 0 {
            conceal(lacking, &mut self.continuation);
        }
        self.continuation.resize(end, 0.0);
    }

    fn samples(&self, ms: u32) -> usize {
        (self.rate_hz / 1000 * ms) as usize
    }
}
