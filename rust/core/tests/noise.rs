//! A line's background is learnt from its pauses, and comfort noise cannot be told from it.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::f64::consts::TAU;
use std::path::Path;

use proptest::prelude::*;
use pxbridge_core::codec::pcm;
use pxbridge_core::dsp::noise::{Background, ComfortNoise, rms};
use pxbridge_core::rate::LineRate;

const RATES_HZ: [u32; 3] = [8000, 16000, 24000];

fn speech_8k() -> Vec<f32> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/speech_8k.wav");
    let bytes = std::fs::read(path).unwrap();
    bytes[44..]
        .as_chunks::<2>()
        .0
        .iter()
        .map(|&s| pcm::to_f32(i16::from_le_bytes(s)))
        .collect()
}

/// Noise of this RMS level, darker with a `colour` towards 1 (one pole).
fn line_noise(samples: usize, level: f32, colour: f32, seed: u32) -> Vec<f32> {
    let mut state = seed | 1;
    let mut last = 0.0;
    (0..samples)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            let white = (state as f32 / u32::MAX as f32 - 0.5) * 12.0_f32.sqrt() * level;
            last = colour * last + (1.0 - colour * colour).sqrt() * white;
            last
        })
        .collect()
}

fn db(ratio: f32) -> f32 {
    20.0 * ratio.log10()
}

/// Level in one octave, by summing DFT bins of 10 ms frames.
fn octave(pcm: &[f32], rate_hz: u32, low_hz: f64) -> f32 {
    let frame = rate_hz as usize / 100;
    let mut power = 0.0;
    for frame in pcm.chunks_exact(frame).take(200) {
        for k in (low_hz / 100.0) as usize..(2.0 * low_hz / 100.0) as usize {
            let (mut re, mut im) = (0.0, 0.0);
            for (n, &s) in frame.iter().enumerate() {
                let angle = TAU * (k * n) as f64 / frame.len() as f64;
                // A Hann window, against leakage from the next octave.
                let s = f64::from(s) * (0.5 - 0.5 * (TAU * n as f64 / frame.len() as f64).cos());
                re += s * angle.cos();
                im += s * angle.sin();
            }
            power += re * re + im * im;
        }
    }
    power.sqrt() as f32
}

#[test]
fn the_level_of_a_quiet_line_is_learnt_within_a_decibel() {
    for rate_hz in RATES_HZ {
        for level in [0.0008, 0.003, 0.01] {
            let mut background = Background::new(LineRate::new(rate_hz).unwrap());
            background.observe(&line_noise(3 * rate_hz as usize, level, 0.0, 3));
            let off = db(background.level() / level);
            println!("{rate_hz} Hz, {:.0} dBFS: {off:+.2} dB", db(level));
            assert!(off.abs() < 1.0, "{off}");
        }
    }
}

#[test]
fn pauses_on_a_noisy_line_are_found_in_speech() {
    let speech = speech_8k();
    let noise = line_noise(speech.len(), 0.002, 0.5, 11);
    let line: Vec<f32> = speech.iter().zip(&noise).map(|(a, b)| a + b).collect();
    let mut background = Background::new(LineRate::KHZ_8);
    background.observe(&line);
    assert!(
        db(background.level() / 0.002).abs() < 2.0,
        "{}",
        background.level()
    );
    let (mut right, mut wrong) = (0, 0);
    for (clean, heard) in speech.chunks_exact(160).zip(line.chunks_exact(160)) {
        // Only frames that are clearly one or the other: those in between may be either.
        if rms(clean) < 0.0005 {
            if background.is_pause(heard) {
                right += 1
            } else {
                wrong += 1
            }
        } else if rms(clean) > 0.01 {
            if background.is_pause(heard) {
                wrong += 1
            } else {
                right += 1
            }
        }
    }
    println!("{right} frames right, {wrong} wrong");
    assert!(right > 100 && wrong * 50 < right, "{right} right, {wrong} wrong");
}

#[test]
fn a_background_that_rises_is_followed_within_three_seconds() {
    let mut background = Background::new(LineRate::KHZ_8);
    background.observe(&line_noise(40_000, 0.001, 0.0, 3));
    let street = line_noise(24_000, 0.006, 0.0, 5);
    background.observe(&street);
    assert!(background.is_pause(&street[..400]));
    assert!(db(background.level() / 0.006).abs() < 1.5);
}

#[test]
fn steady_loud_sound_is_not_a_pause() {
    let music: Vec<f32> = (0..80_000).map(|n| 0.1 * (n as f32 * 0.3).sin()).collect();
    let mut background = Background::new(LineRate::KHZ_8);
    background.observe(&music);
    assert!(!background.is_pause(&music[..800]));
}

#[test]
fn digital_silence_is_a_pause_and_does_not_change_the_background() {
    let mut background = Background::new(LineRate::KHZ_8);
    assert!(background.is_pause(&[0.0; 160]));
    for seed in 0..20 {
        background.observe(&[0.0; 1600]);
        background.observe(&line_noise(1600, 0.002, 0.0, seed));
    }
    assert!(background.is_pause(&[0.0; 160]));
    assert!(background.is_pause(&line_noise(400, 0.002, 0.0, 99)));
    assert!(db(background.level() / 0.002).abs() < 1.0);
}

#[test]
fn comfort_noise_has_the_lines_level_and_colour() {
    for rate_hz in RATES_HZ {
        for colour in [0.0, 0.6, 0.9, -0.5] {
            let line = line_noise(4 * rate_hz as usize, 0.002, colour, 17);
            let mut background = Background::new(LineRate::new(rate_hz).unwrap());
            background.observe(&line);
            let mut comfort = ComfortNoise::new(7);
            comfort.follow(&background);
            let mut heard = Vec::new();
            comfort.fill(4 * rate_hz as usize, &mut heard);
            let level = db(rms(&heard) / rms(&line));
            assert!(level.abs() < 1.0, "{level} dB at {rate_hz} Hz, colour {colour}");
            for low_hz in [200.0, 400.0, 800.0, 1600.0] {
                let off = db(octave(&heard, rate_hz, low_hz) / octave(&line, rate_hz, low_hz));
                assert!(
                    off.abs() < 2.0,
                    "{off} dB from {low_hz} Hz at {rate_hz} Hz, colour {colour}"
                );
            }
        }
    }
}

/// The comfort noise for a gap in this line.
fn comfort(line: &[f32], rate_hz: u32) -> Vec<f32> {
    let mut background = Background::new(LineRate::new(rate_hz).unwrap());
    background.observe(line);
    let mut comfort = ComfortNoise::new(7);
    comfort.follow(&background);
    let mut heard = Vec::new();
    comfort.fill(2 * rate_hz as usize, &mut heard);
    heard
}

#[test]
fn a_loud_line_gets_noise_as_loud_with_speech_on_it_or_without() {
    let speech = speech_8k();
    for level in [0.01, 0.018, 0.032, 0.056] {
        let noise = line_noise(speech.len(), level, 0.3, 5);
        let off = db(rms(&comfort(&noise, 8000)) / level);
        assert!(off.abs() < 1.5, "{:.0} dBFS: {off:+.1} dB", db(level));
        let spoken: Vec<f32> = speech.iter().zip(&noise).map(|(a, b)| a + b).collect();
        let off = db(rms(&comfort(&spoken, 8000)) / level);
        assert!(off.abs() < 3.0, "speech on {:.0} dBFS: {off:+.1} dB", db(level));
    }
}

#[test]
fn a_phone_that_sends_silence_in_pauses_gets_silence_in_gaps() {
    let speech = speech_8k();
    let gated: Vec<f32> = speech
        .chunks(160)
        .flat_map(|frame| {
            if rms(frame) < 0.006 {
                vec![0.0; frame.len()]
            } else {
                frame.to_vec()
            }
        })
        .collect();
    let silent = gated.chunks(160).filter(|frame| rms(frame) == 0.0).count();
    assert!(silent * 5 > gated.len() / 160, "there are pauses in it");
    assert_eq!(rms(&comfort(&gated, 8000)), 0.0);
}

#[test]
fn a_hum_does_not_make_the_noise_unstable() {
    let hum: Vec<f32> = (0..80_000)
        .map(|n| 0.003 * (TAU as f32 * 50.0 * n as f32 / 8000.0).sin())
        .collect();
    let mut background = Background::new(LineRate::KHZ_8);
    background.observe(&hum);
    let mut comfort = ComfortNoise::new(7);
    comfort.follow(&background);
    let mut heard = Vec::new();
    comfort.fill(80_000, &mut heard);
    assert!(db(rms(&heard) / rms(&hum)).abs() < 6.0, "{}", rms(&heard));
    assert!(heard.iter().all(|s| s.abs() < 0.05));
}

#[test]
fn a_line_that_was_never_heard_gets_silence() {
    let mut comfort = ComfortNoise::new(7);
    let mut heard = Vec::new();
    comfort.fill(100, &mut heard);
    comfort.follow(&Background::new(LineRate::KHZ_8));
    comfort.fill(100, &mut heard);
    assert_eq!(heard, [0.0; 200]);
}

#[test]
fn the_same_seed_gives_the_same_noise_in_blocks_of_any_length() {
    let mut background = Background::new(LineRate::KHZ_8);
    background.observe(&line_noise(24_000, 0.002, 0.5, 17));
    let noise = |seed: u64, blocks: &[usize]| {
        let mut comfort = ComfortNoise::new(seed);
        comfort.follow(&background);
        let mut heard = Vec::new();
        blocks.iter().for_each(|&n| comfort.fill(n, &mut heard));
        heard
    };
    assert_eq!(noise(7, &[1000]), noise(7, &[1, 0, 99, 900]));
    assert_ne!(noise(7, &[1000]), noise(8, &[1000]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_the_line_does_noise_is_finite_and_quiet(
        blocks in prop::collection::vec(
            prop::collection::vec(prop_oneof![
                8 => -0.01..0.01_f32, 2 => -1.0..1.0_f32, 1 => Just(0.0), 1 => Just(f32::NAN), 1 => Just(1e30),
            ], 0..400),
            0..20,
        ),
        tone in 0.0..3.1_f32,
    ) {
        let mut background = Background::new(LineRate::KHZ_8);
        let mut comfort = ComfortNoise::new(3);
        let mut heard = Vec::new();
        for (i, block) in blocks.iter().enumerate() {
            background.observe(block);
            let steady: Vec<f32> = (0..160).map(|n| 0.01 * (tone * (i * 160 + n) as f32).sin()).collect();
            background.observe(&steady);
            comfort.follow(&background);
            comfort.fill(160, &mut heard);
        }
        comfort.fill(4000, &mut heard);
        prop_assert!(heard.iter().all(|s| s.abs() < 0.5));
        prop_assert!(background.level().is_finite() && background.pause_below().is_finite());
    }
}
