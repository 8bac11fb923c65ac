//! The messages and codecs of the simulated phone and engine, at both ends of each wire.
//!
//! Most calls run over [`Wires::Raw`]: samples as they are, on both sides, so that thousands of calls take seconds.
//! That leaves out codecs and nothing else. The others are real: what ships, and carriers unlike it.

use std::collections::VecDeque;

use pxbridge_core::carrier::payload::Encoding;
use pxbridge_core::carrier::{Carrier, MediaFrame, MediaReader, MediaWriter, Message, Messages};
use pxbridge_core::codec::engine::{ENGINE_HZ, EngineCodec, OggOpus};
use pxbridge_core::codec::opus::{Application, EncoderConfig, TOWARDS_ENGINE};
use pxbridge_core::codec::stream::{OggOpusReader, OggOpusWriter, StreamStats};
use pxbridge_core::error::Result;
use pxbridge_core::rate::LineRate;

use super::{FRAME, RATE_HZ};

/// Which messages and codecs a call runs over.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Wires {
    /// Samples as 32-bit numbers in binary messages, to the phone and to the engine.
    #[default]
    Raw,
    /// Exotel's JSON, and Ogg Opus to the engine: what ships.
    Exotel,
    /// A carrier without marks, whose media are binary messages of 16-bit samples. Ogg Opus to the engine.
    BinaryWithoutMarks,
    /// A carrier whose media are one Ogg Opus stream a direction, made at 24 kHz; its media and commands are binary,
    /// told apart by their first byte. Ogg Opus to the engine.
    OggOpus,
}

impl Wires {
    pub fn carrier(self) -> Carrier {
        let rate = LineRate::KHZ_8;
        match self {
            Self::Raw => Carrier {
                reader: Box::new(Raw),
                writer: Box::new(Raw),
            },
            Self::Exotel => Carrier::named("exotel", "S", rate, Encoding::Pcm16).unwrap(),
            Self::BinaryWithoutMarks => Carrier {
                reader: Box::new(BinaryWithoutMarks),
                writer: Box::new(BinaryWithoutMarks),
            },
            Self::OggOpus => Carrier {
                reader: Box::new(OpusCarrier::new(RATE_HZ)),
                writer: Box::new(OpusCarrier::new(RATE_HZ)),
            },
        }
    }

    /// The reader and writer at the phone's end of the same wire.
    pub fn phone(self) -> Carrier {
        match self {
            Self::OggOpus => Carrier {
                reader: Box::new(OpusCarrier::new(RATE_HZ)),
                writer: Box::new(Upsampled(OpusCarrier::new(ENGINE_HZ))),
            },
            _ => self.carrier(),
        }
    }

    pub fn codec(self) -> Box<dyn EngineCodec> {
        match self {
            Self::Raw => Box::new(Raw),
            _ => Box::new(OggOpus::new(LineRate::KHZ_8, 1).unwrap()),
        }
    }

    pub fn engine(self) -> Engine {
        Engine {
            codec: match self {
                Self::Raw => None,
                _ => Some(Box::new((
                    OggOpusReader::new(ENGINE_HZ).unwrap(),
                    OggOpusWriter::new(FROM_ENGINE, 7).unwrap(),
                ))),
            },
            late: match self {
                Self::Raw => VecDeque::from(vec![0.0; self.codec_samples()]),
                _ => VecDeque::new(),
            },
            input: VecDeque::new(),
        }
    }

    /// The delay of both codecs together, in samples. For a raw wire, a typical one.
    pub fn codec_samples(self) -> usize {
        match self {
            Self::Raw => 128,
            _ => 72,
        }
    }

    /// The name in a message that is a mark.
    pub fn mark(self, message: Message<'_>) -> Option<String> {
        match self {
            Self::Exotel => {
                let text = str::from_utf8(message.bytes).unwrap();
                let (_, name) = text.split_once(r#""mark":{"name":""#)?;
                Some(name.trim_end_matches(r#""}}"#).to_owned())
            }
            Self::BinaryWithoutMarks => None,
            Self::Raw | Self::OggOpus => {
                let name = message.bytes.strip_prefix(&[MARK])?;
                Some(String::from_utf8(name.to_vec()).unwrap())
            }
        }
    }
}

const MEDIA: u8 = 0;
const MARK: u8 = 1;
const CLEAR: u8 = 2;

fn from_raw(bytes: &[u8], pcm: &mut Vec<f32>) {
    pcm.extend(
        bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|&bytes| f32::from_le_bytes(bytes)),
    );
}

fn to_raw(pcm: &[f32], bytes: &mut Vec<u8>) {
    bytes.extend(pcm.iter().flat_map(|sample| sample.to_le_bytes()));
}

fn frame(samples: usize) -> MediaFrame {
    MediaFrame {
        samples,
        ..MediaFrame::default()
    }
}

/// Samples as they are.
#[derive(Debug)]
struct Raw;

impl MediaReader for Raw {
    fn read(&mut self, message: Message<'_>, pcm: &mut Vec<f32>) -> Option<MediaFrame> {
        let before = pcm.len();
        from_raw(message.bytes.strip_prefix(&[MEDIA])?, pcm);
        Some(frame(pcm.len() - before))
    }
}

impl MediaWriter for Raw {
    fn media(&mut self, pcm: &[f32], out: &mut Messages) {
        out.push_binary(|bytes| {
            bytes.push(MEDIA);
            to_raw(pcm, bytes);
        });
    }

    fn mark(&mut self, name: &str, out: &mut Messages) -> bool {
        out.push_binary(|bytes| {
            bytes.push(MARK);
            bytes.extend_from_slice(name.as_bytes());
        });
        true
    }

    fn clear(&mut self, out: &mut Messages) {
        out.push_binary(|bytes| bytes.push(CLEAR));
    }
}

impl EngineCodec for Raw {
    fn open(&mut self, _: &mut Vec<u8>) -> Result<()> {
        Ok(())
    }

    fn encode(&mut self, pcm: &[f32], out: &mut Vec<u8>) {
        to_raw(pcm, out);
    }

    fn decode(&mut self, bytes: &[u8], pcm: &mut Vec<f32>) {
        from_raw(bytes, pcm);
    }

    fn conceal(&mut self, samples: usize, pcm: &mut Vec<f32>) {
        pcm.resize(pcm.len() + samples, 0.01);
    }

    fn stats(&self) -> StreamStats {
        StreamStats::default()
    }
}

/// Media are binary, a clear is text, and there are no marks.
#[derive(Debug)]
struct BinaryWithoutMarks;

impl MediaReader for BinaryWithoutMarks {
    fn read(&mut self, message: Message<'_>, pcm: &mut Vec<f32>) -> Option<MediaFrame> {
        if message.is_text {
            return None;
        }
        let (samples, half) = message.bytes.as_chunks::<2>();
        pcm.extend(
            samples
                .iter()
                .map(|&bytes| f32::from(i16::from_le_bytes(bytes)) / 32_768.0),
        );
        Some(MediaFrame {
            malformed: !half.is_empty(),
            ..frame(samples.len())
        })
    }
}

impl MediaWriter for BinaryWithoutMarks {
    fn media(&mut self, pcm: &[f32], out: &mut Messages) {
        let samples = pcm.iter().map(|sample| (sample * 32_768.0).round() as i16);
        out.push_binary(|bytes| bytes.extend(samples.flat_map(i16::to_le_bytes)));
    }

    fn mark(&mut self, _: &str, _: &mut Messages) -> bool {
        false
    }

    fn clear(&mut self, out: &mut Messages) {
        out.push_text(|text| text.extend_from_slice(br#"{"action":"clear"}"#));
    }
}

/// Ogg Opus in binary messages, whose codecs keep their state from one message to the next.
#[derive(Debug)]
struct OpusCarrier {
    reader: OggOpusReader,
    writer: OggOpusWriter,
}

impl OpusCarrier {
    fn new(rate_hz: u32) -> Self {
        let config = EncoderConfig {
            rate_hz,
            ..TOWARDS_ENGINE
        };
        Self {
            reader: OggOpusReader::new(rate_hz).unwrap(),
            writer: OggOpusWriter::new(config, 3).unwrap(),
        }
    }
}

impl MediaReader for OpusCarrier {
    fn read(&mut self, message: Message<'_>, pcm: &mut Vec<f32>) -> Option<MediaFrame> {
        let before = pcm.len();
        self.reader.read(message.bytes.strip_prefix(&[MEDIA])?, pcm);
        Some(frame(pcm.len() - before))
    }
}

impl MediaWriter for OpusCarrier {
    fn media(&mut self, pcm: &[f32], out: &mut Messages) {
        out.push_binary(|bytes| {
            bytes.push(MEDIA);
            self.writer.write(pcm, bytes);
        });
    }

    fn mark(&mut self, name: &str, out: &mut Messages) -> bool {
        Raw.mark(name, out)
    }

    fn clear(&mut self, out: &mut Messages) {
        Raw.clear(out);
    }
}

/// A phone that encodes at 24 kHz what is said at the line's rate.
#[derive(Debug)]
struct Upsampled(OpusCarrier);

impl MediaWriter for Upsampled {
    fn media(&mut self, pcm: &[f32], out: &mut Messages) {
        let times = (ENGINE_HZ / RATE_HZ) as usize;
        let upsampled: Vec<f32> = pcm
            .iter()
            .flat_map(|&sample| std::iter::repeat_n(sample, times))
            .collect();
        self.0.media(&upsampled, out);
    }

    fn mark(&mut self, name: &str, out: &mut Messages) -> bool {
        self.0.mark(name, out)
    }

    fn clear(&mut self, out: &mut Messages) {
        self.0.clear(out);
    }
}

/// As `sphn` 0.1 encodes, the codec of NVIDIA's server; at less effort.
const FROM_ENGINE: EncoderConfig = EncoderConfig {
    rate_hz: ENGINE_HZ,
    application: Application::Voip,
    bitrate_bps: 24_750,
    complexity: 0,
    frame_us: 80_000,
};

/// An engine's end of its wire, which says what it hears.
pub struct Engine {
    codec: Option<Box<(OggOpusReader, OggOpusWriter)>>,
    /// The samples that a codec would still hold.
    late: VecDeque<f32>,
    /// Samples that wait for its next step.
    input: VecDeque<f32>,
}

impl Engine {
    /// The headers that it sends when it is ready.
    pub fn headers(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Some(codec) = &mut self.codec {
            codec.1.headers(&mut bytes);
        }
        bytes
    }

    /// Takes the line's bytes; returns the samples in them.
    pub fn hear(&mut self, bytes: &[u8]) -> Vec<f32> {
        let mut pcm = Vec::new();
        match &mut self.codec {
            Some(codec) => codec.0.read(bytes, &mut pcm),
            None => from_raw(bytes, &mut pcm),
        }
        self.late.extend(&pcm);
        self.input.extend(self.late.drain(..pcm.len()));
        pcm
    }

    fn frame(&self) -> usize {
        match self.codec {
            Some(_) => FRAME * (ENGINE_HZ / RATE_HZ) as usize,
            None => FRAME,
        }
    }

    /// Whether it has a whole frame to step on.
    pub fn is_ready(&self) -> bool {
        self.input.len() >= self.frame()
    }

    /// One step: a frame in, a frame out.
    pub fn step(&mut self) -> Vec<u8> {
        let pcm: Vec<f32> = self.input.drain(..self.frame()).collect();
        let mut bytes = Vec::new();
        match &mut self.codec {
            Some(codec) => codec.1.write(&pcm, &mut bytes),
            None => to_raw(&pcm, &mut bytes),
        }
        bytes
    }
}
