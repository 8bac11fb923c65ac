//! A line's background noise: its level and colour, and comfort noise of the same level and colour.
//!
//! A pause in speech is never silence on a telephone. [`Background`] follows the quietest moments of a line, so that
//! a pause can be told from speech. [`ComfortNoise`] makes noise of the same level and colour, so that a gap does not
//! sound like a dead line. The colour is a low-order linear prediction of the pauses (autocorrelation method,
//! Levinson-Durbin), which RFC 3389 sends over the wire for the same purpose.

use crate::rate::LineRate;

/// Each frame of this length is a pause or not: long enough for two periods of a low voice.
const FRAME_MS: u32 = 20;
/// The background is the quietest frame of the last [`WINDOWS`] windows of this many frames. 2.4 s in all is longer
/// than a spoken phrase without a gap, and short enough to follow a caller who walks into a street.
const WINDOW_FRAMES: u32 = 15;
const WINDOWS: usize = 8;
/// The quietest frame of many is quieter than the mean: white noise has 1.4 times the power of its quietest of 120
/// frames at 8 kHz, and 1.2 times at 24 kHz. A factor between the two is wrong by 0.5 dB at worst.
const MINIMUM_BIAS: f32 = 1.3;
/// A frame with less than this many times the background's power (6 dB) is a pause.
const PAUSE_MARGIN: f32 = 4.0;
/// Below this power (-66 dBFS) everything is a pause. Otherwise faint noise after digital silence would be speech.
const PAUSE_AT_LEAST: f32 = 2.5e-7;
/// Above this power (-36 dBFS) nothing is a pause: hold music and tones are steady, too.
const PAUSE_AT_MOST: f32 = 2.5e-4;
/// Above this power (-20 dBFS) no background is learnt: a street is quieter, and noise that loud would hurt.
const BACKGROUND_AT_MOST: f32 = 1e-2;
/// Below this power (-90 dBFS, one bit of 16) a frame is digital silence: a muted phone or a noise gate. It is a
/// pause, but says nothing about the background.
const DIGITAL_SILENCE: f32 = 1e-9;
/// Weight of one quiet frame in the share of digital silence: a time constant of 1.5 s of quiet frames.
const GATE_LEARNING: f32 = 0.013;
/// If a larger share of the quiet frames is digital silence, the phone sends no background.
const GATED_SHARE: f32 = 0.7;
/// The background's assumed power before anything was heard (-66 dBFS).
const FLOOR_AT_FIRST: f32 = 2.5e-7;
/// Order of the linear prediction: two broad resonances and a tilt, enough for a hum or a hiss.
const ORDER: usize = 6;
/// Weight of one pause frame in the learnt spectrum: a time constant of half a second of pauses.
const LEARNING: f32 = 0.04;
/// White-noise correction (-40 dB): keeps the prediction stable on tones and on band-limited audio.
const WHITENING: f32 = 1.0001;

/// Root mean square of `pcm`; 0 for nothing.
#[must_use]
pub fn rms(pcm: &[f32]) -> f32 {
    power(pcm).sqrt()
}

fn power(pcm: &[f32]) -> f32 {
    if pcm.is_empty() {
        return 0.0;
    }
    pcm.iter().map(|s| s * s).sum::<f32>() / pcm.len() as f32
}

/// The background noise of a line, learnt while audio comes.
#[derive(Debug, Clone)]
pub struct Background {
    frame: Vec<f32>,
    frame_len: usize,
    window_frames: u32,
    window_minimum: f32,
    minima: [f32; WINDOWS],
    next_minimum: usize,
    correlation: [f32; ORDER + 1],
    pauses: u32,
    /// The share of the quiet frames that were digital silence.
    gated: f32,
}

impl Background {
    /// A background that is not known yet.
    #[must_use]
    pub fn new(rate: LineRate) -> Self {
        let frame_len = rate.samples(FRAME_MS);
        Self {
            frame: Vec::with_capacity(frame_len),
            frame_len,
            window_frames: 0,
            window_minimum: f32::INFINITY,
            minima: [f32::INFINITY; WINDOWS],
            next_minimum: 0,
            correlation: [0.0; ORDER + 1],
            pauses: 0,
            gated: 0.0,
        }
    }

    /// Takes audio that came over the line, in blocks of any size: never audio that was inserted here.
    pub fn observe(&mut self, mut pcm: &[f32]) {
        while !pcm.is_empty() {
            let take = (self.frame_len - self.frame.len()).min(pcm.len());
            self.frame.extend_from_slice(&pcm[..take]);
            pcm = &pcm[take..];
            if self.frame.len() == self.frame_len {
                self.take_frame();
            }
        }
    }

    fn take_frame(&mut self) {
        let power = power(&self.frame);
        if power <= DIGITAL_SILENCE {
            self.gated += GATE_LEARNING * (1.0 - self.gated);
        } else if power.is_finite() {
            self.window_minimum = self.window_minimum.min(power);
            self.window_frames += 1;
            if self.window_frames == WINDOW_FRAMES {
                self.minima[self.next_minimum] = self.window_minimum;
                self.next_minimum = (self.next_minimum + 1) % WINDOWS;
                self.window_minimum = f32::INFINITY;
                self.window_frames = 0;
            }
            if power < self.quiet_power().min(BACKGROUND_AT_MOST) {
                self.gated -= GATE_LEARNING * self.gated;
                self.learn();
            }
        }
        self.frame.clear();
    }

    /// Adds the frame's autocorrelation to the learnt spectrum; the first frames count more.
    fn learn(&mut self) {
        self.pauses = self.pauses.saturating_add(1);
        let share = LEARNING.max(1.0 / self.pauses as f32);
        for (lag, learnt) in self.correlation.iter_mut().enumerate() {
            let now: f32 = self
                .frame
                .iter()
                .zip(&self.frame[lag..])
                .map(|(a, b)| a * b)
                .sum();
            *learnt += share * (now / self.frame_len as f32 - *learnt);
        }
    }

    fn floor_power(&self) -> f32 {
        let least = self.minima.iter().fold(self.window_minimum, |a, &b| a.min(b));
        if least.is_finite() {
            least * MINIMUM_BIAS
        } else {
            FLOOR_AT_FIRST
        }
    }

    /// A frame with less power belongs to the background.
    fn quiet_power(&self) -> f32 {
        (self.floor_power() * PAUSE_MARGIN).max(PAUSE_AT_LEAST)
    }

    fn pause_power(&self) -> f32 {
        self.quiet_power().min(PAUSE_AT_MOST)
    }

    /// Whether the line's pauses are digital silence: the phone sends speech alone.
    #[must_use]
    pub fn is_gated(&self) -> bool {
        self.gated > GATED_SHARE
    }

    /// RMS of the line's quietest moments.
    pub(crate) fn floor(&self) -> f32 {
        self.floor_power().sqrt()
    }

    /// RMS of the background, limited: louder steady sound may be music.
    #[must_use]
    pub fn level(&self) -> f32 {
        self.floor_power().min(BACKGROUND_AT_MOST).sqrt()
    }

    /// Audio with an RMS below this is a pause.
    #[must_use]
    pub fn pause_below(&self) -> f32 {
        self.pause_power().sqrt()
    }

    /// True if `pcm` (a few milliseconds or more) is a pause on this line.
    #[must_use]
    pub fn is_pause(&self, pcm: &[f32]) -> bool {
        power(pcm) < self.pause_power()
    }
}

/// Noise that sounds like the pauses of a line.
///
/// Deterministic: the same seed, backgrounds and lengths give the same samples.
#[derive(Debug, Clone)]
pub struct ComfortNoise {
    random: u64,
    prediction: [f32; ORDER],
    gain: f32,
    past: [f32; ORDER],
}

impl ComfortNoise {
    /// Silent until it [follows](Self::follow) a background.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        // xorshift never leaves zero.
        Self {
            random: seed | 1,
            prediction: [0.0; ORDER],
            gain: 0.0,
            past: [0.0; ORDER],
        }
    }

    /// From now on the noise sounds like `background`. It is silence if the line never paused, or if its pauses are
    /// digital silence.
    pub fn follow(&mut self, background: &Background) {
        let mut r = background.correlation;
        r[0] *= WHITENING;
        if r[0] <= f32::MIN_POSITIVE || background.is_gated() {
            self.gain = 0.0;
            return;
        }
        // Levinson-Durbin: `a` predicts x[n] from x[n-1-i]; `error` is the power that remains.
        let mut a = [0.0_f32; ORDER];
        let mut error = r[0];
        for order in 0..ORDER {
            let known: f32 = (0..order).map(|i| a[i] * r[order - i]).sum();
            let reflection = (r[order + 1] - known) / error;
            let before = a;
            a[order] = reflection;
            for i in 0..order {
                a[i] = before[i] - reflection * before[order - 1 - i];
            }
            error *= 1.0 - reflection * reflection;
            if error <= f32::MIN_POSITIVE {
                break;
            }
        }
        self.prediction = a;
        self.gain = error.max(0.0).sqrt();
    }

    /// Appends `samples` of noise.
    pub fn fill(&mut self, samples: usize, out: &mut Vec<f32>) {
        out.reserve(samples);
        for _ in 0..samples {
            let predicted: f32 = self.prediction.iter().zip(&self.past).map(|(a, x)| a * x).sum();
            let sample = predicted + self.gain * self.white();
            self.past.rotate_right(1);
            // The recursion must not creep into denormals once the line is silent.
            self.past[0] = if sample.abs() < 1e-12 { 0.0 } else { sample };
            out.push(self.past[0]);
        }
    }

    /// White noise of unit power: a sum of four uniforms, near enough to a Gaussian for the ear.
    fn white(&mut self) -> f32 {
        // xorshift64 (Marsaglia 2003).
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let sum: i32 = (0..4)
            .map(|i| i32::from((self.random >> (16 * i)) as u16 as i16))
            .sum();
        // The variance of one 16-bit uniform is 65536²/12.
        sum as f32 * (1.732_050_8 / 65536.0)
    }
}
