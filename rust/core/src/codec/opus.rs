//! Opus packets (RFC 6716): the only file that knows audiopus.
//!
//! Samples are `f32`, full scale ±1.0. The encoder takes exact frames. The decoder never fails: it conceals and
//! counts the packets that it cannot decode.

use audiopus::coder::GenericCtl;
use audiopus::packet::{Packet, nb_samples};
use audiopus::{Bitrate, Channels, MutSignals, SampleRate};

use crate::error::{Error, Result};

/// The rates Opus knows.
const RATES: &str = "8000, 12000, 16000, 24000 or 48000";
/// Frame durations that libopus encodes.
const FRAMES_US: [u32; 9] = [
    2_500, 5_000, 10_000, 20_000, 40_000, 60_000, 80_000, 100_000, 120_000,
];
/// The largest packet we can make: six frames of 20 ms, 1275 bytes each (RFC 6716 §3.4), and their framing.
const MAX_ENCODED_BYTES: usize = 6 * 1276 + 8;
/// No packet is longer (RFC 6716 §3.4, rule R5).
pub const MAX_PACKET_MS: usize = 120;
/// The fewest bits of a frame. With fewer libopus sends an empty one, which is silence.
const MIN_FRAME_BITS: u32 = 24;
const MICROSECONDS: u32 = 1_000_000;
/// The input has 16 bits at best: finer detail need not be coded.
const INPUT_BITS: u8 = 16;
/// libopus conceals and decodes in multiples of 2.5 ms: this many a second.
const STEPS_PER_S: usize = 400;
/// Concealment sounds natural for this long ...
const CONCEAL_FULL_MS: usize = 60;
/// ... and is silent after this long. libopus' own concealment continues as noise without end.
const CONCEAL_END_MS: usize = 120;
/// Sound that comes back after concealment has faded is faded in over this.
const RETURN_MS: usize = 5;

/// The purpose that an encoder is tuned to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Application {
    /// Speech: SILK, at low bit rates; 6.5 ms look-ahead.
    Voip,
    /// Likeness to the input; 6.5 ms look-ahead.
    Audio,
    /// CELT only: 2.5 ms look-ahead, the least work, and close to the input at high bit rates.
    LowDelay,
}

/// The settings of an encoder. It is mono and VBR, and uses no DTX, as packets are the engine's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncoderConfig {
    /// Rate of the samples given to it: 8000, 12000, 16000, 24000 or 48000. Not the rate of the stream: a decoder
    /// of any rate reads it.
    pub rate_hz: u32,
    /// See [`Application`].
    pub application: Application,
    /// Average bit rate, from 6,000 to 510,000.
    pub bitrate_bps: u32,
    /// libopus' effort, from 0 to 10.
    pub complexity: u8,
    /// A packet's duration: 2.5, 5, 10, 20, 40, 60, 80, 100 or 120 ms.
    pub frame_us: u32,
}

/// The encoder towards the engine, chosen by `benches/opus_settings.py`. Give it the phone line's own rate: an
/// encoder made at 8 or 16 kHz needs no upsampler before it, and has all its bits in the band that holds sound.
///
/// The output of a decoder at 24 kHz, compared with the phone's samples; cost in µs of CPU per 20 ms, with the
/// resampler:
///
/// | line | encoder | seg SNR | log-spectral distance | images | delay | cost |
/// |---|---|--:|--:|--:|--:|--:|
/// | 8 kHz | **at 8 kHz, LowDelay 96 kbit/s, complexity 0** | 36.7 dB | 0.26 dB | −83 dB | 2.5 ms | 14 µs |
/// | | the same, 32 kbit/s | 25.5 | 1.81 | −83 | 2.5 | 10 |
/// | | the same, 128 kbit/s | 36.7 | 0.26 | −83 | 2.5 | 14 |
/// | | the same, complexity 5 | 37.0 | 0.19 | −80 | 2.5 | 33 |
/// | | at 24 kHz, LowDelay 96 kbit/s, complexity 0 | 29.0 | 1.16 | −92 | 6.2 | 32 |
/// | | at 24 kHz, Voip 16 kbit/s, complexity 9 | 9.2 | 3.50 | −59 | 10.1 | > 200 |
/// | 16 kHz | **at 16 kHz, LowDelay 96 kbit/s, complexity 0** | 32.7 | 0.58 | −107 | 2.5 | 19 |
/// | | at 24 kHz, the same | 28.7 | 1.07 | −110 | 5.6 | 31 |
/// | 24 kHz | **LowDelay 96 kbit/s, complexity 0** | 28.7 | 0.89 | | 2.5 | 19 |
/// | | the same, complexity 5 | 30.0 | 0.73 | | 2.5 | 36 |
/// | | the same, 128 kbit/s | 31.8 | 0.53 | | 2.5 | 20 |
/// | | Voip 32 kbit/s, complexity 5 | 8.7 | 2.49 | | 6.4 | 110 |
///
/// Beyond 96 kbit/s a line of 8 kHz gains nothing. (At 8 kHz the top of the band is cut less steeply than by the
/// upsampler: a tone of 3.4 kHz leaves −64 dB above 4.3 kHz, one of 3 kHz −73 dB. Speech has next to nothing there.)
pub const TOWARDS_ENGINE: EncoderConfig = EncoderConfig {
    rate_hz: 24_000,
    application: Application::LowDelay,
    bitrate_bps: 96_000,
    complexity: 0,
    frame_us: 20_000,
};

/// Makes packets.
#[derive(Debug)]
pub struct Encoder {
    encoder: audiopus::coder::Encoder,
    config: EncoderConfig,
    channels: usize,
    frame_samples: usize,
    lookahead_samples: usize,
    packet: Box<[u8]>,
    /// A copy of a frame in which samples were clipped, and those that are not finite made silent.
    in_range: Vec<f32>,
    clipped_samples: u64,
}

impl Encoder {
    /// An encoder.
    ///
    /// # Errors
    /// [`Error::Rate`] or [`Error::Parameter`] if the configuration is out of range.
    pub fn new(config: EncoderConfig) -> Result<Self> {
        Self::with_channels(config, 1)
    }

    /// An encoder of 1 channel, or of 2 interleaved ones.
    ///
    /// # Errors
    /// [`Error::Rate`] or [`Error::Parameter`] if the configuration is out of range.
    pub fn with_channels(config: EncoderConfig, channels: usize) -> Result<Self> {
        let rate = sample_rate(config.rate_hz)?;
        let layout = layout(channels)?;
        if !FRAMES_US.contains(&config.frame_us) {
            return Err(Error::Parameter {
                name: "frame_ms",
                value: format!("{}", f64::from(config.frame_us) / 1000.0),
                expected: "2.5, 5, 10, 20, 40, 60, 80, 100 or 120",
            });
        }
        // Packets above 20 ms may be made of 20 ms frames.
        let frames_per_s = MICROSECONDS / config.frame_us.min(20_000);
        let bits = 6_000.max(MIN_FRAME_BITS * frames_per_s)..=510_000;
        if !bits.contains(&config.bitrate_bps) {
            return Err(Error::Parameter {
                name: "bitrate_bps",
                value: config.bitrate_bps.to_string(),
                expected: "from 6000 (9600 in frames of 2.5 ms) to 510000",
            });
        }
        if config.complexity > 10 {
            return Err(Error::Parameter {
                name: "complexity",
                value: config.complexity.to_string(),
                expected: "from 0 to 10",
            });
        }
        let application = match config.application {
            Application::Voip => audiopus::Application::Voip,
            Application::Audio => audiopus::Application::Audio,
            Application::LowDelay => audiopus::Application::LowDelay,
        };
        let mut encoder = audiopus::coder::Encoder::new(rate, layout, application).map_err(refused)?;
        let bitrate = i32::try_from(config.bitrate_bps).unwrap_or(i32::MAX);
        encoder
            .set_bitrate(Bitrate::BitsPerSecond(bitrate))
            .map_err(refused)?;
        encoder.set_complexity(config.complexity).map_err(refused)?;
        encoder.set_lsb_depth(INPUT_BITS).map_err(refused)?;
        encoder.set_dtx(false).map_err(refused)?;
        let lookahead_samples = encoder.lookahead().map_err(refused)? as usize;
        Ok(Self {
            encoder,
            config,
            channels,
            frame_samples: (u64::from(config.rate_hz) * u64::from(config.frame_us) / u64::from(MICROSECONDS))
                as usize,
            lookahead_samples,
            packet: vec![0; MAX_ENCODED_BYTES].into_boxed_slice(),
            in_range: Vec::new(),
            clipped_samples: 0,
        })
    }

    /// Its settings.
    #[must_use]
    pub fn config(&self) -> EncoderConfig {
        self.config
    }

    /// 1 or 2.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Samples of one frame, at the encoder's rate, in each channel.
    #[must_use]
    pub fn frame_samples(&self) -> usize {
        self.frame_samples
    }

    /// The delay from the input to the decoder's output, in samples at the encoder's rate.
    #[must_use]
    pub fn lookahead_samples(&self) -> usize {
        self.lookahead_samples
    }

    /// Samples beyond full scale so far, which were clipped.
    #[must_use]
    pub fn clipped_samples(&self) -> u64 {
        self.clipped_samples
    }

    /// Encodes one frame, appends its packet to `out` and returns the packet's length, never 0. A sample beyond full
    /// scale is clipped, and one that is not finite counts as silence. (libopus makes silence of a frame that is far
    /// too loud, as one of 16-bit values in floats is.)
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `pcm` is exactly one frame (of all channels).
    pub fn encode(&mut self, pcm: &[f32], out: &mut Vec<u8>) -> Result<usize> {
        if pcm.len() != self.frame_samples * self.channels {
            return Err(Error::Parameter {
                name: "samples",
                value: pcm.len().to_string(),
                expected: "exactly one frame",
            });
        }
        let sound = if are_in_range(pcm) {
            pcm
        } else {
            self.in_range.clear();
            self.in_range.extend(
                pcm.iter()
                    .map(|&s| if s.is_finite() { s.clamp(-1.0, 1.0) } else { 0.0 }),
            );
            self.clipped_samples += pcm.iter().filter(|s| s.is_finite() && s.abs() > 1.0).count() as u64;
            &self.in_range
        };
        let length = self
            .encoder
            .encode_float(sound, &mut self.packet)
            .map_err(refused)?;
        out.extend_from_slice(&self.packet[..length]);
        Ok(length)
    }
}

/// Decodes packets of any mode, bandwidth, duration and number of channels.
#[derive(Debug)]
pub struct Decoder {
    decoder: audiopus::coder::Decoder,
    rate: SampleRate,
    rate_hz: usize,
    channels: usize,
    /// Duration of the last packet that was decoded, in samples a channel.
    last_samples: usize,
    /// Samples a channel concealed since then.
    run: usize,
    malformed: u64,
    concealed: u64,
}

impl Decoder {
    /// A decoder that gives samples at `rate_hz`, interleaved if `channels` is 2. Stereo packets are mixed down by
    /// a decoder of 1, mono packets doubled by one of 2.
    ///
    /// # Errors
    /// [`Error::Rate`] or [`Error::Parameter`].
    pub fn new(rate_hz: u32, channels: usize) -> Result<Self> {
        let rate = sample_rate(rate_hz)?;
        let layout = layout(channels)?;
        Ok(Self {
            decoder: audiopus::coder::Decoder::new(rate, layout).map_err(refused)?,
            rate,
            rate_hz: rate_hz as usize,
            channels,
            last_samples: 0,
            run: 0,
            malformed: 0,
            concealed: 0,
        })
    }

    /// Appends the samples of one packet to `out` and returns how many per channel: at most 120 ms. A packet that
    /// cannot be decoded, an empty one too, is counted and concealed for as long as the one before it.
    pub fn decode(&mut self, packet: &[u8], out: &mut Vec<f32>) -> usize {
        let start = out.len();
        let Some(samples) = self.try_decode(packet, out) else {
            out.truncate(start);
            self.malformed += 1;
            self.conceal(self.last_samples, out);
            return self.last_samples;
        };
        let sound = &mut out[start..];
        // Damaged packets can decode to anything.
        for sample in &mut *sound {
            *sample = if sample.is_nan() {
                0.0
            } else {
                sample.clamp(-1.0, 1.0)
            };
        }
        self.fade_in(start, out);
        self.last_samples = samples;
        self.run = 0;
        samples
    }

    fn try_decode(&mut self, packet: &[u8], out: &mut Vec<f32>) -> Option<usize> {
        let samples = nb_samples(Packet::try_from(packet).ok()?, self.rate).ok()?;
        if samples == 0 || samples > self.rate_hz * MAX_PACKET_MS / 1000 {
            return None;
        }
        self.fill(Some(packet), samples, out)
    }

    /// Runs libopus over `samples` (a channel) more of `out`.
    fn fill(&mut self, packet: Option<&[u8]>, samples: usize, out: &mut Vec<f32>) -> Option<usize> {
        let packet = packet.map(Packet::try_from).transpose().ok()?;
        let start = out.len();
        out.resize(start + samples * self.channels, 0.0);
        let filled = self
            .decoder
            .decode_float(packet, MutSignals::try_from(&mut out[start..]).ok()?, false);
        let filled = filled.ok()?.min(samples);
        out.truncate(start + filled * self.channels);
        Some(filled)
    }

    /// Appends `samples` (per channel) of the expected continuation of the last sound. It fades out within 120 ms of
    /// the last packet and is silence from then on. libopus works in steps of 2.5 ms: ask for multiples.
    pub fn conceal(&mut self, samples: usize, out: &mut Vec<f32>) {
        let end = out.len() + samples * self.channels;
        let step = self.rate_hz / STEPS_PER_S;
        let silent_at = self.rate_hz * CONCEAL_END_MS / 1000;
        let voiced = silent_at.saturating_sub(self.run).min(samples);
        if voiced > 0 && self.last_samples > 0 {
            let start = out.len();
            // libopus documents no failure here. If it fails, the silence below is used.
            if self.fill(None, voiced.next_multiple_of(step), out).is_none() {
                out.truncate(start);
            }
            out.truncate(start + voiced * self.channels);
            for (at, frame) in out[start..].chunks_exact_mut(self.channels).enumerate() {
                let gain = self.gain(self.run + at);
                frame.iter_mut().for_each(|s| {
                    *s = if s.is_nan() {
                        0.0
                    } else {
                        s.clamp(-1.0, 1.0) * gain
                    }
                });
            }
        }
        out.resize(end, 0.0);
        self.run = self.run.saturating_add(samples);
        self.concealed += samples as u64;
    }

    /// Gain of concealment after a run of this many samples.
    fn gain(&self, run: usize) -> f32 {
        let full = self.rate_hz * CONCEAL_FULL_MS / 1000;
        let end = self.rate_hz * CONCEAL_END_MS / 1000;
        end.saturating_sub(run.max(full)) as f32 / (end - full) as f32
    }

    /// Fades the sound in from the gain to which concealment had faded.
    fn fade_in(&self, start: usize, out: &mut [f32]) {
        let from = self.gain(self.run);
        if from >= 1.0 {
            return;
        }
        let length = self.rate_hz * RETURN_MS / 1000;
        for (at, frame) in out[start..]
            .chunks_exact_mut(self.channels)
            .take(length)
            .enumerate()
        {
            let gain = from + (1.0 - from) * at as f32 / length as f32;
            frame.iter_mut().for_each(|s| *s *= gain);
        }
    }

    /// Forgets the stream so far. The counters and the gain stay.
    pub fn reset(&mut self) {
        // Documented to succeed always.
        let _ = self.decoder.reset_state();
        self.last_samples = 0;
        self.run = 0;
    }

    /// Sets the gain of everything decoded from now on, in 1/256 dB (the unit of RFC 7845 §5.1's output gain).
    pub fn set_gain_q8(&mut self, gain: i16) {
        // The range of i16 is the range libopus takes.
        let _ = self.decoder.set_gain(i32::from(gain));
    }

    /// Duration of the last packet decoded, in samples per channel.
    #[must_use]
    pub fn last_samples(&self) -> usize {
        self.last_samples
    }

    /// Packets that could not be decoded so far.
    #[must_use]
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// Samples per channel concealed so far.
    #[must_use]
    pub fn concealed(&self) -> u64 {
        self.concealed
    }
}

/// Whether all samples are finite and within full scale. It examines every one, so that the compiler can compare
/// several at once.
fn are_in_range(pcm: &[f32]) -> bool {
    const SIGN: u32 = 0x8000_0000;
    // The bits of floats above zero are in the floats' order, with infinity and NaN as the largest.
    let any_beyond = pcm.iter().fold(false, |any, sample| {
        any | (sample.to_bits() & !SIGN > 1.0_f32.to_bits())
    });
    !any_beyond
}

fn layout(channels: usize) -> Result<Channels> {
    match channels {
        1 => Ok(Channels::Mono),
        2 => Ok(Channels::Stereo),
        _ => Err(Error::Parameter {
            name: "channels",
            value: channels.to_string(),
            expected: "1 or 2",
        }),
    }
}

fn sample_rate(rate_hz: u32) -> Result<SampleRate> {
    let rate = i32::try_from(rate_hz)
        .ok()
        .and_then(|rate| SampleRate::try_from(rate).ok());
    rate.ok_or(Error::Rate {
        rate_hz,
        expected: RATES,
    })
}

fn refused(error: audiopus::Error) -> Error {
    Error::Opus(error.to_string())
}
