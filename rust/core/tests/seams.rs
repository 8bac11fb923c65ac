//! Where audio was missing, inserted or removed, nobody hears a click: a steady voice has no sharp corner, whatever
//! the network does on its way to the model and to the caller.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use pxbridge_core::carrier::payload::Encoding;
use pxbridge_core::carrier::{Carrier, Messages};
use pxbridge_core::codec::engine::{ENGINE_HZ, OggOpus};
use pxbridge_core::codec::opus::{Application, EncoderConfig};
use pxbridge_core::codec::stream::OggOpusWriter;
use pxbridge_core::downlink::playout::PlayoutConfig;
use pxbridge_core::line;
use pxbridge_core::rate::LineRate;
use pxbridge_core::uplink::intake::{Intake, IntakeConfig};

const RATE_HZ: u32 = 8000;
const CHUNK: usize = 160;
const CHUNK_US: u64 = 20_000;
const FRAME: usize = 1920;
const FRAME_US: u64 = 80_000;
/// The voice below has corners of 0.015, a fade of 5 ms in it of 0.04 at worst, a break in mid-vowel of 0.1 to 1.
const CLICK: f32 = 0.075;

/// A vowel without end, on a line of -62 dBFS: 140 Hz and its third harmonic.
fn vowel(rate_hz: u32, samples: usize) -> Vec<f32> {
    let mut random = 1_u32;
    (0..samples)
        .map(|n| {
            random ^= random << 13;
            random ^= random >> 17;
            random ^= random << 5;
            let t = std::f32::consts::TAU * (140.0 * n as f64 / f64::from(rate_hz)).fract() as f32;
            0.3 * t.sin() + 0.1 * (3.0 * t).sin() + 0.0025 * (random as f32 / u32::MAX as f32 - 0.5)
        })
        .collect()
}

/// Words of a second with pauses of 0.4 s between, which a background is learnt from.
fn words(rate_hz: u32, seconds: usize) -> Vec<f32> {
    let (word, pause) = (rate_hz as usize, rate_hz as usize * 2 / 5);
    let edge = rate_hz as usize / 50;
    let mut pcm = vowel(rate_hz, seconds * rate_hz as usize);
    for (n, sample) in pcm.iter_mut().enumerate() {
        let at = n % (word + pause);
        let from_edge = if at < word { at.min(word - at) } else { 0 };
        let loud = (from_edge as f32 / edge as f32).clamp(0.003, 1.0);
        *sample *= loud;
    }
    pcm
}

/// The sharpest corner, and where.
fn sharpest(pcm: &[f32]) -> (f32, usize) {
    pcm.windows(3)
        .enumerate()
        .map(|(at, w)| ((w[2] - 2.0 * w[1] + w[0]).abs(), at))
        .fold((0.0, 0), |a, b| if b.0 > a.0 { b } else { a })
}

/// When each of `count` messages arrives over a network: never before the one sent earlier.
fn arrivals(count: usize, every_us: u64, stalls: &[(u64, u64)], jitter: &[u64]) -> Vec<u64> {
    let mut last_us = 0;
    (0..count)
        .map(|n| {
            let mut at_us = (n as u64 + 1) * every_us + jitter[n % jitter.len()];
            for &(from_us, for_us) in stalls {
                if (from_us..from_us + for_us).contains(&at_us) {
                    at_us = from_us + for_us;
                }
            }
            last_us = at_us.max(last_us);
            last_us
        })
        .collect()
}

fn network() -> impl Strategy<Value = (Vec<(u64, u64)>, Vec<u64>)> {
    let stall = (1_500_000..7_000_000_u64, 30_000..2_500_000_u64);
    let jitter = prop_oneof![Just(1_u64), Just(20_000), Just(80_000)];
    (
        prop::collection::vec(stall, 0..4),
        jitter.prop_flat_map(|most_us| prop::collection::vec(0..most_us, 17)),
    )
}

/// The audio that a model gets of words that come over a network, if it answers except for a while.
fn model_hears(network: &(Vec<(u64, u64)>, Vec<u64>), mute_us: std::ops::Range<u64>) -> Vec<f32> {
    let pcm = words(RATE_HZ, 9);
    let config = IntakeConfig {
        gate_ms: 0,
        ..IntakeConfig::default()
    };
    let mut intake = Intake::new(LineRate::KHZ_8, config);
    let mut heard = Vec::new();
    intake.open(0, &mut heard);
    let arrive_us = arrivals(pcm.len() / CHUNK, CHUNK_US, &network.0, &network.1);
    for (chunk, now_us) in pcm.chunks(CHUNK).zip(arrive_us) {
        while let Some(wake_us) = intake.wake_us().filter(|&wake_us| wake_us < now_us) {
            intake.poll(wake_us, &mut heard);
        }
        if !mute_us.contains(&now_us) {
            intake.answered(CHUNK, now_us);
        }
        intake.push(chunk, now_us, &mut heard);
    }
    heard
}

/// A line, its engine, and what the caller hears.
struct Line {
    line: line::Line,
    phone: Carrier,
    heard: Vec<f32>,
    /// Where a `clear` broke off what the phone's side had.
    cleared: Vec<usize>,
    now_us: u64,
}

impl Line {
    fn new() -> Self {
        let rate = LineRate::KHZ_8;
        let carrier = || Carrier::named("exotel", "S", rate, Encoding::Pcm16).unwrap();
        let codec = Box::new(OggOpus::new(rate, 1).unwrap());
        Self {
            line: line::Line::new(
                rate,
                carrier(),
                codec,
                IntakeConfig::default(),
                PlayoutConfig::default(),
            ),
            phone: carrier(),
            heard: Vec::new(),
            cleared: Vec::new(),
            now_us: 0,
        }
    }

    fn does(&mut self, act: impl FnOnce(&mut line::Line, u64) -> &line::LineOutput) {
        for message in act(&mut self.line, self.now_us).to_phone.iter() {
            if self.phone.reader.read(message, &mut self.heard).is_none()
                && message.bytes.windows(7).any(|w| w == b"\"clear\"")
            {
                self.cleared.push(self.heard.len());
            }
        }
    }

    fn until(&mut self, now_us: u64) {
        while let Some(wake_us) = self.line.wake_us().filter(|&wake_us| wake_us < now_us) {
            self.now_us = wake_us.max(self.now_us);
            self.does(line::Line::poll);
        }
        self.now_us = now_us;
    }

    /// An engine's pages at their times.
    fn engine_says(&mut self, pages: &[Vec<u8>], arrive_us: &[u64]) {
        for (page, &now_us) in pages.iter().zip(arrive_us) {
            self.until(now_us);
            self.does(|line, now_us| line.engine_audio(page, now_us));
        }
    }

    /// What the caller says in a chunk.
    fn caller_says(&mut self, pcm: &[f32]) {
        let mut message = Messages::default();
        self.phone.writer.media(pcm, &mut message);
        let message = message.iter().next().unwrap();
        self.line.phone_message(message, self.now_us).unwrap();
    }
}

/// An engine's stream of a voice: its header pages, then a page for each 80 ms.
fn engine(pcm: &[f32]) -> Vec<Vec<u8>> {
    let config = EncoderConfig {
        rate_hz: ENGINE_HZ,
        application: Application::Voip,
        bitrate_bps: 24_750,
        complexity: 5,
        frame_us: FRAME_US as u32,
    };
    let mut writer = OggOpusWriter::new(config, 7).unwrap();
    let mut pages = vec![Vec::new()];
    writer.headers(&mut pages[0]);
    pages.extend(pcm.chunks_exact(FRAME).map(|frame| {
        let mut page = Vec::new();
        writer.write(frame, &mut page);
        page
    }));
    pages
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_model_hears_no_click_whatever_the_network_does(
        network in network(), mute_us in (2_000_000..5_000_000_u64, 0..3_000_000_u64),
    ) {
        let heard = model_hears(&network, mute_us.0..mute_us.0 + mute_us.1);
        prop_assert!(heard.len() > 4 * RATE_HZ as usize);
        let (corner, at) = sharpest(&heard);
        prop_assert!(corner < CLICK, "a corner of {corner} at {at}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_caller_hears_no_click_whatever_the_engines_network_does(network in network()) {
        let pages = engine(&words(ENGINE_HZ, 8));
        let mut line = Line::new();
        let arrive_us = arrivals(pages.len(), FRAME_US, &network.0, &network.1);
        line.engine_says(&pages, &arrive_us);
        let (corner, at) = sharpest(&line.heard);
        prop_assert!(corner < CLICK, "a corner of {corner} at {at}");
    }

    #[test]
    fn an_agent_that_breaks_off_in_mid_word_fades(frames in 8..24_usize, finishes: bool) {
        let pages = engine(&vowel(ENGINE_HZ, 25 * FRAME));
        let mut line = Line::new();
        let arrive_us = arrivals(frames, FRAME_US, &[], &[0]);
        line.engine_says(&pages, &arrive_us);
        let (before, now_us) = (line.heard.len(), line.now_us + 1000);
        line.until(now_us);
        if finishes {
            line.does(line::Line::finish);
        } else {
            line.does(line::Line::close_engine);
        }
        line.until(now_us + 1_000_000);
        let all = [&line.heard[..], &[0.0; 2]].concat();
        let (corner, at) = sharpest(&all[before - 100..]);
        prop_assert!(corner < CLICK, "a corner of {corner} at {at}");
        prop_assert!(all[before..].iter().any(|s| s.abs() > 0.05), "it was cut off");
    }
}

#[test]
fn what_follows_a_flush_begins_softly_and_with_nothing_of_what_was_flushed() {
    // An agent in mid-sentence, and the caller speaks: it falls silent with a backlog of speech at the phone's side.
    let mut pcm = vowel(ENGINE_HZ, 25 * FRAME);
    let silence = vec![0.0; 10 * FRAME];
    pcm.extend(&silence);
    let pages = engine(&pcm);
    let mut arrive_us = arrivals(pages.len(), FRAME_US, &[(1_000_000, 600_000)], &[0]);
    // The last words come in a burst with the silence behind them.
    let burst_us = arrive_us[26];
    arrive_us[18..30].fill(burst_us);
    for (n, at_us) in arrive_us[30..].iter_mut().enumerate() {
        *at_us = burst_us + (n as u64 + 1) * FRAME_US;
    }
    let mut line = Line::new();
    let mut said = words(RATE_HZ, 8);
    // A quiet line until the burst comes, then the caller speaks.
    let speaks_from = (burst_us - 300_000) as usize / 1000 * RATE_HZ as usize / 1000;
    said[..speaks_from].iter_mut().for_each(|sample| *sample *= 0.003);
    let mut chunks = said.chunks(CHUNK);
    for (page, at_us) in pages.iter().zip(arrive_us) {
        while line.now_us + CHUNK_US < at_us {
            line.until(line.now_us + CHUNK_US);
            line.caller_says(chunks.next().unwrap());
        }
        line.until(at_us.max(line.now_us));
        line.does(|line, now_us| line.engine_audio(page, now_us));
    }
    assert_eq!(line.cleared.len(), 1, "nothing was flushed");
    let after = &line.heard[line.cleared[0]..];
    let loudest = after.iter().take(80).fold(0.0_f32, |a, &s| a.max(s.abs()));
    assert!(loudest < 0.02, "{loudest} of the flushed words are heard again");
}
