//! The promise to the real-time path: what is warm allocates nothing. A file of its own, as it counts every
//! allocation of its threads.
#![allow(clippy::unwrap_used)]

use pxbridge_core::carrier::payload::Encoding;
use pxbridge_core::carrier::{Carrier, Message, Messages};
use pxbridge_core::codec::resample::Resampler;
use pxbridge_core::dsp::noise::{Background, ComfortNoise};
use pxbridge_core::dsp::timescale::TimeScaler;
use pxbridge_core::rate::LineRate;

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
    let rate = LineRate::new(8000).unwrap();
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
    let mut background = Background::new(24000).unwrap();
    let mut comfort = ComfortNoise::new(1);
    let mut scaler = TimeScaler::new(24000).unwrap();
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
