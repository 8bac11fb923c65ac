//! WSOLA: speech made shorter or longer without changing its pitch.
//!
//! The one idea: where a signal resembles itself a little later, the samples in between can be left out or played
//! twice, and a short cross-fade hides the seam (W. Verhelst and M. Roelands, "An overlap-add technique based on
//! waveform similarity", ICASSP 1993). In voiced speech that is one pitch period or a few. In a pause everything
//! resembles everything.
//!
//! A *splice* joins two places of a buffer, `lag` samples apart. Its cost is the power of their difference, divided
//! by the power around them. So a vowel needs a close match, and a quiet place needs almost none. The least audible
//! place is spliced first.
//!
//! Calls share nothing but scratch memory. The first and last milliseconds of a buffer stay as they are, so it
//! continues the audio before it and is continued by the audio after it.

use crate::dsp::noise::Background;
use crate::rate::LineRate;

/// Similarity is searched at this rate: pitch and its first harmonics are well below 4 kHz, and the search costs a
/// ninth of what it would at 24 kHz.
const SEARCH_HZ: u32 = 8000;
/// The first and last milliseconds of a buffer, which no splice touches.
const EDGE_MS: usize = 3;
/// Length of a cross-fade, and of the stretches that are compared: short enough for several splices in a syllable,
/// long enough for most of a period of a low voice.
const FADE_MS: usize = 8;
/// The shortest lag, 2.5 ms: a period of the highest voice.
const LAG_MIN: usize = SEARCH_HZ as usize / 400;
/// The longest lag, 20 ms: one period of the lowest voice, up to eight of a high one.
const LAG_MAX: usize = SEARCH_HZ as usize / 50;
/// Splices are tried at every this many samples of the search rate (2.5 ms).
const STRIDE: usize = 20;
/// A splice in speech costs at most this. In steady sound the cost is one minus the correlation.
const COST_MAX: f32 = 0.1;
/// Extra cost of a splice with no lag over one with the longest: a few long ones are less audible than many short
/// ones.
const SHORTNESS: f32 = 0.02;
/// Pauses are searched in steps of this.
const PAUSE_STEP_MS: usize = 5;
/// This much at each end of a pause is left alone: it may be the breath of a word.
const PAUSE_GUARD_MS: usize = 5;

/// What [`TimeScaler`] did to a buffer, in samples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Change {
    /// Removed from, or inserted into, pauses.
    pub in_pauses: usize,
    /// Removed from, or inserted into, speech.
    pub in_speech: usize,
}

impl Change {
    /// Samples in all.
    #[must_use]
    pub fn total(self) -> usize {
        self.in_pauses + self.in_speech
    }
}

/// A join of `at` and `at + lag`, cross-faded.
#[derive(Debug, Clone, Copy)]
struct Splice {
    at: usize,
    lag: usize,
    cost: f32,
}

/// Whether the samples between the two places of a splice are left out or played twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Shorter,
    Longer,
}

/// Shortens and lengthens audio in place. Every method takes a buffer of any length; a low voice needs 80 ms or more.
#[derive(Debug, Clone)]
pub struct TimeScaler {
    /// Samples at the audio's rate per sample of the search rate.
    decimation: usize,
    per_ms: usize,
    /// The falling half of the fade.
    fade: Vec<f32>,
    /// The buffer at the search rate, and before each of its samples the energy of all earlier ones.
    coarse: Vec<f32>,
    energy: Vec<f64>,
    found: Vec<Splice>,
    taken: Vec<Splice>,
    spliced: Vec<f32>,
}

impl TimeScaler {
    /// For audio of this rate.
    #[must_use]
    pub fn new(rate: LineRate) -> Self {
        let per_ms = rate.samples(1);
        let fade_len = FADE_MS * per_ms;
        let fade = (0..fade_len)
            .map(|i| 0.5 + 0.5 * (std::f32::consts::PI * (i + 1) as f32 / (fade_len + 1) as f32).cos())
            .collect();
        Self {
            decimation: (rate.hz() / SEARCH_HZ) as usize,
            per_ms,
            fade,
            coarse: Vec::new(),
            energy: Vec::new(),
            found: Vec::new(),
            taken: Vec::new(),
            spliced: Vec::new(),
        }
    }

    /// Removes at most `at_most` samples from `pcm`: from pauses first, then from speech.
    pub fn remove(&mut self, pcm: &mut Vec<f32>, at_most: usize, background: &Background) -> Change {
        let in_pauses = self.remove_pauses(pcm, at_most, background);
        let in_speech = self.remove_speech(pcm, at_most - in_pauses);
        Change { in_pauses, in_speech }
    }

    /// Removes at most `at_most` samples from the pauses in `pcm`, the longest pause first. Speech stays as it is.
    pub fn remove_pauses(&mut self, pcm: &mut Vec<f32>, at_most: usize, background: &Background) -> usize {
        self.in_pauses(pcm, at_most, background, Direction::Shorter)
    }

    /// Removes at most `at_most` samples from `pcm` where it resembles itself, the best place first. Removes nothing
    /// where nothing is alike, as in fast changes of sound, nor if `at_most` is less than a pitch period.
    pub fn remove_speech(&mut self, pcm: &mut Vec<f32>, at_most: usize) -> usize {
        self.in_speech(pcm, at_most, Direction::Shorter)
    }

    /// Inserts at most `at_most` samples into `pcm`: into pauses first, then into speech.
    pub fn insert(&mut self, pcm: &mut Vec<f32>, at_most: usize, background: &Background) -> Change {
        let in_pauses = self.insert_pauses(pcm, at_most, background);
        let in_speech = self.insert_speech(pcm, at_most - in_pauses);
        Change { in_pauses, in_speech }
    }

    /// Inserts at most `at_most` samples into the pauses in `pcm`, taken from the same pauses: doubles them at most.
    pub fn insert_pauses(&mut self, pcm: &mut Vec<f32>, at_most: usize, background: &Background) -> usize {
        self.in_pauses(pcm, at_most, background, Direction::Longer)
    }

    /// Inserts at most `at_most` samples into `pcm` by repeating stretches where it resembles itself, the best place
    /// first.
    pub fn insert_speech(&mut self, pcm: &mut Vec<f32>, at_most: usize) -> usize {
        self.in_speech(pcm, at_most, Direction::Longer)
    }

    fn in_pauses(
        &mut self,
        pcm: &mut Vec<f32>,
        at_most: usize,
        background: &Background,
        direction: Direction,
    ) -> usize {
        let step = PAUSE_STEP_MS * self.per_ms;
        let unmoved = 2 * PAUSE_GUARD_MS * self.per_ms + self.fade.len();
        self.found.clear();
        let mut run = 0..0;
        let mut note = |run: &std::ops::Range<usize>| {
            if run.len() > unmoved {
                self.found.push(Splice {
                    at: run.start + PAUSE_GUARD_MS * self.per_ms,
                    lag: run.len() - unmoved,
                    cost: 0.0,
                });
            }
        };
        // An incomplete last step is left alone, as a guard is. The next buffer shows whether its pause goes on.
        for (i, block) in pcm.chunks_exact(step).enumerate() {
            if !background.is_pause(block) {
                note(&run);
                run = (i + 1) * step..(i + 1) * step;
            } else {
                run.end = (i + 1) * step;
            }
        }
        note(&run);

        self.found
            .sort_unstable_by_key(|pause| std::cmp::Reverse(pause.lag));
        self.taken.clear();
        let mut left = at_most;
        for pause in &self.found {
            let lag = pause.lag.min(left);
            if lag > 0 {
                self.taken.push(Splice { lag, ..*pause });
                left -= lag;
            }
        }
        self.apply(pcm, direction);
        at_most - left
    }

    fn in_speech(&mut self, pcm: &mut Vec<f32>, at_most: usize, direction: Direction) -> usize {
        self.survey(pcm);
        let power = self
            .energy
            .last()
            .map_or(0.0, |sum| sum / self.coarse.len().max(1) as f64) as f32;
        let edge = (
            EDGE_MS * SEARCH_HZ as usize / 1000,
            FADE_MS * SEARCH_HZ as usize / 1000,
        );
        let last = self.coarse.len().saturating_sub(edge.0 + edge.1 + LAG_MIN);
        self.found.clear();
        for at in (edge.0..last).step_by(STRIDE) {
            if let Some(best) = self.best_lag(at, at_most / self.decimation, power) {
                self.found.push(best);
            }
        }
        self.found.sort_unstable_by(|a, b| a.cost.total_cmp(&b.cost));

        self.taken.clear();
        let mut left = at_most;
        for i in 0..self.found.len() {
            let mut splice = self.found[i];
            let too_long = |splice: &Splice| splice.lag * self.decimation > left;
            if too_long(&splice) {
                // Fewer periods may fit.
                match self.best_lag(splice.at, left / self.decimation, power) {
                    Some(shorter) => splice = shorter,
                    None => continue,
                }
            }
            let splice = self.refine(pcm, splice, left);
            let end = |splice: &Splice| splice.at + splice.lag + self.fade.len();
            let free = self
                .taken
                .iter()
                .all(|taken| end(taken) <= splice.at || end(&splice) <= taken.at);
            if free && end(&splice) <= pcm.len().saturating_sub(EDGE_MS * self.per_ms) {
                left -= splice.lag;
                self.taken.push(splice);
            }
        }
        self.apply(pcm, direction);
        at_most - left
    }

    /// Fills in the buffer at the search rate and its running energy. A plain mean is enough: the aliases of speech
    /// are far below what is compared.
    fn survey(&mut self, pcm: &[f32]) {
        let scale = 1.0 / self.decimation as f32;
        self.coarse.clear();
        let groups = pcm.chunks_exact(self.decimation);
        self.coarse
            .extend(groups.map(|group| group.iter().sum::<f32>() * scale));
        self.energy.clear();
        self.energy.push(0.0);
        let mut sum = 0.0;
        self.energy.extend(self.coarse.iter().map(|&sample| {
            sum += f64::from(sample * sample);
            sum
        }));
    }

    /// The best splice at one place of the coarse buffer, if one is good enough; `at` and `lag` count coarse samples.
    fn best_lag(&self, at: usize, lag_max: usize, power: f32) -> Option<Splice> {
        let fade = FADE_MS * SEARCH_HZ as usize / 1000;
        let here = self.coarse.get(at..at + fade)?;
        let energy = |from: usize| (self.energy[from + fade] - self.energy[from]) as f32;
        let energy_here = energy(at);
        let edge = EDGE_MS * SEARCH_HZ as usize / 1000;
        let room = self.coarse.len().checked_sub(at + fade + edge)?;
        let mut best: Option<Splice> = None;
        for lag in LAG_MIN..=LAG_MAX.min(lag_max).min(room) {
            let both = energy_here + energy(at + lag);
            let shortness = SHORTNESS * (1.0 - lag as f32 / LAG_MAX as f32);
            let heard = both.max(2.0 * fade as f32 * power).max(f32::MIN_POSITIVE);
            let difference = both - 2.0 * dot(here, &self.coarse[at + lag..at + lag + fade]);
            let cost = difference / heard;
            if cost <= COST_MAX && best.is_none_or(|best| cost + shortness < best.cost) {
                best = Some(Splice {
                    at,
                    lag,
                    cost: cost + shortness,
                });
            }
        }
        best
    }

    /// A coarse splice at the audio's own rate, with its lag exact to the sample.
    fn refine(&self, pcm: &[f32], coarse: Splice, lag_max: usize) -> Splice {
        let at = coarse.at * self.decimation;
        let fade = self.fade.len();
        let around = self.decimation - 1;
        let nominal = coarse.lag * self.decimation;
        let mut best = (f32::NEG_INFINITY, nominal);
        for lag in nominal - around..=(nominal + around).min(lag_max).max(nominal) {
            let Some(there) = pcm.get(at + lag..at + lag + fade) else {
                break;
            };
            let alike = dot(&pcm[at..at + fade], there) / dot(there, there).max(f32::MIN_POSITIVE).sqrt();
            if alike > best.0 {
                best = (alike, lag);
            }
        }
        Splice {
            at,
            lag: best.1,
            ..coarse
        }
    }

    /// Makes the taken splices, which do not overlap.
    fn apply(&mut self, pcm: &mut Vec<f32>, direction: Direction) {
        if self.taken.is_empty() {
            return;
        }
        self.taken.sort_unstable_by_key(|splice| splice.at);
        let fade = self.fade.len();
        self.spliced.clear();
        let mut done = 0;
        for splice in &self.taken {
            let (early, late) = (splice.at, splice.at + splice.lag);
            let (from, to) = match direction {
                Direction::Shorter => (early, late),
                Direction::Longer => (late, early),
            };
            self.spliced.extend_from_slice(&pcm[done..from]);
            let (out, into) = (&pcm[from..from + fade], &pcm[to..to + fade]);
            // Equal sounds add as amplitudes, different ones as powers. A gain in between keeps the level for both.
            let energies = (dot(out, out) * dot(into, into)).sqrt().max(f32::MIN_POSITIVE);
            let alike = (dot(out, into) / energies).clamp(0.0, 1.0);
            self.spliced.extend(
                out.iter()
                    .zip(into)
                    .zip(&self.fade)
                    .map(|((out, into), &falling)| {
                        let rising = 1.0 - falling;
                        let power = falling * falling + rising * rising + 2.0 * alike * falling * rising;
                        (out * falling + into * rising) / power.sqrt()
                    }),
            );
            done = to + fade;
        }
        self.spliced.extend_from_slice(&pcm[done..]);
        std::mem::swap(pcm, &mut self.spliced);
    }
}

/// How much of a sound [`die_away`] needs.
pub(crate) const KNOWN_MS: u32 = 25;
/// Length of the stretch that is compared with one a period earlier: more than half a period of a low voice, and all
/// of a high voice's.
const ALIKE_MS: u32 = 5;

/// Appends `samples` of the expected continuation of a sound that broke off, fading to silence: its last pitch
/// period, repeated (ITU-T G.711 Appendix I conceals losses in this way). `past`: the sound's last [`KNOWN_MS`], of
/// this rate.
pub(crate) fn die_away(past: &[f32], rate: LineRate, samples: usize, out: &mut Vec<f32>) {
    let alike = rate.samples(ALIKE_MS);
    let Some(room) = past.len().checked_sub(alike) else {
        out.resize(out.len() + samples, 0.0);
        return;
    };
    let end = &past[room..];
    let scale = (rate.hz() / SEARCH_HZ) as usize;
    let mut best = (f32::NEG_INFINITY, 1);
    for lag in LAG_MIN * scale..=(LAG_MAX * scale).min(room) {
        let there = &past[room - lag..past.len() - lag];
        let similarity = dot(end, there) / dot(there, there).max(f32::MIN_POSITIVE).sqrt();
        if similarity > best.0 {
            best = (similarity, lag);
        }
    }
    let period = &past[past.len() - best.1..];
    // The end of the period and its beginning differ a little: the step is levelled out.
    let step = past[past.len() - 1] - past[past.len().saturating_sub(best.1 + 1)];
    out.extend((0..samples).map(|i| {
        let levelled = step * (1.0 - (i + 1) as f32 / alike as f32).max(0.0);
        let falling = 0.5 + 0.5 * (std::f32::consts::PI * (i + 1) as f32 / samples as f32).cos();
        (period[i % period.len()] + levelled) * falling
    }));
}

/// The dot product, in eight sums that a compiler can keep in one register.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a8, a_rest) = a.as_chunks::<8>();
    let (b8, b_rest) = b.as_chunks::<8>();
    let mut sums = [0.0_f32; 8];
    for (a, b) in a8.iter().zip(b8) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}
