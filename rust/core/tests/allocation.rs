//! The promise to the real-time path: what is warm allocates nothing. A file of its own, as it counts every
//! allocation of its threads.
#![allow(clippy::unwrap_used)]

use pxbridge_core::carrier::payload::Encoding;
use pxbridge_core::carrier::{Carrier, Message, Messages};
use pxbridge_core::codec::engine::{ENGINE_HZ, OggOpus};
use pxbridge_core::codec::opus::TOWARDS_ENGINE;
use pxbridge_core::codec::resample::Resampler;
use pxbridge_core::codec::stream::OggOpusWriter;
use pxbridge_core::downlink::playout::PlayoutConfig;
use pxbridge_core::dsp::noise::{Background, ComfortNoise};
use pxbridge_core::dsp::timescale::TimeScaler;
use pxbridge_core::line::Line;
use pxbridge_core::rate::LineRate;
use pxbridge_core::uplink::intake::IntakeConfig;

/// Allocations of the second round of `work`; the first may warm up.
fn allocations(mut work: impl FnMut()) -> u64 {
    work();
    allocation_counter::measure(work).count_total
}

/// A voice with pauses.
fn voice(rate_hz: u32, samples: usize) -> Vec<f32> {
    let time = |n: usize| n as f32 / rate_hz as f32;
    (0..samples)
        .map(|n| 0.3 * (time(n) * 900.0).sin() * (time(n) * 8.0).sin().max(0.0))
        .collect()
}

#[test]
fn a_warm_resampler_allocates_nothing() {
    for from_hz in [8000, 16000, 24000] {
        for to_hz in [8000, 16000, 24000] {
            let mut resampler = Resampler::new(from_hz, to_hz).unwrap();
            let input = voice(from_hz, from_hz as usize / 10);
            // Room for the longest block: this promise holds from the first call on.
            let mut out = Vec::with_capacity(to_hz as usize / 10 + 3);
            let counted = allocation_counter::measure(|| {
                for block in [input.len(), 160, 161, 1, 480, 481] {
                    out.clear();
                    resampler.process(&input[..block.min(input.len())], &mut out);
                }
                resampler.reset();
            });
            assert_eq!(counted.count_total, 0, "{from_hz} to {to_hz}");
        }
    }
}

#[test]
fn media_frames_are_read_and_written_without_allocating() {
    let pcm = voice(8000, 1600);
    let rate = LineRate::KHZ_8;
    let mut carrier = Carrier::named("exotel", "stream", rate, Encoding::Pcm16).unwrap();
    let (mut messages, mut out) = (Messages::default(), Vec::new());
    let count = allocations(|| {
        messages.clear();
        out.clear();
        carrier.writer.media(&pcm, &mut messages);
        carrier.writer.mark("7-77", &mut messages);
        carrier.writer.clear(&mut messages);
        let media: Message<'_> = messages.iter().next().unwrap();
        assert_eq!(carrier.reader.read(media, &mut out).unwrap().samples, 1600);
    });
    assert_eq!(count, 0);
}

#[test]
fn warm_time_scaling_and_noise_allocate_nothing() {
    let speech = voice(24000, 24000);
    let mut background = Background::new(LineRate::KHZ_24);
    let mut comfort = ComfortNoise::new(1);
    let mut scaler = TimeScaler::new(LineRate::KHZ_24);
    let mut pcm = Vec::with_capacity(2 * speech.len());
    let mut round = || {
        background.observe(&speech);
        comfort.follow(&background);
        for _ in 0..2 {
            pcm.clear();
            pcm.extend_from_slice(&speech);
            assert!(scaler.insert(&mut pcm, 3000, &background).total() > 0);
            assert!(scaler.remove(&mut pcm, 6000, &background).total() > 0);
        }
        pcm.clear();
        comfort.fill(1000, &mut pcm);
    };
    round();
    assert_eq!(allocations(round), 0);
}

/// Twenty seconds of a call in each round: every message of the phone and the engine, every echo of a mark and every
/// pong.
#[test]
fn a_warm_line_allocates_nothing() {
    const ROUND_MS: u64 = 20_000;
    const BACK_MS: u64 = 60;
    let rate = LineRate::KHZ_8;
    let carrier = || Carrier::named("exotel", "S", rate, Encoding::Pcm16).unwrap();
    let mut phone = Messages::default();
    carrier().writer.media(&voice(8000, 800), &mut phone);
    let phone = phone.iter().next().unwrap();
    let mut writer = OggOpusWriter::new(TOWARDS_ENGINE, 1).unwrap();
    let (mut headers, mut page) = (Vec::new(), Vec::new());
    writer.headers(&mut headers);
    writer.write(&voice(ENGINE_HZ, 1920), &mut page);

    let (intake, playout) = (IntakeConfig::default(), PlayoutConfig::default());
    let codec = Box::new(OggOpus::new(rate, 1).unwrap());
    let mut line = Line::new(rate, carrier(), codec, intake, playout);
    let mut now_us = 0;
    line.poll(now_us);
    line.open_engine(now_us).unwrap();
    line.engine_audio(&headers, now_us);
    // Names of marks and when they come back: kept in arrays, as what the test allocates would be counted.
    let mut marks = [(0_u64, [0_u8; 16], 0_usize); 64];
    let mut newest = 0;
    let mut pong_us = None;
    let mut inputs = 0_u64;
    let mut round = || {
        for _ in 0..ROUND_MS / 5 {
            now_us += 5_000;
            let now_ms = now_us / 1000;
            for (due, act) in [
                (now_ms.is_multiple_of(100), 0),
                ((now_ms + 5).is_multiple_of(80), 1),
                (pong_us.is_some_and(|at_us| at_us <= now_us), 2),
                (line.wake_us().is_some_and(|wake_us| wake_us <= now_us), 3),
            ] {
                if !due {
                    continue;
                }
                inputs += 1;
                let output = match act {
                    0 => line.phone_message(phone, now_us).unwrap(),
                    1 => line.engine_audio(&page, now_us),
                    2 => {
                        pong_us = None;
                        line.pong(BACK_MS * 1000, now_us)
                    }
                    _ => line.poll(now_us),
                };
                for message in output.to_phone.iter() {
                    const NAME: &[u8] = br#""mark":{"name":""#;
                    let at = message.bytes.windows(NAME.len()).position(|w| w == NAME);
                    if let Some(name) = at.map(|at| &message.bytes[at + NAME.len()..message.bytes.len() - 3])
                    {
                        let slot = &mut marks[newest % 64];
                        (slot.0, slot.2) = (now_us + 2 * BACK_MS * 1000, name.len());
                        slot.1[..name.len()].copy_from_slice(name);
                        newest += 1;
                    }
                }
                if output.ping {
                    pong_us = pong_us.or(Some(now_us + BACK_MS * 1000));
                }
            }
            for slot in &mut marks {
                if slot.2 > 0 && slot.0 <= now_us {
                    line.mark_played(str::from_utf8(&slot.1[..slot.2]).unwrap(), now_us);
                    slot.2 = 0;
                }
            }
        }
    };
    round();
    let count = allocations(round);
    assert!(inputs > 1000);
    assert_eq!(count, 0);
    assert!(line.playout_stats().holes == 0 && newest > 40);
}
