//! Shorter and longer speech must sound like the same speech: no clicks, the same pitch, every sample accounted for.
//! `cargo test --release --test timescale -- --nocapture` prints the measures. With `LISTEN_DIR=/some/folder` it also
//! writes recordings there.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::f64::consts::TAU;
use std::path::Path;
use std::time::Instant;

use proptest::prelude::*;
use pxbridge_core::codec::pcm;
use pxbridge_core::dsp::noise::{Background, rms};
use pxbridge_core::dsp::timescale::{Change, TimeScaler};
use pxbridge_core::rate::LineRate;

/// The recording of `tests/vectors` at 8 or 24 kHz: mono 16-bit, 44 bytes of header.
fn speech(rate_hz: u32) -> Vec<f32> {
    let name = format!("../../tests/vectors/speech_{}k.wav", rate_hz / 1000);
    let bytes = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
    bytes[44..]
        .as_chunks::<2>()
        .0
        .iter()
        .map(|&s| pcm::to_f32(i16::from_le_bytes(s)))
        .collect()
}

fn listen(name: &str, rate_hz: u32, pcm: &[f32]) {
    let Some(folder) = std::env::var_os("LISTEN_DIR") else {
        return;
    };
    let data: Vec<u8> = pcm.iter().flat_map(|&s| pcm::to_i16(s).to_le_bytes()).collect();
    let mut wav = Vec::new();
    wav.extend_from_slice(b"RIFF");
    wav.extend_from_slice(&(36 + data.len() as u32).to_le_bytes());
    wav.extend_from_slice(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    wav.extend_from_slice(&rate_hz.to_le_bytes());
    wav.extend_from_slice(&(rate_hz * 2).to_le_bytes());
    wav.extend_from_slice(b"\x02\0\x10\0data");
    wav.extend_from_slice(&(data.len() as u32).to_le_bytes());
    wav.extend_from_slice(&data);
    std::fs::write(Path::new(&folder).join(format!("{name}.wav")), wav).unwrap();
}

fn noise(samples: usize, level: f32, seed: u32) -> Vec<f32> {
    let mut state = seed | 1;
    (0..samples)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state as f32 / u32::MAX as f32 - 0.5) * 12.0_f32.sqrt() * level
        })
        .collect()
}

fn sine(rate_hz: u32, frequency_hz: f64, amplitude: f64, samples: usize) -> Vec<f32> {
    (0..samples)
        .map(|n| (amplitude * (TAU * frequency_hz * n as f64 / f64::from(rate_hz)).sin()) as f32)
        .collect()
}

/// A background that has heard three seconds of noise of this level.
fn background(rate_hz: u32, level: f32) -> Background {
    let mut background = Background::new(LineRate::new(rate_hz).unwrap());
    background.observe(&noise(3 * rate_hz as usize, level, 5));
    background
}

/// Audio that went through the scaler in blocks, and where each block is now.
struct Scaled {
    pcm: Vec<f32>,
    /// Start of each block, before and after.
    blocks: Vec<(usize, usize)>,
}

impl Scaled {
    /// Where the sample now at `after` was before, to within a splice.
    fn before(&self, after: usize) -> usize {
        let block = self.blocks.partition_point(|&(_, at)| at <= after) - 1;
        self.blocks[block].0 + (after - self.blocks[block].1)
    }
}

#[derive(Clone, Copy, PartialEq)]
enum To {
    Shorter,
    Longer,
}

/// Sends `input` through `change` in blocks of 100 ms, with `rate` as the largest share to change.
fn scale_by(
    input: &[f32],
    rate_hz: u32,
    rate: f64,
    mut change: impl FnMut(&mut TimeScaler, &mut Vec<f32>, usize) -> usize,
) -> Scaled {
    let mut scaler = TimeScaler::new(LineRate::new(rate_hz).unwrap());
    let mut scaled = Scaled {
        pcm: Vec::new(),
        blocks: Vec::new(),
    };
    let (mut owed, mut before) = (0.0, 0);
    for block in input.chunks(rate_hz as usize / 10) {
        scaled.blocks.push((before, scaled.pcm.len()));
        before += block.len();
        owed += block.len() as f64 * rate;
        let mut block = block.to_vec();
        owed -= change(&mut scaler, &mut block, owed as usize) as f64;
        scaled.pcm.extend_from_slice(&block);
    }
    scaled
}

/// Changes speech and pauses alike.
fn scale(input: &[f32], rate_hz: u32, to: To, rate: f64) -> Scaled {
    scale_by(input, rate_hz, rate, |scaler, block, at_most| match to {
        To::Shorter => scaler.remove_speech(block, at_most),
        To::Longer => scaler.insert_speech(block, at_most),
    })
}

/// The sharpest corner in each 5 ms: a click is one.
fn corners(pcm: &[f32], rate_hz: u32) -> Vec<f32> {
    let second: Vec<f32> = pcm.windows(3).map(|w| (w[2] - 2.0 * w[1] + w[0]).abs()).collect();
    second
        .chunks(rate_hz as usize / 200)
        .map(|frame| frame.iter().fold(0.0, |a, &b| b.max(a)))
        .collect()
}

/// The sharpest corner of `scaled` against those of the original around the same place: a click is above 1.
fn sharpest_corner(input: &[f32], scaled: &Scaled, rate_hz: u32) -> f64 {
    let around = 6;
    let (was, is) = (corners(input, rate_hz), corners(&scaled.pcm, rate_hz));
    let frame = rate_hz as usize / 200;
    let against = |(i, &corner): (usize, &f32)| {
        let centre = scaled.before(i * frame) / frame;
        let near = &was[centre.saturating_sub(around)..(centre + around).min(was.len())];
        // 16-bit rounding is a corner, too: below -60 dBFS nothing clicks.
        f64::from(corner / near.iter().fold(1e-3, |a: f32, &b| a.max(b)))
    };
    is.iter().enumerate().map(against).fold(0.0, f64::max)
}

/// Pitch around `at`, hertz, if the sound there is clearly voiced: the best lag of the normalised correlation, to a
/// fraction of a sample.
fn pitch_hz(pcm: &[f32], at: usize, rate_hz: u32) -> Option<f64> {
    let window = rate_hz as usize / 25;
    let (low, high) = (rate_hz as usize / 400, rate_hz as usize / 70);
    let frame = pcm.get(at..at + window + high + 1)?;
    let correlation = |lag: usize| {
        let (mut ab, mut aa, mut bb) = (0.0_f64, 1e-9, 1e-9);
        for i in 0..window {
            let (a, b) = (f64::from(frame[i]), f64::from(frame[i + lag]));
            ab += a * b;
            aa += a * a;
            bb += b * b;
        }
        ab / (aa * bb).sqrt()
    };
    let all: Vec<f64> = (low - 1..=high + 1).map(correlation).collect();
    let best = (1..all.len() - 1).max_by(|&a, &b| all[a].total_cmp(&all[b]))?;
    // The shortest lag that is nearly as good: otherwise two periods could win.
    let first =
        (1..=best).find(|&i| all[i] > 0.9 * all[best] && all[i] >= all[i - 1] && all[i] >= all[i + 1])?;
    let (a, b, c) = (all[first - 1], all[first], all[first + 1]);
    let fraction = 0.5 * (a - c) / (a - 2.0 * b + c);
    let loud = rms(&frame[..window]) > 0.01;
    (b > 0.85 && loud).then(|| f64::from(rate_hz) / (first as f64 + low as f64 - 1.0 + fraction))
}

fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * share) as usize]
}

#[test]
fn five_percent_is_reached_without_clicks_and_at_the_same_pitch() {
    for (rate_hz, to) in [
        (8000, To::Shorter),
        (8000, To::Longer),
        (24000, To::Shorter),
        (24000, To::Longer),
    ] {
        let input = speech(rate_hz);
        let scaled = scale(&input, rate_hz, to, 0.05);
        let name = format!(
            "speech_{}k_{}",
            rate_hz / 1000,
            if to == To::Shorter { "shorter" } else { "longer" }
        );
        listen(&name, rate_hz, &scaled.pcm);
        let change = scaled.pcm.len() as f64 / input.len() as f64 - 1.0;

        let sharpest = sharpest_corner(&input, &scaled, rate_hz);

        // Speech itself glides by some percent per 10 ms, so a frame is compared with the nearest of the original.
        let mut deviations = Vec::new();
        let step = rate_hz as usize / 100;
        for after in (0..scaled.pcm.len()).step_by(step) {
            let Some(now) = pitch_hz(&scaled.pcm, after, rate_hz) else {
                continue;
            };
            let before = scaled.before(after);
            let nearest = (0..7)
                .filter_map(|i| pitch_hz(&input, (before + i * step).saturating_sub(3 * step), rate_hz))
                .map(|then| now / then - 1.0)
                .min_by(|a, b| a.abs().total_cmp(&b.abs()));
            deviations.extend(nearest);
        }
        let frames = deviations.len();
        let median = quantile(&mut deviations, 0.5);
        let mut sizes: Vec<f64> = deviations.iter().map(|d| d.abs()).collect();
        let usual = quantile(&mut sizes, 0.95);
        println!(
            "{name}: length {:+.2} %, sharpest corner {sharpest:.2} of the original's, pitch {:+.3} % (median), \
             95 % of {frames} frames within {:.2} %",
            change * 100.0,
            median * 100.0,
            usual * 100.0,
        );
        assert!((change.abs() - 0.05).abs() < 0.005, "{change}");
        assert!(sharpest < 1.1, "a corner of {sharpest}");
        assert!(frames > 100);
        assert!(
            median.abs() < 0.005 && usual < 0.01,
            "pitch is off by {median}, {usual}"
        );
    }
}

#[test]
fn the_pauses_in_real_speech_are_used() {
    for rate_hz in [8000, 24000] {
        let input: Vec<f32> = speech(rate_hz).repeat(2);
        let mut line = Background::new(LineRate::new(rate_hz).unwrap());
        let mut all = Change::default();
        let scaled = scale_by(&input, rate_hz, 0.05, |scaler, block, at_most| {
            line.observe(block);
            let change = scaler.remove(block, at_most, &line);
            all.in_pauses += change.in_pauses;
            all.in_speech += change.in_speech;
            change.total()
        });
        let sharpest = sharpest_corner(&input, &scaled, rate_hz);
        println!(
            "{rate_hz} Hz: {all:?} of {}, sharpest corner {sharpest:.2}",
            input.len()
        );
        assert!(all.total() * 22 > input.len());
        // Most of the recording is speech, so most of a steady 5 % must come from speech.
        assert!(all.in_pauses * 4 > all.total());
        assert!(sharpest < 1.1);
    }
}

#[test]
fn level_stays_within_half_a_decibel() {
    for to in [To::Shorter, To::Longer] {
        let input = speech(8000);
        let scaled = scale(&input, 8000, to, 0.05);
        let db = 20.0 * (rms(&scaled.pcm) / rms(&input)).log10();
        assert!(db.abs() < 0.5, "{db} dB");
    }
}

#[test]
fn a_sine_stays_a_sine() {
    for (rate_hz, frequency_hz) in [
        (8000, 100.0),
        (8000, 333.3),
        (16000, 440.0),
        (24000, 151.7),
        (24000, 1234.5),
    ] {
        for to in [To::Shorter, To::Longer] {
            let scaled = scale(
                &sine(rate_hz, frequency_hz, 0.5, 2 * rate_hz as usize),
                rate_hz,
                to,
                0.05,
            );
            let corner = corners(&scaled.pcm, rate_hz).into_iter().fold(0.0, f32::max);
            let own = 0.5 * (2.0 - 2.0 * (TAU * frequency_hz / f64::from(rate_hz)).cos());
            let sharper = f64::from(corner) / own;
            let peak = scaled.pcm.iter().fold(0.0_f32, |a, &b| a.max(b.abs()));
            let crossings = scaled
                .pcm
                .windows(2)
                .filter(|w| w[0] < 0.0 && w[1] >= 0.0)
                .count();
            let heard_hz = crossings as f64 * f64::from(rate_hz) / scaled.pcm.len() as f64;
            assert!(
                (heard_hz / frequency_hz - 1.0).abs() < 0.01,
                "{frequency_hz} Hz became {heard_hz} Hz"
            );
            assert!(
                (0.47..0.53).contains(&peak),
                "{frequency_hz} Hz at {rate_hz}: {peak}"
            );
            println!("{frequency_hz} Hz at {rate_hz}: peak {peak:.3}, corner {sharper:.3}, {heard_hz:.1} Hz");
            assert!(
                sharper < 1.1,
                "{frequency_hz} Hz at {rate_hz} has a corner {sharper} times its own"
            );
        }
    }
}

#[test]
fn pauses_go_before_speech_and_speech_stays_whole() {
    for rate_hz in [8000, 16000, 24000] {
        let per_ms = rate_hz as usize / 1000;
        let line = background(rate_hz, 0.001);
        let voice = sine(rate_hz, 150.0, 0.3, 150 * per_ms);
        let mut pcm = voice.clone();
        pcm.extend(noise(200 * per_ms, 0.001, 9));
        pcm.extend(&voice);
        let before = pcm.clone();
        let change = TimeScaler::new(LineRate::new(rate_hz).unwrap()).remove(&mut pcm, 120 * per_ms, &line);
        assert_eq!(
            change,
            Change {
                in_pauses: 120 * per_ms,
                in_speech: 0
            }
        );
        assert_eq!(pcm.len(), before.len() - 120 * per_ms);
        assert_eq!(pcm[..150 * per_ms], before[..150 * per_ms]);
        assert_eq!(
            pcm[pcm.len() - 150 * per_ms..],
            before[before.len() - 150 * per_ms..]
        );
        let pause = &pcm[150 * per_ms..pcm.len() - 150 * per_ms];
        assert!(
            (rms(pause) / 0.001 - 1.0).abs() < 0.2,
            "the pause is at {}",
            rms(pause)
        );
    }
}

#[test]
fn when_pauses_do_not_suffice_the_rest_is_removed_from_speech() {
    let line = background(8000, 0.001);
    let mut pcm = sine(8000, 150.0, 0.3, 1200);
    pcm.extend(noise(400, 0.001, 9));
    let change = TimeScaler::new(LineRate::KHZ_8).remove(&mut pcm, 500, &line);
    assert!(change.in_pauses > 200 && change.in_speech > 100, "{change:?}");
}

#[test]
fn samples_are_inserted_into_pauses_before_speech() {
    let line = background(8000, 0.001);
    let mut pcm = sine(8000, 150.0, 0.3, 1200);
    pcm.extend(noise(800, 0.001, 9));
    let voice = pcm[..1200].to_vec();
    let change = TimeScaler::new(LineRate::KHZ_8).insert(&mut pcm, 400, &line);
    assert_eq!(
        change,
        Change {
            in_pauses: 400,
            in_speech: 0
        }
    );
    assert_eq!(pcm[..1200], voice);
    assert!((rms(&pcm[1200..]) / 0.001 - 1.0).abs() < 0.2);
}

#[test]
fn sound_without_a_period_is_left_alone() {
    // A sweep and a burst: no period to leave out.
    let sweep: Vec<f32> = (0..800)
        .map(|n| (0.5 * (n as f64 * n as f64 * 0.0015).sin()) as f32)
        .collect();
    let mut pcm = sweep.clone();
    let removed = TimeScaler::new(LineRate::KHZ_8).remove_speech(&mut pcm, 200);
    assert_eq!(removed, 0);
    assert_eq!(pcm, sweep);
}

#[test]
fn less_than_a_period_is_not_removed_from_speech_and_never_more_than_asked() {
    let mut pcm = sine(8000, 100.0, 0.5, 1600);
    assert_eq!(TimeScaler::new(LineRate::KHZ_8).remove_speech(&mut pcm, 60), 0);
    assert_eq!(TimeScaler::new(LineRate::KHZ_8).remove_speech(&mut pcm, 85), 80);
    assert_eq!(pcm.len(), 1520);
}

#[test]
fn a_fast_talker_of_40_percent_is_possible() {
    let input = speech(8000);
    let scaled = scale(&input, 8000, To::Shorter, 0.29);
    listen("speech_8k_fast", 8000, &scaled.pcm);
    let share = 1.0 - scaled.pcm.len() as f64 / input.len() as f64;
    println!("asked for 29 %, {:.1} % went", share * 100.0);
    assert!(share > 0.2, "{share}");
}

#[test]
fn a_block_costs_little() {
    for rate_hz in [8000, 24000] {
        let input = speech(rate_hz);
        let line = background(rate_hz, 0.001);
        let mut scaler = TimeScaler::new(LineRate::new(rate_hz).unwrap());
        for ms in [80, 200, 1500] {
            let (mut block, mut fastest_us, mut slowest_us) = (Vec::new(), f64::INFINITY, 0.0_f64);
            for chunk in input.chunks_exact(rate_hz as usize / 1000 * ms) {
                let us = (0..3)
                    .map(|_| {
                        block.clear();
                        block.extend_from_slice(chunk);
                        let began = Instant::now();
                        scaler.remove(&mut block, chunk.len() / 4, &line);
                        began.elapsed().as_secs_f64() * 1e6
                    })
                    .fold(f64::INFINITY, f64::min);
                fastest_us = fastest_us.min(us);
                slowest_us = slowest_us.max(us);
            }
            println!("{ms} ms at {rate_hz} Hz: {fastest_us:.0} to {slowest_us:.0} µs");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_sample_is_accounted_for_and_the_edges_are_untouched(
        rate in 0..3_usize,
        start in 0..30_000_usize,
        length in 0..6000_usize,
        at_most in 0..4000_usize,
        level in 0.0..0.02_f32,
        quiet in any::<prop::sample::Index>(),
        longer in any::<bool>(),
    ) {
        let rate_hz = [8000, 16000, 24000][rate];
        let mut input = speech(8000)[start..start + length].to_vec();
        let quiet_at = quiet.index(length + 1);
        input[quiet_at..].copy_from_slice(&noise(length - quiet_at, level, 3));
        let line = background(rate_hz, level);
        let mut scaler = TimeScaler::new(LineRate::new(rate_hz).unwrap());
        let mut pcm = input.clone();
        let change = if longer {
            scaler.insert(&mut pcm, at_most, &line)
        } else {
            scaler.remove(&mut pcm, at_most, &line)
        };
        prop_assert!(change.total() <= at_most);
        let expected = if longer { length + change.total() } else { length - change.total() };
        prop_assert_eq!(pcm.len(), expected);
        prop_assert!(pcm.iter().all(|s| s.is_finite()));
        let peak = input.iter().fold(0.0_f32, |a, s| a.max(s.abs()));
        prop_assert!(pcm.iter().all(|s| s.abs() <= 1.5 * peak));
        let edge = (rate_hz as usize / 1000 * 3).min(length / 2);
        prop_assert_eq!(&pcm[..edge], &input[..edge]);
        prop_assert_eq!(&pcm[pcm.len() - edge..], &input[length - edge..]);
    }

    #[test]
    fn garbage_does_no_harm(
        pcm in prop::collection::vec(prop_oneof![
            5 => -1.0..1.0_f32, 1 => Just(0.0), 1 => Just(f32::NAN), 1 => Just(f32::INFINITY), 1 => Just(1e30),
        ], 0..3000),
        at_most in any::<usize>(),
    ) {
        let line = background(8000, 0.001);
        let mut scaler = TimeScaler::new(LineRate::KHZ_8);
        let mut shorter = pcm.clone();
        let removed = scaler.remove(&mut shorter, at_most, &line).total();
        prop_assert_eq!(shorter.len() + removed, pcm.len());
        let mut longer = pcm.clone();
        let inserted = scaler.insert(&mut longer, at_most, &line).total();
        prop_assert_eq!(longer.len(), pcm.len() + inserted);
    }
}
