//! The bridge's own sound on a line: paced, cut short by the agent, heard to its end.
#![allow(clippy::unwrap_used)]

use pxbridge_core::carrier::payload::Encoding;
use pxbridge_core::carrier::{Carrier, Messages};
use pxbridge_core::codec::engine::{ENGINE_HZ, OggOpus};
use pxbridge_core::codec::opus::{EncoderConfig, TOWARDS_ENGINE};
use pxbridge_core::codec::stream::OggOpusWriter;
use pxbridge_core::downlink::playout::PlayoutConfig;
use pxbridge_core::line;
use pxbridge_core::rate::LineRate;
use pxbridge_core::uplink::intake::IntakeConfig;

const RATE_HZ: u32 = 8000;
const PACKET: usize = 160;
const TURN_US: u64 = 5_000;

/// A line and what its phone got: the samples, the names of marks, and how much the phone's side holds.
struct Line {
    line: line::Line,
    phone: Carrier,
    now_us: u64,
    heard: Vec<f32>,
    marks: Vec<String>,
    drained_at_us: u64,
    most_ahead_us: u64,
}

impl Line {
    fn new() -> Self {
        let rate = LineRate::KHZ_8;
        let carrier = || Carrier::named("exotel", "S", rate, Encoding::Pcm16).unwrap();
        Self {
            line: line::Line::new(
                rate,
                carrier(),
                Box::new(OggOpus::new(rate, 1).unwrap()),
                IntakeConfig::default(),
                PlayoutConfig::default(),
            ),
            phone: carrier(),
            now_us: 1_000_000,
            heard: Vec::new(),
            marks: Vec::new(),
            drained_at_us: 0,
            most_ahead_us: 0,
        }
    }

    fn got(&mut self, messages: &Messages) {
        for message in messages.iter() {
            let before = self.heard.len();
            if self.phone.reader.read(message, &mut self.heard).is_some() {
                let samples = self.heard.len() - before;
                assert_eq!(samples % PACKET, 0, "a payload that is no multiple of a packet");
                self.drained_at_us =
                    self.drained_at_us.max(self.now_us) + samples as u64 * 1_000_000 / u64::from(RATE_HZ);
                self.most_ahead_us = self.most_ahead_us.max(self.drained_at_us - self.now_us);
            } else {
                self.marks
                    .push(String::from_utf8(message.bytes.to_vec()).unwrap());
            }
        }
    }

    fn does(&mut self, act: impl FnOnce(&mut line::Line, u64) -> &line::LineOutput) {
        let messages = act(&mut self.line, self.now_us).to_phone.clone();
        self.got(&messages);
    }

    fn play(&mut self, pcm: &[f32]) {
        self.does(|line, now_us| line.play(pcm, now_us));
    }

    fn run(&mut self, for_us: u64) {
        let until_us = self.now_us + for_us;
        while self.now_us < until_us {
            if self.line.wake_us().is_some_and(|wake_us| wake_us <= self.now_us) {
                self.does(line::Line::poll);
            }
            self.now_us += TURN_US;
        }
    }

    fn engine_says(&mut self, ogg: &[u8]) {
        self.does(|line, now_us| line.engine_audio(ogg, now_us));
    }
}

fn tone(samples: usize) -> Vec<f32> {
    (0..samples).map(|i| 0.5 * (i as f32 * 0.2).sin()).collect()
}

/// One second of an engine: its header pages and frames of 80 ms, a tone of ±0.25.
fn engine() -> Vec<Vec<u8>> {
    let config = EncoderConfig {
        rate_hz: ENGINE_HZ,
        frame_us: 20_000,
        ..TOWARDS_ENGINE
    };
    let mut writer = OggOpusWriter::new(config, 7).unwrap();
    let mut headers = Vec::new();
    writer.headers(&mut headers);
    let mut messages = vec![headers];
    let pcm: Vec<f32> = tone(12 * 1920).iter().map(|s| s / 2.0).collect();
    for frame in pcm.chunks(1920) {
        let mut page = Vec::new();
        writer.write(frame, &mut page);
        messages.push(page);
    }
    messages
}

#[test]
fn an_announcement_is_heard_whole_and_never_far_ahead() {
    let mut line = Line::new();
    let pcm = tone(8000 + 37);
    line.play(&pcm);
    line.run(1_300_000);
    let heard = &line.heard[..pcm.len()];
    let worst = heard
        .iter()
        .zip(&pcm)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(worst < 1e-3, "the sound was changed by {worst}");
    assert!(line.most_ahead_us <= 140_000, "{} µs ahead", line.most_ahead_us);
    assert_eq!(line.line.playing_us(line.now_us), 0);
}

#[test]
fn sound_that_is_added_follows_without_a_gap() {
    let mut line = Line::new();
    let pcm = tone(4800);
    line.play(&pcm[..2400]);
    line.run(100_000);
    line.play(&pcm[2400..]);
    line.run(700_000);
    assert_eq!(
        line.heard.iter().filter(|s| s.abs() > 1e-4).count(),
        pcm.iter().filter(|s| s.abs() > 1e-4).count()
    );
    assert!(
        line.heard[2300..2500]
            .iter()
            .zip(&pcm[2300..2500])
            .all(|(a, b)| (a - b).abs() < 1e-3)
    );
}

#[test]
fn the_agent_cuts_an_announcement_short_with_a_fade() {
    let mut line = Line::new();
    line.play(&vec![0.5; 80_000]);
    line.run(500_000);
    for message in engine() {
        line.engine_says(&message);
        line.run(80_000);
    }
    let at = line.heard.iter().rposition(|s| *s > 0.499).unwrap();
    let fade = &line.heard[at..at + PACKET];
    assert!(
        fade.windows(2).all(|pair| pair[1] <= pair[0]),
        "a fade only falls"
    );
    assert!(fade[1] > 0.45 && fade[PACKET - 1] < 0.01);
    line.play(&tone(800));
    assert_eq!(
        line.line.playing_us(line.now_us),
        0,
        "nothing of our own over the agent"
    );
    let loud = line.heard[at + PACKET..].iter().filter(|s| s.abs() > 0.4).count();
    assert_eq!(loud, 0, "the rest of the announcement is gone");
}

#[test]
fn after_an_engine_is_gone_the_bridge_is_heard_and_then_the_next_engine() {
    let mut line = Line::new();
    for message in &engine()[..7] {
        line.engine_says(message);
        line.run(80_000);
    }
    line.does(line::Line::close_engine);
    line.play(&vec![0.7; 1600]);
    line.run(400_000);
    assert!(line.heard.iter().filter(|s| **s > 0.65).count() >= 1600);
    let at = line.heard.len();
    for message in engine() {
        line.engine_says(&message);
        line.run(80_000);
    }
    assert!(line.heard[at..].iter().filter(|s| s.abs() > 0.1).count() > 4000);
    let stats = line.line.playout_stats();
    let into = stats.received + stats.padded + stats.stretched + stats.concealed + stats.noise;
    let out_of = stats.sent
        + stats.buffered
        + stats.removed_in_pauses
        + stats.removed_in_speech
        + stats.cut
        + stats.flushed;
    assert_eq!(into, out_of);
}

#[test]
fn a_goodbye_is_sent_to_its_end_with_the_last_mark_behind_it() {
    let mut line = Line::new();
    line.play(&tone(8000));
    line.does(line::Line::finish);
    line.run(500_000);
    assert!(!line.marks.concat().contains("\"last\""));
    line.run(500_000);
    assert!(line.marks.concat().contains("\"last\""));
    assert!(line.heard.len() >= 8000);
    assert!(!line.line.is_drained());
    line.does(|line, now_us| line.mark_played("last", now_us));
    assert!(line.line.is_drained());
}

#[test]
fn clear_drops_it_and_fade_out_fades_it() {
    let mut line = Line::new();
    line.play(&vec![0.5; 16_000]);
    line.run(300_000);
    line.does(line::Line::flush);
    assert!(line.marks.last().unwrap().contains("clear"));
    let at = line.heard.len();
    line.run(300_000);
    assert!(line.heard[at..].iter().all(|s| *s == 0.0));
    line.play(&vec![0.5; 16_000]);
    line.does(line::Line::fade_out);
    let at = line.heard.len();
    assert!(line.heard[at - 1].abs() < 0.01);
    line.run(500_000);
    assert!(line.heard[at..].iter().all(|s| *s == 0.0));
}
