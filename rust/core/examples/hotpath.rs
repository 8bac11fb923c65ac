//! The work of a call's messages, for counting its instructions: `hotpath PART MESSAGES`.
//!
//! Everything is made before the first message and nothing depends on a clock, so two runs of the same part
//! with different numbers of messages differ by exactly the work of the messages between. `.ci/instructions`
//! runs it so, under callgrind.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::hint::black_box;

use pxbridge_core::carrier::exotel::{Encoding, MediaWriter, read_media};
use pxbridge_core::codec::opus::{Application, Decoder, Encoder, EncoderConfig, TOWARDS_ENGINE};
use pxbridge_core::codec::resample::Resampler;
use pxbridge_core::codec::stream::{OggOpusReader, OggOpusWriter};
use pxbridge_core::downlink::playout::PlayoutConfig;
use pxbridge_core::halves::{Caller, Downlink, ENGINE_HZ, Uplink};
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

const PARTS: [Part; 14] = [
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

fn media_messages(ms: u32) -> Vec<Vec<u8>> {
    let mut writer = MediaWriter::new("0123456789abcdef0123456789abcdef", PHONE_HZ, Encoding::Pcm16);
    pieces(PHONE_HZ, ms)
        .iter()
        .map(|pcm| {
            let mut message = Vec::new();
            writer.write(pcm, &mut message);
            message
        })
        .collect()
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

fn an_uplink() -> Uplink {
    Uplink::new(PHONE_HZ, Encoding::Pcm16, IntakeConfig::default(), 1).unwrap()
}

/// Polls the uplink until then.
fn pass_time_up(line: &mut Uplink, now_us: &mut u64, until_us: u64, ogg: &mut Vec<u8>) {
    while let Some(wake_us) = line.wake_us().filter(|wake_us| *wake_us < until_us) {
        line.poll(wake_us.max(*now_us), ogg);
        *now_us = wake_us.max(*now_us) + 1;
    }
    *now_us = until_us.max(*now_us);
}

fn uplink(messages: usize, chunk_ms: u32, late: fn(usize) -> usize) {
    let phone = media_messages(chunk_ms);
    let mut line = an_uplink();
    let mut ogg = Vec::new();
    let mut now_us = 0;
    line.open(now_us, &mut ogg).unwrap();
    for (number, message) in phone.iter().cycle().take(messages).enumerate() {
        let due_us = (number + 1 + late(number)) as u64 * u64::from(chunk_ms) * 1_000;
        pass_time_up(&mut line, &mut now_us, due_us, &mut ogg);
        ogg.clear();
        black_box(line.receive(message, now_us, &mut ogg));
    }
}

/// A phone that has spoken and sends nothing any more, for the time of so many messages.
fn uplink_stall(messages: usize) {
    let chunk_us = u64::from(CHUNKS_MS[0]) * 1_000;
    let mut line = an_uplink();
    let mut ogg = Vec::new();
    let mut now_us = 0;
    line.open(now_us, &mut ogg).unwrap();
    for message in &media_messages(CHUNKS_MS[0]) {
        let due_us = now_us + chunk_us;
        pass_time_up(&mut line, &mut now_us, due_us, &mut ogg);
        line.receive(message, now_us, &mut ogg);
    }
    for _ in 0..messages {
        ogg.clear();
        let due_us = now_us + chunk_us;
        pass_time_up(&mut line, &mut now_us, due_us, &mut ogg);
        black_box(&ogg);
    }
}

fn a_downlink() -> Downlink {
    Downlink::new(
        PHONE_HZ,
        Encoding::Pcm16,
        "0123456789abcdef0123456789abcdef",
        PlayoutConfig::default(),
    )
    .unwrap()
}

/// Polls the downlink until then.
fn pass_time_down(line: &mut Downlink, now_us: &mut u64, until_us: u64, out: &mut Vec<Vec<u8>>) {
    while let Some(wake_us) = line.wake_us().filter(|wake_us| *wake_us < until_us) {
        line.poll(wake_us.max(*now_us), out);
        *now_us = wake_us.max(*now_us) + 1;
    }
    *now_us = until_us.max(*now_us);
}

fn downlink(messages: usize, late: fn(usize) -> usize) {
    let engine = engine_messages();
    let mut line = a_downlink();
    let mut out = Vec::new();
    let mut now_us = 0;
    for (number, message) in engine.iter().cycle().take(messages).enumerate() {
        let due_us = (number + 1 + late(number)) as u64 * u64::from(ENGINE_MS) * 1_000;
        pass_time_down(&mut line, &mut now_us, due_us, &mut out);
        out.clear();
        line.receive(message, now_us, Caller::default(), &mut out);
        black_box(&out);
    }
}

/// An engine that has spoken and sends nothing any more, for the time of so many messages.
fn downlink_stall(messages: usize) {
    let frame_us = u64::from(ENGINE_MS) * 1_000;
    let mut line = a_downlink();
    let mut out = Vec::new();
    let mut now_us = 0;
    for message in &engine_messages() {
        let due_us = now_us + frame_us;
        pass_time_down(&mut line, &mut now_us, due_us, &mut out);
        line.receive(message, now_us, Caller::default(), &mut out);
    }
    for _ in 0..messages {
        out.clear();
        let due_us = now_us + frame_us;
        pass_time_down(&mut line, &mut now_us, due_us, &mut out);
        black_box(&out);
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
    let mut pcm = Vec::new();
    for message in phone.iter().cycle().take(messages) {
        pcm.clear();
        black_box(read_media(message, Encoding::Pcm16, &mut pcm));
    }
}

fn media_write(messages: usize) {
    let mut writer = MediaWriter::new("0123456789abcdef0123456789abcdef", PHONE_HZ, Encoding::Pcm16);
    let mut message = Vec::new();
    for pcm in pieces(PHONE_HZ, ENGINE_MS).iter().cycle().take(messages) {
        message.clear();
        writer.write(pcm, &mut message);
        black_box(&message);
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
