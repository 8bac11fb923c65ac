//! Arbitrary inputs for a line, made from bytes, and the conditions that must hold after each. The property tests and
//! the fuzzer share them.

use pxbridge_core::carrier::payload::Encoding;
use pxbridge_core::carrier::{Carrier, Message, Messages};
use pxbridge_core::codec::engine::{ENGINE_HZ, OggOpus};
use pxbridge_core::codec::opus::TOWARDS_ENGINE;
use pxbridge_core::codec::stream::OggOpusWriter;
use pxbridge_core::downlink::playout::{PlayoutConfig, PlayoutProfile};
use pxbridge_core::line::{Event, Line, LineOutput};
use pxbridge_core::rate::{LineRate, PACKET_MS};
use pxbridge_core::uplink::intake::IntakeConfig;

/// More audio than this never waits in a line: twice the longest backlog, and what one message held.
const MOST_WAITING_S: usize = 20;
/// A line asks to be polled at most this often per millisecond of its time, on average.
const WAKES_PER_MS: u64 = 2;

/// Takes bytes off the front, zeros where there are none left.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn one(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        first
    }

    fn two(&mut self) -> u64 {
        u64::from(self.one()) << 8 | u64::from(self.one())
    }

    fn some(&mut self) -> &'a [u8] {
        let length = usize::from(self.one()).min(self.0.len());
        let (some, rest) = self.0.split_at(length);
        self.0 = rest;
        some
    }
}

struct Checked {
    line: Line,
    carrier: Carrier,
    rate: LineRate,
    payload: usize,
    now_us: u64,
    wakes: u64,
    began_us: u64,
    marks: Vec<String>,
    drained: u32,
    agents: u32,
}

impl Checked {
    fn does(&mut self, act: impl FnOnce(&mut Line, u64) -> &LineOutput) {
        let now_us = self.now_us;
        let output = act(&mut self.line, now_us);
        let mut pcm = Vec::new();
        for message in output.to_phone.iter() {
            pcm.clear();
            if let Some(frame) = self.carrier.reader.read(message, &mut pcm) {
                assert!(!frame.malformed && frame.samples > 0);
                assert_eq!(pcm.len() % self.rate.samples(PACKET_MS), 0, "whole packets");
                assert!(pcm.len() >= self.payload, "{} samples", pcm.len());
            } else if let Some((_, name)) = str::from_utf8(message.bytes)
                .expect("JSON is UTF-8")
                .split_once(r#""mark":{"name":""#)
            {
                self.marks.push(name.trim_end_matches(r#""}}"#).to_owned());
            }
        }
        let mut agent_after_us = None;
        for event in &output.events {
            match event {
                Event::AllPlayed => self.drained += 1,
                Event::AgentHeard { after_us } => agent_after_us = Some(*after_us),
                Event::EngineSilent { for_us } => assert!(*for_us > 0),
                Event::OddPayloads { .. } => {}
                Event::RateMismatch {
                    claimed_hz,
                    likely_hz,
                    ..
                } => assert_ne!(claimed_hz, likely_hz),
            }
        }
        assert!(self.drained <= 1);
        let wake_us = output.wake_us;
        assert_eq!(wake_us, self.line.wake_us());
        if let Some(after_us) = agent_after_us {
            let first_us = self.line.first_audio_us().expect("an agent was heard");
            let most_us = now_us - self.began_us + 1_000_000 * MOST_WAITING_S as u64;
            assert!(after_us <= most_us, "{after_us}");
            if self.agents == 0 {
                assert!(self.began_us + after_us >= first_us);
            }
            assert!(
                self.line
                    .first_sound_us()
                    .is_some_and(|sound_us| sound_us <= first_us)
            );
            self.agents += 1;
        }
        self.check_counters();
    }

    fn check_counters(&self) {
        let up = self.line.intake_stats();
        let left = up.emitted + up.dropped + up.withheld + up.removed_in_pauses + up.removed_in_speech;
        assert_eq!(up.received + up.inserted, left + up.cut + up.buffered, "{up:?}");
        let down = self.line.playout_stats();
        let came = down.received + down.padded + down.stretched + down.concealed + down.noise;
        let left = down.sent + down.buffered + down.removed_in_pauses + down.removed_in_speech;
        assert_eq!(came, left + down.cut + down.flushed, "{down:?}");
        let most = (MOST_WAITING_S * self.rate.samples(1000)) as u64;
        assert!(up.buffered <= most && down.buffered <= most);
    }

    fn pass(&mut self, for_us: u64) {
        let until_us = self.now_us + for_us;
        while let Some(wake_us) = self.line.wake_us().filter(|&wake_us| wake_us <= until_us) {
            self.now_us = wake_us.max(self.now_us);
            self.wakes += 1;
            let wakes_at_most = ((self.now_us - self.began_us) / 1000 + 1000) * WAKES_PER_MS;
            assert!(self.wakes <= wakes_at_most, "awake for ever at {wake_us}");
            self.does(Line::poll);
        }
        self.now_us = until_us;
    }
}

fn sound(samples: usize, kind: u8) -> Vec<f32> {
    let level = f32::from(kind % 4) / 4.0;
    let period = f32::from(kind / 4 + 3);
    (0..samples).map(|n| level * (n as f32 / period).sin()).collect()
}

/// Gives a line the inputs that `bytes` stand for.
pub fn give(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    let choice = usize::from(bytes.one());
    let rate = LineRate::ALL[choice % 3];
    let encoding = [Encoding::Pcm16, Encoding::MuLaw][choice / 3 % 2];
    let profile = [
        PlayoutProfile::Standard,
        PlayoutProfile::Strict,
        PlayoutProfile::LowDelay,
    ][choice / 6 % 3];
    let carrier = || Carrier::named("exotel", "S", rate, encoding).expect("a carrier that is known");
    let playout = PlayoutConfig {
        profile,
        ..PlayoutConfig::default()
    };
    let codec = Box::new(OggOpus::new(rate, 1).expect("a rate that Opus knows"));
    let began_us = bytes.two() * 1000;
    let mut checked = Checked {
        line: Line::new(rate, carrier(), codec, IntakeConfig::default(), playout),
        carrier: carrier(),
        rate,
        payload: match profile {
            PlayoutProfile::Strict => 1600,
            PlayoutProfile::Standard | PlayoutProfile::LowDelay => 1,
        },
        now_us: began_us,
        wakes: 0,
        began_us,
        marks: Vec::new(),
        drained: 0,
        agents: 0,
    };
    let mut engine = OggOpusWriter::new(TOWARDS_ENGINE, 5).expect("settings that Opus takes");
    let mut phone = Messages::default();
    while !bytes.0.is_empty() {
        match bytes.one() % 16 {
            0 => {
                let (message, is_text) = (bytes.some(), bytes.one() % 2 == 0);
                let message = Message {
                    bytes: message,
                    is_text,
                };
                checked.line.phone_message(message, checked.now_us);
                checked.check_counters();
            }
            1..=3 => {
                phone.clear();
                let packets = usize::from(bytes.one() % 10 + 1);
                let pcm = sound(packets * rate.samples(PACKET_MS), bytes.one());
                carrier().writer.media(&pcm, &mut phone);
                let message = phone.iter().next().expect("one message");
                checked.does(|line, now_us| line.phone_message(message, now_us).expect("it is media"));
                checked.pass(packets as u64 * u64::from(PACKET_MS) * 1000);
            }
            4 => {
                let ogg = bytes.some();
                checked.does(|line, now_us| line.engine_audio(ogg, now_us));
            }
            5..=7 => {
                let mut page = Vec::new();
                engine.write(&sound(ENGINE_HZ as usize / 1000 * 80, bytes.one()), &mut page);
                checked.does(|line, now_us| line.engine_audio(&page, now_us));
                checked.pass(u64::from(bytes.one()) * 1000);
            }
            8 => {
                let name = match checked.marks.pop() {
                    Some(name) if bytes.one() % 4 > 0 => name,
                    _ => String::from_utf8_lossy(bytes.some()).into_owned(),
                };
                checked.does(|line, now_us| line.mark_played(&name, now_us));
            }
            9 => {
                let rtt_us = bytes.two() * 100;
                checked.does(|line, now_us| line.pong(rtt_us, now_us));
            }
            10 => checked.pass(u64::from(bytes.one()) * 20_000),
            11 => checked.does(|line, now_us| line.open_engine(now_us).expect("settings that Opus takes")),
            12 => checked.does(Line::close_engine),
            13 => {
                let samples = bytes.two() as usize;
                let pcm = sound(samples, bytes.one());
                checked.does(|line, now_us| line.play(&pcm, now_us));
            }
            14 if bytes.one() % 4 > 0 => checked.does(Line::fade_out),
            14 => checked.does(Line::finish),
            _ => checked.does(Line::flush),
        }
    }
    checked.pass(5_000_000);
}
