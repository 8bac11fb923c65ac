//! What the resampler promises: figures per pair of rates, and the same samples however the input is cut.
//! `cargo test --release --test resample -- --nocapture` prints the table.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::f64::consts::TAU;
use std::time::Instant;

use proptest::prelude::*;
use pxbridge_core::codec::pcm;
use pxbridge_core::codec::resample::Resampler;

const RATES_HZ: [u32; 3] = [8000, 16000, 24000];

fn pairs() -> impl Iterator<Item = (u32, u32)> {
    RATES_HZ
        .into_iter()
        .flat_map(|from| RATES_HZ.into_iter().map(move |to| (from, to)))
        .filter(|(a, b)| a != b)
}

fn sine(rate_hz: u32, frequency_hz: f64, amplitude: f64, samples: usize) -> Vec<f32> {
    (0..samples)
        .map(|n| (amplitude * (TAU * frequency_hz * n as f64 / f64::from(rate_hz)).sin()) as f32)
        .collect()
}

fn resample(from_hz: u32, to_hz: u32, input: &[f32]) -> Vec<f32> {
    let mut out = Vec::new();
    Resampler::new(from_hz, to_hz).unwrap().process(input, &mut out);
    out
}

/// Amplitude and phase of `frequency_hz` in `pcm`: over whole seconds every multiple of 1 Hz is orthogonal.
fn tone(pcm: &[f32], rate_hz: u32, frequency_hz: f64) -> (f64, f64) {
    let (mut re, mut im) = (0.0, 0.0);
    for (n, &s) in pcm.iter().enumerate() {
        let angle = TAU * frequency_hz * n as f64 / f64::from(rate_hz);
        re += f64::from(s) * angle.cos();
        im += f64::from(s) * angle.sin();
    }
    (2.0 * re.hypot(im) / pcm.len() as f64, re.atan2(im))
}

fn db(amplitude: f64) -> f64 {
    20.0 * amplitude.max(1e-12).log10()
}

/// One second of output for one second of a sine, after the filter has settled.
fn response(from_hz: u32, to_hz: u32, frequency_hz: f64) -> Vec<f32> {
    let settled = to_hz as usize / 10;
    let input = sine(from_hz, frequency_hz, 0.5, from_hz as usize * 6 / 5);
    resample(from_hz, to_hz, &input)[settled..settled + to_hz as usize].to_vec()
}

/// What is in `pcm` beside the tone itself: images, aliases and noise, relative to a 0.5 sine.
fn beside(pcm: &[f32], rate_hz: u32, frequency_hz: f64) -> f64 {
    let (amplitude, phase) = tone(pcm, rate_hz, frequency_hz);
    let mut rest = 0.0;
    for (n, &s) in pcm.iter().enumerate() {
        let angle = TAU * frequency_hz * n as f64 / f64::from(rate_hz);
        rest += (f64::from(s) - amplitude * (angle + phase).sin()).powi(2);
    }
    db((2.0 * rest / pcm.len() as f64).sqrt() / 0.5)
}

#[test]
fn ripple_images_aliases_and_delay_are_within_bounds_for_every_pair() {
    println!(
        "from   to     ripple (to Hz)       image/alias (from Hz) delay stated/measured ms  µs per 20 ms"
    );
    for (from_hz, to_hz) in pairs() {
        let nyquist_hz = f64::from(from_hz.min(to_hz)) / 2.0;
        // The transition band lies between the two, around the slower rate's Nyquist frequency.
        let (pass_hz, stop_hz) = if nyquist_hz > 4000.0 {
            (7300.0, 8350.0)
        } else {
            (3400.0, 4270.0)
        };
        let grid =
            |low: f64, high: f64| (0..24).map(move |i| (low + (high - low) * f64::from(i) / 23.0).round());

        let (mut least, mut most, mut unwanted) = (0.0_f64, 0.0_f64, -200.0_f64);
        for frequency_hz in grid(20.0, pass_hz) {
            let out = response(from_hz, to_hz, frequency_hz);
            let gain = db(tone(&out, to_hz, frequency_hz).0 / 0.5);
            least = least.min(gain);
            most = most.max(gain);
        }
        if to_hz > from_hz {
            // A tone's first image is its mirror about the slower rate's Nyquist frequency.
            for frequency_hz in grid(20.0, 2.0 * nyquist_hz - stop_hz) {
                unwanted = unwanted.max(beside(
                    &response(from_hz, to_hz, frequency_hz),
                    to_hz,
                    frequency_hz,
                ));
            }
        } else {
            for frequency_hz in grid(stop_hz, f64::from(from_hz) / 2.0 - 1.0) {
                let out = response(from_hz, to_hz, frequency_hz);
                let left = out.iter().map(|&s| f64::from(s).powi(2)).sum::<f64>() / out.len() as f64;
                unwanted = unwanted.max(db((2.0 * left).sqrt() / 0.5));
            }
        }

        // Phase at two close frequencies gives the group delay, unambiguous up to 20 ms.
        let (low_hz, high_hz) = (1000.0, 1050.0);
        let lag = |frequency_hz: f64| {
            let start_s = 0.1;
            let phase = tone(&response(from_hz, to_hz, frequency_hz), to_hz, frequency_hz).1;
            TAU * frequency_hz * start_s - phase
        };
        let turn = (lag(high_hz) - lag(low_hz)).rem_euclid(TAU);
        let measured_s = turn / (TAU * (high_hz - low_hz));
        let stated_s = Resampler::new(from_hz, to_hz).unwrap().delay_s();

        let mut resampler = Resampler::new(from_hz, to_hz).unwrap();
        let block = sine(from_hz, 1000.0, 0.5, from_hz as usize / 50);
        let mut out = Vec::with_capacity(1000);
        // The fastest of many is what it costs on a machine that others use, too.
        let cost_us = (0..200)
            .map(|_| {
                out.clear();
                let began = Instant::now();
                resampler.process(&block, &mut out);
                began.elapsed().as_secs_f64() * 1e6
            })
            .fold(f64::INFINITY, f64::min);

        println!(
            "{from_hz:5}  {to_hz:5}  {least:+.3} {most:+.3} ({pass_hz:4})  {unwanted:8.1} dB ({stop_hz:4})  {:7.3} {:7.3}  {cost_us:10.1}",
            stated_s * 1e3,
            measured_s * 1e3,
        );
        assert!(least > -0.25 && most < 0.25, "ripple {least} {most}");
        assert!(unwanted < -75.0, "images or aliases at {unwanted} dB");
        assert!(
            (stated_s - measured_s).abs() < 2e-6,
            "delay {stated_s} is measured as {measured_s}"
        );
        assert!(stated_s <= 4e-3);
    }
}

#[test]
fn every_call_returns_all_that_its_input_completes() {
    for (from_hz, to_hz) in pairs() {
        let mut resampler = Resampler::new(from_hz, to_hz).unwrap();
        let (mut taken, mut out) = (0_usize, Vec::new());
        for n in (1..200).chain([2400, 1, 480, 7]) {
            resampler.process(&vec![0.1; n], &mut out);
            taken += n;
            assert_eq!(
                out.len(),
                taken * to_hz as usize / from_hz as usize,
                "{from_hz} to {to_hz}"
            );
        }
    }
}

#[test]
fn an_hour_in_20_ms_blocks_never_loses_or_gains_a_sample() {
    // The step 1/3 is not exact in binary: a count that drifts would show here.
    for (from_hz, to_hz) in [(8000, 24000), (16000, 24000)] {
        let mut resampler = Resampler::new(from_hz, to_hz).unwrap();
        let block = vec![0.0; from_hz as usize / 50];
        let mut out = Vec::new();
        for _ in 0..if cfg!(debug_assertions) { 3_000 } else { 180_000 } {
            out.clear();
            resampler.process(&block, &mut out);
            assert_eq!(out.len(), to_hz as usize / 50);
        }
    }
}

#[test]
fn a_resampler_may_move_to_another_thread() {
    fn send<T: Send>() {}
    send::<Resampler>();
}

#[test]
fn equal_rates_pass_samples_through() {
    let input = sine(8000, 440.0, 0.3, 1000);
    assert_eq!(resample(8000, 8000, &input), input);
    assert_eq!(Resampler::new(24000, 24000).unwrap().delay_s(), 0.0);
}

#[test]
fn other_rates_are_refused_with_what_would_be_right() {
    let refused = Resampler::new(8000, 44100).err().unwrap().to_string();
    assert!(
        refused.contains("44100") && refused.contains("8000, 16000 or 24000"),
        "{refused}"
    );
}

#[test]
fn full_scale_saturates_and_never_wraps() {
    for (from_hz, to_hz) in pairs() {
        // A square wave overshoots at its edges; a wrap would turn a peak into its opposite.
        let half_period = from_hz as usize / 500;
        let square: Vec<f32> = (0..from_hz as usize / 4)
            .map(|n| {
                pcm::to_f32(if (n / half_period).is_multiple_of(2) {
                    i16::MAX
                } else {
                    i16::MIN
                })
            })
            .collect();
        let out = resample(from_hz, to_hz, &square);
        assert!(
            out.iter().any(|s| s.abs() > 1.0),
            "no overshoot, so nothing is tested"
        );
        for &s in &out {
            let sample = pcm::to_i16(s);
            assert!(s.abs() < 0.5 || (sample > 0) == (s > 0.0), "{s} became {sample}");
        }
    }
}

#[test]
fn a_reset_resampler_is_as_new() {
    for (from_hz, to_hz) in pairs() {
        let input = sine(from_hz, 700.0, 0.7, 1001);
        let mut resampler = Resampler::new(from_hz, to_hz).unwrap();
        resampler.process(&input[..333], &mut Vec::new());
        resampler.reset();
        let mut out = Vec::new();
        resampler.process(&input, &mut out);
        assert_eq!(out, resample(from_hz, to_hz, &input));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_same_samples_come_out_however_the_input_is_cut(
        from in 0..3_usize,
        to in 0..3_usize,
        input in prop::collection::vec(-1.0..1.0_f32, 0..3000),
        blocks in prop::collection::vec(0..700_usize, 1..50),
    ) {
        let (from_hz, to_hz) = (RATES_HZ[from], RATES_HZ[to]);
        let mut resampler = Resampler::new(from_hz, to_hz).unwrap();
        let (mut rest, mut out) = (&input[..], Vec::new());
        for &n in blocks.iter().cycle().take(10_000) {
            let (block, after) = rest.split_at(n.min(rest.len()));
            resampler.process(block, &mut out);
            rest = after;
        }
        resampler.process(rest, &mut out);
        prop_assert_eq!(out, resample(from_hz, to_hz, &input));
    }

    #[test]
    fn single_samples_give_what_one_block_gives(
        from in 0..3_usize, to in 0..3_usize, input in prop::collection::vec(-1.0..1.0_f32, 0..500),
    ) {
        let (from_hz, to_hz) = (RATES_HZ[from], RATES_HZ[to]);
        let mut resampler = Resampler::new(from_hz, to_hz).unwrap();
        let mut out = Vec::new();
        input.chunks(1).for_each(|sample| resampler.process(sample, &mut out));
        prop_assert_eq!(out, resample(from_hz, to_hz, &input));
    }
}
