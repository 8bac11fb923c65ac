//! The work of a call's messages, for counting its instructions: `hotpath PART MESSAGES`.
//!
//! Everything is made before the first message and nothing depends on a clock, so two runs of the same part
//! with different numbers of messages differ by exactly the work of the messages between. `.ci/instructions`
//! runs it so, under callgrind.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hint::black_box;

use pxbridge_core::carrier::payload::Encoding;
use pxbridge_core::carrier::{Carrier, Message, Messages};
use pxbridge_core::codec::engine::{ENGINE_HZ, OggOpus};
use pxbridge_core::codec::opus::{Application, Decoder, Encoder, EncoderConfig, TOWARDS_ENGINE};
use pxbridge_core::codec::resample::Resampler;
use pxbridge_core::codec::stream::{OggOpusReader, OggOpusWriter};
use pxbridge_core::downlink::playout::PlayoutConfig;
use pxbridge_core::line::{Line, LineOutput};
use pxbridge_core::rate::LineRate;
use pxbridge_core::uplink::intake::IntakeConfig;

const PHONE_HZ: u32 = 8_000;
/// What Exotel sends in one message, by its documentation and by its practice.
const CHUNKS_MS: [u32; 2] = [100, 20];
/// What a PersonaPlex server sends in one message.
const ENGINE_MS: u32 = 80;
/// As `sphn` 0.1 encodes, the codec of NVIDIA's server.
const FROM_ENGINE: EncoderConfig = EncoderConfig {
    rate_hz: ENGINE_HZ,
    application: Application::Voip,
    bitrate_bps: 14_000,
    complexity: 9,
    frame_us: ENGINE_MS * 1_000,
};
const WAV_HEADER_BYTES: usize = 44;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(part), Some(messages)) = (arguments.next(), arguments.next()) else {
        println!(
            "hotpath PART MESSAGES; parts: {}",
            PARTS.map(|(name, _)| name).join(" ")
        );
        return;
    };
    let (_, run) = PARTS.iter().find(|(name, _)| *name == part).unwrap();
    run(messages.parse().unwrap());
}

/// Its name, and what runs that many messages of it.
type Part = (&'static str, fn(usize));

const PARTS: [Part; 15] = [
    ("call-400ms", call),
    ("uplink-100ms", |messages| uplink(messages, CHUNKS_MS[0], |_| 0)),
    ("uplink-20ms", |messages| uplink(messages, CHUNKS_MS[1], |_| 0)),
    ("uplink-stall-100ms", uplink_stall),
    ("uplink-backlog-100ms", |messages| {
        uplink(messages, CHUNKS_MS[0], backlog)
    }),
    ("downlink-80ms", |messages| downlink(messages, |_| 0)),
    ("downlink-stall-80ms", downlink_stall),
    ("downlink-backlog-80ms", |messages| downlink(messages, backlog)),
    ("conceal-60ms", conceal),
    ("media-read-100ms", media_read),
    ("media-write-80ms", media_write),
    ("resample-up-100ms", |messages| {
        resample(messages, PHONE_HZ, ENGINE_HZ, 100)
    }),
    ("resample-down-80ms", |messages| {
        resample(messages, ENGINE_HZ, PHONE_HZ, 80)
    }),
    ("opus-encode-20ms", opus_encode),
    ("opus-decode-80ms", opus_decode),
];

fn speech(wav: &[u8]) -> Vec<f32> {
    wav[WAV_HEADER_BYTES..]
        .chunks_exact(2)
        .map(|pair| f32::from(i16::from_le_bytes([pair[0], pair[1]])) / 32_768.0)
        .collect()
}

fn speech_at(rate_hz: u32) -> Vec<f32> {
    match rate_hz {
        PHONE_HZ => speech(include_bytes!("../../../tests/vectors/speech_8k.wav")),
        _ => speech(include_bytes!("../../../tests/vectors/speech_24k.wav")),
    }
}

/// Speech in pieces of `ms`, for as many messages as are asked for: over and over from the start.
fn pieces(rate_hz: u32, ms: u32) -> Vec<Vec<f32>> {
    speech_at(rate_hz)
        .chunks_exact((rate_hz * ms / 1_000) as usize)
        .map(<[f32]>::to_vec)
        .collect()
}

fn rate() -> LineRate {
    LineRate::KHZ_8
}

fn carrier() -> Carrier {
    Carrier::named(
        "exotel",
        "0123456789abcdef0123456789abcdef",
        rate(),
        Encoding::Pcm16,
    )
    .unwrap()
}

fn media_messages(ms: u32) -> Vec<Vec<u8>> {
    let mut messages = Messages::default();
    let mut writer = carrier().writer;
    for pcm in pieces(PHONE_HZ, ms) {
        writer.media(&pcm, &mut messages);
    }
    messages.iter().map(|message| message.bytes.to_vec()).collect()
}

fn engine_messages() -> Vec<Vec<u8>> {
    let mut writer = OggOpusWriter::new(FROM_ENGINE, 1).unwrap();
    let mut headers = Vec::new();
    writer.headers(&mut headers);
    let pages = pieces(ENGINE_HZ, ENGINE_MS).into_iter().map(|pcm| {
        let mut page = Vec::new();
        writer.write(&pcm, &mut page);
        page
    });
    std::iter::once(headers).chain(pages).collect()
}

/// By how many messages' time message `number` is late: once in `CYCLE` messages, `STALLED` of them come at once
/// with the one after them. What was made up meanwhile is then taken out of pauses and, by WSOLA, out of speech.
fn backlog(number: usize) -> usize {
    const CYCLE: usize = 50; // the difference of the two runs that `.ci/instructions` makes is one
    const STALLED: usize = 12;
    const FROM: usize = 20;
    let since = (number % CYCLE).wrapping_sub(FROM);
    STALLED.saturating_sub(since)
}

fn a_line() -> Line {
    let codec = Box::new(OggOpus::new(rate(), 1).unwrap());
    Line::new(
        rate(),
        carrier(),
        codec,
        IntakeConfig::default(),
        PlayoutConfig::default(),
    )
}

/// Polls the line until then.
fn pass_time(line: &mut Line, now_us: &mut u64, until_us: u64, mut take: impl FnMut(&LineOutput, u64)) {
    while let Some(wake_us) = line.wake_us().filter(|wake_us| *wake_us < until_us) {
        let at_us = wake_us.max(*now_us);
        take(line.poll(at_us), at_us);
        *now_us = at_us + 1;
    }
    *now_us = until_us.max(*now_us);
}

fn uplink(messages: usize, chunk_ms: u32, late: fn(usize) -> usize) {
    let phone = media_messages(chunk_ms);
    let mut line = a_line();
    let mut now_us = 0;
    line.open_engine(now_us).unwrap();
    for (number, message) in phone.iter().cycle().take(messages).enumerate() {
        let due_us = (number + 1 + late(number)) as u64 * u64::from(chunk_ms) * 1_000;
        pass_time(&mut line, &mut now_us, due_us, |_, _| ());
        black_box(line.phone_message(Message::text(message), now_us));
    }
}

/// A phone that has spoken and sends nothing any more, for the time of so many messages.
fn uplink_stall(messages: usize) {
    let chunk_us = u64::from(CHUNKS_MS[0]) * 1_000;
    let mut line = a_line();
    let mut now_us = 0;
    line.open_engine(now_us).unwrap();
    for message in &media_messages(CHUNKS_MS[0]) {
        let due_us = now_us + chunk_us;
        pass_time(&mut line, &mut now_us, due_us, |_, _| ());
        line.phone_message(Message::text(message), now_us);
    }
    for _ in 0..messages {
        let due_us = now_us + chunk_us;
        pass_time(&mut line, &mut now_us, due_us, |output, _| {
            black_box(output);
        });
    }
}

fn downlink(messages: usize, late: fn(usize) -> usize) {
    let engine = engine_messages();
    let mut line = a_line();
    let mut now_us = 0;
    for (number, message) in engine.iter().cycle().take(messages).enumerate() {
        let due_us = (number + 1 + late(number)) as u64 * u64::from(ENGINE_MS) * 1_000;
        pass_time(&mut line, &mut now_us, due_us, |_, _| ());
        black_box(line.engine_audio(message, now_us));
    }
}

/// An engine that has spoken and sends nothing any more, for the time of so many messages.
fn downlink_stall(messages: usize) {
    let frame_us = u64::from(ENGINE_MS) * 1_000;
    let mut line = a_line();
    let mut now_us = 0;
    for message in &engine_messages() {
        let due_us = now_us + frame_us;
        pass_time(&mut line, &mut now_us, due_us, |_, _| ());
        line.engine_audio(message, now_us);
    }
    for _ in 0..messages {
        let due_us = now_us + frame_us;
        pass_time(&mut line, &mut now_us, due_us, |output, _| {
            black_box(output);
        });
    }
}

/// The phone's side of a call: it plays what it gets, echoes marks and answers pings, after `WAY_US` each way.
#[derive(Default)]
struct PhoneSide {
    drained_at_us: u64,
    /// What comes back, and when: a mark's name, or a pong.
    back: BinaryHeap<Reverse<(u64, Option<String>)>>,
}

const WAY_US: u64 = 30_000;

impl PhoneSide {
    fn take(&mut self, output: &LineOutput, now_us: u64) {
        for message in output.to_phone.iter() {
            let text = str::from_utf8(message.bytes).unwrap();
            if text.starts_with(r#"{"event":"media""#) {
                let payload = text.len() - 160;
                let samples = payload * 3 / 4 / 2 / 160 * 160;
                let duration_us = samples as u64 * 1_000_000 / u64::from(PHONE_HZ);
                self.drained_at_us = self.drained_at_us.max(now_us + WAY_US) + duration_us;
            } else if let Some((_, rest)) = text.split_once(r#""name":""#) {
                let name = rest.trim_end_matches(r#""}}"#).to_owned();
                self.back.push(Reverse((self.drained_at_us + WAY_US, Some(name))));
            }
        }
        if output.ping {
            self.back.push(Reverse((now_us + 2 * WAY_US, None)));
        }
    }
}

/// Calls of both directions, in pieces of 400 ms: four messages of the phone, five of the engine, and marks and
/// pings.
fn call(messages: usize) {
    const PIECE_US: u64 = 400_000;
    let (phone, engine) = (media_messages(CHUNKS_MS[0]), engine_messages());
    let (mut phone, mut engine) = (phone.iter().cycle(), engine[1..].iter().cycle());
    let headers = &engine_messages()[0];
    let mut line = a_line();
    let mut side = PhoneSide::default();
    let mut now_us = 0;
    line.open_engine(now_us).unwrap();
    line.engine_audio(headers, now_us);
    for piece in 0..messages as u64 {
        let mut inputs: Vec<(u64, bool)> = (1..=4)
            .map(|n| (piece * PIECE_US + n * 100_000, true))
            .chain((1..=5).map(|n| (piece * PIECE_US + n * 80_000 + 55_000, false)))
            .collect();
        inputs.sort_unstable();
        for (due_us, is_phone) in inputs {
            while side
                .back
                .peek()
                .is_some_and(|Reverse((at_us, _))| *at_us < due_us)
            {
                let Reverse((at_us, name)) = side.back.pop().unwrap();
                pass_time(&mut line, &mut now_us, at_us, |output, at_us| {
                    side.take(output, at_us)
                });
                let output = match name {
                    Some(name) => line.mark_played(&name, now_us),
                    None => line.pong(2 * WAY_US, now_us),
                };
                side.take(output, now_us);
            }
            pass_time(&mut line, &mut now_us, due_us, |output, at_us| {
                side.take(output, at_us)
            });
            let output = if is_phone {
                line.phone_message(Message::text(phone.next().unwrap()), now_us)
                    .unwrap()
            } else {
                line.engine_audio(engine.next().unwrap(), now_us)
            };
            side.take(output, now_us);
        }
    }
}

/// A frame from the engine and a hole behind it, as long as libopus bridges.
fn conceal(messages: usize) {
    let engine = engine_messages();
    let mut stream = OggOpusReader::new(PHONE_HZ).unwrap();
    let mut pcm = Vec::new();
    for message in engine.iter().cycle().take(messages) {
        pcm.clear();
        stream.read(message, &mut pcm);
        stream.conceal(PHONE_HZ as usize / 1_000 * 60, &mut pcm);
        black_box(&pcm);
    }
}

fn media_read(messages: usize) {
    let phone = media_messages(100);
    let mut reader = carrier().reader;
    let mut pcm = Vec::new();
    for message in phone.iter().cycle().take(messages) {
        pcm.clear();
        black_box(reader.read(Message::text(message), &mut pcm));
    }
}

fn media_write(messages: usize) {
    let mut writer = carrier().writer;
    let mut out = Messages::default();
    for pcm in pieces(PHONE_HZ, ENGINE_MS).iter().cycle().take(messages) {
        out.clear();
        writer.media(pcm, &mut out);
        black_box(&out);
    }
}

fn resample(messages: usize, from_hz: u32, to_hz: u32, ms: u32) {
    let mut resampler = Resampler::new(from_hz, to_hz).unwrap();
    let mut out = Vec::new();
    for pcm in pieces(from_hz, ms).iter().cycle().take(messages) {
        out.clear();
        resampler.process(pcm, &mut out);
        black_box(&out);
    }
}

fn opus_encode(messages: usize) {
    let mut encoder = Encoder::new(TOWARDS_ENGINE).unwrap();
    let mut packet = Vec::new();
    for pcm in pieces(ENGINE_HZ, 20).iter().cycle().take(messages) {
        packet.clear();
        encoder.encode(pcm, &mut packet).unwrap();
        black_box(&packet);
    }
}

fn opus_decode(messages: usize) {
    let mut encoder = Encoder::new(FROM_ENGINE).unwrap();
    let packets: Vec<Vec<u8>> = pieces(ENGINE_HZ, ENGINE_MS)
        .iter()
        .map(|pcm| {
            let mut packet = Vec::new();
            encoder.encode(pcm, &mut packet).unwrap();
            packet
        })
        .collect();
    let mut decoder = Decoder::new(ENGINE_HZ, 1).unwrap();
    let mut pcm = Vec::new();
    for packet in packets.iter().cycle().take(messages) {
        pcm.clear();
        black_box(decoder.decode(packet, &mut pcm));
    }
}
